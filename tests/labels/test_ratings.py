import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from artgate.errors import UserError
from artgate.labels.ratings import Rating, grades_from_ratings, read_ratings, write_ratings


def rating(mean: float, image_id: str = "a", std: float = 0.5, name: str = "a.jpg", aspect: str = "quality") -> Rating:
    return Rating(image_id, aspect, mean, std, name)


def test_ratings_survive_the_file(tmp_path: Path) -> None:
    ratings = [rating(2.5), rating(1.25, "b", name="b.jpg", aspect="alignment")]
    path = write_ratings(tmp_path, ratings)
    assert path == tmp_path / "ratings.jsonl"
    assert read_ratings(tmp_path) == ratings
    assert json.loads(path.read_text().splitlines()[0]) == {
        "image_id": "a",
        "aspect": "quality",
        "mean": 2.5,
        "std": 0.5,
        "name": "a.jpg",
    }


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(0, 0), (2.2499, 0), (2.25, 1), (3.0799, 1), (3.08, 2), (4.5, 2)],
)
def test_hard_grades_cut_the_mean(mean: float, expected: int) -> None:
    assert grades_from_ratings([rating(mean)])["a"]["quality"].tolist() == np.eye(3)[expected].tolist()


def test_the_same_bytes_rated_under_two_names_have_one_grade() -> None:
    # Means 1 (poor) and 4 (good) average to 2.5: neither rating's own grade.
    ratings = [rating(1.0, name="a.jpg"), rating(4.0, name="copy of a.jpg")]
    grades = grades_from_ratings(ratings)
    assert grades["a"]["quality"].tolist() == [0, 1, 0]
    assert grades.votes == {"a": 2}


def test_soft_grades_are_the_normal_mass_between_the_cuts() -> None:
    grades = grades_from_ratings([rating(2.5, std=0.8)], soft=True)
    below, middle = norm.cdf(2.25, 2.5, 0.8), norm.cdf(3.08, 2.5, 0.8)
    assert grades["a"]["quality"] == pytest.approx([below, middle - below, 1 - middle], abs=1e-9)


def test_soft_grades_of_unanimous_raters_are_hard() -> None:
    assert grades_from_ratings([rating(2.5, std=0)], soft=True)["a"]["quality"].tolist() == [0, 1, 0]


def test_each_aspect_is_cut_on_its_own_scale() -> None:
    ratings = [rating(2.3), rating(2.3, aspect="alignment"), rating(4, "b", aspect="alignment")]
    grades = grades_from_ratings(ratings)
    assert grades["a"]["quality"].tolist() == [0, 1, 0]
    assert grades["a"]["alignment"].tolist() == [1, 0, 0]
    assert list(grades["b"]) == ["alignment"]
    assert grades.votes == {"a": 1}, "how many rated quality"


def test_an_aspect_without_cuts_is_no_grade() -> None:
    grades = grades_from_ratings([rating(2.5), rating(4, "b", aspect="alignment")], cuts={"quality": (2.0, 3.0)})
    assert list(grades) == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": "high"}, "mean 'high' is outside"),
        ({"mean": float("nan")}, "mean nan is outside"),
        ({"std": -0.1}, "std -0.1 is outside"),
        ({"aspect": "beauty"}, "aspect 'beauty' is not one of quality"),
        ({"name": None}, "name None is not a name"),
    ],
)
def test_a_bad_line_is_named_with_its_value(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"image_id": "a", "aspect": "quality", "mean": 2.5, "std": 0.5, "name": "a.jpg"}
    (tmp_path / "ratings.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    with pytest.raises(UserError, match=rf"ratings.jsonl, line 2: {message}"):
        read_ratings(tmp_path)


@pytest.mark.parametrize("cuts", [(3.08, 2.25), (2.0, 2.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_cuts_must_grow(cuts: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="are not two growing numbers"):
        grades_from_ratings([rating(2.5)], cuts={"quality": cuts})


def test_no_ratings_of_a_graded_aspect_is_an_error() -> None:
    with pytest.raises(UserError, match="0 ratings are of an aspect with cuts"):
        grades_from_ratings([rating(4, aspect="rationality")])
