import numpy as np
import pytest

from artgate.scoring.charts import (
    SCORE_BINS,
    confusion,
    precision_and_yield,
    reliability_of_grades,
    scores_by_grade,
)
from artgate.scoring.intervals import Resamples
from artgate.scoring.metrics import classwise_calibration_error


def test_reliability_by_hand():
    probabilities = np.array([[0.82, 0.1, 0.08]] * 4 + [[0.1, 0.22, 0.68]] * 6)
    graded = np.array([0, 0, 0, 1, 2, 2, 2, 1, 0, 2])
    poor, average, good = reliability_of_grades(probabilities, graded)
    assert [(b.count, b.said, b.came) for b in poor.bins] == [
        (6, pytest.approx(0.1), pytest.approx(1 / 6)),
        (4, pytest.approx(0.82), 0.75),
    ]
    assert [bin.enough for bin in poor.bins] == [True, False]
    assert poor.bins[1].low < 0.75 < poor.bins[1].high < 1
    assert good.bins[1].count == 6 and good.bins[1].came == pytest.approx(4 / 6)
    assert np.mean([poor.error, average.error, good.error]) == pytest.approx(
        classwise_calibration_error(probabilities, graded)
    )


def test_precision_at_every_yield_by_hand():
    graded = np.array([2] * 10 + [0] * 5 + [2] * 5 + [0] * 20)
    good = np.linspace(0.99, 0.01, 40)
    probabilities = np.stack([1 - good, np.zeros(40), good], 1)
    curve = precision_and_yield(probabilities, graded, Resamples([str(p) for p in range(40)], 200, 0))
    assert curve[0].passed == 0.25 and curve[0].precision == 1, "the best ten"
    assert curve[-1].passed == 1 and curve[-1].precision == 15 / 40
    at_half = next(point for point in curve if point.passed == 0.5)
    assert at_half.precision == 15 / 20
    assert at_half.threshold == pytest.approx(good[19])
    assert at_half.low < 0.75 < at_half.high
    assert all(0 <= point.low <= point.precision <= point.high <= 1 for point in curve)
    assert [point.passed for point in curve] == sorted(point.passed for point in curve)


def test_a_curve_may_be_that_of_thresholds_on_the_probability_of_good():
    probabilities = np.array([[0.5, 0.0, 0.5], [0.0, 0.8, 0.2], [0.1, 0.8, 0.1]] * 10)
    curve = precision_and_yield(probabilities, np.array([2, 0, 0] * 10), Resamples(list("ab" * 15), 50, 0), "good")
    assert (curve[0].threshold, curve[0].precision) == (0.5, 1), "though it scores less than the next"
    assert curve[-1].threshold == pytest.approx(0.1) and curve[-1].precision == pytest.approx(1 / 3)


def test_few_artworks_still_have_a_curve():
    probabilities = np.array([[0.2, 0.2, 0.6], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]])
    (only,) = precision_and_yield(probabilities, np.array([2, 0, 2]), Resamples(["a", "b", "c"], 50, 0))
    assert (only.passed, only.precision) == (1, pytest.approx(2 / 3))


def test_scores_and_confusion_count_every_artwork_once():
    probabilities = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1.0]])
    graded = np.array([0, 1, 2, 0])
    table = np.array(scores_by_grade(probabilities, graded))
    assert table.shape == (SCORE_BINS, 3) and table.sum() == 4
    assert table[0, 0] == 1 and table[SCORE_BINS // 2, 1] == 1 and table[-1].tolist() == [1, 0, 1]
    assert confusion(graded, np.array([0, 1, 2, 2])) == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
