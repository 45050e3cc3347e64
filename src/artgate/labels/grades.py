"""Grade probabilities of artworks, and the file that keeps them beside the collection."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artgate.errors import UserError
from artgate.labels.records import check_keys, check_name, check_number, read_records, records_file, write_records

GRADES = ("poor", "average", "good")
ASPECTS = ("quality", "attributes", "rationality", "alignment")
FILE_NAME = "grades.jsonl"
# How far the three probabilities of a line may be from summing to 1: hand-rounded to two digits is fine.
SUM_TOLERANCE = 0.02

Probabilities = Sequence[float] | np.ndarray


class Grades(Mapping[str, dict[str, np.ndarray]]):
    """image_id -> aspect -> (3,) float64 probabilities of poor, average, good.

    probabilities: for each artwork the aspects that were graded; each triple is in [0, 1] and sums to 1.
    votes: how many votes or ratings lie behind an artwork's grades (quality's, if it has them), where known.
    Raises UserError for an unknown aspect, or probabilities that are none.
    """

    def __init__(
        self, probabilities: Mapping[str, Mapping[str, Probabilities]], votes: Mapping[str, int] | None = None
    ) -> None:
        self.votes = dict(votes or {})
        self._aspects_of = {image_id: _checked(image_id, aspects) for image_id, aspects in probabilities.items()}

    @classmethod
    def load(cls, root: Path | str) -> "Grades":
        """Read the grades of a collection folder (or of a .jsonl file named directly).

        Raises UserError if the file is missing, or for a bad line, with its number, the value and the limit.
        """
        path = records_file(root, FILE_NAME)
        cure = "make it from votes with `artgate label consensus`"
        records = read_records(path, _parse, cure)
        probabilities = {image_id: aspects for image_id, aspects, _ in records}
        if len(probabilities) < len(records):
            (repeated, lines), *_ = Counter(image_id for image_id, _, _ in records).most_common(1)
            raise UserError(f"{path}: {repeated!r} has {lines} lines and may have 1: keep one line an artwork")
        return cls(probabilities, {image_id: votes for image_id, _, votes in records if votes is not None})

    def save(self, root: Path | str) -> Path:
        """Write the grades into a collection folder (or a .jsonl file named directly), one artwork a line."""
        return write_records(records_file(root, FILE_NAME), map(self._line, self))

    def array(self, image_ids: Sequence[str], aspects: Sequence[str] = ASPECTS) -> np.ndarray:
        """(N, A, 3) float32 probabilities in the order asked; NaN where an artwork or an aspect of it is ungraded."""
        array = np.full((len(image_ids), len(aspects), len(GRADES)), np.nan, dtype=np.float32)
        for row, image_id in enumerate(image_ids):
            for column, aspect in enumerate(aspects):
                if aspect in (graded := self._aspects_of.get(image_id, {})):
                    array[row, column] = graded[aspect]
        return array

    def __getitem__(self, image_id: str) -> dict[str, np.ndarray]:
        return self._aspects_of[image_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._aspects_of)

    def __len__(self) -> int:
        return len(self._aspects_of)

    def _line(self, image_id: str) -> dict[str, Any]:
        graded = self._aspects_of[image_id]
        line = {"image_id": image_id} | {aspect: graded[aspect].tolist() for aspect in ASPECTS if aspect in graded}
        return line | ({"votes": self.votes[image_id]} if image_id in self.votes else {})


def _parse(line: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray], int | None]:
    check_keys(line, {"image_id"}, {*ASPECTS, "votes"})
    check_name("image_id", line["image_id"])
    votes = line.get("votes")
    if votes is not None and (type(votes) is not int or votes < 0):
        raise UserError(f"votes {votes!r} is not a count: give a whole number >= 0 or leave it out")
    aspects = {aspect: line[aspect] for aspect in ASPECTS if aspect in line}
    return line["image_id"], _checked(line["image_id"], aspects), votes


def _checked(image_id: str, aspects: Mapping[str, Probabilities]) -> dict[str, np.ndarray]:
    if not aspects:
        raise UserError(f"{image_id} has no grade: give at least one of {', '.join(ASPECTS)}")
    for aspect, triple in aspects.items():
        if aspect not in ASPECTS:
            raise UserError(f"{image_id}: aspect {aspect!r} is not one of {', '.join(ASPECTS)}: correct it")
        _check_triple(aspect, triple)
    return {aspect: _normalised(triple) for aspect, triple in aspects.items()}


def _check_triple(aspect: str, triple: Probabilities) -> None:
    values = triple.tolist() if isinstance(triple, np.ndarray) else triple
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(GRADES):
        raise UserError(f"{aspect} {values!r} is not three probabilities: give [{', '.join(GRADES)}]")
    for grade, value in zip(GRADES, values, strict=True):
        check_number(f"{aspect}: P({grade})", value, 0, 1)
    if abs(sum(values) - 1) > SUM_TOLERANCE:
        raise UserError(f"{aspect} {list(values)} sums to {sum(values):g}: the three probabilities must sum to 1")


def _normalised(triple: Probabilities) -> np.ndarray:
    array = np.array(triple, dtype=np.float64)
    return array / array.sum()
