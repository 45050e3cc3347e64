import numpy as np
import pandas as pd
import pytest
from crowdkit.metrics.data import alpha_krippendorff
from simulated_votes import simulated
from sklearn.metrics import cohen_kappa_score

from artgate.labels.agreement import (
    _alphas,
    against_others,
    agreement,
    alpha_interval,
    krippendorff_alpha,
    others,
    pairs,
    people,
    quadratic_kappa,
)
from artgate.labels.ballots import ballots
from artgate.labels.grades import GRADES
from artgate.labels.votes import Vote

# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), part C: four observers, twelve units, gaps.
OBSERVERS = ("1233214 12...", "1233224 125.3", ".333234 2251.", "1233244 1251.")
PUBLISHED = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849, "ratio": 0.797}


def worked_example() -> np.ndarray:
    """(V, 3) unit, observer, value."""
    cells = [
        (unit, observer, int(value))
        for observer, row in enumerate(OBSERVERS)
        for unit, value in enumerate(row.replace(" ", ""))
        if value != "."
    ]
    return np.array(cells)


def vote(image_id: str, annotator: str, grade: int, **more) -> Vote:
    return Vote(image_id, annotator, "quality", GRADES[grade], **more)


def table(*rows: str) -> list[Vote]:
    """Votes from one string an annotator, one digit an artwork, a dot where there is none."""
    return [
        vote(f"image {place}", f"annotator {number}", int(grade))
        for number, row in enumerate(rows)
        for place, grade in enumerate(row)
        if grade != "."
    ]


def test_alpha_is_that_of_the_published_example() -> None:
    unit, observer, value = worked_example().T
    assert krippendorff_alpha(unit, observer, value) == pytest.approx(PUBLISHED["ordinal"], abs=5e-4)


@pytest.mark.parametrize(
    ("metric", "distance"),
    [
        ("nominal", lambda a, b: float(a != b)),
        ("interval", lambda a, b: float((a - b) ** 2)),
        ("ratio", lambda a, b: ((a - b) / (a + b)) ** 2),
    ],
)
def test_the_example_is_the_published_one(metric: str, distance) -> None:
    data = pd.DataFrame(worked_example(), columns=["task", "worker", "label"])
    assert alpha_krippendorff(data, distance) == pytest.approx(PUBLISHED[metric], abs=5e-4)


def test_alpha_has_its_landmarks() -> None:
    def alpha(*rows: str) -> float | None:
        told = ballots(table(*rows), "quality")
        return krippendorff_alpha(told.artwork, told.annotator, told.grade)

    assert alpha("012012", "012012") == 1
    assert alpha("000222", "222000") == pytest.approx(-0.8333, abs=1e-4)
    assert alpha("0120", "....") is None
    assert alpha("111", "111") is None
    rng = np.random.default_rng(0)
    chance = alpha(*("".join(map(str, rng.integers(3, size=2000))) for _ in range(3)))
    assert chance == pytest.approx(0, abs=0.03)


def test_alpha_minds_how_far_grades_are_apart() -> None:
    near, far = ballots(table("0011220", "0011221"), "quality"), ballots(table("0011220", "0011222"), "quality")
    of = [krippendorff_alpha(told.artwork, told.annotator, told.grade) for told in (near, far)]
    assert of[0] > of[1]


def test_the_interval_is_around_the_alpha_of_crowd_kit() -> None:
    told = ballots(simulated(300, (0.8, 0.7, 0.6), seed=3), "quality")
    low, high = alpha_interval(told.counts)
    alpha = krippendorff_alpha(told.artwork, told.annotator, told.grade)
    assert low < alpha < high
    # One draw of exactly what there is gives the same number by the other way of computing it.
    patterns, times = np.unique(told.counts, axis=0, return_counts=True)
    assert _alphas(patterns, times[None])[0] == pytest.approx(alpha, abs=1e-12)


@pytest.mark.slow
def test_the_interval_holds_its_confidence() -> None:
    accuracies, trials = (0.8, 0.7, 0.6), 200
    whole = ballots(simulated(20_000, accuracies, seed=0), "quality")
    true = krippendorff_alpha(whole.artwork, whole.annotator, whole.grade)
    held = 0
    for seed in range(trials):
        low, high = alpha_interval(ballots(simulated(100, accuracies, seed=seed + 1), "quality").counts, draws=400)
        held += low <= true <= high
    assert 0.90 <= held / trials <= 0.99


