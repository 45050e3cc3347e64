"""Perceptual hashes (PDQ) and the groups of near-duplicates that they tell."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint8]


def perceptual_hash(image: Image.Image) -> Hashes:
    """(32,) uint8: the PDQ hash of an RGB image."""
    return hash_and_quality(image)[0]


def hash_and_quality(image: Image.Image) -> tuple[Hashes, int]:
    """The PDQ hash, (32,) uint8, and its quality, 0 (flat: the hash says nothing) to 100."""
    import pdqhash  # type: ignore[import-untyped]

    # PDQ works on a 64 x 64 luminance picture. Its own box filters sit half a pixel off centre, which costs a mirrored
    # copy 14 bits, and take 20 ms at 512 px; Pillow's antialiased tent is the same shape, centred, and takes 1 ms.
    small = image.resize((64, 64), Image.Resampling.BILINEAR)
    bits, quality = pdqhash.compute(np.asarray(small.convert("RGB")))
    return np.packbits(bits.astype(np.uint8)), int(quality)
