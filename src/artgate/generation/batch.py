"""Until N are accepted: candidates are judged in index order, and the ledger says which are done.

The ledger of a batch is the shortest beginning of the endless stream of judged candidates that holds `target`
accepted ones, or `max_candidates` lines. So it depends neither on the order in which slots finish nor on how often
the run was killed and resumed, and a larger target only makes it longer.
"""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from PIL import Image

from artgate.artworks.files import append_line, read_lines, repair_lines, sweep_temporaries, write_atomic
from artgate.errors import UserError
from artgate.generation.fields import misfit_in_line
from artgate.generation.gate import Judge, Scored, Verdict
from artgate.generation.likeness import Likeness
from artgate.generation.prompts import Candidate
from artgate.generation.waiting import WAITING, Waiting

if TYPE_CHECKING:
    from artgate.scoring.scorer import Score

CONFIG, LEDGER, LOCK = "config.json", "candidates.jsonl", ".lock"
STATUSES = ("accepted", "rejected", "failed")
# What may change between two runs on one folder: the ledger only grows longer by it.
MAY_CHANGE = (
    "mode",
    "sidecar",
    "out",
    "image.sign",
    "n",
    "max_loss",
    "confidence",
    "preview.cost",
    "target",
    "max_candidates",
    "max_failures",
    "batch_dir",
    "outputs",
    "progress_seconds",
    "logger",
    "gate.on_drift",
)

Line = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A candidate that left the sampler: its small picture and score, or the error that it ended with.

    point: its features as a certificate's gate watches them, None for other gates. rejected: why it did not come before
    the gate, a preview say; then there is no score. previews: step and score of each look at it midway.
    sketch: of its features (`likeness`). slots: of the minibatch that it was made in.
    """

    candidate: Candidate
    picture: Image.Image | None = None
    score: "Score | None" = None
    error: str | None = None
    point: list[float] | None = None
    evaluations: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    rejected: str | None = None
    previews: list[dict[str, float]] | None = None
    sketch: str | None = None
    slots: int | None = None


class Batch:
    """A batch folder, held by its only writer.

    lines: the ledger so far. accepted: how many of its lines say so. waiting: what is made and not decided yet.
    Raises UserError where another process holds it, where it is the folder of something else, and where its
    candidates were decided under a different configuration; the folder is then as it was.
    """

    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        config = json.loads(json.dumps(config))
        self.root = root
        self._lock = _hold(root, config)
        try:
            _refuse_other_folder(root, config)  # another run may have begun its batch there until this one held it
            repair_lines(root / LEDGER)
            self.lines: list[Line] = read_ledger(root)
            _refuse_changed(self.lines, root)
            self.accepted = sum(line["status"] == "accepted" for line in self.lines)
            self.waiting = Waiting(root, len(self.lines))
            sweep_temporaries(root)
            write_atomic(root / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        except BaseException:
            self.close()
            raise

    def append(self, line: Line) -> None:
        """Write a decided candidate to the ledger; it is on the disk on return."""
        append_line(self.root / LEDGER, line)
        self.lines.append(line)
        self.accepted += line["status"] == "accepted"
        self.waiting.let_go(line["index"])

    @property
    def begun(self) -> bool:
        """Whether any candidate is decided, or waits for it."""
        return bool(self.lines or self.waiting.entries)

    @property
    def evaluations(self) -> int:
        """Denoiser rows that went into what is decided, or waits for it."""
        return sum(entry["evaluations"] for entry in [*self.lines, *self.waiting.entries.values()])

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.release()

    def discard(self) -> None:
        """Take back a folder that holds nothing but its configuration: a start that failed leaves nothing behind."""
        others = {path.name for path in self.root.iterdir()} - {CONFIG, LOCK}
        if not others:  # what an earlier start left is no batch folder any more without its configuration
            (self.root / CONFIG).unlink(missing_ok=True)
            (self.root / LOCK).unlink(missing_ok=True)
            self.root.rmdir()


def is_begun(root: Path) -> bool:
    """Whether a folder's batch has candidates that are decided, or wait for it. Only reads."""
    return bool(read_ledger(root)) or any((root / WAITING).glob("*.json"))


