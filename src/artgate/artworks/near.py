"""Which artwork already held a new one looks like: perceptual hashes, searched as they are added.

All are compared, a block at a time, and the search ends with the first that is near: exact, nothing to build or to
balance, and at a million hashes still less than the decoding of one image. `hamming.py` groups all pairs at once.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from artgate.artworks.artwork import Artwork
from artgate.artworks.duplicates import MIN_QUALITY, RADIUS, mirrored_hash

Words = NDArray[np.uint64]  # (4, N): hashes as columns, so that whole rows are compared at once

# So many hashes at once stay in a core's second cache.
BLOCK = 32_768


class NearIndex:
    """The hashes of artworks in the order of adding, flat ones (quality below MIN_QUALITY) left out."""

    def __init__(self, artworks: Iterable[Artwork] = (), radius: int = RADIUS):
        self.radius = radius
        self._image_ids: list[str] = []
        self._words: Words = np.empty((4, 1024), np.uint64)  # (4, room); the first len(_image_ids) columns count
        self.extend(artworks)

    def extend(self, artworks: Iterable[Artwork]) -> None:
        """Append artworks, which come after all that are there."""
        telling = [artwork for artwork in artworks if artwork.pdq_quality >= MIN_QUALITY]
        start, stop = len(self._image_ids), len(self._image_ids) + len(telling)
        if stop > self._words.shape[1]:
            grown = np.empty((4, max(stop, 2 * self._words.shape[1])), np.uint64)
            grown[:, :start] = self._words[:, :start]
            self._words = grown
        self._words[:, start:stop] = _words(telling)
        self._image_ids += [artwork.image_id for artwork in telling]

    def earliest(self, artwork: Artwork) -> str:
        """The image_id of the first artwork at most `radius` bits from this one or from its mirror image, "" if none.

        An artwork that is in the index itself is near itself.
        """
        if artwork.pdq_quality < MIN_QUALITY:
            return ""
        hash = np.frombuffer(bytes.fromhex(artwork.pdq), np.uint8)
        views = [view.view(np.uint64) for view in (hash, mirrored_hash(hash))]  # (4,) each
        for start in range(0, len(self._image_ids), BLOCK):
            block = self._words[:, start : min(start + BLOCK, len(self._image_ids))]
            near = [position for view in views for position in _near(block, view, self.radius)[:1]]
            if near:
                return self._image_ids[start + min(near)]
        return ""


def mark(artworks: Sequence[Artwork], held: NearIndex) -> list[str]:
    """What each artwork is a near-duplicate of, "" where of none: of those held, then of those before it here."""
    own = NearIndex(radius=held.radius)
    originals = []
    for artwork in artworks:
        originals.append(held.earliest(artwork) or own.earliest(artwork))
        own.extend([artwork])
    return originals


def _near(block: Words, view: Words, radius: int) -> NDArray[np.int64]:
    """Ascending positions in the block of hashes at most `radius` bits from the view, (4,)."""
    distance = np.bitwise_count(block[0] ^ view[0]) + np.bitwise_count(block[1] ^ view[1])  # at most 128: fits a byte
    close = np.flatnonzero(distance <= radius)  # few: unlike pictures differ in half of these 128 bits
    rest = np.bitwise_count(block[2:, close] ^ view[2:, None]).sum(axis=0, dtype=np.uint16)
    return close[distance[close] + rest <= radius]


def _words(artworks: Sequence[Artwork]) -> Words:
    hashes = np.frombuffer(bytes.fromhex("".join(artwork.pdq for artwork in artworks)), np.uint64)
    return hashes.reshape(-1, 4).T
