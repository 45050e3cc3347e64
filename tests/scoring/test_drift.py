"""The drift test keeps to its false alarms whatever the groups are like, and finds what moved."""

import numpy as np
import pytest

from artgate.scoring.drift import FALSE_ALARMS, FIRST_CHECK, alarm, check_points, drift_p_value, make_reference

FEATURES = 80


def draw(groups: int, size: int, alike: float, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) features of which groups share some, with a few strong directions; (N,) groups."""
    owner = np.repeat(np.arange(groups), size)
    shared, own = chance.normal(size=(groups, FEATURES))[owner], chance.normal(size=(len(owner), FEATURES))
    return (np.sqrt(alike) * shared + np.sqrt(1 - alike) * own) * np.geomspace(5, 0.2, FEATURES), owner


STRUCTURES = [
    ((60, 10, 0.3), (50, 10)),
    ((60, 10, 0.3), (500, 1)),
    ((60, 10, 0.3), (5, 100)),
    ((60, 10, 0.3), (1, 100)),
    ((200, 1, 0.0), (500, 1)),
    ((40, 4, 0.5), (60, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("known", "given"), STRUCTURES)
def test_images_of_the_same_distribution_seldom_raise_an_alarm(known, given):
    chance, trials, alarms = np.random.default_rng(0), 100, 0
    for _ in range(trials):
        reference = make_reference(*draw(*known, chance))
        features, groups = draw(*given, known[2], chance)
        alarms += drift_p_value(reference, reference.project(features), groups) < FALSE_ALARMS
    assert alarms / trials <= FALSE_ALARMS + 3 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / trials)


@pytest.mark.slow
def test_a_whole_batch_looked_at_again_and_again_seldom_does_either():
    chance, alarms = np.random.default_rng(1), 0
    for _ in range(30):
        reference = make_reference(*draw(60, 5, 0.2, chance))
        features, groups = draw(500, 1, 0.2, chance)
        alarms += alarm(reference, reference.project(features), groups) is not None
    assert alarms <= 30 * FALSE_ALARMS + 3 * np.sqrt(30 * FALSE_ALARMS)


@pytest.mark.parametrize("shift", ["one strong direction", "a little everywhere"])
@pytest.mark.slow
def test_shifted_images_are_found_within_five_hundred(shift: str):
    chance, found = np.random.default_rng(2), 0
    scale = np.geomspace(5, 0.2, FEATURES)
    moved = (
        scale * 0.35 * (chance.choice([-1, 1], FEATURES) if shift == "a little everywhere" else np.eye(FEATURES)[0] * 4)
    )
    for _ in range(20):
        reference = make_reference(*draw(60, 10, 0.1, chance))
        features, groups = draw(50, 10, 0.1, chance)
        after = alarm(reference, reference.project(features + moved), groups)
        found += after is not None and after <= 500
    assert found >= 19


def test_levels_of_the_checks_sum_to_the_false_alarms_of_a_whole_batch():
    checks = list(check_points(10**9))
    assert [after for after, _ in checks[:4]] == [FIRST_CHECK, 2 * FIRST_CHECK, 4 * FIRST_CHECK, 8 * FIRST_CHECK]
    assert 0.95 * FALSE_ALARMS < sum(level for _, level in checks) <= FALSE_ALARMS
    assert list(check_points(FIRST_CHECK - 1)) == []
    # a longer batch has the same checks and more
    assert checks[: len(list(check_points(500)))] == list(check_points(500))


def test_a_feature_that_is_constant_in_the_reference_is_no_cause_of_alarm():
    chance = np.random.default_rng(3)
    features, groups = draw(50, 4, 0.0, chance)
    features[:, 7] = 1.0
    reference = make_reference(features, groups)
    new, owner = draw(50, 4, 0.0, chance)
    assert np.isfinite(drift_p_value(reference, reference.project(new), owner))
    assert drift_p_value(reference, reference.project(new), owner) > 0.001


def test_a_reference_of_one_group_alarms_nobody():
    chance = np.random.default_rng(4)
    features, _ = draw(30, 1, 0.0, chance)
    reference = make_reference(features, np.zeros(30, dtype=int))
    assert drift_p_value(reference, reference.project(features + 100), np.arange(30)) == 1.0
