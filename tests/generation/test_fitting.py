"""Delivered pictures are of exactly the size asked for; what is painted around them has no edge to see."""

import numpy as np
import pytest
from PIL import Image

from artgate.generation.config import ApplicationConfig
from artgate.generation.fitting import extended, fitted


def picture(width, height):
    """Waves of several widths in three colours, and a little grain."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + y / 23) + np.sin(x / 37 - y / 11), np.sin(x / 5) * np.cos(y / 17) * 2, np.sin(x * y / 999)]
    grain = np.random.default_rng(0).normal(0, 0.1, (height, width, 3))
    return Image.fromarray(np.clip((np.stack(waves, -1) + grain) * 50 + 128, 0, 255).astype(np.uint8))


def levels(image):
    return np.asarray(image).astype(np.float64)


@pytest.mark.parametrize("final", [(1170, 2532), (2560, 1440), (3840, 2160), (101, 77)])
@pytest.mark.parametrize("fit", ["crop", "extend"])
def test_a_delivered_picture_is_exactly_of_the_size_asked_for(final, fit):
    portrait = picture(310, 640).resize((1240, 2560) if max(final) < 3000 else (2480, 5120))
    application = ApplicationConfig("screen", final_width=final[0], final_height=final[1], fit=fit)
    assert fitted(portrait, application).size == final


def test_without_a_final_size_and_at_the_final_size_pictures_stay_as_they_are():
    original = picture(96, 64)
    assert fitted(original, ApplicationConfig("none")) is original
    assert fitted(original, ApplicationConfig("same", final_width=96, final_height=64)) is original


def test_cropping_takes_from_both_sides_alike():
    row = np.zeros((10, 100, 3), np.uint8)
    row[:, :20], row[:, 80:] = 255, 255  # a wide white band at either end
    application = ApplicationConfig("square", final_width=40, final_height=10)
    cropped = levels(fitted(Image.fromarray(row), application))[0, :, 0]
    assert cropped.shape == (40,) and cropped.max() == 0  # the middle 40 of 100
    wider = ApplicationConfig("wider", final_width=70, final_height=10)
    white = levels(fitted(Image.fromarray(row), wider))[0, :, 0] == 255
    assert white[:5].all() and white[-5:].all() and white.sum() == 10


@pytest.mark.parametrize(("inner", "size"), [((200, 200), (360, 200)), ((150, 240), (150, 520)), ((40, 90), (400, 90))])
def test_an_extended_picture_holds_the_whole_picture_unchanged(inner, size):
    original = picture(*inner)
    result = extended(original, size)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    assert result.size == size
    assert (levels(result.crop((left, top, left + inner[0], top + inner[1]))) == levels(original)).all()


def test_where_the_picture_ends_there_is_no_step():
    """The gradient across its edges is no larger than within it; edges of flat bars would stand out."""
    original = picture(300, 300)
    result = levels(extended(original, (520, 300)))
    across = np.abs(np.diff(result, axis=1)).mean((0, 2))  # (519,)
    within = across[130:390].mean()
    for edge in (109, 409):  # between the picture's columns 110 to 409 and its surroundings
        assert across[edge] < within
    bars = np.zeros((300, 520, 3))
    bars[:, 110:410] = levels(original)
    assert np.abs(np.diff(bars, axis=1)).mean((0, 2))[109] > 5 * within


def test_the_surroundings_lose_focus_with_the_distance():
    result = levels(extended(picture(300, 300), (900, 300)))
    detail = np.abs(np.diff(result, axis=0)).mean((0, 2))  # (900,) by column
    # right of the picture at 600: as sharp beside it, softer farther out
    assert detail[600:603].mean() > 0.8 * detail[500:599].mean()
    assert detail[600:603].mean() > 3 * detail[640:660].mean() > 6 * detail[860:900].mean()
    assert np.allclose(detail[300:600].mean(), np.abs(np.diff(levels(picture(300, 300)), axis=0)).mean())
