"""Ratings: mean opinions of many people on a scale, and the grades that cutting the scale makes of them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES, Grades
from artgate.labels.records import (
    check_choice,
    check_keys,
    check_name,
    check_number,
    read_records,
    records_file,
    write_records,
)

FILE_NAME = "ratings.jsonl"
# Terciles of AGIQA-3K's mos_quality and mos_align (0 bad to about 4.5 excellent).
AGIQA3K_CUTS: Mapping[str, tuple[float, float]] = {"quality": (2.25, 3.08), "alignment": (2.32, 3.08)}


@dataclass(frozen=True)
class Rating:
    """Mean opinion of one aspect of one artwork, on any scale that grows with quality.

    std: standard deviation over the raters, in units of the mean. raters_name: the name under which the raters saw the
    artwork (its file name in the database): the same bytes may have been rated twice, under two names.
    Raises UserError for an unknown aspect, an empty name, a mean that is not finite, or a negative std.
    """

    image_id: str
    aspect: str
    mean: float
    std: float
    raters_name: str

    def __post_init__(self) -> None:
        check_name("image_id", self.image_id)
        check_choice("aspect", self.aspect, ASPECTS)
        check_number("mean", self.mean, -1e6, 1e6)
        check_number("std", self.std, 0, 1e6)
        check_name("name", self.raters_name)


def read_ratings(path: Path | str) -> list[Rating]:
    """Ratings of a collection folder (or of a .jsonl file named directly); UserError names a bad line and its value."""
    cure = "import a rated database (`artgate import`), or write one JSON a line there"
    return read_records(records_file(path, FILE_NAME), _parse, cure)


def write_ratings(path: Path | str, ratings: Iterable[Rating]) -> Path:
    """Write ratings into a collection folder (or a .jsonl file named directly), replacing the file as a whole."""
    return write_records(records_file(path, FILE_NAME), map(_line, ratings))


def grades_from_ratings(
    ratings: Iterable[Rating], cuts: Mapping[str, tuple[float, float]] = AGIQA3K_CUTS, soft: bool = False
) -> Grades:
    """Grades by cutting each aspect's scale: poor below its first cut, good from its second on.

    cuts: aspect -> (poor ends, good begins). Ratings of an aspect without cuts are left out.
    An artwork rated under several names counts once. Hard: all the mass on the grade of the mean of its means. Soft:
    the share of raters in each grade, were they normally distributed with the rating's mean and std.
    `Grades.votes` counts ratings of quality (each a mean over many people).
    Raises UserError if an aspect's cuts are not two growing numbers, or no rating is of an aspect with cuts.
    """
    for aspect, own in cuts.items():
        if len(own) != 2 or not -math.inf < own[0] < own[1] < math.inf:
            raise UserError(f"cuts of {aspect} {tuple(own)} are not two growing numbers: give (poor ends, good begins)")
    groups: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for rating in ratings:
        if rating.aspect in cuts:
            groups[rating.image_id, rating.aspect].append(rating)
    if not groups:
        raise UserError(f"0 ratings are of an aspect with cuts and at least 1 is needed: rate {', '.join(cuts)}")
    probabilities: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for (image_id, aspect), group in groups.items():
        probabilities[image_id][aspect] = _soft(group, cuts[aspect]) if soft else _hard(group, cuts[aspect])
    counts = {image_id: len(group) for (image_id, aspect), group in groups.items() if aspect == "quality"}
    return Grades(probabilities, counts)


def _hard(group: Sequence[Rating], cuts: tuple[float, float]) -> np.ndarray:
    return _one_hot(float(np.mean([rating.mean for rating in group])), cuts)


def _soft(group: Sequence[Rating], cuts: tuple[float, float]) -> np.ndarray:
    return np.mean([_normal_mass(rating, cuts) for rating in group], axis=0)  # (3,)


def _normal_mass(rating: Rating, cuts: tuple[float, float]) -> np.ndarray:
    if rating.std == 0:
        return _one_hot(rating.mean, cuts)
    raters = NormalDist(rating.mean, rating.std)
    return np.diff([0.0, raters.cdf(cuts[0]), raters.cdf(cuts[1]), 1.0])  # (3,)


def _one_hot(mean: float, cuts: tuple[float, float]) -> np.ndarray:
    return np.eye(len(GRADES))[np.digitize(mean, cuts)]  # (3,); a mean on a cut takes the better grade


def _parse(line: Mapping[str, Any]) -> Rating:
    check_keys(line, {"image_id", "aspect", "mean", "std", "name"}, set())
    return Rating(line["image_id"], line["aspect"], line["mean"], line["std"], raters_name=line["name"])


def _line(rating: Rating) -> dict[str, Any]:
    return {
        "image_id": rating.image_id,
        "aspect": rating.aspect,
        "mean": rating.mean,
        "std": rating.std,
        "name": rating.raters_name,
    }
