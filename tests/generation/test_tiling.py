"""Tiles put together again: nothing shifted, nothing twice, no step, little memory. The networks are arithmetic."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artgate.generation.tiling import Tiling, enlarge, spans

GRAY = np.float32(1 / 255)


def repeat(scale):
    """A network that repeats every pixel: what it makes of a tile does not depend on where the tile is cut."""
    return lambda pixels: pixels.repeat(scale, 0).repeat(scale, 1) * GRAY


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    scale=st.integers(1, 4),
    tile=st.integers(16, 40),
    pad=st.integers(0, 20),
    feather=st.integers(0, 8),
)
def test_every_pixel_is_where_it_belongs(height, width, scale, tile, pad, feather):
    pixels = noise(height, width)
    enlarged = enlarge(repeat(scale), pixels, scale, Tiling(tile, pad, min(feather, 2 * pad)))
    np.testing.assert_array_equal(enlarged, pixels.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100, 333])
def test_weights_of_neighbours_add_up_to_one(length):
    total = np.zeros(length * 4)
    for span in spans(length, Tiling(tile=16, pad=5, feather=7)):
        total[span.written(4)] += span.weights(4)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_network_sees_no_more_than_a_tile_and_its_surroundings():
    seen = []

    def network(pixels):
        seen.append(pixels.shape[:2])
        return repeat(2)(pixels)

    enlarge(network, noise(100, 130), 2, Tiling(tile=32, pad=6, feather=8))
    assert len(seen) == 4 * 5  # as few as cover the picture
    assert max(max(shape) for shape in seen) <= 32 + 2 * 6 + 3  # 3: read windows begin at a multiple of 4


def test_every_tile_begins_at_a_multiple_of_four():
    """So that networks that fold 2x2 or 4x4 pixels into channels fold the same ones."""
    for length in (97, 250):
        assert {span.read.start % 4 for span in spans(length, Tiling(tile=31, pad=5, feather=6))} == {0}


def test_a_network_that_differs_from_tile_to_tile_leaves_no_step():
    """Brightness off by up to 50 levels from tile to tile is faded over 16 input pixels, 64 output pixels."""
    offsets = iter([0, 50, 10, 60])

    def network(pixels):
        return np.full((len(pixels) * 4, pixels.shape[1] * 4, 3), (100 + next(offsets)) * GRAY, np.float32)

    row = enlarge(network, noise(8, 128), 4, Tiling(tile=32, pad=12, feather=16))[0, :, 0].astype(int)
    assert row[0] == 100
    assert row[-1] == 160
    assert np.abs(np.diff(row)).max() <= 1


def test_memory_beyond_the_result_grows_with_the_tile_not_with_the_picture():
    pixels = noise(4096, 64)
    network = repeat(4)
    tracemalloc.start()
    enlarged = enlarge(network, pixels, 4, Tiling(tile=128, pad=16, feather=16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert enlarged.nbytes == 12_582_912  # as float32 it were 50 MB
    assert peak - enlarged.nbytes < 10e6