def read_ledger(root: Path) -> list[Line]:
    """The lines of a batch's ledger: each with its place and a known status, which UserError says where it is not so.

    Their other fields may be those of a former version, or anything: whoever uses them checks them.
    """
    lines = read_lines(root / LEDGER)
    for number, line in enumerate(lines):
        if line.get("index") != number:
            told = f"tells of candidate {line.get('index')} instead of {number}"
        elif line.get("status") not in STATUSES:
            told = f"has status {line.get('status')!r}, which is not one of {', '.join(STATUSES)}"
        else:
            continue
        raise _changed(root, number, told)
    return lines


def _refuse_changed(lines: Sequence[Line], root: Path) -> None:
    """UserError for the first line that a batch could not go on from."""
    for number, line in enumerate(lines):
        if told := misfit_in_line(line):
            raise _changed(root, number, told)


def _changed(root: Path, number: int, told: str) -> UserError:
    return UserError(
        f"{root / LEDGER}, line {number + 1} {told}: the ledger was changed by hand; restore it, or give another "
        "batch_dir"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file of a batch holds; UserError where it is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore it, or give another batch_dir") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it, or give another batch_dir") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {found!r} and no JSON object: restore it, or give another batch_dir")
    return found


def produce(
    outcomes: Iterable[Outcome],
    batch: Batch,
    gate: Judge,
    save: Callable[[Outcome, Verdict | None], Line],
    target: int,
    max_failures: int,
    put_off: Callable[[], AbstractContextManager[None]] = nullcontext,
    likeness: Likeness | None = None,
    end: float = math.inf,
) -> Iterator[Line]:
    """Judge and save outcomes, in index order, until `target` are accepted, the gate ends it or there are no more.

    Yields each new line.

    outcomes: from the first index that the ledger lacks on, in any order, those left out that wait in the batch. save:
    keeps the pictures of one outcome (verdict None: it failed) and returns its ledger line. put_off: a context in which
    interrupts wait. likeness: what rejects near-duplicates of the accepted. end: the first index that is not decided:
    `max_candidates` may be less by now than what waits in the batch.
    Raises UserError if saving fails (what is in the ledger is kept) or `max_failures` candidates fail in a row.
    """
    if batch.accepted >= target or gate.over:
        return
    failures: list[Line] = []
    for outcome, verdict in judged(kept(outcomes, batch, gate.of, end), gate, batch.lines):
        try:
            verdict = likeness.checked(outcome, verdict) if likeness else verdict
            with put_off():
                line = save(outcome, verdict)
                if likeness:
                    line |= likeness.noted(outcome, line)
                batch.append(line)
            gate.observe(line)
            if likeness:
                likeness.observe(line)
        except OSError as error:
            raise UserError(
                f"candidate {outcome.candidate.index} could not be saved ({error}): {batch.accepted} accepted artworks "
                f"are kept in {batch.root}; make room or mend the access, then run the same command to go on"
            ) from error
        yield line
        failures = _in_a_row(failures, line)
        if len(failures) >= max_failures:
            raise UserError(
                f"{len(failures)} candidates in a row failed (max_failures={max_failures}), the first, candidate "
                f"{failures[0]['index']}, with: {failures[0]['reason']}; mend that, then run the same command to go on"
            )
        if batch.accepted >= target or gate.over:
            return


def _in_a_row(failures: list[Line], line: Line) -> list[Line]:
    if line["status"] == "failed":
        return [*failures, line]
    # A rejected candidate shows that painting and scoring work; only an accepted one that enlarging and saving do.
    return [] if line["status"] == "accepted" else [failure for failure in failures if failure["score"] is not None]


def kept(outcomes: Iterable[Outcome], batch: Batch, group: int, end: float) -> Iterator[Outcome]:
    """What waits in the batch, then the outcomes; those that can not be decided at once wait there from now on."""
    yield from (outcome for outcome in batch.waiting.outcomes() if outcome.candidate.index < end)
    for outcome in outcomes:
        index, decided = outcome.candidate.index, len(batch.lines)
        group_end = decided - decided % group + group
        if any(other != index and other not in batch.waiting.entries for other in range(decided, group_end)):
            batch.waiting.keep(outcome)
        yield outcome


