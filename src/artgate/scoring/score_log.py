"""Scores in a .jsonl file that a kill does not cost: lines are on the disk as they come, and the same command goes on.

Until all are there, they lie in a hidden file beside it, whose name holds the scorer's fingerprint.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from tqdm import tqdm

from artgate.artworks.artwork import image_id_of
from artgate.artworks.decode import Refused, decode
from artgate.artworks.files import append_lines, parse_lines, repair_lines, sync_folder, write_atomic
from artgate.errors import UserError

KEEP_SECONDS = 2.0  # what a kill may cost

Line = dict[str, Any]


def write_scores(
    score_from: Callable[[int], Iterable[Line]], files: Sequence[Path], out: Path, fingerprint: str
) -> int:
    """Write a line a file to `out`, which is replaced when all are there; returns how many could not be scored.

    score_from: the lines of the files from this place on. fingerprint: of the scorer: what an earlier run with the same
    left is taken over, as far as its files are the first of `files` and hold the same bytes.
    """
    with _held(out):
        return _write_held(score_from, files, out, out.with_name(f".{out.name}.{fingerprint[:16]}.part"))


def _write_held(score_from: Callable[[int], Iterable[Line]], files: Sequence[Path], out: Path, begun: Path) -> int:
    kept, failed = _taken_over(begun, files)
    with tqdm(total=len(files), initial=kept, desc="scores", unit=" images", disable=None) as bar:
        for lines in _every_seconds(score_from(kept) if kept < len(files) else ()):
            append_lines(begun, lines)
            failed += sum("error" in line for line in lines)
            bar.update(len(lines))
    try:
        begun.replace(out)
    except IsADirectoryError:
        raise UserError(f"cannot write {out}: it is a folder; name a file") from None
    sync_folder(out.parent)
    return failed


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Two commands would write their lines into each other's."""
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        with lock.acquire(blocking=False):
            yield
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"another process writes {out}: wait for it, or name another file") from None


def _taken_over(begun: Path, files: Sequence[Path]) -> tuple[int, int]:
    """How many lines of an unfinished file still hold, and how many of them are errors; the others are cut off."""
    if not begun.exists():
        write_atomic(begun, b"")
        return 0, 0
    repair_lines(begun)
    kept = failed = 0
    with begun.open("r+b") as lines:
        end = 0
        for file, line in zip(files, _lines(lines, begun), strict=False):
            if not _still_holds(line, file):
                break
            kept, failed, end = kept + 1, failed + ("error" in line), lines.tell()
        lines.truncate(end)
        os.fsync(lines.fileno())
    return kept, failed


def _lines(file: BinaryIO, path: Path) -> Iterator[Line]:
    number = 0
    while data := file.readline():
        number += 1
        yield from parse_lines(data, path, number)


def _still_holds(line: Line, file: Path) -> bool:
    if line.get("file") != str(file):
        return False
    try:
        data = file.read_bytes()
        if "error" in line:
            decode(data, file.name)
            return False  # it was mended
    except (OSError, Refused):
        return "error" in line
    return line.get("image_id") == image_id_of(data)


def _every_seconds(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines joined until they are worth an fsync."""
    waiting: list[Line] = []
    since = time.monotonic()
    for line in lines:
        waiting.append(line)
        if time.monotonic() - since >= KEEP_SECONDS:
            yield waiting
            waiting, since = [], time.monotonic()
    if waiting:
        yield waiting
