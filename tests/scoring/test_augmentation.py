"""Pictures changed by chance: the same draws the same picture, and never by much."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageOps
from scoring.encoder_samples import picture

from artgate.scoring.augmentation import SIDES, augmented
from artgate.scoring.config import AugmentConfig

ALL = AugmentConfig(flip=0.5, least_crop=0.85, resize=0.5, compress=0.5, least_quality=60)
NONE = AugmentConfig(flip=0.0, least_crop=1.0, resize=0.0, compress=0.0, least_quality=60)


def drawn(seed):
    return np.random.default_rng([1, 2, seed])


def test_the_same_draws_give_the_same_picture_and_others_another():
    image = picture(3, 200, 150)
    pictures = [np.asarray(augmented(image, ALL, drawn(seed)).resize((200, 150))) for seed in range(12)]
    again = [np.asarray(augmented(image, ALL, drawn(seed)).resize((200, 150))) for seed in range(12)]
    assert all(np.array_equal(one, other) for one, other in zip(pictures, again, strict=True))
    assert len({one.tobytes() for one in pictures}) == 12


def test_with_no_chance_of_anything_a_picture_stays():
    image = picture(3, 200, 150)
    assert augmented(image, NONE, drawn(0)).tobytes() == image.tobytes()


def test_each_change_is_what_it_says():
    image = picture(3, 200, 150)
    mirrored = augmented(image, replace(NONE, flip=1.0), drawn(0))
    assert mirrored.tobytes() == ImageOps.mirror(image).tobytes()
    cut = [augmented(image, replace(NONE, least_crop=0.5), drawn(seed)) for seed in range(20)]
    assert all(100 <= one.width <= 200 and one.width / one.height == pytest.approx(4 / 3, rel=0.02) for one in cut)
    assert min(one.width for one in cut) < 130
    resized = [augmented(image, replace(NONE, resize=1.0), drawn(seed)) for seed in range(20)]
    assert all(SIDES[0] <= one.width <= SIDES[1] and one.height == round(one.width * 0.75) for one in resized)
    compressed = augmented(image, replace(NONE, compress=1.0, least_quality=60), drawn(0))
    change = np.abs(np.asarray(compressed, float) - np.asarray(image, float)).mean()
    assert compressed.size == image.size and compressed.mode == "RGB" and 0 < change < 12
