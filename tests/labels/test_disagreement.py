import pytest

from artgate.labels.ballots import ballots
from artgate.labels.disagreement import by_disagreement, disputed
from artgate.labels.votes import Vote


def votes_of(image_id: str, *grades: str, aspect: str = "quality") -> list[Vote]:
    return [Vote(image_id, f"annotator {i}", aspect, grade) for i, grade in enumerate(grades)]


def test_the_wider_the_votes_the_earlier() -> None:
    votes = [
        *votes_of("one step", "average", "good"),
        *votes_of("agreed", "good", "good", "good"),
        *votes_of("both ends", "poor", "good"),
        *votes_of("both ends of many", "poor", "poor", "good", "good"),
        *votes_of("everything", "poor", "average", "good"),
        *votes_of("one of three", "average", "average", "good"),
        *votes_of("alone", "poor"),
    ]
    assert by_disagreement(votes) == ["both ends", "both ends of many", "everything", "one step", "one of three"]
    found = {artwork.image_id: artwork for artwork in disputed(ballots(votes, "quality"))}
    assert found["both ends"].spread == 1 and found["both ends"].entropy == 1
    assert found["both ends"].counts == (1, 0, 1)
    assert found["everything"].spread == pytest.approx(2 / 3)
    assert found["one step"].spread == 0.25


def test_what_is_settled_or_of_another_aspect_is_left_out() -> None:
    votes = [
        *votes_of("settled", "poor", "good"),
        Vote("settled", "boss", "quality", "good", ground_truth=True),
        *votes_of("other", "poor", "good", aspect="rationality"),
    ]
    assert by_disagreement(votes) == []
    assert by_disagreement(votes, "rationality") == ["other"]
