import numpy as np
import pytest

from artgate.scoring.intervals import (
    Resamples,
    calibration_by_chance,
    differences,
    figures,
    interval,
    intervals,
)
from artgate.scoring.metrics import evaluate


def scored(n=300, groups=60, skill=1.0, seed=0, shared=0.5):
    """Probabilities, targets, ratings, generators and groups of artworks whose groups differ in quality."""
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=n)
    quality = rng.normal(size=groups)[group] * 0.7 + rng.normal(size=n) * 0.7
    # The error is the group's in part: artworks of one prompt fail together.
    seen = skill * quality + rng.normal(size=groups)[group] * shared + rng.normal(size=n) * 0.5
    targets = np.eye(3)[np.digitize(quality, [-0.4, 0.4])]
    logits = np.stack([-2 * seen, np.zeros(n) + 0.3, 2 * seen], 1)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    generators = [("a", "b", "c", None)[place] for place in rng.integers(4, size=n)]
    return probabilities.round(2), targets, quality.round(1), generators, [f"g{g}" for g in group]


def normal(row):
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in row.items()}


def test_a_resample_has_the_figures_of_its_artworks():
    """The library's functions on the artworks a resample holds, each as often as it holds it, are the authority."""
    probabilities, targets, ratings, generators, groups = scored()
    probabilities /= probabilities.sum(1, keepdims=True)
    statistic = figures(probabilities, targets, ratings, generators)
    for weights in Resamples(groups, 12, seed=3).weights():
        for row in weights:
            held = np.repeat(np.arange(len(row)), row.astype(int))
            expected = evaluate(probabilities[held], targets[held], ratings[held], [generators[i] for i in held])
            found = normal(statistic(row[None]))
            assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-9)
            assert found.keys() == expected.keys() - {"n"}


def test_whole_groups_are_drawn():
    groups = [f"g{place % 7}" for place in range(100)]
    (weights,) = Resamples(groups, 50, seed=0).weights()
    assert weights.shape == (50, 100)
    for place in range(7):
        own = weights[:, place::7]
        assert (own == own[:, :1]).all()
    assert (weights[:, :7].sum(1) == 7).all(), "as many groups as there are"
    assert len(np.unique(weights, axis=0)) > 45


def test_the_same_seed_draws_the_same_and_memory_is_bounded(monkeypatch):
    from artgate.scoring import intervals as module

    made = Resamples([str(place) for place in range(40)], 30, seed=5)
    (whole,) = made.weights()
    monkeypatch.setattr(module, "MOST_CELLS", 40 * 8)
    parts = list(made.weights())
    assert [len(part) for part in parts] == [8, 8, 8, 6]
    assert (np.concatenate(parts) == np.concatenate(list(made.weights()))).all()
    assert whole.shape == np.concatenate(parts).shape


@pytest.mark.slow
def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Over 100 sets of artworks whose groups fail together; drawing single artworks instead misses far more."""
    names, sets = ("srcc", "qwk", "macro_f1", "accuracy"), 100
    whole = [evaluate(*scored(n=9000, groups=900, seed=10_000 + draw, shared=1.0)[:4]) for draw in range(4)]
    truth = {name: np.mean([found[name] for found in whole]) for name in names}
    held = dict.fromkeys([(by, name) for by in ("groups", "single") for name in names], 0)
    for draw in range(sets):
        *artworks, groups = scored(n=300, groups=30, seed=draw, shared=1.0)
        found, statistic = evaluate(*artworks), figures(*artworks)
        for by, own in (("groups", groups), ("single", [str(place) for place in range(300)])):
            made = intervals(found, Resamples(own, 200, seed=draw).of(statistic))
            for name in names:
                low, high = made[name]
                held[by, name] += low <= truth[name] <= high
    for name in names:
        assert held["groups", name] >= 0.87 * sets, name  # 30 groups are few: a little short of 95 of 100
        assert held["single", name] <= held["groups", name] - 0.1 * sets, name


def test_a_difference_is_surer_than_what_it_is_of():
    """Scorers that succeed and fail on the same artworks: on the same resamples most of the luck cancels."""
    *artworks, groups = scored()
    worse = scored(skill=0.8)[0]
    resamples = Resamples(groups, 400, seed=0)
    first, second = evaluate(*artworks), evaluate(worse, *artworks[1:])
    drawn, other = resamples.of(figures(*artworks)), resamples.of(figures(worse, *artworks[1:]))
    table = differences(first, second, drawn, other)
    low, high = table["srcc"]["interval"]
    assert low < table["srcc"]["difference"] == first["srcc"] - second["srcc"] < high
    alone = intervals(first, drawn)["srcc"]
    assert high - low < 0.6 * (alone[1] - alone[0])


def test_what_is_not_defined_has_no_interval():
    probabilities, targets, _, generators, groups = scored(n=40)
    constant = np.full((40, 3), 1 / 3)
    found = evaluate(constant, targets, np.ones(40), [None] * 40)
    drawn = Resamples(groups, 50, seed=0).of(figures(constant, targets, np.ones(40), [None] * 40))
    made = intervals(found, drawn)
    assert made["srcc"] is made["plcc"] is made["within_generator_srcc"] is None
    assert made["accuracy"] is not None
    assert made["auroc_good"] == (0.5, 0.5), "all level"
    assert interval(0.5, np.r_[np.full(90, 0.5), np.full(10, np.nan)]) is None
    assert interval(0.5, np.r_[np.full(97, 0.5), np.full(3, np.nan)]) == (0.5, 0.5)


def test_calibration_errors_are_not_told_from_the_noise_that_resampling_adds():
    """Resamples of a calibrated scorer look worse calibrated than it is; its interval is around its own figure."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=400)
    graded = (rng.random(400)[:, None] > probabilities.cumsum(1)[:, :-1]).sum(1)
    artworks = (probabilities, np.eye(3)[graded], graded * 1.0, [None] * 400)
    found = evaluate(*artworks)
    drawn = Resamples([str(place) for place in range(400)], 300, seed=0).of(figures(*artworks))
    assert drawn["ece"].mean() > 1.15 * found["ece"]
    for name in ("ece", "classwise_ece"):
        low, high = intervals(found, drawn)[name]
        assert 0 <= low < found[name] < high
    chance = calibration_by_chance(probabilities, 300, seed=0)
    for name in ("ece", "classwise_ece"):
        assert 0.4 * chance[name]["mean"] < found[name] < 1.3 * chance[name]["most"]
    sharper = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    assert evaluate(sharper, *artworks[1:])["ece"] > 2 * calibration_by_chance(sharper, 300, seed=0)["ece"]["most"]


def test_by_chance_shrinks_with_the_artworks():
    few, many = (
        calibration_by_chance(np.random.default_rng(0).dirichlet([1, 1, 1], size=n), 100, 0)["ece"]["mean"]
        for n in (100, 1600)
    )
    assert few / many == pytest.approx(4, rel=0.25), "with the root of their number"
