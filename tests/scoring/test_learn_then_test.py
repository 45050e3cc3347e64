"""The promise itself, by simulation: over many draws of labels the threshold may fall short in 5 % of them at most."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, norm

from artgate.scoring.learn_then_test import (
    Labels,
    certified,
    correlation_within_groups,
    fewest_accepted,
    labels_needed,
    one_per_group,
    p_value,
    sequence,
    yield_interval,
)

PRECISION, CONFIDENCE = 0.9, 0.95
DRAWS = 1000
# Three standard errors of a share of .05 among so many draws.
MONTE_CARLO = 3 * np.sqrt(0.05 * 0.95 / DRAWS)

# P(right) of an artwork that scores 1 - q, q its rank from above in [0, 1].
WORLDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "good at the top, then sharply worse": lambda q: np.where(q < 0.15, 0.97, np.where(q < 0.2, 0.7, 0.3)),
    "falling": lambda q: 1 / (1 + np.exp(9 * q - 3)),
    "just not good enough, everywhere": lambda q: np.full_like(q, PRECISION - 1e-6),
}


def draw_labels(
    world: Callable[[np.ndarray], np.ndarray], groups: int, size: int, alike: float, chance: np.random.Generator
) -> Labels:
    """alike: share of a group in the luck of its artworks (Gaussian copula), and in how they score."""
    owner = np.repeat(np.arange(groups), size)
    shared = chance.normal(size=(2, groups))[:, owner]
    score, luck = np.sqrt(alike) * shared + np.sqrt(1 - alike) * chance.normal(size=(2, len(owner)))
    rank = norm.sf(score)
    return Labels(1 - rank, luck < norm.ppf(world(rank)), owner)


def true_precision(world: Callable[[np.ndarray], np.ndarray], threshold: float) -> float:
    """Of everything that scores `threshold` or more."""
    return float(world(np.linspace(0, max(1 - threshold, 1e-6), 20_001)[1:]).mean())


def naive(labels: Labels) -> float | None:
    """The lowest threshold whose observed precision is high enough: what one would do without thinking."""
    order = np.argsort(-labels.scores)
    observed = labels.right[order].cumsum() / np.arange(1, len(labels) + 1)
    enough = np.flatnonzero(observed >= PRECISION)
    return float(labels.scores[order][enough[-1]]) if len(enough) else None


def violations(choose: Callable[[Labels], float | None], world: str, **how: float) -> float:
    """The share of the draws whose threshold does not hold the precision."""
    chance, broken = np.random.default_rng(3), 0
    for _ in range(DRAWS):
        threshold = choose(draw_labels(WORLDS[world], chance=chance, **how))
        broken += threshold is not None and true_precision(WORLDS[world], threshold) < PRECISION
    return broken / DRAWS


def by_certificate(labels: Labels) -> float | None:
    found = certified(labels, PRECISION, CONFIDENCE)
    return found.threshold if found else None


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_promise_is_broken_in_at_most_one_of_twenty_draws(world: str):
    assert violations(by_certificate, world, groups=600, size=1, alike=0.0) <= 0.05 + MONTE_CARLO


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_a_threshold_chosen_by_its_observed_precision_breaks_it(world: str):
    assert violations(naive, world, groups=600, size=1, alike=0.0) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "size"), [(100, 10), (30, 30), (15, 60)])
def test_the_promise_holds_where_artworks_of_a_prompt_share_their_luck(groups: int, size: int):
    world = "just not good enough, everywhere"
    assert violations(by_certificate, world, groups=groups, size=size, alike=0.5) <= 0.05 + MONTE_CARLO


@pytest.mark.slow
def test_labels_of_few_prompts_taken_for_independent_break_it():
    def careless(labels: Labels) -> float | None:
        return by_certificate(Labels(labels.scores, labels.right, np.arange(len(labels))))

    broken = violations(careless, "just not good enough, everywhere", groups=15, size=60, alike=0.5)
    assert broken > 0.05 + MONTE_CARLO


def test_the_p_value_is_the_exact_binomial_one():
    for right, wrong in [(28, 0), (29, 0), (44, 2), (253, 7), (5, 5)]:
        assert p_value(right, wrong, 0.9) == pytest.approx(binom.cdf(wrong, right + wrong, 0.1))
    assert p_value(0, 3, 0.9) == 1.0


def test_the_fewest_labels_that_can_certify():
    # 59 with none wrong and 260 with seven: Clopper and Pearson's figures
    assert [fewest_accepted(0.95, 0.95, mistakes) for mistakes in (0, 7)] == [59, 260]
    assert fewest_accepted(0.98, 0.95, 3) == 386


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mapie_finds_no_lower_threshold_and_differs_by_its_rounding_alone():
    """MAPIE's p-value is the same tail, but n * (1 - share right) is now and then rounded up to a mistake more."""
    mapie = pytest.importorskip("mapie.risk_control")
    chance, same = np.random.default_rng(5), 0
    for _ in range(12):
        labels = draw_labels(WORLDS["good at the top, then sharply worse"], 900, 1, 0.0, chance)
        steps = list(sequence(labels, 0.8, CONFIDENCE))
        controller = mapie.BinaryClassificationController(
            lambda scores: np.stack([1 - scores, scores], axis=1),
            risk="precision",
            target_level=0.8,
            confidence_level=CONFIDENCE,
            list_predict_params=np.array([step.threshold for step in steps]),
            fwer_method="fixed_sequence",
        ).calibrate(labels.scores, labels.right.astype(int))
        found = certified(labels, 0.8, CONFIDENCE)
        valid = controller.valid_predict_params
        assert not len(valid) or (found is not None and found.threshold <= valid.min())
        for step, theirs in zip(steps, controller.p_values[:, 0], strict=True):
            wrong = step.accepted - step.right
            allowed = {binom.cdf(wrong, step.accepted, 0.2), binom.cdf(wrong + 1, step.accepted, 0.2)}
            # where the one mistake more exceeds Hoeffding's bound, MAPIE takes that
            assert step.p_value <= theirs * (1 + 1e-9) and theirs <= max(allowed) * (1 + 1e-9)
        same += found is not None and len(valid) > 0 and found.threshold == valid.min()
    assert same >= 3


