"""Pictures changed as their files change on the way to a user, mildly: what people think of them stays."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from artgate.scoring.config import AugmentConfig

# Sides that pictures are shown and stored at, in pixels, and the filters that are in common use.
SIDES = (384, 1024)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
FORMATS = ("JPEG", "WEBP")
BEST_QUALITY = 95


def augmented(image: Image.Image, config: AugmentConfig, draw: np.random.Generator) -> Image.Image:
    """An RGB image mirrored, cut, resized and compressed by chance: the same draws, the same picture."""
    steps: list[Callable[[Image.Image, AugmentConfig, np.random.Generator], Image.Image]] = [
        _mirrored,
        _cut,
        _resized,
        _compressed,
    ]
    for step in steps:
        image = step(image, config, draw)
    return image


def _mirrored(image: Image.Image, config: AugmentConfig, draw: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image) if draw.random() < config.flip else image


def _cut(image: Image.Image, config: AugmentConfig, draw: np.random.Generator) -> Image.Image:
    share, across, down = draw.uniform(config.least_crop, 1), draw.random(), draw.random()
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = round((image.width - width) * across), round((image.height - height) * down)
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image.Image, config: AugmentConfig, draw: np.random.Generator) -> Image.Image:
    chance, side, kind = draw.random(), draw.integers(*SIDES, endpoint=True), draw.integers(len(FILTERS))
    if chance >= config.resize:
        return image
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), FILTERS[kind])


def _compressed(image: Image.Image, config: AugmentConfig, draw: np.random.Generator) -> Image.Image:
    least = min(config.least_quality, BEST_QUALITY)
    chance, quality, kind = draw.random(), draw.integers(least, BEST_QUALITY, endpoint=True), draw.integers(2)
    if chance >= config.compress:
        return image
    file = io.BytesIO()
    # Method 0 is WebP's quickest; how hard it searches hardly changes how it looks.
    image.save(file, FORMATS[kind], quality=int(quality), **({"method": 0} if FORMATS[kind] == "WEBP" else {}))
    return Image.open(file, formats=FORMATS).convert("RGB")
