"""Perceptual hashes (PDQ) and the groups of near-duplicates that they tell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artgate.artworks.artwork import Artwork
from artgate.errors import UserError

Hashes = NDArray[np.uint8]
Labels = NDArray[np.int64]

BITS = 256
# Measured by benchmarks/duplicates.py on AGIQA-3K.
RADIUS = 31
MIN_QUALITY = 50
# Beyond this the search would have to flip more than two bits a word.
MAX_RADIUS = 47
WORDS = 16
QUERY_ROWS = 50_000
MOST_EDGES = 5_000_000


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
    Raises UserError for a radius outside [0, 47].
    """
    hashes = _checked(hashes, "hashes")
    if not 0 <= radius <= MAX_RADIUS:
        raise UserError(f"radius {radius} is outside [0, {MAX_RADIUS}]: beyond it unlike pictures are joined")
    rows = hashes if mirrored is None else np.concatenate([hashes, _checked(mirrored, "mirrored")], axis=1)
    # Copies of one file, and flat pictures, come in masses: each distinct hash is searched once.
    distinct, of_row = np.unique(rows, axis=0, return_inverse=True)  # (U, 32 or 64), (N,)
    components = _components_within(np.ascontiguousarray(distinct.reshape(len(distinct), -1, 32)), radius)  # (U,)
    return _lowest_index_labels(components[of_row.reshape(-1)])


def _components_within(distinct: Hashes, radius: int) -> Labels:
    """(U,) components of (U, V, 32) hashes: V = 1, or 2 with the mirrored pictures' hashes as queries too."""
    index = _Index(distinct[:, 0], radius)
    components = np.arange(len(distinct), dtype=np.int64)
    edges: list[NDArray[np.int64]] = []
    for start in range(0, len(distinct), QUERY_ROWS):
        for view in range(distinct.shape[1]):
            edges.append(index.pairs(distinct[start : start + QUERY_ROWS, view], start))  # (2, E)
        if sum(part.shape[1] for part in edges) > MOST_EDGES:
            components, edges = _join(components, edges), []
    return _join(components, edges)


def _join(components: Labels, edges: Sequence[NDArray[np.int64]]) -> Labels:
    """Components after adding edges; `components` itself counts as edges from each node to its component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(components)
    known = np.stack([np.arange(n), components])
    ends = np.concatenate([known, *edges], axis=1)  # (2, E)
    graph = coo_array((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), shape=(n, n))
    return _lowest_index_labels(connected_components(graph, directed=False)[1])


def _lowest_index_labels(labels: Labels) -> Labels:
    _, first, of_row = np.unique(labels, return_index=True, return_inverse=True)
    return first[of_row].astype(np.int64)


class _Index:
    """Exact search within a Hamming radius by multi-index hashing (Norouzi et al., 2012), by faiss.

    Two hashes at most r bits apart agree, in one of their 16 words of 16 bits, up to r // 16 bits (pigeonhole): so it
    is enough to look each word up, with that many bits flipped, and to compare the few hashes found in full.
    """

    def __init__(self, hashes: Hashes, radius: int):
        import faiss  # type: ignore[import-untyped]

        self.radius = radius
        self.index = faiss.IndexBinaryMultiHash(BITS, WORDS, BITS // WORDS)
        self.index.nflip = radius // WORDS
        self.index.add(_shuffled(hashes))

    def pairs(self, queries: Hashes, first: int) -> NDArray[np.int64]:
        """(2, E): rows of queries (numbered from `first`) and of the index that are at most `radius` bits apart."""
        limits, _, found = self.index.range_search(_shuffled(queries), self.radius + 1)  # faiss: strictly below
        return np.stack([np.repeat(first + np.arange(len(queries)), np.diff(limits.astype(np.int64))), found])


def _shuffled(hashes: Hashes) -> Hashes:
    """The hashes with their bits in one fixed random order: neighbours in a PDQ hash depend on each other, and words
    made of them would crowd a few buckets.
    """
    order = np.random.default_rng(0).permutation(BITS)
    return np.packbits(np.unpackbits(hashes, axis=1)[:, order], axis=1)


def _checked(hashes: Hashes, name: str) -> Hashes:
    if hashes.ndim != 2 or hashes.shape[1] != BITS // 8 or hashes.dtype != np.uint8:
        raise UserError(f"{name} has shape {hashes.shape} and type {hashes.dtype}; expected (N, 32) uint8")
    return np.ascontiguousarray(hashes)
