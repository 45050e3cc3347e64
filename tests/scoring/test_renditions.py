"""Renditions: what may change in them, what may not, and that damage grows with its severity."""

import io

import numpy as np
import pytest
from PIL import Image

from artgate.scoring.renditions import (
    DAMAGES,
    HARMLESS_ASPECTS,
    HARMLESS_SIDES,
    cropped,
    harmless,
    is_damaged,
    recompressed,
    rendition,
    rendition_names,
    resized,
)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth colour with edges and some texture, 320 x 240."""
    y, x = np.mgrid[0:240, 0:320] / 240
    draw = np.random.default_rng(0)
    smooth = np.stack([x / 1.4, y, 0.5 + 0.5 * np.sin(6 * x * y)], axis=2)
    disc = ((x - 0.7) ** 2 + (y - 0.5) ** 2 < 0.06)[..., None]
    texture = draw.normal(0, 0.03, (240, 320, 1))
    return Image.fromarray(((np.where(disc, 0.9 - smooth, smooth) + texture).clip(0, 1) * 255).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


def test_the_original_comes_first_and_is_the_picture_itself(picture):
    assert rendition_names(2, 1) == ["original", "harmless-1", "harmless-2", "damaged-1"]
    assert [is_damaged(name) for name in rendition_names(1, 2)] == [False, False, True, True]
    assert rendition(picture, "an id", "original") is picture


@pytest.mark.parametrize("name", ["harmless-1", "damaged-1"])
def test_a_rendition_is_the_same_every_time_and_another_for_every_name_and_image(picture, name):
    first = rendition(picture, "one", name)
    assert first.tobytes() == rendition(picture, "one", name).tobytes()
    others = [rendition(picture, "two", name), rendition(picture, "one", name.replace("1", "2"))]
    assert all(first.tobytes() != other.tobytes() for other in others)
    assert first.mode == "RGB"


def test_harmless_renditions_stay_within_their_sizes_and_keep_the_colours(picture):
    aspects, sides = [], []
    for number in range(60):
        made = harmless(picture, np.random.default_rng(number))
        aspects.append(made.width / made.height)
        sides.append(min(made.size))
        if made.width / made.height == pytest.approx(4 / 3, abs=0.02):  # not cropped
            assert np.abs(pixels(made).mean((0, 1)) - pixels(picture).mean((0, 1))).max() < 3
    low, high = HARMLESS_ASPECTS
    assert low - 0.01 <= min(aspects) < 0.8 and 1.6 < max(aspects) <= high + 0.01
    assert max(sides) <= HARMLESS_SIDES[1] and any(side >= 600 for side in sides)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_keeps_the_size_and_grows_with_its_severity(picture, kind):
    found = [DAMAGES[kind](picture, severity, np.random.default_rng(3)) for severity in (0.05, 0.4, 1.0)]
    assert all(image.size == picture.size and image.mode == "RGB" for image in found)
    changes = [np.abs(pixels(image) - pixels(picture)).mean() for image in found]
    assert 0.3 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_takes_the_smallest_picture_that_a_collection_keeps(kind):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8))
    for severity in (0.05, 1.0):
        assert DAMAGES[kind](small, severity, np.random.default_rng(0)).size == (40, 32)


def test_shuffled_cells_are_still_all_there(picture):
    found = DAMAGES["shuffled"](picture, 1.0, np.random.default_rng(0))
    assert np.array_equal(np.sort(pixels(found), axis=None), np.sort(pixels(picture), axis=None))


def test_a_crop_is_the_largest_of_its_aspect_and_lies_within(picture):
    draw = np.random.default_rng(0)
    assert cropped(picture, 2.0, draw).size == (320, 160)
    assert cropped(picture, 0.5, draw).size == (120, 240)
    tall = cropped(picture, 0.5, np.random.default_rng(1))
    assert any(np.array_equal(pixels(tall), pixels(picture)[:, left : left + 120]) for left in range(201))


def test_resizing_goes_by_the_shorter_side_and_recompressing_through_a_real_file(picture):
    assert resized(picture, 120, Image.Resampling.BILINEAR).size == (160, 120)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    with Image.open(buffer) as saved:
        assert np.array_equal(pixels(recompressed(picture, "JPEG", 40)), pixels(saved.convert("RGB")))