def test_there_is_no_interval_where_there_is_no_alpha() -> None:
    assert alpha_interval(np.array([[1, 0, 0], [0, 1, 0]])) is None
    assert alpha_interval(np.array([[1, 1, 0]])) is None
    assert alpha_interval(np.array([[2, 0, 0], [3, 0, 0]])) is None
    assert alpha_interval(np.zeros((0, 3), int)) is None


def test_kappa_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    tables = rng.integers(0, 30, (20, 3, 3))
    for one, kappa in zip(tables, quadratic_kappa(tables), strict=True):
        rows, columns = np.indices((3, 3)).reshape(2, -1)
        expected = cohen_kappa_score(rows, columns, weights="quadratic", sample_weight=one.ravel())
        assert kappa == pytest.approx(expected, abs=1e-12)
    assert np.isnan(quadratic_kappa(np.diag([5, 0, 0])))


def test_pairs_share_enough_artworks() -> None:
    first, second = "0120120120120120120120", "0120120120120120120111"
    told = ballots(table(first, second, "01" + "." * 20, "2" * 22), "quality")
    found = {(pair.first[-1], pair.second[-1]): pair for pair in pairs(told)}
    assert found.keys() == {("0", "1"), ("0", "3"), ("1", "3")}
    assert found["0", "1"].artworks == 22
    assert found["0", "1"].kappa == pytest.approx(
        cohen_kappa_score([*map(int, first)], [*map(int, second)], weights="quadratic")
    )
    assert found["0", "3"].kappa == 0
    alike = ballots(table("1" * 20, "1" * 20), "quality")
    assert pairs(alike)[0].kappa is None


def test_others_are_all_but_oneself() -> None:
    told = ballots(table("00", "1.", "2."), "quality")
    rest = others(told)
    of_zero = told.annotator == 0
    alone = of_zero & (told.artwork == 1)
    assert not rest.known[alone].any() and rest.known.sum() == 3
    assert rest.low[alone] == -1
    first = of_zero & (told.artwork == 0)
    assert (rest.mean[first], rest.low[first], rest.high[first]) == (1.5, 1, 2)
    confusion = against_others(told, rest)
    assert confusion[0].tolist() == [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0]]
    assert confusion[1].tolist() == [[0, 0.5, 0], [0, 0, 0], [0, 0.5, 0]]


def test_an_anchor_speaks_for_all_others_and_is_not_measured() -> None:
    votes = [vote("a", "boss", 2, ground_truth=True), vote("a", "1", 0), vote("a", "2", 0), vote("b", "1", 1)]
    told = ballots(votes, "quality")
    assert told.annotators == ("1", "2")
    assert told.truth.tolist() == [2, -1]
    rest = others(told)
    assert rest.low.tolist()[:2] == rest.high.tolist()[:2] == [2, 2]
    assert agreement(told, "quality").anchors == 1


def test_anchors_that_contradict_each_other_are_none() -> None:
    votes = [vote("a", "boss", 2, ground_truth=True), vote("a", "other boss", 0, ground_truth=True)]
    told = ballots(votes, "quality")
    assert told.contradicted == 1
    assert told.truth.tolist() == [-1]
    assert len(told) == 2


def test_ballots_keep_times_and_take_the_later_grade() -> None:
    votes = [
        vote("a", "1", 0, created_at="2026-03-01T00:00:00", lead_time=3),
        vote("a", "1", 2, created_at="2026-03-01T01:00:00Z"),
        Vote("a", "1", "rationality", "poor"),
    ]
    told = ballots(votes, "quality")
    assert told.grade.tolist() == [2]
    assert np.isnan(told.lead_time).all()
    assert told.time.tolist() == [1772326800.0]


def test_people_agree_as_pairs_and_with_the_others() -> None:
    told = ballots(simulated(400, (0.8,) * 5, seed=1), "quality")
    found = people(told)
    assert found["pairs"] == 10 and found["artworks"] == 400
    assert found["pairwise"] == pytest.approx(np.mean([pair.kappa for pair in pairs(told)]))
    # Four others together err less than one alone.
    assert found["against_others"] > found["pairwise"] + 0.1 > 0.5
    nobody = people(ballots(table("012"), "quality"))
    assert nobody == {"pairwise": None, "against_others": None, "pairs": 0, "artworks": 0}


def test_agreement_of_one_vote_an_artwork_says_nothing() -> None:
    found = agreement(ballots(table("012.", "...1"), "quality"), "quality")
    assert (found.votes, found.artworks, found.annotators, found.overlapping) == (4, 4, 2, 0)
    assert found.alpha is None and found.interval is None and found.pairs == ()
