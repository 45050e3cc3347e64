import json
from pathlib import Path
from typing import Any

import pytest

from artgate.errors import UserError
from artgate.labels.studio.export import votes_from_label_studio
from artgate.labels.votes import Vote


def choices(grade: str | list[str], control: str = "quality") -> dict[str, Any]:
    chosen = [grade] if isinstance(grade, str) else grade
    return {
        "id": "Xc3",
        "type": "choices",
        "from_name": control,
        "to_name": "image",
        "origin": "manual",
        "value": {"choices": chosen},
    }


def annotation(*results: dict[str, Any], by: Any = 1, at: str = "2026-03-01T10:00:00.000000Z", **more: Any) -> Any:
    return {
        "id": 7,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": at,
        "updated_at": at,
        "lead_time": 4.5,
        "draft_created_at": None,
        "unique_id": "5f1c",
        "project": 2,
        **more,
    }


def task(image_id: str | None, *annotations: Any) -> dict[str, Any]:
    data = {"image": "/data/local-files/?d=images/a.png"} | ({"image_id": image_id} if image_id else {})
    return {"id": 11, "data": data, "meta": {}, "annotations": list(annotations), "predictions": [], "drafts": []}


@pytest.fixture
def export(tmp_path: Path) -> Any:
    def write(*tasks: dict[str, Any]) -> Path:
        path = tmp_path / "export.json"
        path.write_text(json.dumps(tasks))
        return path

    return write


def test_a_label_studio_export_becomes_votes(export: Any) -> None:
    path = export(
        task("a", annotation(choices("good"), choices("Poor ", "rationality"), choices("hands", "defects"), by=1)),
        task("b", annotation(choices("average"), by={"id": 2, "email": "x@example.org"}, ground_truth=True)),
    )
    votes, left_out = votes_from_label_studio(path, {"a", "b"})
    at = "2026-03-01T10:00:00.000000Z"
    assert set(votes) == {
        Vote("a", "1", "quality", "good", 4.5, at),
        Vote("a", "1", "rationality", "poor", 4.5, at),
        Vote("b", "2", "quality", "average", 4.5, at, ground_truth=True),
    }
    assert left_out == {}


def test_what_is_no_vote_is_left_out_and_counted(export: Any) -> None:
    path = export(
        task(None, annotation(choices("good"))),
        task("elsewhere", annotation(choices("good"))),
        task(
            "a",
            annotation(choices("good"), by=1, was_cancelled=True),
            annotation(choices("good"), by=None),
            annotation(by=3),
            annotation(choices("hands", "defects"), by=4),
            annotation(choices("great"), by=5),
            annotation(choices(["good", "poor"]), by=6),
            annotation(choices("poor"), by=7, at="2026-03-02T00:00:00Z"),
            annotation(choices("good"), by=7, at="2026-03-01T00:00:00Z"),
        ),
        task("b"),
    )
    votes, left_out = votes_from_label_studio(path, {"a", "b"})
    assert [(vote.image_id, vote.annotator, vote.grade) for vote in votes] == [("a", "7", "poor")]
    assert left_out == {
        "task-without-image-id": 1,
        "not-in-collection": 1,
        "skipped": 1,
        "without-annotator": 1,
        "empty": 2,
        "unknown-choice": 1,
        "not-one-choice": 1,
        "superseded": 1,
    }


def test_an_edited_annotation_counts_from_its_edit(export: Any) -> None:
    edited = annotation(choices("good"), at="2026-03-01T00:00:00Z", updated_at="2026-03-05T00:00:00Z")
    between = annotation(choices("poor"), at="2026-03-03T00:00:00Z")
    votes, _ = votes_from_label_studio(export(task("a", edited, between)), {"a"})
    assert [vote.grade for vote in votes] == ["good"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"detail": "Invalid token."}', "holds no list of tasks"),
        ('[{"id": 5, "image_id": "a", "quality": "good"}]', "task 5: it lacks its data or its list of annotations"),
        (
            '[{"data": {}, "annotations": [{"result": ["good"]}]}]',
            "task 0: it lacks its data or its list of annotations",
        ),
    ],
)
def test_another_file_is_refused_with_the_cure(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"export.json.*{message}.*export"):
        votes_from_label_studio(path, {"a"})


def test_a_vote_that_is_none_is_named_with_its_task(export: Any) -> None:
    wrong = annotation(choices("good")) | {"lead_time": -1}
    with pytest.raises(UserError, match=r"export.json, task 7: lead_time -1 is outside \[0, inf\]"):
        votes_from_label_studio(export(task("a", wrong) | {"id": 7}), {"a"})


def test_values_of_other_shapes_are_left_out_and_counted(export: Any) -> None:
    text = {"from_name": "quality", "type": "choices", "value": "good"}
    strange = {"data": {"image_id": ["a"]}, "annotations": []}
    votes, left_out = votes_from_label_studio(export(strange, task("a", annotation(text))), {"a"})
    assert votes == []
    assert left_out == {"task-without-image-id": 1, "not-one-choice": 1}


def test_a_missing_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json does not exist: export the project"):
        votes_from_label_studio(tmp_path / "none.json", {"a"})
