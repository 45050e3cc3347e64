"""What a run's scorer said of the artworks that it is measured on: `predictions.jsonl`, one aspect of one a line.

`{"image_id": …, "aspect": "quality", "probabilities": [0.1, 0.6, 0.3], "grade": [0, 1, 0], "opinion": 2.7,
"generator": "sd1.5", "group": …}`: enough to measure and to draw everything anew.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artgate.artworks.files import as_lines, read_lines, write_atomic
from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES

FILE_NAME = "predictions.jsonl"
KEYS = {"image_id", "aspect", "probabilities", "grade", "opinion", "generator", "group"}


@dataclass(frozen=True)
class Held:
    """N artworks with a grade of one aspect that the scorer did not learn from.

    image_ids: (N,). probabilities, targets: (N, K). opinions: (N,). groups: (N,) what resampling keeps together.
    """

    aspect: str
    image_ids: list[str]
    probabilities: np.ndarray
    targets: np.ndarray
    opinions: np.ndarray
    generators: list[str | None]
    groups: list[str]

    def of(self, kept: np.ndarray) -> "Held":
        """Those of them where (N,) `kept`."""
        places = np.flatnonzero(kept)
        return Held(
            self.aspect,
            [self.image_ids[place] for place in places],
            self.probabilities[kept],
            self.targets[kept],
            self.opinions[kept],
            [self.generators[place] for place in places],
            [self.groups[place] for place in places],
        )


def write_predictions(run: Path, held: Mapping[str, Held]) -> Path:
    """Write the file into the folder of a run, replacing it as a whole. held: by aspect."""
    path = run / FILE_NAME
    write_atomic(path, as_lines(line for own in held.values() for line in _lines(own)))
    return path


def read_predictions(run: Path) -> dict[str, Held]:
    """Of the folder of a run, by aspect, quality first. Raises UserError where the file is missing or damaged."""
    check_run(run)
    path = run / FILE_NAME
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, line in enumerate(read_lines(path), start=1):
        if line.keys() != KEYS or line["aspect"] not in ASPECTS:
            raise UserError(f"{path}, line {number} is not a prediction: restore the file, or train again")
        lines[line["aspect"]].append(line)
    try:
        held = {aspect: _held(aspect, lines[aspect]) for aspect in ASPECTS if aspect in lines}
    except (TypeError, ValueError):
        raise UserError(f"{path} is damaged: restore the file, or train again") from None
    if "quality" not in held:
        raise UserError(f"{path} has 0 predictions of quality: restore the file, or train again")
    return held


def check_run(run: Path) -> None:
    """Raise UserError unless the folder is that of a training run."""
    if not (run / FILE_NAME).is_file():
        raise UserError(f"{run} is not a training run (no {FILE_NAME} in it): name a folder that train.py made")


def _lines(held: Held) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "aspect": held.aspect,
            "probabilities": held.probabilities[row].tolist(),
            "grade": held.targets[row].tolist(),
            "opinion": float(held.opinions[row]),
            "generator": held.generators[row],
            "group": held.groups[row],
        }
        for row, image_id in enumerate(held.image_ids)
    ]


def _held(aspect: str, lines: list[dict[str, Any]]) -> Held:
    """Raises ValueError or TypeError for values that are not what they should be."""
    probabilities, targets = (
        np.array([line[key] for line in lines], dtype=float) for key in ("probabilities", "grade")
    )
    if probabilities.shape != (len(lines), len(GRADES)) or targets.shape != probabilities.shape:
        raise ValueError
    if not (np.isfinite(probabilities).all() and np.isfinite(targets).all()):
        raise ValueError
    return Held(
        aspect,
        [str(line["image_id"]) for line in lines],
        probabilities,
        targets,
        np.array([line["opinion"] for line in lines], dtype=float),
        [line["generator"] for line in lines],
        [str(line["group"]) for line in lines],
    )
