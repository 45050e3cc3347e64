import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artgate.errors import UserError
from artgate.labels.suspects import FILE_NAME, Suspect, read_suspects, suspects, suspicion, write_suspects


def believed(n: int, wrong: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """ids, grades of which `wrong` are planted, a fair model's probabilities, and which are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    probabilities = np.array([rng.dirichlet(1 + 12 * np.eye(3)[grade]) for grade in truth])
    planted = np.zeros(n, dtype=bool)
    planted[rng.choice(n, wrong, replace=False)] = True
    grades = np.where(planted, (truth + rng.integers(1, 3, size=n)) % 3, truth)
    return [f"image {row}" for row in range(n)], grades, probabilities, planted


@pytest.mark.slow
def test_planted_wrong_grades_are_found_before_others() -> None:
    image_ids, grades, probabilities, planted = believed(500, 50, seed=0)
    found = suspects(image_ids, grades, probabilities)
    assert [suspect.rank for suspect in found] == list(range(1, len(found) + 1))
    right = [planted[image_ids.index(suspect.image_id)] for suspect in found]
    assert sum(right) >= 45, "recall"
    assert sum(right) / len(right) >= 0.75, "precision"
    assert all(right[:25])
    worst = found[0]
    row = image_ids.index(worst.image_id)
    assert worst.probability == pytest.approx(probabilities[row, grades[row]], abs=1e-6)
    assert worst.reason.startswith(f"graded {worst.grade}, which has ") and worst.likely != worst.grade


def test_the_wrong_end_is_more_suspect_than_the_wrong_neighbour() -> None:
    neighbour, end = np.array([[0.1, 0.8, 0.1]]), np.array([[0.1, 0.1, 0.8]])
    assert suspicion(np.array([0]), end) > suspicion(np.array([0]), neighbour)
    assert suspicion(np.array([2]), end) < suspicion(np.array([1]), end)
    assert suspicion(np.array([0]), np.array([[0.0, 0.0, 1.0]])) == pytest.approx(2e9)


def test_two_grades_are_enough_and_one_has_nothing_to_confuse() -> None:
    image_ids, grades, probabilities, _ = believed(200, 0, seed=1)
    grades = np.where(grades == 1, 2, grades)
    grades[:5] = 2 - grades[:5]
    probabilities = np.eye(3)[np.where(np.arange(200) < 5, 2 - grades, grades)] * 0.8 + 0.2 / 3
    assert {suspect.image_id for suspect in suspects(image_ids, grades, probabilities)} == set(image_ids[:5])
    assert suspects(image_ids, np.full(200, 2), probabilities) == []
    assert suspects([], np.array([], dtype=int), np.zeros((0, 3))) == []


def test_suspects_survive_the_file_in_their_order(tmp_path: Path) -> None:
    image_ids, grades, probabilities, _ = believed(100, 10, seed=2)
    found = suspects(image_ids, grades, probabilities)
    path = write_suspects(tmp_path, found[::-1])
    assert path == tmp_path / FILE_NAME
    assert read_suspects(tmp_path) == found
    assert write_suspects(tmp_path, []) and read_suspects(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grade": "great"}, "grade 'great' is not one of"),
        ({"probability": 2}, r"probability 2 is outside \[0, 1\]"),
        ({"rank": 0}, "rank 0 is outside"),
        ({"mood": 1}, "mood is unknown"),
        ({"image_id": ""}, "image_id '' is not a name"),
    ],
)
def test_a_bad_line_is_named_with_its_value(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = Suspect("a", "quality", "good", "poor", 0.1, 1, "graded good").__dict__
    (tmp_path / FILE_NAME).write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    with pytest.raises(UserError, match=f"{FILE_NAME}, line 2: {message}"):
        read_suspects(tmp_path)
    with pytest.raises(UserError, match="does not exist: find suspects with `artgate label report`"):
        read_suspects(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("grades", "probabilities", "message"),
    [
        ([0], [[0, 0, 1], [1, 0, 0]], r"probabilities \(2, 3\) and grades \(1,\) do not fit 2 artworks"),
        ([0, 3], [[0, 0, 1], [1, 0, 0]], "grades .* not all one of 0, 1, 2"),
        ([0, 1], [[0, 0, 1], [0.5, 0, 0]], "must be finite and sum to 1"),
        ([0, 1], [[0, 0, 1], [np.nan, 0, 1]], "must be finite and sum to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(grades, probabilities, message: str) -> None:
    with pytest.raises(UserError, match=message):
        suspects(["a", "b"], np.array(grades), np.array(probabilities, dtype=float))
