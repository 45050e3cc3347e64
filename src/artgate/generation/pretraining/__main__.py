"""Train the embedded text-to-image model: `python -m artgate.generation.pretraining --images DIR --out DIR`.

Each stage keeps its result under `--work`, so that a stopped run goes on with the next stage.
"""

import argparse
import copy
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from artgate.generation.pretraining.autoencoder import encode_variants, new_autoencoder, train_autoencoder
from artgate.generation.pretraining.denoiser import Denoiser, new_unet, noise_schedule, train_denoiser
from artgate.generation.pretraining.pictures import GRADE_WORDS, Pictures, load_pictures
from artgate.generation.pretraining.text import new_text_encoder, new_tokenizer


def main() -> None:
    """Pictures, autoencoder, latents, text, denoiser, pipeline folder: in this order."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    pictures = load_pictures(options.images, options.least_quality)
    autoencoder = _autoencoder(pictures, options)
    latents = encode_variants(autoencoder, pictures, variants=4, seed=options.seed)
    scale = float(1 / latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    torch.manual_seed(options.seed)
    denoiser, tokenizer = _denoiser(pictures, options)

    def save(denoiser: Denoiser) -> None:
        save_pipeline(autoencoder, denoiser, tokenizer, options.out)

    save(train_denoiser(denoiser, latents * scale, pictures, tokenizer, options.denoiser_updates, options.seed, save))


def _denoiser(pictures: Pictures, options: argparse.Namespace) -> tuple[Denoiser, CLIPTokenizer]:
    """An untrained denoiser and its tokenizer, or those already in --out."""
    if options.continue_denoiser:
        kept = StableDiffusionPipeline.from_pretrained(options.out, dtype=torch.float32)
        return Denoiser(kept.unet, kept.text_encoder), kept.tokenizer
    tokenizer = new_tokenizer([*pictures.prompts, *GRADE_WORDS], options.work / "tokenizer")
    return Denoiser(new_unet(), new_text_encoder(tokenizer)), tokenizer


def _autoencoder(pictures: Pictures, options: argparse.Namespace) -> AutoencoderKL:
    kept = options.work / "autoencoder"
    model = AutoencoderKL.from_pretrained(kept) if kept.exists() else new_autoencoder()
    if options.continue_autoencoder or not kept.exists():
        train_autoencoder(model, pictures, options.autoencoder_updates, options.seed).save_pretrained(kept)
    return model.eval()


def save_pipeline(autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write a StableDiffusionPipeline folder in float16."""

    def half(part: Any) -> Any:
        copied = copy.deepcopy(part).half()  # training goes on with the original
        if hasattr(copied, "register_to_config"):
            copied.register_to_config(_name_or_path="")  # where it was read from is nobody's business
        return copied

    StableDiffusionPipeline(
        vae=half(autoencoder),
        text_encoder=half(denoiser.text_encoder),
        tokenizer=tokenizer,
        unet=half(denoiser.unet),
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out, safe_serialization=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="the AGIQA-3K folder: data.csv and images/")
    parser.add_argument("--out", type=Path, required=True, help="where the pipeline folder goes")
    parser.add_argument("--work", type=Path, default=Path("outputs/pretraining"), help="results of the stages")
    parser.add_argument("--least-quality", type=float, default=1.5, help="leave out images rated lower (0 to 4.5)")
    parser.add_argument("--autoencoder-updates", type=int, default=6000, help="about 0.6 s each on one core")
    parser.add_argument("--continue-autoencoder", action="store_true", help="train the one in --work further")
    parser.add_argument("--denoiser-updates", type=int, default=6000, help="about 1 s each on one core")
    parser.add_argument("--continue-denoiser", action="store_true", help="train the one in --out further")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
