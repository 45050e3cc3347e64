"""A Label Studio JSON export → votes."""

import json
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

from artgate.errors import UserError
from artgate.labels.studio.annotations import Json, check_task, opinions
from artgate.labels.votes import Vote, latest_votes


def votes_from_label_studio(export: Path | str, collection: Container[str]) -> tuple[list[Vote], Counter[str]]:
    """Votes in a Label Studio JSON export, and how many things were left out, by reason.

    Every task's data must carry the artwork's identity under the key `image_id`; every grade is a `choices` result
    whose control is named after its aspect (`<Choices name="quality" ...>`). The annotator is the user's number.
    Left out, and counted, is what `annotations.opinions` tells, and `superseded`: the same person's earlier grade.
    Other controls (tags, comments) are no grades: passed over.
    Raises UserError if the file is no such export.
    """
    left_out: Counter[str] = Counter()
    votes: list[Vote] = []
    for position, task in enumerate(_read_export(Path(export))):
        try:
            told = opinions(task, collection)
        except UserError as error:
            raise UserError(f"{export}, task {task.get('id', position)}: {error}") from None
        votes += told.votes
        left_out += told.left_out
    latest = latest_votes(votes)
    left_out["superseded"] += len(votes) - len(latest)
    return latest, +left_out  # the unary plus drops reasons that never came up


def _read_export(path: Path) -> list[Json]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: export the project from Label Studio as JSON and name that file")
    try:
        tasks: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): export the project again, in the format JSON") from None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UserError(f"{path} holds no list of tasks: export the project again, in the format JSON")
    for position, task in enumerate(tasks):
        try:
            check_task(task)
        except UserError as error:
            number = task.get("id", position)
            raise UserError(f"{path}, task {number}: {error}: export in the format JSON, not JSON-MIN or CSV") from None
    return tasks
