"""A picture through a super-resolution network tile by tile, so that memory grows with the tile, not the picture.

Around each tile the network sees `pad` pixels more, whose result is dropped: what a network makes near an edge is
wrong as far inwards as its receptive field reaches. A compact network (SRVGGNetCompact) reaches one pixel a
convolution, and with that pad its tiles equal the untiled result bit for bit. A deep one (RRDBNet) reaches hundreds
of pixels, with little weight: there the inner `feather / 2` pixels of the surroundings are not dropped, and one tile
fades into the next over twice as many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Networks that fold blocks of pixels into channels (Real-ESRGAN x2plus: 2x2) must see the same blocks in every tile.
ALIGNMENT = 4
Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Tiling:
    """tile: largest side without surroundings; pad, feather (<= tile / 2, 2 pad): see the module. Input pixels all."""

    tile: int
    pad: int
    feather: int


def enlarge(network: Network, pixels: np.ndarray, scale: int, tiling: Tiling) -> np.ndarray:
    """(H, W, 3) uint8 → (scale H, scale W, 3) uint8.

    network: (h, w, 3) uint8 → (scale h, scale w, 3) float32 in [0, 1].
    """
    height, width = pixels.shape[:2]
    enlarged = np.empty((height * scale, width * scale, 3), np.uint8)
    columns = spans(width, tiling)
    unfinished = np.zeros((0, width * scale, 3), np.float32)  # rows that the next row of tiles still adds to
    for row in spans(height, tiling):
        band = np.zeros((row.length * scale, width * scale, 3), np.float32)
        for column in columns:
            tile = network(pixels[row.read, column.read])
            tile = tile[row.within(scale), column.within(scale)]
            band[:, column.written(scale)] += tile * column.weights(scale)[:, None]
        band *= row.weights(scale)[:, None, None]
        band[: len(unfinished)] += unfinished
        finished = (row.length - row.fades_out) * scale
        top = row.start * scale
        enlarged[top : top + finished] = np.rint(band[:finished] * 255)
        unfinished = band[finished:]
    return enlarged


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in input pixels: it writes [start, stop), for which the network sees `read`.

    fades_in, fades_out: lengths at its ends over which it shares with its neighbours; 0 at the picture's edges.
    """

    start: int
    stop: int
    read: slice
    fades_in: int
    fades_out: int

    @property
    def length(self) -> int:
        """Input pixels written."""
        return self.stop - self.start

    def written(self, scale: int) -> slice:
        """Where its result goes in the enlarged picture."""
        return slice(self.start * scale, self.stop * scale)

    def within(self, scale: int) -> slice:
        """Where its result is in what the network makes of `read`."""
        return slice((self.start - self.read.start) * scale, (self.stop - self.read.start) * scale)

    def weights(self, scale: int) -> np.ndarray:
        """(length * scale,) float32, 1 but for linear ramps; those of neighbours add up to 1 at every pixel."""
        weights = np.ones(self.length * scale, np.float32)
        fading_in, fading_out = self.fades_in * scale, self.fades_out * scale
        weights[:fading_in] = _ramp(fading_in)
        weights[len(weights) - fading_out :] = 1 - _ramp(fading_out)
        return weights


def spans(length: int, tiling: Tiling) -> list[Span]:
    """The tiles along an axis of `length` pixels: as few as possible, of even size, in order."""
    count = -(-length // tiling.tile)
    edges = [length * index // count for index in range(count + 1)]
    half = tiling.feather // 2
    made = []
    for first, last in pairwise(edges):
        before, after = (half if first > 0 else 0), (half if last < length else 0)
        start, stop = first - before, last + after
        read = slice(max(0, first - tiling.pad) // ALIGNMENT * ALIGNMENT, min(length, last + tiling.pad))
        made.append(Span(start, stop, read, fades_in=2 * before, fades_out=2 * after))
    return made


def _ramp(length: int) -> np.ndarray:
    return (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(max(length, 1))
