import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artgate.errors import UserError
from artgate.labels.votes import PULLS, Vote, latest_votes, read_pulls, read_votes, write_votes

VOTES = [
    Vote("a", "1", "quality", "good", lead_time=3.25, created_at="2026-03-01T10:00:00Z", ground_truth=True),
    Vote("a", "2", "rationality", "poor"),
    Vote("b", "2", "quality", "poor", lead_time=0.0, project="taste", task=4, annotation=7),
]


def test_votes_survive_the_file(tmp_path: Path) -> None:
    path = write_votes(tmp_path, VOTES)
    assert path == tmp_path / "votes.parquet"
    assert read_votes(tmp_path) == read_votes(path) == VOTES
    assert pq.read_table(path).to_pylist()[1] == {
        "image_id": "a",
        "annotator": "2",
        "aspect": "rationality",
        "grade": "poor",
        "lead_time": None,
        "created_at": None,
        "ground_truth": False,
        "project": None,
        "task": None,
        "annotation": None,
    }
    lines = write_votes(tmp_path / "shared.jsonl", VOTES)
    assert read_votes(lines) == VOTES
    assert json.loads(lines.read_text().splitlines()[1]) == {
        "image_id": "a",
        "annotator": "2",
        "aspect": "rationality",
        "grade": "poor",
    }


def test_votes_written_by_hand_are_read_beside_the_others_and_left_alone(tmp_path: Path) -> None:
    by_hand = [Vote("c", "ann", "quality", "average")]
    write_votes(tmp_path / "votes.jsonl", by_hand)
    assert read_votes(tmp_path) == by_hand
    write_votes(tmp_path, VOTES)
    assert read_votes(tmp_path) == [*by_hand, *VOTES]
    write_votes(tmp_path, [])
    assert read_votes(tmp_path) == by_hand


def test_how_far_votes_were_pulled_stays_with_them(tmp_path: Path) -> None:
    assert read_pulls(tmp_path) == {}
    pulls = {"taste": {"id": 3, "created_at": "2026-03-01T10:00:00Z", "tasks": {"4": "0123456789ab"}}}
    write_votes(tmp_path, VOTES, pulls)
    write_votes(tmp_path, VOTES[:1])
    assert read_pulls(tmp_path) == pulls
    write_votes(tmp_path, VOTES[:1], {})
    assert read_pulls(tmp_path) == {}


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_votes(tmp_path, VOTES)
    table = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-20])
    for use in (read_votes, read_pulls, lambda root: write_votes(root, VOTES)):
        with pytest.raises(UserError, match=r"votes.parquet is not a whole parquet file.*restore it"):
            use(tmp_path)
    grades = pa.array(["good", "poor", "great"])
    pq.write_table(table.set_column(table.schema.get_field_index("grade"), "grade", grades), path)
    with pytest.raises(UserError, match=r"votes.parquet, row 3: grade 'great' is not one of poor"):
        read_votes(tmp_path)
    pq.write_table(table.drop_columns(["aspect"]), path)
    with pytest.raises(UserError, match=r"votes.parquet, row 1: aspect is missing"):
        read_votes(tmp_path)


def test_a_file_that_was_changed_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = write_votes(tmp_path, VOTES * 50)
    damaged = bytearray(path.read_bytes())
    damaged[4 : len(damaged) // 2] = b"\xff" * (len(damaged) // 2 - 4)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"votes.parquet is not a whole parquet file .*move it away and pull"):
        read_votes(tmp_path)


@pytest.mark.parametrize("told", [b"{", b"\xff", b"[1]", b'{"taste": 3}', b'{"taste": {"id": 3, "created_at": "x"}}'])
def test_what_does_not_tell_how_far_votes_were_pulled_is_refused(tmp_path: Path, told: bytes) -> None:
    path = write_votes(tmp_path, VOTES)
    pq.write_table(pq.ParquetFile(path).read().replace_schema_metadata({PULLS: told}), path)
    assert read_votes(tmp_path) == VOTES
    with pytest.raises(UserError, match=r"votes.parquet does not tell how far its votes were pulled: restore it"):
        read_pulls(tmp_path)


def test_no_votes_at_all_are_told_with_the_cure(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "votes.jsonl", tmp_path / "votes.parquet", tmp_path / "none"):
        with pytest.raises(UserError, match=r"does not exist: grade with `artgate label serve`"):
            read_votes(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grade": "great"}, "grade 'great' is not one of poor, average, good"),
        ({"grade": 2}, "grade 2 is not one of"),
        ({"aspect": "beauty"}, "aspect 'beauty' is not one of quality"),
        ({"annotator": 3}, "annotator 3 is not a name"),
        ({"lead_time": -1}, r"lead_time -1 is outside \[0, inf\]"),
        ({"created_at": "yesterday"}, "created_at 'yesterday' is not an ISO 8601 time"),
        ({"ground_truth": "yes"}, "ground_truth 'yes' is not true or false"),
        ({"project": ""}, "project '' is not a name"),
        ({"annotation": "7"}, r"annotation '7' is outside \[0, inf\]"),
        ({"mood": "good"}, "mood is unknown"),
    ],
)
def test_a_bad_line_is_named_with_its_value(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"image_id": "a", "annotator": "1", "aspect": "quality", "grade": "good"}
    (tmp_path / "votes.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    with pytest.raises(UserError, match=rf"votes.jsonl, line 2: {message}"):
        read_votes(tmp_path)


def test_a_later_grade_of_the_same_person_replaces_the_earlier_wherever_it_stands() -> None:
    late = Vote("a", "1", "quality", "good", created_at="2026-03-02T00:00:00+02:00")  # 22:00 UTC the day before
    early = Vote("a", "1", "quality", "poor", created_at="2026-03-01T21:59:00Z")
    other_aspect = Vote("a", "1", "rationality", "poor", created_at="2026-03-01T00:00:00Z")
    other_person = Vote("a", "2", "quality", "poor")
    kept = latest_votes([late, early, other_aspect, other_person])
    assert set(kept) == {late, other_aspect, other_person}
    assert len(kept) == 3


def test_without_times_the_last_of_two_grades_counts() -> None:
    first, second = Vote("a", "1", "quality", "poor"), Vote("a", "1", "quality", "good")
    assert latest_votes([first, second]) == [second]
