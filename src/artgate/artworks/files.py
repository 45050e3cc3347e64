"""Files that survive a kill: whole-file replacement, and one-JSON-a-line logs with a torn end cut off."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from artgate.errors import UserError

TEMPORARY_SUFFIX = ".tmp"
OPEN_AT_ONCE = 64

Map = Callable[[Callable[[int], None], list[int]], Iterable[None]]


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Replace `path` by `content`: after a kill or a power cut it holds the old content or the new, never a part."""
    path = Path(path)
    _put(write_temporary(path, content), path)
    sync_folder(path.parent)


def write_all(contents: Mapping[Path, bytes], map_: Map = map) -> None:
    """As `write_atomic` of files in one folder, each there whole or not at all; several times cheaper.

    map_: applies the sync to all of them, in threads for example. (Threads that made files in one folder would only
    wait for each other.) No other process may write the same files meanwhile.
    """
    paths = list(contents)
    for first in range(0, len(paths), OPEN_AT_ONCE):
        _write_some({path: contents[path] for path in paths[first : first + OPEN_AT_ONCE]}, map_)
    for folder in {path.parent for path in paths}:
        sync_folder(folder)


def write_in_place(path: Path, content: str) -> None:
    """Overwrite `path`, and return when it is on the disk. Not kill-safe: until then it may hold anything.

    For a file that is written again and again: one that is replaced each time leaves a deleted one behind, and ext4
    passes over all those of the last seconds whenever a new file is made.
    """
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        with _naming(path):
            _write_whole(descriptor, content.encode())
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def _write_some(contents: Mapping[Path, bytes], map_: Map) -> None:
    begun: dict[Path, int] = {}  # temporary file -> descriptor
    try:
        for path, content in contents.items():
            temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
            begun[temporary] = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            with _naming(path):
                _write_whole(begun[temporary], content)
        list(map_(os.fsync, list(begun.values())))
        for temporary, path in zip(begun, contents, strict=True):
            temporary.replace(path)
    except BaseException:
        for temporary in begun:
            temporary.unlink(missing_ok=True)
        raise
    finally:
        for descriptor in begun.values():
            os.close(descriptor)


def _put(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, IsADirectoryError):
            raise UserError(f"cannot write {path}: it is a folder; name a file") from None
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a full disk raises does not say where: let it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _write_whole(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:  # a disk with room for a part takes that part, and only then says that it is full
        left = left[os.write(descriptor, left) :]


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """As `write_atomic`, of content that is written piece by piece: `path` is replaced when the context ends well."""
    path = Path(path)
    temporary = write_temporary(path, b"")
    try:
        with _naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path | str, line: Mapping[str, Any] | str) -> None:
    """Append one line (a mapping as JSON) and return when it is on the disk."""
    append_lines(path, [line])


def append_lines(path: Path | str, lines: Iterable[Mapping[str, Any] | str]) -> None:
    """Append lines with one write and one fsync. Kill-safe: a line is there whole, or `repair_lines` cuts it."""
    left = as_lines(lines).encode()
    # O_APPEND and a single write: lines of two processes never interleave.
    with _naming(Path(path)), Path(path).open("ab", buffering=0) as file:
        while left:  # a disk with room for a part takes that part, and only then says that it is full
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def as_lines(lines: Iterable[Mapping[str, Any] | str]) -> str:
    """The text of a one-a-line file. Raises ValueError for what JSON cannot hold, such as NaN."""
    return "".join(_as_line(line) for line in lines)


def read_lines(path: Path | str) -> list[dict[str, Any]]:
    """The JSON objects of a one-a-line file, [] where it is missing; a torn last line is left out.

    Raises UserError with the line's number for a line that is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    return parse_lines(path.read_bytes(), path)


def parse_lines(data: bytes, path: Path, first_number: int = 1) -> list[dict[str, Any]]:
    """As `read_lines`, of bytes read from `path` whose first line has number `first_number`."""
    whole = data[: len(data) - torn_bytes(data)]
    lines = []
    for number, line in enumerate(whole.split(b"\n"), start=first_number):
        if line.strip():
            lines.append(_parse_line(line, path, number))
    return lines


def repair_lines(path: Path | str) -> int:
    """Cut a torn last line off `path` (or end a whole one with its newline); returns the number of bytes cut."""
    path = Path(path)
    if not path.exists() or not path.stat().st_size or _ends_in_newline(path):
        return 0
    with path.open("r+b") as file:
        data = file.read()
        cut = torn_bytes(data)
        if cut:
            file.truncate(len(data) - cut)
        else:
            file.write(b"\n")
        os.fsync(file.fileno())
    return cut


def torn_bytes(data: bytes) -> int:
    """Length of the unfinished last line of `data`; 0 if it ends in a newline or in a whole JSON object."""
    tail = data[data.rfind(b"\n") + 1 :]
    try:
        # A file edited by hand often lacks the last newline: its last line is whole, and must not be lost.
        whole = isinstance(json.loads(tail), dict)
    except (ValueError, RecursionError):
        whole = False
    return 0 if whole else len(tail)


def write_temporary(path: Path, content: bytes | str) -> Path:
    """Write `content`, fsynced, to a new hidden file beside `path`; the caller renames it."""
    data = content.encode() if isinstance(content, str) else content
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
    except FileNotFoundError:
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist; make it first") from None
    except OSError as error:
        error.filename = str(path)  # not the random name of the temporary file
        raise
    temporary = Path(name)
    try:
        with _naming(path), os.fdopen(descriptor, "wb") as file:
            # mkstemp makes files for their owner alone; these are ordinary data files.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sweep_temporaries(folder: Path) -> None:
    """Delete what a killed `write_atomic` had begun, in a folder that no other process writes in."""
    for temporary in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_line(line: Mapping[str, Any] | str) -> str:
    text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False, allow_nan=False)
    if "\n" in text:
        raise ValueError("a line must not hold a newline")
    # A lone surrogate (a file name that is not UTF-8) has no bytes of its own; so written it is JSON's escape for it.
    return text.encode(errors="backslashreplace").decode() + "\n"


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number} is not JSON ({error}): mend or delete that line") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number} is a JSON {type(value).__name__}, not an object: mend or delete it")
    return value


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _umask() -> int:
    # The only portable way to read the umask is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
