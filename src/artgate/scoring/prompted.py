"""Alignment, where the encoder has a text tower: a head of its own on image and prompt, beside that of the image alone.

Two heads, so that what is said of quality cannot depend on the prompt: a score follows the picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.fitting import Examples, Fit
from artgate.scoring.graded import GradedArtworks
from artgate.scoring.scorer import PromptedHead
from artgate.scoring.text_encoders import PROMPTED, TextEncoder, joint_features, text_features

Fitting = Callable[[Examples, Sequence[str]], Fit]


def image_aspects(aspects: Sequence[str], text: TextEncoder | None) -> tuple[str, ...]:
    """Those that are judged by the image alone: all of them, where no prompt is read."""
    return tuple(aspect for aspect in aspects if text is None or aspect != PROMPTED)


def of_images(examples: Examples, graded: GradedArtworks, text: TextEncoder | None) -> Examples:
    """The examples with the targets of `image_aspects`."""
    columns = [graded.aspects.index(aspect) for aspect in image_aspects(graded.aspects, text)]
    return examples.of_aspects(columns)


def fit_prompted(
    graded: GradedArtworks,
    examples: Examples,
    parts: Sequence[str],
    text: TextEncoder,
    cache: Path,
    fit: Fitting,
) -> tuple[Fit, list[int]]:
    """Fit alignment on the artworks that have a grade of it and a prompt; the fit, and their rows among all.

    fit: how examples divided into parts become a head. Raises UserError where a part has none of them, or only one
    grade is left to learn from.
    """
    column = graded.aspects.index(PROMPTED)
    prompts = [artwork.provenance.prompt for artwork in graded.artworks]
    known = ~np.isnan(graded.targets[:, column, 0]) & np.array([bool(prompt) for prompt in prompts])
    rows = np.flatnonzero(known).tolist()
    own = [parts[row] for row in rows]
    _check(graded, parts, rows, column)
    features = text_features(text, [prompts[row] or "" for row in rows], cache)
    # Renditions have no features beside the prompt's, and a damaged picture may fit its prompt as well as before.
    alone = replace(examples, renditions=None, damaged=()).of_aspects([column]).of_rows(rows)
    joint = replace(alone, features=joint_features(alone.features, features))
    return fit(joint, own), rows


def with_alignment(fit: Fit, prompted: Fit, rows: Sequence[int], column: int) -> Fit:
    """The fit of images with alignment as one more aspect at `column`; NaN of artworks that it could not be told of."""
    place = {row: index for index, row in enumerate(fit.rows)}
    alignment = np.full((len(fit.rows), 1, len(GRADES)), np.nan)
    alignment[[place[rows[row]] for row in prompted.rows]] = prompted.probabilities
    probabilities = np.concatenate([fit.probabilities[:, :column], alignment, fit.probabilities[:, column:]], axis=1)
    return replace(fit, probabilities=probabilities)


def prompted_head(text: TextEncoder, fit: Fit) -> PromptedHead:
    """What a scorer keeps of it."""
    return PromptedHead(text, fit.head, fit.calibration)


def _check(graded: GradedArtworks, parts: Sequence[str], rows: Sequence[int], column: int) -> None:
    own = [parts[row] for row in rows]
    missing = sorted(set(parts) - set(own) - {""})
    if missing:
        raise UserError(
            f"{len(rows)} artworks have a grade of {PROMPTED} and a prompt, none of them in {', '.join(missing)}: "
            f"grade more, or leave {PROMPTED} out of data.aspects"
        )
    for name in sorted(set(own) - {""}):
        learnt = [row for row in rows if (parts[row] != name if name.isdigit() else parts[row] == "train")]
        grades = {GRADES[grade] for grade in graded.targets[learnt, column].argmax(1)}
        if len(grades) < 2:
            raise UserError(
                f"{PROMPTED} of all {len(learnt)} artworks to learn from is {', '.join(grades)}: grade more"
            )
