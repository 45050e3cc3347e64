"""What a run is worth: baselines learn from what the scorer could, parts are told alike, and leaks are found."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measured_sample import measured_run, rated_copy
from scipy.stats import spearmanr

from artgate.scoring.card import model_card
from artgate.scoring.measuring import _baselines, _group_gap
from artgate.scoring.metrics import LEAST_OF_A_GENERATOR, evaluate, expected_grade
from artgate.scoring.predictions import Held, read_predictions

GAPS = SimpleNamespace(seed=1, report=SimpleNamespace(resamples=100))


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return measured_run(rated_copy(sample, folder / "artworks"), folder / "run", "report.without=[old]")


def test_every_model_has_every_figure_on_the_same_artworks(run):
    metrics = run.metrics
    aspects = {"quality": metrics, "alignment": {**metrics["other_aspects"]["alignment"]}}
    aspects["alignment"]["scorer"] = aspects["alignment"]
    for aspect, record in aspects.items():
        assert list(record["baselines"]) == ["logistic_regression", "generator_majority", "constant"], aspect
        for name, found in record["baselines"].items():
            assert found["n"] == record["scorer"]["n"] == 24
            assert found["intervals"].keys() == found.keys() - {"n", "intervals"}
            for figure, gap in record["beyond"][name].items():
                if gap["difference"] is not None:
                    assert gap["difference"] == pytest.approx(record["scorer"][figure] - found[figure])
        assert record["baselines"]["constant"]["srcc"] is None
        low, high = record["scorer"]["intervals"]["srcc"]
        assert low < record["scorer"]["srcc"] < high
        assert record["beyond"]["constant"]["qwk"]["interval"][0] > 0.2
        assert record["ceiling"]["person"]["srcc"] < record["ceiling"]["perfect"]["srcc"]


def test_without_a_generator_is_what_the_others_give(run):
    held = read_predictions(run.folder)["quality"]
    rest = held.of(np.array([generator != "old" for generator in held.generators]))
    expected = evaluate(rest.probabilities, rest.targets, rest.opinions, rest.generators)
    told = run.metrics["without"]["scorer"]
    assert 0 < told["n"] == len(rest.image_ids) < len(held.image_ids)
    assert {name: told[name] for name in expected} == pytest.approx(expected)
    assert run.metrics["without"]["generators"] == ["old"]


def test_each_generator_is_told_of(run):
    held = read_predictions(run.folder)["quality"]
    table = run.metrics["by_generator"]
    assert sum(row["n"] for row in table.values()) == len(held.image_ids)
    for name, row in table.items():
        own = held.of(np.array([generator == name for generator in held.generators]))
        assert row["score"] == pytest.approx(expected_grade(own.probabilities).mean() / 2)
        assert row["opinion"] == pytest.approx(own.opinions.mean())
        if row["n"] >= LEAST_OF_A_GENERATOR:
            found = spearmanr(expected_grade(own.probabilities), own.opinions).statistic
            assert row["srcc"] == pytest.approx(found)
        else:
            assert row["srcc"] is row["intervals"]["srcc"] is None


def test_in_a_final_run_a_baseline_learns_from_the_other_folds():
    n = 30
    rng = np.random.default_rng(0)
    grades = np.array([0] * 10 + [1] * 10 + [2] * 10)
    parts = [str(place // 10) for place in range(n)]  # each fold has one grade only
    targets = np.stack([np.eye(3)[grades]] * 2, 1)  # (N, 2, 3)
    graded = SimpleNamespace(
        image_ids=[str(place) for place in range(n)],
        aspects=("quality", "alignment"),
        targets=targets,
        generators=["g"] * n,
    )
    examples = SimpleNamespace(features=torch.from_numpy(rng.normal(size=(n, 4))))
    fit = SimpleNamespace(rows=list(range(n)), baselines={})
    held = Held("alignment", graded.image_ids, np.zeros((n, 3)), targets[:, 1], grades, graded.generators, parts)
    found = _baselines(graded, parts, examples, fit, held)
    for name in ("constant", "generator_majority"):
        assert found[name][0] == pytest.approx([0, 0.5, 0.5]), name
        assert found[name][15] == pytest.approx([0.5, 0, 0.5]), name
    assert found["logistic_regression"][:10, 0] == pytest.approx(np.zeros(10)), "a grade that it never saw"
    targets[:10, 1] = targets[10:20, 1]  # of the fold that is held out last, the others tell one grade alone
    found = _baselines(graded, parts, examples, fit, held)
    assert found["logistic_regression"][20:] == pytest.approx(np.tile([0, 1, 0], (10, 1)))


@pytest.mark.parametrize(("told_by", "leaks"), [("the group", True), ("the artwork", False)])
def test_a_leak_through_groups_is_found_where_there_is_one(told_by, leaks):
    rng = np.random.default_rng(0)
    groups, each = 60, 6
    group = np.repeat(np.arange(groups), each)
    of_group, own = rng.normal(size=groups)[group], rng.normal(size=groups * each)
    quality = of_group + 0.3 * own if leaks else own
    marks = np.eye(groups)[group] if leaks else own[:, None] + 0.5 * rng.normal(size=(groups * each, 12))
    graded = SimpleNamespace(
        image_ids=[f"{place:04}" for place in range(groups * each)],
        targets=np.eye(3)[np.digitize(quality, [-0.4, 0.4])][:, None],
        opinions=quality,
    )
    found = _group_gap(graded, [str(g) for g in group], SimpleNamespace(features=torch.from_numpy(marks)), GAPS)
    low, high = found["srcc"]["interval"]
    if leaks:
        assert found["srcc"]["random"] > 0.6 and found["srcc"]["grouped"] < 0.2
        assert low > 0.3
    else:
        assert low <= 0.02 and high >= -0.02 and abs(found["srcc"]["difference"]) < 0.05
    assert found["artworks"] == groups * each


def test_the_card_says_the_figures_with_their_intervals(run):
    card = model_card(run.metrics, {"kind": "embedded"}, "python train.py x")
    scorer = run.metrics["scorer"]
    for figure in ("srcc", "qwk", "macro_f1", "ece"):
        low, high = scorer["intervals"][figure]
        assert f"{scorer[figure]:.3f} ({low:.3f} to {high:.3f})" in card, figure
    for part in (
        "## What people reach",
        "10 fresh raters",
        "## Without old",
        "## Aspect alignment",
        "## Limits",
        "95 of 100",
    ):
        assert part in card, part
    assert "epoch 7, and a kernel of opinions; calibrated" in card
    assert f"| one fresh rater | {run.metrics['ceiling']['person']['srcc']:.3f}" in card
    plain = {**run.metrics, "ceiling": None, "without": None, "group_gap": None, "other_aspects": {}}
    card = model_card(plain, {"kind": "embedded"}, None)
    assert "## What people reach" not in card and "Without" not in card and "Aspect" not in card
    assert "\n\n\n" not in card
