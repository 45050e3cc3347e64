"""One Label Studio task, with its annotations, → votes and remarks; whatever is neither is counted, by reason."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES
from artgate.labels.studio.config import COMMENT, DEFECTS
from artgate.labels.votes import Vote

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Remark:
    """What one person said of an artwork beside grades, or that they would not grade it (skipped)."""

    image_id: str
    annotator: str
    defects: tuple[str, ...] = ()
    comment: str = ""
    skipped: bool = False
    created_at: str | None = None
    project: str | None = None
    task: int | None = None
    annotation: int | None = None


@dataclass
class Opinions:
    """Of one task: votes, remarks, and how many things were left out, by reason."""

    votes: list[Vote] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def opinions(task: Json, collection: Container[str], project: str | None = None) -> Opinions:
    """What people said in a task. project: its name, where each is to say which annotation it came from.

    Left out, and counted: `task-without-image-id`, `not-in-collection` (tasks); `skipped` (cancelled),
    `without-annotator`, `empty` (annotations that grade nothing); `not-one-choice`, `unknown-choice` (results).
    Raises UserError for a vote that cannot be one, such as a negative lead time.
    """
    told = Opinions()
    image_id = task["data"].get("image_id")
    if not isinstance(image_id, str) or not image_id:
        told.left_out["task-without-image-id"] += 1
    elif image_id not in collection:
        told.left_out["not-in-collection"] += 1
    else:
        for annotation in task["annotations"]:
            origin = {"project": project, "task": task["id"], "annotation": annotation["id"]} if project else {}
            _read(annotation, image_id, origin, told)
    return told


def _read(annotation: Json, image_id: str, origin: Json, told: Opinions) -> None:
    annotator = _annotator(annotation.get("completed_by"))
    if annotator is None:
        told.left_out["without-annotator"] += 1
        return
    # An edited annotation keeps its creation time: the time of the edit is the time of this grade.
    at = annotation.get("updated_at") or annotation.get("created_at")
    results = annotation.get("result") or []
    defects, comment = _tags(results), _comment(results)
    skipped = bool(annotation.get("was_cancelled"))
    if skipped or defects or comment:
        told.remarks.append(Remark(image_id, annotator, defects, comment, skipped, at, **origin))
    graded = [result for result in results if result.get("from_name") in ASPECTS]
    if skipped:
        told.left_out["skipped"] += 1
    elif not graded:
        told.left_out["empty"] += 1
    else:
        for aspect, grade in _grades(graded, told.left_out):
            told.votes.append(
                Vote(
                    image_id=image_id,
                    annotator=annotator,
                    aspect=aspect,
                    grade=grade,
                    lead_time=annotation.get("lead_time"),
                    created_at=at,
                    ground_truth=bool(annotation.get("ground_truth")),
                    **origin,
                )
            )


def _annotator(completed_by: object) -> str | None:
    # A number in the JSON export and in lists of tasks, an object in snapshots.
    user = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    return None if user is None else str(user)


def _grades(results: list[Json], left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    for result in results:
        choices = _values(result, "choices")
        grade = str(choices[0]).strip().casefold() if len(choices) == 1 else ""
        if len(choices) != 1:
            left_out["not-one-choice"] += 1
        elif grade not in GRADES:
            left_out["unknown-choice"] += 1
        else:
            yield result["from_name"], grade


def _tags(results: list[Json]) -> tuple[str, ...]:
    return tuple(str(v) for r in results if r.get("from_name") == DEFECTS for v in _values(r, "choices"))


def _comment(results: list[Json]) -> str:
    return "\n".join(str(v) for r in results if r.get("from_name") == COMMENT for v in _values(r, "text"))


def _values(result: Json, kind: str) -> list[Any]:
    value = result.get("value")
    found = value.get(kind) if isinstance(value, Mapping) else None
    if kind == "text" and isinstance(found, str):
        return [found]
    return found if isinstance(found, list) else []


def check_task(task: object) -> Json:
    """The task, if it has the shape of one. Raises UserError if it does not."""
    if isinstance(task, Mapping):
        annotations = task.get("annotations")
        whole = _is_list_of_objects(annotations) and all(
            _is_list_of_objects(a.get("result") or []) for a in annotations or []
        )
        if whole and isinstance(task.get("data"), Mapping):
            return task
    raise UserError("it lacks its data or its list of annotations and their results")


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, Mapping) for element in value)
