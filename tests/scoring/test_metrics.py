import numpy as np
import pytest

from artgate.scoring.metrics import (
    evaluate,
    expected_calibration_error,
    expected_grade,
    macro_f1,
    predicted_grade,
    quadratic_kappa,
    reliability,
    within_generator_srcc,
)


def one_hot(grades):
    return np.eye(3)[grades]


def test_a_perfect_scorer():
    grades = np.array([0, 1, 2] * 10)
    figures = evaluate(one_hot(grades), one_hot(grades), grades * 1.5, ["sd"] * 30)
    for name in ("srcc", "plcc", "qwk", "macro_f1", "accuracy", "auroc_good", "within_generator_srcc"):
        assert figures[name] == pytest.approx(1), name
    assert figures["ece"] == pytest.approx(0)
    assert figures["nll"] == pytest.approx(0, abs=1e-9)
    assert figures["n"] == 30


def test_the_reverse_scorer():
    grades = np.array([0, 1, 2] * 10)
    figures = evaluate(one_hot(2 - grades), one_hot(grades), grades * 1.5, [None] * 30)
    assert figures["srcc"] == pytest.approx(-1)
    assert figures["qwk"] == pytest.approx(-1)
    assert figures["auroc_good"] == pytest.approx(0.25), "below every poor one, level with the average ones"
    assert figures["within_generator_srcc"] is None


def test_kappa_and_f1_by_hand():
    graded, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    # Observed squared distances 0 + 1 + 0 + 4 = 5, against those of independent rows and columns.
    chance = (
        sum(row * column * (i - j) ** 2 for i, row in enumerate([2, 1, 1]) for j, column in enumerate([2, 2, 0])) / 4
    )
    assert quadratic_kappa(graded, predicted) == pytest.approx(1 - 5 / chance)
    assert macro_f1(graded, predicted) == pytest.approx((0.5 + 2 / 3 + 0) / 3)


def test_the_grade_is_the_median():
    probabilities = np.array([[0.4, 0.2, 0.4], [0.51, 0.0, 0.49], [0.1, 0.3, 0.6], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]])
    assert predicted_grade(probabilities).tolist() == [1, 0, 2, 1, 1]
    assert expected_grade(probabilities) == pytest.approx([1, 0.98, 1.5, 1.3, 1])


def test_a_far_mistake_costs_more_than_a_near_one():
    graded = np.array([0, 0, 1, 1, 2, 2])
    near, far = np.array([1, 0, 1, 1, 2, 2]), np.array([2, 0, 1, 1, 2, 2])
    assert quadratic_kappa(graded, near) > quadratic_kappa(graded, far)


def test_what_is_not_defined_is_none():
    figures = evaluate(one_hot([2, 2, 2]), one_hot([2, 2, 2]), np.array([3.0, 3.0, 3.0]), ["a", "b", "c"])
    for name in ("srcc", "plcc", "qwk", "auroc_good", "within_generator_srcc"):
        assert figures[name] is None, name


def test_calibration_error_by_hand():
    # 4 at confidence .75 of which 2 right; 4 at .55 of which 3 right.
    probabilities = np.array([[0.75, 0.25, 0]] * 4 + [[0.45, 0.55, 0]] * 4)
    graded = np.array([0, 0, 1, 1, 1, 1, 1, 0])
    assert expected_calibration_error(probabilities, graded) == pytest.approx((0.25 + 0.20) / 2)
    assert reliability(np.array([1.0, 0.0]), np.array([True, False])) == [(0, 0, 1), (1, 1, 1)]


def test_knowing_the_generator_alone_is_worth_nothing_within_it():
    rng = np.random.default_rng(0)
    generators = ["old"] * 100 + ["new"] * 100
    ratings = np.concatenate([rng.normal(1, 1, 100), rng.normal(3, 1, 100)])
    knows_generator = np.concatenate([rng.normal(1, 0.1, 100), rng.normal(3, 0.1, 100)])
    assert abs(within_generator_srcc(knows_generator, ratings, generators)) < 0.2
    assert within_generator_srcc(ratings, ratings, generators) == pytest.approx(1)
    mixed = np.concatenate([ratings[:100], -ratings[100:]])
    assert within_generator_srcc(mixed, ratings, generators) == pytest.approx(0, abs=1e-9)
    assert within_generator_srcc(ratings[:7], ratings[:7], ["few"] * 7) is None
