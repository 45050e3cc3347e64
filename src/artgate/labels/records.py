"""Checked reading, and atomic writing, of the JSON-lines files that hold labels."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from artgate.artworks.files import as_lines, read_lines, write_atomic
from artgate.errors import UserError

T = TypeVar("T")


def read_records(path: Path, parse: Callable[[Mapping[str, Any]], T], cure: str) -> list[T]:
    """Parse every line of a JSON-lines file.

    cure: what to do when the file is missing.
    Raises UserError if there is no such file; one that `parse` raises is given the file and the line.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: {cure}")
    records = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            records.append(parse(line))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return records


def write_records(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Replace a JSON-lines file as a whole; return its path."""
    write_atomic(path, as_lines(lines))
    return path


def records_file(root: Path | str, name: str) -> Path:
    """`root` itself if it names a .jsonl file, else the file of that name in the collection folder `root`."""
    path = Path(root)
    return path if path.suffix == ".jsonl" else path / name


def check_keys(line: Mapping[str, Any], required: set[str], optional: set[str]) -> None:
    """Raise UserError unless `line` has all the required keys and none but these and the optional ones."""
    if not isinstance(line, Mapping):
        raise UserError(f"{line!r} is not a JSON object: write one object a line")
    for key in sorted(required - set(line)):
        raise UserError(f"{key} is missing: each line needs {', '.join(sorted(required))}")
    for key in sorted(set(line) - required - optional):
        raise UserError(f"{key} is unknown: the keys are {', '.join(sorted(required | optional))}")


def check_name(key: str, value: object) -> None:
    """Raise UserError unless `value` is a string with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{key} {value!r} is not a name: give it as a non-empty string")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(f"{key} {value!r} is not one of {', '.join(choices)}: correct it or leave the line out")


def check_number(key: str, value: object, low: float, high: float) -> None:
    """Raise UserError unless `value` is a number (not NaN, not a bool) in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{key} {value!r} is outside [{low:g}, {high:g}]: correct it or leave the line out")
