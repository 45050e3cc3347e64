import json

import numpy as np
import pytest
from PIL import Image
from scoring.encoder_samples import picture

from artgate.scoring.portable import explained, preprocess, read_description
from artgate.scoring.preprocessing import Preprocessing

SHAPES = [(512, 512), (224, 224), (640, 480), (333, 37), (700, 1501), (225, 223), (448, 96), (65, 64)]


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_pixels_are_the_very_ones_that_artgate_makes(interpolation, fit):
    settings = Preprocessing((64, 224, 448), (0.5,) * 3, (0.5,) * 3, interpolation, fit)
    rng = np.random.default_rng(0)
    for seed, (width, height) in enumerate(SHAPES):
        image = picture(seed, width, height)
        noisy = np.asarray(image) ^ rng.integers(0, 64, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noisy)
        found = preprocess(image, (64, 224, 448), interpolation, fit, mean=(0.5,) * 3, std=(0.5,) * 3)
        for ours, theirs in zip(settings(image), found, strict=True):
            np.testing.assert_array_equal(theirs, ours.numpy().reshape(theirs.shape), str((width, height)))


def test_a_preprocessing_that_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match="'sharpened'"):
        preprocess(picture(), [64], sharpened=True)
    with pytest.raises(ValueError, match="'pad'"):
        preprocess(picture(), [64], fit="pad")


def test_probabilities_are_told_as_artgate_tells_them():
    description = {"grades": ["poor", "average", "good"], "aspects": ["quality", "rationality"]}
    told = explained(np.array([[0.4, 0.2, 0.4], [0.0, 0.5, 0.5]], np.float32), description)
    assert told["score"] == pytest.approx(0.5)
    assert told["grade"] == "average"
    assert told["probabilities"] == pytest.approx({"poor": 0.4, "average": 0.2, "good": 0.4})
    assert told["aspects"]["rationality"] == {"poor": 0.0, "average": 0.5, "good": 0.5}


def test_another_format_is_refused(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ValueError, match="format 2, and this reads 1"):
        read_description(tmp_path)
