"""Suspects: grades that a model which never saw them finds hard to believe, to be looked at again.

`suspects.jsonl` in a Collection has one a line, the most suspect first:
`{"image_id": …, "aspect": "quality", "grade": "good", "likely": "poor", "probability": 0.02, "rank": 1, "reason": …}`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES
from artgate.labels.records import (
    check_choice,
    check_keys,
    check_name,
    check_number,
    read_records,
    records_file,
    write_records,
)

FILE_NAME = "suspects.jsonl"


@dataclass(frozen=True)
class Suspect:
    """A grade to look at again.

    likely: the grade that the model finds likeliest; probability: what it gave to `grade`, in [0, 1]. rank: from 1,
    the most suspect first. reason: the same in words.
    """

    image_id: str
    aspect: str
    grade: str
    likely: str
    probability: float
    rank: int
    reason: str

    def __post_init__(self) -> None:
        check_name("image_id", self.image_id)
        check_choice("aspect", self.aspect, ASPECTS)
        check_choice("grade", self.grade, GRADES)
        check_choice("likely", self.likely, GRADES)
        check_number("probability", self.probability, 0, 1)
        check_number("rank", self.rank, 1, float("inf"))
        check_name("reason", self.reason)


def suspects(
    image_ids: Sequence[str], grades: np.ndarray, probabilities: np.ndarray, aspect: str = "quality"
) -> list[Suspect]:
    """The grades that are probably wrong, the worst first.

    grades: (N,) 0 poor, 1 average, 2 good. probabilities: (N, 3) by a model that did not learn from that artwork.
    cleanlab's confident learning (Northcutt et al., JAIR 70, 2021) chooses them; it takes much that is only hard to
    tell for wrong, so what counts is the order (see `suspicion`).
    Raises UserError where the arrays do not fit together.
    """
    _check(image_ids, grades, probabilities)
    used = np.unique(grades)
    if len(used) < 2:  # one grade alone leaves nothing to confuse
        return []
    from cleanlab.filter import find_label_issues  # imports pandas and scikit-learn: seconds

    chosen = find_label_issues(
        np.searchsorted(used, grades),
        _over(probabilities, used),
        filter_by="prune_by_noise_rate",
        n_jobs=1,  # other processes would each import this one's libraries
    )
    order = np.argsort(-suspicion(grades, probabilities), kind="stable")
    rows = [row for row in order.tolist() if chosen[row]]
    return [
        _suspect(image_ids[row], aspect, int(grades[row]), probabilities[row], rank)
        for rank, row in enumerate(rows, start=1)
    ]


def suspicion(grades: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) how suspect each grade is: its expected distance from the true one, over its probability.

    cleanlab's own scores know no order: poor for good is no worse to them than poor for average. Of grades planted in
    AGIQA-3K this order finds those at the wrong end far sooner, and wrong neighbours as soon as the best of them.
    """
    rows = np.arange(len(grades))
    distance = np.abs(np.arange(probabilities.shape[1]) - grades[:, None])
    return (probabilities * distance).sum(1) / probabilities[rows, grades].clip(1e-9)


def read_suspects(path: Path | str) -> list[Suspect]:
    """Suspects of a collection folder (or a .jsonl file named directly), by rank; UserError names a bad line."""
    cure = "find suspects with `artgate label report`"
    return sorted(read_records(records_file(path, FILE_NAME), _parse, cure), key=lambda suspect: suspect.rank)


def write_suspects(path: Path | str, found: Iterable[Suspect]) -> Path:
    """Write suspects into a collection folder (or a .jsonl file named directly), replacing the file as a whole."""
    return write_records(records_file(path, FILE_NAME), map(asdict, found))


def _suspect(image_id: str, aspect: str, grade: int, probabilities: np.ndarray, rank: int) -> Suspect:
    likely, probability = int(probabilities.argmax()), float(probabilities[grade])
    reason = f"graded {GRADES[grade]}, which has {probability:.0%}; {GRADES[likely]} has {probabilities[likely]:.0%}"
    return Suspect(image_id, aspect, GRADES[grade], GRADES[likely], round(probability, 6), rank, reason)


def _over(probabilities: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(N, U) of the grades that occur, each row summing to 1: cleanlab wants to see every class it is told of."""
    chosen = probabilities[:, used].clip(1e-9)
    return chosen / chosen.sum(1, keepdims=True)


def _check(image_ids: Sequence[str], grades: np.ndarray, probabilities: np.ndarray) -> None:
    expected = (len(image_ids), len(GRADES))
    if probabilities.shape != expected or grades.shape != expected[:1]:
        raise UserError(
            f"probabilities {probabilities.shape} and grades {grades.shape} do not fit {len(image_ids)} artworks: "
            f"give {expected} and {expected[:1]}"
        )
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(1) - 1).max(initial=0) > 1e-3:
        raise UserError("probabilities are not: each row must be finite and sum to 1")
    if not np.isin(grades, range(len(GRADES))).all():
        raise UserError(f"grades {np.unique(grades).tolist()} are not all one of 0, 1, 2: leave the ungraded out")


def _parse(line: Mapping[str, Any]) -> Suspect:
    check_keys(line, {"image_id", "aspect", "grade", "likely", "probability", "rank", "reason"}, set())
    return Suspect(**line)