def judged(
    outcomes: Iterable[Outcome], gate: Judge, decided: Sequence[Line]
) -> Iterator[tuple[Outcome, Verdict | None]]:
    """Outcomes in index order with their verdicts (None: failed), given as soon as a group of `gate.of` is complete.

    decided: the ledger so far; where it ends within a group, its scores are ranked along with the new ones.
    """
    earlier = list(decided[len(decided) - len(decided) % gate.of :])
    group: list[Outcome] = []
    for outcome in in_index_order(outcomes, first=len(decided)):
        group.append(outcome)
        if len(earlier) + len(group) == gate.of:
            yield from zip(group, _verdicts(earlier, group, gate), strict=True)
            earlier, group = [], []


def in_index_order(outcomes: Iterable[Outcome], first: int) -> Iterator[Outcome]:
    """Hold back what finished early until all before it, from index `first` on, have been given out."""
    waiting: dict[int, Outcome] = {}
    for outcome in outcomes:
        waiting[outcome.candidate.index] = outcome
        while first in waiting:
            yield waiting.pop(first)
            first += 1


def whole_groups(max_candidates: int, gate: Judge) -> int:
    """The most candidates that can be judged: a group that `max_candidates` would cut is not begun."""
    return max_candidates - max_candidates % gate.of


@dataclass(frozen=True)
class _LedgerScore:
    score: float
    probabilities: dict[str, float]


def _verdicts(earlier: Sequence[Line], group: Sequence[Outcome], gate: Judge) -> list[Verdict | None]:
    # Told by the score and not by the status: what failed after the gate was ranked all the same.
    known: list[Scored] = [
        _LedgerScore(line["score"], line["probabilities"]) for line in earlier if line["score"] is not None
    ]
    new = [outcome.score for outcome in group if outcome.score is not None]
    verdicts = iter(gate.judge([*known, *new])[len(known) :])
    return [_before_the_gate(outcome) if outcome.score is None else next(verdicts) for outcome in group]


def _before_the_gate(outcome: Outcome) -> Verdict | None:
    return Verdict(False, outcome.rejected) if outcome.rejected else None


def _hold(root: Path, config: Mapping[str, Any]) -> FileLock:
    try:
        _refuse_other_folder(root, config)  # before anything is written there, be it the lock
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is working in {root}: wait for it, or give another batch_dir") from None
    except OSError as error:
        raise UserError(f"batch_dir {root} cannot be written ({error}): give another batch_dir") from None
    return lock


def _refuse_other_folder(root: Path, config: Mapping[str, Any]) -> None:
    """UserError where a folder is not that of this batch. Only reads: what is another's stays as it is."""
    kept = root / CONFIG
    if kept.exists():
        found = read_json(kept)
        if is_begun(root):
            _refuse_other(found, config, root)
        # Keys come and go with versions; a model's config.json, say, shares hardly any.
        elif 2 * len(found.keys() & config.keys()) < len(config):
            raise UserError(f"{kept} is not the configuration of a batch: give another batch_dir")
    # Hidden: the lock, and what a killed write left.
    elif root.is_dir() and (others := [path.name for path in root.iterdir() if not path.name.startswith(".")]):
        raise UserError(f"{root} holds {others[0]} and is no batch folder: give another batch_dir")


def _refuse_other(kept: Mapping[str, Any], now: Mapping[str, Any], root: Path) -> None:
    before, after = _flat(kept), _flat(now)
    differing = [
        f"{key} is {_shown(before, key)} there and {_shown(after, key)} here"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not {key, key.split(".")[0]} & set(MAY_CHANGE)
    ]
    if differing:
        raise UserError(
            f"{root} holds a batch of a different configuration: {'; '.join(differing)}. "
            "Give another batch_dir, or the settings that the batch was begun with"
        )


def _shown(config: Mapping[str, Any], key: str) -> str:
    """Its value; a list of prompts need not be read whole."""
    return textwrap.shorten(repr(config[key]), 120, placeholder=" …") if key in config else "not set"


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, Mapping) and config:
        return {k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): config}
