"""Perceptual hashes (PDQ) and the groups of near-duplicates that they tell."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from artgate.artworks.artwork import Artwork
from artgate.artworks.hamming import BITS, Hashes, Labels, components_within, lowest_index_labels
from artgate.errors import UserError

# Measured by benchmarks/duplicates.py on AGIQA-3K.
RADIUS = 31
MIN_QUALITY = 5
# Twice the distance of copies; unlike pictures lie 128 +- 8 bits apart, alike ones begin to meet near 80.
MAX_RADIUS = 63


def perceptual_hash(image: Image.Image) -> Hashes:
    """(32,) uint8: the PDQ hash of an RGB or luminance image."""
    return hash_and_quality(image)[0]


def hash_and_quality(image: Image.Image) -> tuple[Hashes, int]:
    """The PDQ hash, (32,) uint8, and its quality, 0 (flat: the hash says nothing) to 100."""
    import pdqhash  # type: ignore[import-untyped]

    # PDQ works on a 64 x 64 luminance picture. Its own box filters sit half a pixel off centre, which costs a mirrored
    # copy 14 bits, and take 20 ms at 512 px; Pillow's antialiased tent is the same shape, centred, and takes 1 ms.
    small = image.resize((64, 64), Image.Resampling.BILINEAR)
    bits, quality = pdqhash.compute(np.asarray(small.convert("RGB")))
    return np.packbits(bits.astype(np.uint8)), int(quality)


def mirrored_hash(hashes: Hashes) -> Hashes:
    """Hashes of the left-right mirrored pictures, of the same shape (..., 32).

    Mirroring changes the sign of the cosine transform's odd columns, so (up to the few bits near the median) it flips
    those bits. Being one fixed mask, d(mirrored a, b) = d(a, mirrored b): near-duplication stays symmetric.
    """
    return hashes ^ np.uint8(0b01010101)


def group_artworks(artworks: Sequence[Artwork], radius: int = RADIUS) -> Labels:
    """(N,) group labels of artworks, mirrored copies included, from the hashes that they carry.

    Flat pictures (quality below MIN_QUALITY) have hashes that mean nothing, and each stays alone.
    """
    labels = np.arange(len(artworks), dtype=np.int64)
    telling = [i for i, artwork in enumerate(artworks) if artwork.pdq_quality >= MIN_QUALITY]
    if telling:
        hashes = np.stack([np.frombuffer(bytes.fromhex(artworks[i].pdq), np.uint8) for i in telling])  # (T, 32)
        groups = group_duplicates(hashes, radius, mirrored_hash(hashes))
        labels[telling] = np.asarray(telling)[groups]
    return labels


def group_duplicates(hashes: Hashes, radius: int = RADIUS, mirrored: Hashes | None = None) -> Labels:
    """(N,) int64 labels: the connected components of "at most `radius` bits apart".

    hashes: (N, 32) uint8. mirrored: (N, 32), the hashes of the mirrored pictures; with it, pictures i and j are also
    joined where mirrored[i] lies within the radius of hashes[j] or the reverse. A label is the lowest index of its
    group, so labels do not depend on the order of the search. Exact: no pair within the radius is missed.
    Raises UserError for a radius outside [0, 63].
    """
    hashes = _checked(hashes, "hashes", len(hashes))
    if not 0 <= radius <= MAX_RADIUS:
        raise UserError(f"radius {radius} is outside [0, {MAX_RADIUS}]: beyond it unlike pictures are joined")
    rows = hashes if mirrored is None else np.concatenate([hashes, _checked(mirrored, "mirrored", len(hashes))], axis=1)
    # Copies of one file, and flat pictures, come in masses: each distinct hash is searched once.
    distinct, of_row = np.unique(rows, axis=0, return_inverse=True)  # (U, 32 or 64), (N,)
    views = [np.ascontiguousarray(view) for view in np.split(distinct, distinct.shape[1] // 32, axis=1)]  # (U, 32) each
    return lowest_index_labels(components_within(views[0], views, radius)[of_row.reshape(-1)])


def _checked(hashes: Hashes, name: str, n: int) -> Hashes:
    if hashes.shape != (n, BITS // 8) or hashes.dtype != np.uint8:
        raise UserError(f"{name} has shape {hashes.shape} and type {hashes.dtype}; expected ({n}, 32) uint8")
    return np.ascontiguousarray(hashes)