def test_a_gate_at_the_threshold_accepts_what_was_counted():
    labels = draw_labels(WORLDS["falling"], 900, 1, 0.0, np.random.default_rng(1))
    for step in sequence(labels, 0.8, CONFIDENCE):
        taken = labels.scores >= step.threshold
        assert (taken.sum(), labels.right[taken].sum()) == (step.accepted, step.right)


def test_of_equal_scores_all_or_none_are_accepted():
    scores = np.repeat([0.9, 0.5, 0.1], [60, 100, 40])
    labels = Labels(scores, scores > 0.3, np.arange(200))
    found = [(step.accepted, step.right) for step in sequence(labels, PRECISION, CONFIDENCE)]
    assert found == [(60, 60), (160, 160), (200, 160)]
    best = certified(labels, PRECISION, CONFIDENCE)
    assert best is not None and best.accepted == 160 and 0.1 < best.threshold <= 0.5


def test_where_everything_is_right_everything_is_accepted():
    labels = Labels(np.linspace(0, 1, 100), np.ones(100, dtype=bool), np.arange(100))
    found = certified(labels, PRECISION, CONFIDENCE)
    assert found is not None and (found.threshold, found.accepted, found.precision) == (0.0, 100, 1.0)


def test_too_few_labels_and_a_scorer_that_knows_nothing_certify_nothing():
    few = Labels(np.linspace(0, 1, 20), np.ones(20, dtype=bool), np.arange(20))
    assert certified(few, PRECISION, CONFIDENCE) is None
    chance = np.random.default_rng(0)
    blind = Labels(chance.random(500), chance.random(500) < 0.5, np.arange(500))
    assert certified(blind, PRECISION, CONFIDENCE) is None
    assert labels_needed(blind, PRECISION, CONFIDENCE) is None


def test_as_many_labels_as_are_said_to_be_missing_do():
    def sure(q: np.ndarray) -> np.ndarray:
        return np.where(q < 0.3, 0.99, 0.2)

    chance = np.random.default_rng(2)
    few = draw_labels(sure, 80, 1, 0.0, chance)
    assert certified(few, PRECISION, CONFIDENCE) is None
    needed = labels_needed(few, PRECISION, CONFIDENCE)
    assert needed is not None and 80 < needed < 800
    more = [draw_labels(sure, needed, 1, 0.0, chance) for _ in range(40)]
    assert np.mean([certified(labels, PRECISION, CONFIDENCE) is not None for labels in more]) >= 0.5


def test_the_correlation_of_mistakes_within_groups_is_found():
    chance = np.random.default_rng(4)
    flat = WORLDS["just not good enough, everywhere"]
    none = [correlation_within_groups(draw_labels(flat, 100, 10, 0.0, chance)) for _ in range(20)]
    strong = [correlation_within_groups(draw_labels(flat, 100, 10, 0.8, chance)) for _ in range(20)]
    assert np.mean(none) < 0.02 and np.mean(strong) > 0.3
    alone = draw_labels(flat, 200, 1, 0.0, chance)
    assert correlation_within_groups(alone) == 0.0
    assert correlation_within_groups(draw_labels(flat, 10, 20, 0.0, chance)) == 1.0  # of 10 groups nothing is known


def test_one_artwork_of_each_group_is_looked_at():
    labels = draw_labels(WORLDS["falling"], 50, 8, 0.5, np.random.default_rng(0))
    few = one_per_group(labels)
    assert sorted(few.groups) == list(range(50))
    known = set(zip(labels.scores, labels.right, labels.groups, strict=True))
    assert set(zip(few.scores, few.right, few.groups, strict=True)) <= known


def test_the_interval_of_the_yield_covers_the_true_one_also_in_groups():
    chance = np.random.default_rng(7)
    for groups, size in [(300, 1), (60, 20)]:
        covered = 0
        for _ in range(200):
            labels = draw_labels(WORLDS["falling"], groups, size, 0.4, chance)
            share, low, high = yield_interval(labels, 0.7)
            assert low <= share <= high
            covered += low <= 0.3 <= high
        assert covered >= 180
    assert yield_interval(Labels(np.ones(30), np.ones(30, bool), np.arange(30)), 0.5)[2] == 1.0
