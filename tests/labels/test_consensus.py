import numpy as np
import pytest

from artgate.errors import UserError
from artgate.labels.consensus import consensus
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
    votes, truth = simulated_votes(n=200, accuracies=(0.9, 0.9, 0.4, 0.4, 0.4), seed=0)
    majority, posterior = consensus(votes), consensus(votes, method="dawid-skene")

    def accuracy(grades: Grades) -> float:
        return float(np.mean(grades.array(list(truth), ["quality"])[:, 0].argmax(axis=1) == list(truth.values())))

    assert accuracy(posterior) > accuracy(majority) + 0.05
    assert accuracy(posterior) > 0.85


@pytest.mark.parametrize("method", ["majority", "dawid-skene"])
def test_every_consensus_is_a_probability_even_with_one_annotator_or_one_grade(method: str) -> None:
    for votes in (votes_of("a", "good"), votes_of("a", "good", "good") + votes_of("b", "good")):
        grades = consensus(votes, method=method)
        for image_id in grades:
            assert grades[image_id]["quality"] == pytest.approx([0, 0, 1], abs=1e-6)


def test_the_order_of_votes_does_not_matter() -> None:
    votes, _ = simulated_votes(n=30, accuracies=(0.95, 0.95, 0.9), seed=1)
    for method in ("majority", "dawid-skene"):
        forward, backward = consensus(votes, method), consensus(votes[::-1], method)
        ids = sorted(forward)
        assert forward.array(ids, ["quality"]) == pytest.approx(backward.array(ids, ["quality"]), abs=1e-4)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="'median' is not one of majority, dawid-skene"):
        consensus(votes_of("a", "good"), method="median")
    with pytest.raises(UserError, match="0 votes and at least 1"):
        consensus([])


def simulated_votes(n: int, accuracies: tuple[float, ...], seed: int) -> tuple[list[Vote], dict[str, int]]:
    """Of n artworks, a grade by one annotator for each accuracy; who errs picks one of the other two grades."""
    rng = np.random.default_rng(seed)
    truth = {f"image {i}": int(rng.integers(3)) for i in range(n)}
    votes = [
        Vote(image_id, f"annotator {a}", "quality", GRADES[_vote(true, accuracy, rng)])
        for image_id, true in truth.items()
        for a, accuracy in enumerate(accuracies)
    ]
    return votes, truth


def _vote(true: int, accuracy: float, rng: np.random.Generator) -> int:
    return true if rng.random() < accuracy else int((true + rng.integers(1, 3)) % 3)
