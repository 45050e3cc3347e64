"""The votes of a Label Studio project → votes.parquet of a Collection, and what else people said → remarks.jsonl.

A pull first lists all tasks with little of each (when it changed, how many annotations it has), and then reads the
annotations of those alone that differ from what the last pull saw; that is kept in votes.parquet itself. So an
annotation that was edited or deleted is noticed, and a pull of a project in which nothing changed costs seconds. Where
nothing changed, the files stay as they are, to the byte. Votes of other projects, and those whose task was deleted on
the server, stay.
"""

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from artgate.artworks.collection import Collection
from artgate.artworks.files import as_lines, read_lines, write_atomic
from artgate.errors import UserError
from artgate.labels.studio.annotations import Json, Opinions, Remark, check_task, opinions
from artgate.labels.studio.client import Studio
from artgate.labels.studio.lock import alone
from artgate.labels.votes import FILE_NAME, Vote, read_pulls, read_votes, write_votes

REMARKS = "remarks.jsonl"
LISTED = "id,created_at,updated_at,total_annotations,cancelled_annotations"
# Label Studio applies `include` to annotations too.
READ = "id,data,annotations,created_at,completed_by,result,was_cancelled,ground_truth,lead_time,updated_at"


@dataclass
class Pulled:
    """What a pull found: votes of the project now, and against the last pull.

    read: tasks whose annotations were read anew, of all `tasks`. left_out: what in them is no vote, by reason.
    repeated: earlier grades by someone who graded the same artwork again; they are kept, the latest counts.
    of_deleted_tasks: votes that are kept though their task is gone.
    """

    path: Path
    votes: int = 0
    tasks: int = 0
    read: int = 0
    added: int = 0
    edited: int = 0
    withdrawn: int = 0
    of_deleted_tasks: int = 0
    repeated: int = 0
    remarks: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class _Found:
    """What the server has: its tasks, those to be read anew, and what was read in them.

    made: task -> when. marks: task -> what tells whether it changed, of those that have annotations.
    """

    made: dict[int, str]
    marks: dict[int, str]
    changed: set[int]
    votes: list[Vote] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def keeps(self, line: Json) -> bool:
        """Whether an earlier vote or remark stands: its task has not changed, or was deleted."""
        unchanged = line["task"] in self.marks and line["task"] not in self.changed
        return unchanged or self.is_of_a_deleted_task(line)

    def is_of_a_deleted_task(self, line: Json) -> bool:
        """A later task may have been given the number of one that was deleted."""
        made = self.made.get(line["task"])
        return made is None or (line.get("created_at") or "") < made


def pull(studio: Studio, collection: Collection, title: str, everything: bool = False) -> Pulled:
    """Bring a Collection's votes.parquet and remarks.jsonl up to what the project of this name says now.

    everything: read all annotations anew, as after a purge was taken back.
    Raises UserError if there is no such project, or it is another one than that whose votes are there.
    """
    project = studio.project(title)
    if project is None:
        raise UserError(f"{studio.connection.url} has no project {title!r}: check --project, or push one first")
    root, known = collection.root, {artwork.image_id for artwork in (*collection, *collection.gone)}
    with alone(root):
        earlier = read_votes(root / FILE_NAME) if (root / FILE_NAME).exists() else []
        pulls = _checked_pulls(root, project)
        everything = everything or not (root / REMARKS).exists()
        found = _list(studio, project, {} if everything else pulls[title]["tasks"])
        _read(studio, project, known, found)
        before = [vote for vote in earlier if vote.project == title]
        stay = [vote for vote in before if found.keeps(asdict(vote))]
        own = sorted([*stay, *found.votes], key=lambda vote: (vote.annotation, vote.aspect))
        remarks = _write_remarks(root / REMARKS, title, found)
        votes = [*(vote for vote in earlier if vote.project != title), *own]
        pulls[title] = {**pulls[title], "tasks": {str(task): mark for task, mark in found.marks.items()}}
        if votes != earlier or pulls != read_pulls(root):
            write_votes(root, votes, pulls)
    told = _against(before, own)
    return Pulled(
        path=root / FILE_NAME,
        votes=len(own),
        tasks=len(found.made),
        read=len(found.changed),
        added=told["added"],
        edited=told["edited"],
        withdrawn=told["withdrawn"],
        of_deleted_tasks=sum(found.is_of_a_deleted_task(asdict(vote)) for vote in stay),
        repeated=len(own) - len({(vote.image_id, vote.annotator, vote.aspect) for vote in own}),
        remarks=remarks,
        left_out=+found.left_out,
    )


