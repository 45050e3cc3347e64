import numpy as np
import pytest
from scipy.stats import wilcoxon
from simulated_votes import simulated_with_truth

from artgate.errors import UserError
from artgate.labels.ballots import ballots
from artgate.labels.consensus import consensus, dawid_skene
from artgate.labels.grades import GRADES, Grades
from artgate.labels.votes import Vote


def votes_of(image_id: str, *grades: str, aspect: str = "quality") -> list[Vote]:
    return [Vote(image_id, f"annotator {i}", aspect, grade) for i, grade in enumerate(grades)]


def test_majority_is_the_share_of_votes_in_the_order_of_the_grades() -> None:
    votes = votes_of("a", "good", "good", "poor", "average") + votes_of("b", "poor")
    grades = consensus(votes)
    assert grades["a"]["quality"].tolist() == [0.25, 0.25, 0.5]
    assert grades["b"]["quality"].tolist() == [1, 0, 0]
    assert grades.votes == {"a": 4, "b": 1}


def test_each_aspect_has_its_own_consensus() -> None:
    votes = votes_of("a", "good", "good") + votes_of("a", "poor", aspect="rationality")
    votes += votes_of("b", "average", aspect="rationality")
    grades = consensus(votes)
    assert grades["a"]["quality"].tolist() == [0, 0, 1]
    assert grades["a"]["rationality"].tolist() == [1, 0, 0]
    assert set(grades["b"]) == {"rationality"}
    assert grades.votes == {"a": 2, "b": 1}


def test_a_changed_mind_counts_once() -> None:
    votes = [
        Vote("a", "1", "quality", "good", created_at="2026-03-02T00:00:00Z"),
        Vote("a", "1", "quality", "poor", created_at="2026-03-01T00:00:00Z"),
    ]
    grades = consensus(votes)
    assert grades["a"]["quality"].tolist() == [0, 0, 1]
    assert grades.votes == {"a": 1}


def test_dawid_skene_finds_the_careful_annotators_among_careless_ones() -> None:
    votes, truth = simulated_with_truth(200, (0.9, 0.9, 0.4, 0.4, 0.4), seed=0)
    majority, posterior = consensus(votes), consensus(votes, method="dawid-skene")

    assert accuracy(posterior, truth) > accuracy(majority, truth) + 0.05
    assert accuracy(posterior, truth) > 0.85


@pytest.mark.slow
def test_dawid_skene_beats_the_majority_with_three_unequal_annotators() -> None:
    by_majority, by_dawid_skene = [], []
    for seed in range(20):
        votes, truth = simulated_with_truth(500, (0.9, 0.7, 0.5), seed)
        by_majority.append(accuracy(consensus(votes), truth))
        by_dawid_skene.append(accuracy(consensus(votes, "dawid-skene"), truth))
    gains = np.subtract(by_dawid_skene, by_majority)
    assert (gains > 0).sum() >= 15
    assert gains.mean() > 0.02
    assert wilcoxon(gains, alternative="greater").pvalue < 1e-4


def test_the_errors_of_dawid_skene_are_those_that_were_made() -> None:
    votes, _ = simulated_with_truth(3000, (0.9, 0.8, 0.7), seed=0)
    errors = dawid_skene(ballots(votes, "quality")).errors
    assert errors.shape == (3, 3, 3)
    assert errors.sum(2) == pytest.approx(np.ones((3, 3)), abs=1e-6)
    for annotator, right in enumerate((0.9, 0.8, 0.7)):
        expected = np.full((3, 3), (1 - right) / 2) + np.eye(3) * (right - (1 - right) / 2)
        assert errors[annotator] == pytest.approx(expected, abs=0.06)


def test_errors_of_what_nobody_saw_are_not_made_up() -> None:
    votes = [*votes_of("a", "poor", "poor"), *votes_of("b", "average", "average"), Vote("c", "new", "quality", "poor")]
    told = ballots(votes, "quality")
    new = dawid_skene(told).errors[told.annotators.index("new")]
    assert new[0] == pytest.approx([1, 0, 0], abs=1e-6)
    assert np.isnan(new[1:]).all()


@pytest.mark.parametrize("method", ["majority", "dawid-skene"])
def test_a_ground_truth_vote_decides(method: str) -> None:
    anchor = Vote("a", "boss", "quality", "good", ground_truth=True)
    alone = Vote("c", "boss", "quality", "average", ground_truth=True)
    votes = [*votes_of("a", "poor", "poor"), *votes_of("b", "poor", "poor"), anchor, alone]
    grades = consensus(votes, method)
    assert grades["a"]["quality"] == pytest.approx([0, 0, 1], abs=1e-9)
    assert grades["c"]["quality"] == pytest.approx([0, 1, 0], abs=1e-9)
    assert grades.votes == {"a": 3, "b": 2, "c": 1}


def test_ground_truths_that_contradict_each_other_are_votes() -> None:
    votes = [Vote("a", name, "quality", grade, ground_truth=True) for name, grade in (("1", "poor"), ("2", "good"))]
    assert consensus(votes)["a"]["quality"].tolist() == [0.5, 0, 0.5]


def test_anchors_teach_dawid_skene_whom_to_trust() -> None:
    """Two who err alike outvote one who does not; only truth can tell who is who."""
    rng = np.random.default_rng(0)
    truth = {f"image {i}": int(rng.integers(3)) for i in range(300)}
    votes = []
    for image_id, true in truth.items():
        wrong = (true + 1) % 3 if rng.random() < 0.6 else true
        said = {"careful": true if rng.random() < 0.95 else wrong, "careless": wrong, "friend of careless": wrong}
        votes += [Vote(image_id, name, "quality", GRADES[grade]) for name, grade in said.items()]
    anchors = [
        Vote(image_id, "boss", "quality", GRADES[truth[image_id]], ground_truth=True) for image_id in [*truth][:150]
    ]
    rest = {image_id: true for image_id, true in truth.items() if image_id in [*truth][150:]}
    without, with_anchors = consensus(votes, "dawid-skene"), consensus([*votes, *anchors], "dawid-skene")
    assert accuracy(without, rest) < 0.6
    assert accuracy(with_anchors, rest) > 0.9


@pytest.mark.parametrize("method", ["majority", "dawid-skene"])
def test_every_consensus_is_a_probability_even_with_one_annotator_or_one_grade(method: str) -> None:
    for votes in (votes_of("a", "good"), votes_of("a", "good", "good") + votes_of("b", "good")):
        grades = consensus(votes, method=method)
        for image_id in grades:
            assert grades[image_id]["quality"] == pytest.approx([0, 0, 1], abs=1e-6)


def test_the_order_of_votes_does_not_matter() -> None:
    votes, _ = simulated_with_truth(30, (0.95, 0.95, 0.9), seed=1)
    for method in ("majority", "dawid-skene"):
        forward, backward = consensus(votes, method), consensus(votes[::-1], method)
        ids = sorted(forward)
        assert forward.array(ids, ["quality"]) == pytest.approx(backward.array(ids, ["quality"]), abs=1e-4)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="'median' is not one of majority, dawid-skene"):
        consensus(votes_of("a", "good"), method="median")
    with pytest.raises(UserError, match="0 votes and at least 1"):
        consensus([])


def accuracy(grades: Grades, truth: dict[str, int]) -> float:
    return float(np.mean(grades.array(list(truth), ["quality"])[:, 0].argmax(axis=1) == list(truth.values())))
