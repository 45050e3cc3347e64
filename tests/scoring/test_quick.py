import numpy as np

from artgate.scoring.quick import SELECTION_AXES, principal_axes, quick_probabilities, selection_axes


def test_axes_come_strongest_first_and_the_same_again() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 40)) @ rng.normal(size=(40, 40))).astype(np.float32)
    axes = principal_axes(features)
    assert axes.shape == (200, 40)
    assert (np.diff(axes.std(0)) < 1e-3).all()
    np.testing.assert_array_equal(axes, principal_axes(features))
    np.testing.assert_array_equal(selection_axes(axes), axes[:, :SELECTION_AXES])


def test_a_hundred_grades_teach_what_the_features_tell() -> None:
    rng = np.random.default_rng(1)
    axes = rng.normal(size=(400, 6))
    grades = np.digitize(axes[:, 0], [-0.4, 0.4])
    told = quick_probabilities(axes[:100], grades[:100], axes[100:])
    np.testing.assert_allclose(told.sum(1), 1)
    assert (told.argmax(1) == grades[100:]).mean() > 0.8


def test_a_grade_that_nobody_gave_has_no_probability() -> None:
    axes = np.array([[-1.0], [-2], [1], [2]])
    told = quick_probabilities(axes, np.array([0, 0, 2, 2]), axes)
    assert (told[:, 1] == 0).all()
    assert (told[:2, 0] > 0.5).all() and (told[2:, 2] > 0.5).all()
