"""Pictures to measure on, made from a number."""

import io

import numpy as np
from PIL import Image


def jpeg(seed: int, size: int) -> bytes:
    """Smooth noise at several scales, as JPEG of quality 75 at about the bits a pixel of a painting."""
    rng = np.random.default_rng(seed)
    noise = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in (8, 32, 128)]
    layers = [np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC)) for layer in noise]
    mixed = np.mean(layers, axis=0).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(mixed).save(file, "JPEG", quality=75)
    return file.getvalue()
