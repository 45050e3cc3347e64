"""The votes of a Label Studio project → votes.parquet of a Collection, and what else people said → remarks.jsonl.

Every pull asks for all annotations, a page at a time: reading twenty thousand tasks takes seconds, and only so an
annotation that was edited or deleted is noticed, whose task may tell nothing of it. What the project says replaces what
it said before; if that is the same, the file stays as it is, to the byte. Votes of other projects, and those whose task
was deleted on the server, stay.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
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
# Label Studio applies `include` to annotations too.
OF_TASKS = "id,data,annotations,created_at,completed_by,result,was_cancelled,ground_truth,lead_time,updated_at"


@dataclass
class Pulled:
    """What a pull found: votes of the project now, and against the last pull; left_out: what is no vote, by reason.

    repeated: earlier grades by someone who graded the same artwork again; they are kept, the latest counts.
    of_deleted_tasks: votes that are kept though their task is gone.
    """

    path: Path
    votes: int = 0
    tasks: int = 0
    added: int = 0
    edited: int = 0
    withdrawn: int = 0
    of_deleted_tasks: int = 0
    repeated: int = 0
    remarks: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class _Gathered:
    votes: list[Vote] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    begun: dict[int, str] = field(default_factory=dict)  # task -> when it was made


def pull(studio: Studio, collection: Collection, title: str) -> Pulled:
    """Bring a Collection's votes.parquet and remarks.jsonl up to what the project of this name says now.

    Raises UserError if there is no such project, or it is another one than that whose votes are there.
    """
    project = studio.project(title)
    if project is None:
        raise UserError(f"{studio.connection.url} has no project {title!r}: check --project, or push one first")
    root, known = collection.root, {artwork.image_id for artwork in (*collection, *collection.gone)}
    with alone(root):
        earlier = read_votes(root / FILE_NAME) if (root / FILE_NAME).exists() else []
        pulls = _checked_pulls(root, project)
        found = _gather(studio, project, known)
        before = [vote for vote in earlier if vote.project == title]
        stay = [vote for vote in before if _is_of_a_deleted_task(asdict(vote), found.begun)]
        own = sorted([*stay, *found.votes], key=lambda vote: (vote.annotation, vote.aspect))
        remarks = _write_remarks(root / REMARKS, title, found)
        votes = [*(vote for vote in earlier if vote.project != title), *own]
        if votes != earlier or pulls != read_pulls(root):
            write_votes(root, votes, pulls)
    told = _against(before, own)
    return Pulled(
        root / FILE_NAME,
        len(own),
        len(found.begun),
        told["added"],
        told["edited"],
        told["withdrawn"],
        len(stay),
        len(own) - len({(vote.image_id, vote.annotator, vote.aspect) for vote in own}),
        remarks,
        +found.left_out,
    )


def _checked_pulls(root: Path, project: Json) -> dict[str, Any]:
    """What votes.parquet is to say of its projects. Raises UserError if this one is not that of the same name there."""
    pulls = dict(read_pulls(root))
    identity = {"id": project["id"], "created_at": project["created_at"]}
    there = pulls.setdefault(project["title"], identity)
    if there != identity:
        raise UserError(
            f"{root / FILE_NAME} has votes of another project {project['title']!r} (made {there.get('created_at')}, "
            f"and this one {identity['created_at']}): rename this one in Label Studio's settings and pull that name"
        )
    return pulls


def _gather(studio: Studio, project: Json, known: Container[str]) -> _Gathered:
    found = _Gathered()
    for task in studio.tasks(project["id"], OF_TASKS):
        found.begun[task["id"]] = task["created_at"]
        for told in _opinions(check_task(task), known, project["title"]):
            found.votes += told.votes
            found.remarks += told.remarks
            found.left_out.update(told.left_out)
    return found


def _opinions(task: Json, known: Container[str], project: str) -> Iterator[Opinions]:
    """Of each annotation by itself: one that cannot be read must not keep the others from being read."""
    for annotation in task["annotations"] or [None]:
        one = {**task, "annotations": [annotation] if annotation else []}
        try:
            yield opinions(one, known, project)
        except UserError:
            yield Opinions(left_out=Counter({"not-a-vote": 1}))


def _is_of_a_deleted_task(line: Json, begun: Json) -> bool:
    """Whether the task of a vote or remark is gone; a later task may have been given its number."""
    made = begun.get(line["task"])
    return made is None or (line.get("created_at") or "") < made


def _write_remarks(path: Path, title: str, found: _Gathered) -> int:
    """Bring remarks.jsonl up to what was found, as the votes; how many are of this project."""
    earlier = read_lines(path)
    others = [line for line in earlier if line.get("project") != title]
    stay = [line for line in earlier if line.get("project") == title and _is_of_a_deleted_task(line, found.begun)]
    own = sorted([*stay, *map(_line, found.remarks)], key=lambda line: line["annotation"])
    lines = [*others, *own]
    if lines != earlier:
        write_atomic(path, as_lines(lines))
    return len(own)


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
