"""Ways to decode previews: CPU seconds each, and rank agreement with the final score.

    python -m benchmarks.preview_decoders [--candidates 40] [--collection .cache/collections/agiqa3k] [--tiny FOLDER]

On the embedded model after step 10 of 20; and the time alone, at Stable Diffusion's size with random weights.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.stats import spearmanr

from artgate.artworks.files import write_atomic
from artgate.generation.preview import Previewer
from artgate.generation.sampler import Finished, SlotSampler
from benchmarks.cost_per_accepted import configured, second_scorer


def main() -> None:
    """Measure, print a line each, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--collection", type=Path, default=Path(".cache/collections/agiqa3k"))
    parser.add_argument("--tiny", help="folder of an AutoencoderTiny for the embedded model's latents")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = on_the_embedded_model(given.candidates, given.collection, given.tiny) + on_stable_diffusion()
    if given.out:
        write_atomic(given.out, json.dumps(found, indent=1) + "\n")


def on_the_embedded_model(n: int, collection: Path, tiny: str | None, step: int = 10) -> list[dict[str, Any]]:
    """Ways to decode the same predicted clean latents; both ends of the rank agreement are by the second scorer."""
    from artgate.config import validated
    from artgate.generation.config import GenerateConfig
    from artgate.generation.models import load_model
    from artgate.generation.preview_config import PreviewConfig
    from artgate.generation.preview_decoders import build_decoder, fit_linear
    from artgate.generation.prompts import CandidateSource

    settings = validated(GenerateConfig, configured(Path("unused")))
    model, score = load_model(settings.diffusion), second_scorer(collection)
    config, source = model.config, CandidateSource(settings.prompts, 1)
    clean: list[torch.Tensor] = []
    taken = Previewer(lambda one: clean.append(one.clone()) or Image.new("L", (1, 1)), lambda _: 1.0, {step: 0.0})
    sampler = SlotSampler(model, config.scheduler, config.steps, config.guidance, slots=1)
    ends = [
        item.latents
        for item in sampler.run((source[k] for k in range(n + 16)), None, taken)
        if isinstance(item, Finished)
    ]
    pictures = model.decode(torch.stack(ends))
    final = [score(picture) for picture in pictures[16:]]
    linear = fit_linear(torch.stack(ends[:16]), pictures[:16])
    decoders: dict[str, Any] = {
        "codec": build_decoder(PreviewConfig(), model).decode,
        "codec, half size": build_decoder(PreviewConfig(shrink=2), model).decode,
        "linear": linear,
    }
    if tiny:
        decoders["tiny"] = build_decoder(PreviewConfig(decoder="tiny", tiny=tiny), model).decode
    found = []
    for name, decode in decoders.items():
        begun = time.process_time()
        previews = [decode(one) for one in clean[16:]]
        seconds = (time.process_time() - begun) / n
        begun = time.process_time()
        agreement = float(spearmanr([score(picture) for picture in previews], final)[0])
        found.append(
            {"decoder": name, "seconds": seconds, "scoring": (time.process_time() - begun) / n, "rank": agreement}
        )
        print(
            f"{name:20} {seconds:.4f} CPU s, scoring {found[-1]['scoring']:.4f}; rank agreement {agreement:.2f}",
            flush=True,
        )
    return found


def on_stable_diffusion(side: int = 256) -> list[dict[str, Any]]:
    """CPU seconds of Stable Diffusion's autoencoder, of a tiny one and of a linear map, at random weights."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    from artgate.generation.preview_decoders import LinearDecoder

    blocks = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    linear = LinearDecoder(torch.randn(192, 4, 3, 3), torch.zeros(192))
    whole, tiny = AutoencoderKL(**blocks, **kinds).eval(), AutoencoderTiny().eval()
    latents = torch.randn(1, 4, side // 8, side // 8)
    ways = {
        "SD codec": lambda: whole.decode(latents),
        "SD codec, half size": lambda: whole.decode(latents[..., ::2, ::2]),
        "SD tiny": lambda: tiny.decode(latents),
        "SD linear": lambda: linear(latents[0]),
    }
    found = []
    for name, way in ways.items():
        with torch.inference_mode():
            begun = time.process_time()
            way()
        found.append({"decoder": f"{name}, {side} px", "seconds": time.process_time() - begun})
        print(f"{found[-1]['decoder']:28} {found[-1]['seconds']:.3f} CPU s", flush=True)
    return found


if __name__ == "__main__":
    main()
