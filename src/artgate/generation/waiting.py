"""Candidates that are made and not decided yet, because others before them, or of their group, are still in work.

Each is a file of the batch's `waiting/`, so that a kill costs no more than what is in the slots; it goes when the
candidate is in the ledger. One that a larger target needs later is found there too.
"""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from artgate.artworks.files import sweep_temporaries, write_atomic
from artgate.errors import UserError
from artgate.generation.prompts import Candidate

if TYPE_CHECKING:
    from artgate.generation.batch import Outcome

WAITING = "waiting"
BRIEF = ("candidate", "evaluations", "seconds")


class Waiting:
    """The folder, held by the batch's only writer.

    entries: index → candidate, evaluations and seconds of what is kept; what is below `decided` is in the ledger, and
    goes.
    """

    def __init__(self, root: Path, decided: int) -> None:
        self.folder = root / WAITING
        self.entries: dict[int, dict[str, Any]] = {}
        if self.folder.is_dir():
            sweep_temporaries(self.folder)
            for path in sorted(self.folder.glob("*.json")):
                self._open(path, decided)

    def keep(self, outcome: "Outcome") -> None:
        """Keep an outcome; it is on the disk on return."""
        index = outcome.candidate.index
        self.folder.mkdir(exist_ok=True)
        entry = _entry(outcome)
        write_atomic(self._path(index), json.dumps(entry, ensure_ascii=False) + "\n")
        self.entries[index] = _in_brief(entry)

    def let_go(self, index: int) -> None:
        """Forget a candidate that is in the ledger now."""
        if self.entries.pop(index, None) is not None:
            self._path(index).unlink(missing_ok=True)

    def outcomes(self) -> Iterator["Outcome"]:
        """What is kept, in index order, as it left the sampler."""
        for index in sorted(self.entries):
            yield _outcome(_read(self._path(index)), self._path(index))

    def _open(self, path: Path, decided: int) -> None:
        entry = _read(path)
        index = entry.get("candidate", {}).get("index")
        if not isinstance(index, int) or path != self._path(index):
            raise _damaged(path, f"it tells of candidate {index}")
        if index < decided:
            path.unlink()
        else:
            self.entries[index] = _in_brief(entry)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06}.json"


def _entry(outcome: "Outcome") -> dict[str, Any]:
    return {
        "candidate": asdict(outcome.candidate),
        "picture": _as_text(outcome.picture),
        "score": asdict(outcome.score) if outcome.score else None,
        "error": outcome.error,
        "point": outcome.point,
        "evaluations": outcome.evaluations,
        "seconds": outcome.seconds,
        "rejected": outcome.rejected,
        "previews": outcome.previews,
        "sketch": outcome.sketch,
        "slots": outcome.slots,
    }


def _outcome(entry: dict[str, Any], path: Path) -> "Outcome":
    from artgate.generation.batch import Outcome
    from artgate.scoring.scorer import Score

    try:
        return Outcome(
            candidate=Candidate(**entry["candidate"]),
            picture=_as_picture(entry["picture"]),
            score=Score(**entry["score"]) if entry["score"] else None,
            error=entry["error"],
            point=entry["point"],
            evaluations=entry["evaluations"],
            seconds=entry["seconds"],
            rejected=entry["rejected"],
            previews=entry["previews"],
            sketch=entry["sketch"],
            slots=entry["slots"],
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _as_text(picture: Image.Image | None) -> str | None:
    """Without loss: the picture is judged, kept and enlarged later, as if it had never been put by."""
    if picture is None:
        return None
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return base64.b64encode(data.getvalue()).decode()


def _as_picture(text: str | None) -> Image.Image | None:
    if text is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as picture:
        return picture.convert("RGB")


def _in_brief(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in BRIEF}


def _read(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(entry, dict) or not isinstance(entry.get("candidate"), dict):
        raise _damaged(path, "it tells of no candidate")
    missing = [key for key in BRIEF if key not in entry]
    if missing:
        raise _damaged(path, f"it has no {missing[0]}")
    return entry


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): delete it, and its candidate is made again")
