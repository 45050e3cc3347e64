"""A Label Studio JSON export → votes."""

import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES
from artgate.labels.votes import Vote, latest_votes


def votes_from_label_studio(export: Path | str, collection: Container[str]) -> tuple[list[Vote], Counter[str]]:
    """Votes in a Label Studio JSON export, and how many things were left out, by reason.

    Every task's data must carry the artwork's identity under the key `image_id`; every grade is a `choices` result
    whose control is named after its aspect (`<Choices name="quality" ...>`). The annotator is the user's number.
    Left out, and counted: `task-without-image-id`, `not-in-collection` (tasks); `skipped` (cancelled),
    `without-annotator`, `empty` (annotations that grade nothing), `superseded` (the same person's earlier grade);
    `not-one-choice`, `unknown-choice` (results). Other controls (tags, comments) are no grades: passed over.
    Raises UserError if the file is no such export.
    """
    left_out: Counter[str] = Counter()
    votes: list[Vote] = []
    for position, task in enumerate(_read_export(Path(export))):
        try:
            votes += _task_votes(task, collection, left_out)
        except UserError as error:
            raise UserError(f"{export}, task {task.get('id', position)}: {error}") from None
    latest = latest_votes(votes)
    left_out["superseded"] += len(votes) - len(latest)
    return latest, +left_out  # the unary plus drops reasons that never came up


def _task_votes(task: Mapping[str, Any], collection: Container[str], left_out: Counter[str]) -> Iterator[Vote]:
    image_id = task["data"].get("image_id")
    if not isinstance(image_id, str) or not image_id:
        left_out["task-without-image-id"] += 1
    elif image_id not in collection:
        left_out["not-in-collection"] += 1
    else:
        for annotation in task["annotations"]:
            yield from _annotation_votes(image_id, annotation, left_out)


def _annotation_votes(image_id: str, annotation: Mapping[str, Any], left_out: Counter[str]) -> Iterator[Vote]:
    annotator = _annotator(annotation.get("completed_by"))
    graded = [result for result in annotation.get("result") or [] if result.get("from_name") in ASPECTS]
    if annotation.get("was_cancelled"):
        left_out["skipped"] += 1
    elif annotator is None:
        left_out["without-annotator"] += 1
    elif not graded:
        left_out["empty"] += 1
    else:
        for result in graded:
            grade = _grade(result, left_out)
            if grade is not None:
                yield Vote(
                    image_id=image_id,
                    annotator=annotator,
                    aspect=result["from_name"],
                    grade=grade,
                    lead_time=annotation.get("lead_time"),
                    # An edited annotation keeps its creation time: the time of the edit is the time of this grade.
                    created_at=annotation.get("updated_at") or annotation.get("created_at"),
                    ground_truth=bool(annotation.get("ground_truth")),
                )


def _annotator(completed_by: object) -> str | None:
    # A number in the JSON export, an object in snapshots and over the API.
    user = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    return None if user is None else str(user)


def _grade(result: Mapping[str, Any], left_out: Counter[str]) -> str | None:
    value = result.get("value")
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1:
        left_out["not-one-choice"] += 1
        return None
    grade = str(choices[0]).strip().casefold()
    if grade not in GRADES:
        left_out["unknown-choice"] += 1
        return None
    return grade


def _read_export(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: export the project from Label Studio as JSON and name that file")
    try:
        tasks = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): export the project again, in the format JSON") from None
    if not _is_list_of_objects(tasks):
        raise UserError(f"{path} holds no list of tasks: export the project again, in the format JSON")
    for position, task in enumerate(tasks):
        annotations = task.get("annotations")
        whole = _is_list_of_objects(annotations) and all(
            _is_list_of_objects(a.get("result") or []) for a in annotations
        )
        if not whole or not isinstance(task.get("data"), dict):
            raise UserError(
                f"{path}, task {task.get('id', position)} lacks its data or its list of annotations and their results: "
                "export in the format JSON, not JSON-MIN or CSV"
            )
    return tasks


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)
