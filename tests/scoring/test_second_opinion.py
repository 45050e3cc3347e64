import numpy as np
import pytest
from graded_sample import graded_copy

from artgate.errors import UserError
from artgate.labels.suspects import suspects
from artgate.scoring.second_opinion import out_of_fold, second_opinion


def test_no_model_learnt_from_what_it_is_asked_about() -> None:
    """Grades drawn at random cannot be told by who has not seen them, however many features there are."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 200)).astype(np.float32)
    grades, folds = rng.integers(3, size=300), rng.integers(5, size=300)
    probabilities = out_of_fold(features, grades, folds)
    assert probabilities.sum(1) == pytest.approx(np.ones(300))
    assert np.mean(probabilities.argmax(1) == grades) < 0.45
    assert (out_of_fold(features, grades, folds) == probabilities).all()


def test_what_features_tell_is_learnt_and_wrong_grades_stand_out() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=400)
    features = (rng.normal(size=(400, 50)) + 2.0 * truth[:, None]).astype(np.float32)
    grades = truth.copy()
    grades[:40] = (truth[:40] + 1) % 3
    probabilities = out_of_fold(features, grades, np.arange(400) % 5)
    found = suspects([str(row) for row in range(400)], grades, probabilities)
    wrong = [int(suspect.image_id) < 40 for suspect in found]
    assert sum(wrong) >= 36 and np.mean(wrong) > 0.8


def test_a_grade_that_a_fold_alone_has_gets_no_share_there() -> None:
    features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    folds = np.arange(60) % 3
    grades = np.where(folds == 0, 2, np.arange(60) // 3 % 2)
    assert (out_of_fold(features, grades, folds)[folds == 0, 2] == 0).all()


def test_a_grade_that_one_artwork_alone_has_cannot_be_learnt(sample, tmp_path) -> None:
    own = graded_copy(sample, tmp_path / "own")
    image_ids = [artwork.image_id for artwork in own]
    grades = np.zeros(len(image_ids), dtype=int)
    grades[0] = 2
    with pytest.raises(UserError, match="do not give 5 parts that have two grades"):
        second_opinion(own, image_ids, grades, None, tmp_path / "cache")
