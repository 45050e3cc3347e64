"""AGIQA-3K as small pictures with captions, held in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

SIDE = 64
MARGIN_SIDE = 76  # pictures are kept a little larger than they are trained on, so that crops differ
GRADE_CUTS = (2.25, 3.08)
GRADE_WORDS = ("poor quality", "average quality", "good quality")


@dataclass(frozen=True)
class Pictures:
    """pixels: (N, MARGIN_SIDE, MARGIN_SIDE, 3) uint8; prompts and quality words: N each."""

    pixels: np.ndarray
    prompts: list[str]
    quality: list[str]


def load_pictures(root: Path, least_quality: float) -> Pictures:
    """Read the rated images whose mean opinion is at least `least_quality` (0 to about 4.5)."""
    table = pd.read_csv(root / "data.csv")
    table = table[table.mos_quality >= least_quality]
    pixels = np.stack([_read(root / "images" / name) for name in table.name])  # (N, S, S, 3)
    quality = [GRADE_WORDS[grade] for grade in np.digitize(table.mos_quality, GRADE_CUTS)]
    return Pictures(pixels, [prompt.strip() for prompt in table.prompt], quality)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((MARGIN_SIDE, MARGIN_SIDE), Image.Resampling.LANCZOS))


def caption(prompt: str, quality: str, rng: np.random.Generator) -> str:
    """What the model reads with a picture: the prompt, often with its quality; sometimes the quality alone, or nothing.

    The last two teach classifier-free guidance what an empty and a negative prompt mean.
    """
    chance = rng.random()
    if chance < 0.06:
        return ""
    if chance < 0.12:
        return quality
    return f"{prompt}, {quality}" if chance < 0.6 else prompt