def _checked_pulls(root: Path, project: Json) -> dict[str, Any]:
    """What votes.parquet is to say of its projects. Raises UserError if this one is not that of the same name there."""
    pulls = dict(read_pulls(root))
    there = pulls.setdefault(project["title"], {"id": project["id"], "created_at": project["created_at"], "tasks": {}})
    if (there["id"], there["created_at"]) != (project["id"], project["created_at"]):
        raise UserError(
            f"{root / FILE_NAME} has votes of another project {project['title']!r} (made {there['created_at']}, "
            f"and this one {project['created_at']}): rename this one in Label Studio's settings and pull that name"
        )
    return pulls


def _list(studio: Studio, project: Json, seen: Mapping[str, str]) -> _Found:
    """All tasks, and which of them have other annotations than those seen: task -> mark, of the last pull."""
    made, marks = {}, {}
    for task in studio.tasks(project["id"], LISTED):
        made[task["id"]] = task["created_at"]
        if task["total_annotations"] or task["cancelled_annotations"]:
            told = (task["updated_at"], task["total_annotations"], task["cancelled_annotations"])
            marks[task["id"]] = hashlib.sha256(str(told).encode()).hexdigest()[:12]
    return _Found(made, marks, {task for task, mark in marks.items() if seen.get(str(task)) != mark})


def _read(studio: Studio, project: Json, known: Container[str], found: _Found) -> None:
    """Read the annotations of the changed tasks into `found`."""
    for task in studio.tasks(project["id"], READ, only=sorted(found.changed)):
        for told in _opinions(check_task(task), known, project["title"]):
            found.votes += told.votes
            found.remarks += told.remarks
            found.left_out.update(told.left_out)
            if told.left_out["not-in-collection"]:
                # It is looked at again until its artwork is there.
                found.marks.pop(task["id"], None)


def _opinions(task: Json, known: Container[str], project: str) -> Iterator[Opinions]:
    """Of each annotation by itself: one that cannot be read must not keep the others from being read."""
    for annotation in task["annotations"] or [None]:
        one = {**task, "annotations": [annotation] if annotation else []}
        try:
            yield opinions(one, known, project)
        except UserError:
            yield Opinions(left_out=Counter({"not-a-vote": 1}))


def _write_remarks(path: Path, title: str, found: _Found) -> int:
    """Bring remarks.jsonl up to what was found, as the votes; how many are of this project."""
    earlier = _earlier_remarks(path)
    others = [line for line in earlier if line.get("project") != title]
    stay = [line for line in earlier if line.get("project") == title and found.keeps(line)]
    own = sorted([*stay, *map(_line, found.remarks)], key=lambda line: line["annotation"])
    lines = [*others, *own]
    if lines != earlier or not path.exists():
        write_atomic(path, as_lines(lines))
    return len(own)


def _earlier_remarks(path: Path) -> list[Json]:
    """The lines of remarks.jsonl. Raises UserError for one that does not tell the annotation that it came from."""
    lines: list[Json] = list(read_lines(path))
    for number, line in enumerate(lines, start=1):
        numbers = isinstance(line.get("task"), int) and isinstance(line.get("annotation"), int)
        if not numbers or not isinstance(line.get("created_at", ""), str):
            raise UserError(f"{path}, line {number} is not as a pull writes it: delete that line, and pull with --all")
    return lines


def _line(remark: Remark) -> dict[str, Any]:
    line = {key: value for key, value in asdict(remark).items() if value}
    return {**line, "defects": list(remark.defects)} if remark.defects else line


def _against(before: Iterable[Vote], now: Iterable[Vote]) -> Counter[str]:
    """How the votes changed, by what identifies them."""
    old = {(vote.annotation, vote.aspect): vote for vote in before}
    new = {(vote.annotation, vote.aspect): vote for vote in now}
    return Counter(
        added=len(new.keys() - old.keys()),
        edited=sum(old[key] != new[key] for key in new.keys() & old.keys()),
        withdrawn=len(old.keys() - new.keys()),
    )
