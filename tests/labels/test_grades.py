import json
from pathlib import Path

import numpy as np
import pytest

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES, Grades


def test_the_order_of_grades_is_from_worst_to_best() -> None:
    assert GRADES == ("poor", "average", "good")
    assert ASPECTS[0] == "quality"


def test_grades_survive_the_file_exactly(tmp_path: Path) -> None:
    grades = Grades(
        {"a": {"quality": [0.1, 0.2, 0.7], "rationality": [1, 0, 0]}, "b": {"attributes": [1 / 3, 1 / 3, 1 / 3]}},
        votes={"a": 3},
    )
    path = grades.save(tmp_path)
    again = Grades.load(tmp_path)

    assert path == tmp_path / "grades.jsonl"
    assert list(again) == ["a", "b"]
    assert again.votes == {"a": 3}
    assert np.array_equal(again.array(["a", "b"]), grades.array(["a", "b"]), equal_nan=True)
    assert json.loads(path.read_text().splitlines()[0]) == {
        "image_id": "a",
        "quality": pytest.approx([0.1, 0.2, 0.7]),
        "rationality": [1.0, 0.0, 0.0],
        "votes": 3,
    }


def test_a_file_may_be_named_directly(tmp_path: Path) -> None:
    Grades({"a": {"quality": [0, 0, 1]}}).save(tmp_path / "mine.jsonl")
    assert list(Grades.load(tmp_path / "mine.jsonl")) == ["a"]


def test_array_keeps_the_order_asked_and_marks_what_is_missing() -> None:
    grades = Grades({"a": {"quality": [0.25, 0.25, 0.5]}, "b": {"quality": [0, 1, 0], "attributes": [1, 0, 0]}})
    array = grades.array(["b", "nobody", "a"], ["attributes", "quality"])  # (3, 2, 3)

    assert array.shape == (3, 2, 3) and array.dtype == np.float32
    assert array[0].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert np.isnan(array[1]).all()
    assert np.isnan(array[2, 0]).all()
    assert array[2, 1].tolist() == [0.25, 0.25, 0.5]


def test_hand_rounded_probabilities_are_made_to_sum_to_one() -> None:
    assert Grades({"a": {"quality": [0.33, 0.33, 0.33]}})["a"]["quality"].sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image_id": "b"}, "b has no grade"),
        ({"image_id": "b", "quality": [0.5, 0.5, 0.5]}, "sums to 1.5"),
        ({"image_id": "b", "quality": [-0.5, 0.5, 1.0]}, r"P\(poor\) -0.5 is outside \[0, 1\]"),
        ({"image_id": "b", "quality": [0, float("nan"), 1]}, r"P\(average\) nan is outside \[0, 1\]"),
        ({"image_id": "b", "quality": [0, 1]}, "not three probabilities"),
        ({"image_id": "b", "quality": "good"}, "'good' is not three probabilities"),
        ({"image_id": "", "quality": [0, 0, 1]}, "image_id '' is not a name"),
        ({"quality": [0, 0, 1]}, "image_id is missing"),
        ({"image_id": "b", "beauty": [0, 0, 1]}, "beauty is unknown: the keys are alignment, attributes, image_id"),
        ({"image_id": "b", "quality": [0, 0, 1], "votes": -1}, "votes -1 is not a count"),
    ],
)
def test_a_bad_line_is_named_with_its_value(tmp_path: Path, line: dict[str, object], message: str) -> None:
    good = {"image_id": "a", "quality": [0, 0, 1]}
    (tmp_path / "grades.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(line)}\n")
    with pytest.raises(UserError, match=rf"grades.jsonl, line 2: .*{message}"):
        Grades.load(tmp_path)


def test_two_lines_for_one_artwork_are_refused(tmp_path: Path) -> None:
    line = json.dumps({"image_id": "a", "quality": [0, 0, 1]})
    (tmp_path / "grades.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(UserError, match="'a' has 2 lines and may have 1"):
        Grades.load(tmp_path)


def test_a_missing_file_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: make it from votes with `artgate label consensus`"):
        Grades.load(tmp_path)


def test_an_unknown_aspect_is_refused_in_python_too() -> None:
    with pytest.raises(UserError, match="aspect 'beauty' is not one of quality, attributes, rationality"):
        Grades({"a": {"beauty": [0, 0, 1]}})
