"""An accepted picture → the file that is delivered, with how it was made inside; and what its bits depend on."""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import artgate
from artgate.artworks.parameters import GenerationParameters, embed, format_a1111
from artgate.generation.config import ImageConfig
from artgate.generation.prompts import Candidate
from artgate.generation.stages import Painter

# A1111's names of our schedulers, by which it and the galleries know them
SAMPLERS = {
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "euler_trailing": "Euler",
    "heun": "Heun",
    "lcm": "LCM",
    "turbo": "Euler a",
    "unipc": "UniPC",
}
LIBRARIES = ("artgate", "torch", "diffusers", "transformers", "compel", "numpy", "pillow")


def artwork_file(painter: Painter, candidate: Candidate, image: Image.Image, config: ImageConfig) -> bytes:
    """The file of an accepted artwork: its parameters as A1111 writes them, where galleries and tools look for them."""
    text = format_a1111(_parameters(painter, candidate, image.size))
    return embed(image, text, config.format.upper(), config.quality)


def picture_digest(picture: Image.Image) -> dict[str, Any]:
    """Size and sha256 of a picture's RGB pixels, whatever file they lie in."""
    return {
        "width": picture.width,
        "height": picture.height,
        "sha256": hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(),
    }


def versions(device: torch.device) -> dict[str, str]:
    """What else the last bit of an image depends on: processors, threads and libraries."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(device),
        "threads": str(torch.get_num_threads()),
        **{library: importlib.metadata.version(library) for library in LIBRARIES},
    }


def _parameters(painter: Painter, candidate: Candidate, delivered: tuple[int, int]) -> GenerationParameters:
    """Size is that of generation, as A1111 has it; an enlargement is told of in A1111's words."""
    sampler, diffusion = painter.sampler, painter.sampler.model.config
    size = (sampler.width, sampler.height)
    enlargement = {"Hires resize": f"{delivered[0]}x{delivered[1]}", "Hires upscaler": painter.upscaler.name}
    return GenerationParameters(
        prompt=candidate.prompt,
        negative_prompt=candidate.negative_prompt,
        steps=diffusion.steps,
        sampler=SAMPLERS.get(diffusion.scheduler, diffusion.scheduler),
        guidance=diffusion.guidance,
        seed=candidate.seed,
        size=size,
        model=diffusion.name,
        extras={
            "Model hash": painter.models["diffusion"]["fingerprint"][:10],
            **(enlargement if delivered != size else {}),
            "Version": f"artgate {artgate.__version__}",
        },
    )


def _processor(device: torch.device) -> str:
    """The GPU, or the CPU with the instructions that torch chooses for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "CPU")
