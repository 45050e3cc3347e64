"""Votes: one annotator's grade of one aspect of one artwork, and the files that keep them in a Collection's folder.

Commands write `votes.parquet`, one row a vote. A `votes.jsonl` written by hand is read as well: where a folder has
both, its votes are those of both together, so that neither hides the other.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artgate.artworks.files import replacing
from artgate.artworks.text import one_line
from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES
from artgate.labels.records import (
    check_choice,
    check_keys,
    check_name,
    check_number,
    read_records,
    write_records,
)

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "votes.parquet"
HAND_WRITTEN = "votes.jsonl"
# Where `label pull` keeps how far it has come: in the file of the votes themselves, so that both change as one.
PULLS = b"artgate.pulls"
DAMAGED = "restore it, or move it away and pull the votes again"
CURE = "grade with `artgate label serve`, `push` and `pull`, or read an export with `artgate label import`"

Pulls = Mapping[str, Mapping[str, Any]]  # project -> how far its votes were pulled


@dataclass(frozen=True, slots=True)
class Vote:
    """One grade by one person.

    lead_time: seconds the annotator spent. created_at: ISO 8601 time, of the last edit where there was one.
    ground_truth: the annotation is marked as such in Label Studio: it decides its artwork's grade in the consensus.
    project, task, annotation: for a vote that `label pull` fetched, the Label Studio project's name and the numbers of
    the task and of the annotation that it came from.
    Raises UserError for an unknown aspect or grade, an empty name, a negative lead time, or a time that is none.
    """

    image_id: str
    annotator: str
    aspect: str
    grade: str
    lead_time: float | None = None
    created_at: str | None = None
    ground_truth: bool = False
    project: str | None = None
    task: int | None = None
    annotation: int | None = None

    def __post_init__(self) -> None:
        check_name("image_id", self.image_id)
        check_name("annotator", self.annotator)
        check_choice("aspect", self.aspect, ASPECTS)
        check_choice("grade", self.grade, GRADES)
        if self.lead_time is not None:
            check_number("lead_time", self.lead_time, 0, math.inf)
        if self.created_at is not None:
            _time(self.created_at)
        if not isinstance(self.ground_truth, bool):
            raise UserError(f"ground_truth {self.ground_truth!r} is not true or false: correct it or leave it out")
        if self.project is not None:
            check_name("project", self.project)
        for key, number in (("task", self.task), ("annotation", self.annotation)):
            if number is not None:
                check_number(key, number, 0, math.inf)


def read_votes(path: Path | str) -> list[Vote]:
    """Votes of a collection folder, or of a .parquet or .jsonl file named directly.

    A folder's are those of its votes.jsonl, then those of its votes.parquet.
    Raises UserError if there is neither; a bad line or row is named with its value.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    found = votes_files(path)
    if not found:
        raise UserError(f"{path / FILE_NAME} does not exist: {CURE}")
    return [vote for file in found for vote in _read_file(file)]


def votes_files(root: Path) -> list[Path]:
    """The files of votes that a collection folder has: none, one or both."""
    return [path for name in (HAND_WRITTEN, FILE_NAME) if (path := root / name).is_file()]


def write_votes(path: Path | str, votes: Iterable[Vote], pulls: Pulls | None = None) -> Path:
    """Write votes into a collection folder, or a .parquet or .jsonl file named directly; the file's path.

    The file is replaced as a whole; a folder's hand-written votes.jsonl is left alone.
    pulls: how far the votes of each project were pulled; without it, what the parquet file says already is kept.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return write_records(path, map(_line, votes))
    path = path if path.suffix == ".parquet" else path / FILE_NAME
    _write_parquet(path, votes, read_pulls(path) if pulls is None else pulls)
    return path


def read_pulls(path: Path | str) -> Pulls:
    """How far the votes of each project were pulled, by a collection folder's (or a named) votes.parquet.

    Raises UserError for a file that tells something else.
    """
    path = Path(path)
    path = path if path.suffix == ".parquet" else path / FILE_NAME
    if not path.is_file():
        return {}
    told = (_table(path).schema.metadata or {}).get(PULLS, b"{}")
    try:
        pulls = json.loads(told)
    except ValueError:
        pulls = None
    if not isinstance(pulls, dict) or not all(map(_is_pull, pulls.values())):
        raise UserError(f"{path} does not tell how far its votes were pulled: {DAMAGED}")
    return pulls


def latest_votes(votes: Iterable[Vote]) -> list[Vote]:
    """One vote for each (artwork, annotator, aspect): of two grades the later (without times: the last) counts."""
    by_time = sorted(votes, key=lambda vote: _time(vote.created_at))
    return list({(vote.image_id, vote.annotator, vote.aspect): vote for vote in by_time}.values())


def _is_pull(told: object) -> bool:
    return isinstance(told, dict) and {"id", "created_at"} <= told.keys() and isinstance(told.get("tasks"), dict)


def _read_file(path: Path) -> list[Vote]:
    if path.suffix == ".jsonl":
        return read_records(path, _parse, CURE)
    if not path.is_file():
        raise UserError(f"{path} does not exist: {CURE}")
    votes = []
    for number, row in enumerate(_table(path).to_pylist(), start=1):
        try:
            votes.append(_parse({key: value for key, value in row.items() if value is not None}))
        except UserError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
    return votes


def _table(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; pyarrow's own have no number
            raise
        reason = one_line(str(error), 200)
        raise UserError(f"{path} is not a whole parquet file ({reason}): {DAMAGED}") from None


def _write_parquet(path: Path, votes: Iterable[Vote], pulls: Pulls) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({PULLS: json.dumps(pulls, sort_keys=True)})
    rows = list(votes)
    columns = [pa.array([getattr(vote, field.name) for vote in rows], field.type) for field in schema]
    with replacing(path) as file:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), file, compression="zstd")


def _schema() -> "pa.Schema":
    import pyarrow as pa

    numbers = {"lead_time": pa.float64(), "ground_truth": pa.bool_(), "task": pa.int64(), "annotation": pa.int64()}
    return pa.schema([(field.name, numbers.get(field.name, pa.string())) for field in fields(Vote)])


def _parse(line: Mapping[str, Any]) -> Vote:
    required = {"image_id", "annotator", "aspect", "grade"}
    check_keys(line, required, {field.name for field in fields(Vote)} - required)
    return Vote(**line)


def _line(vote: Vote) -> dict[str, Any]:
    return {key: value for key, value in asdict(vote).items() if value is not None and value is not False}


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.min.replace(tzinfo=UTC)
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise UserError(f"created_at {text!r} is not an ISO 8601 time: write it as 2026-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
