"""Which artworks to look at to judge a scorer: its best and worst of each grade, its mistakes, grades to doubt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.labels.suspects import suspects
from artgate.scoring.metrics import expected_grade, predicted_grade

PICTURE_PIXELS = 256
MOST_OF_A_GRADE, MOST_MISTAKES, MOST_SUSPECTS = 6, 12, 24


@dataclass(frozen=True)
class Pick:
    """An artwork with people's grade and the scorer's, its probabilities of the grades, and its score in [0, 1].

    reason: why it is shown, where that is not plain.
    """

    artwork: Artwork
    graded: str
    predicted: str
    probabilities: dict[str, float]
    score: float
    reason: str = ""

    @property
    def surprise(self) -> float:
        """The share that the scorer gave people's grade, negated log."""
        return float(-np.log(max(self.probabilities[self.graded], 1e-12)))


def picture(collection: Collection, chosen: Pick) -> Image.Image | None:
    """Its artwork, small; None where the file is gone or damaged since its features were taken."""
    try:
        image = collection.image(chosen.artwork)
    except UserError:
        return None
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    return image


@dataclass(frozen=True)
class Picks:
    """best, worst: for each grade of people's, the artworks of it that score highest and lowest, the extreme first.

    mistakes: of another grade than the scorer's, those first whose grade it thought least likely. suspects: grades
    that are probably wrong, the worst first; suspected: how many there are.
    """

    best: dict[str, list[Pick]]
    worst: dict[str, list[Pick]]
    mistakes: list[Pick]
    suspects: list[Pick]
    suspected: int


def pick(artworks: Sequence[Artwork], probabilities: np.ndarray, targets: np.ndarray) -> Picks:
    """Choose among N artworks that the scorer did not learn from. probabilities, targets: (N, K)."""
    graded, predicted = targets.argmax(1), predicted_grade(probabilities)
    scores = expected_grade(probabilities) / (len(GRADES) - 1)
    picks = [
        Pick(
            artwork,
            GRADES[graded[row]],
            GRADES[predicted[row]],
            dict(zip(GRADES, probabilities[row].tolist(), strict=True)),
            float(scores[row]),
        )
        for row, artwork in enumerate(artworks)
    ]
    rising = np.argsort(scores, kind="stable")
    own = {grade: [picks[row] for row in rising if graded[row] == index] for index, grade in enumerate(GRADES)}
    # Where a grade has few artworks, none is shown as best and worst alike.
    shown = {grade: min(MOST_OF_A_GRADE, len(found) // 2) for grade, found in own.items()}
    doubted = suspects([artwork.image_id for artwork in artworks], graded, probabilities)
    by_id = {chosen.artwork.image_id: chosen for chosen in picks}
    return Picks(
        {grade: found[::-1][: shown[grade]] for grade, found in own.items()},
        {grade: found[: shown[grade]] for grade, found in own.items()},
        sorted((chosen for chosen in picks if chosen.graded != chosen.predicted), key=lambda p: -p.surprise)[
            :MOST_MISTAKES
        ],
        [replace(by_id[suspect.image_id], reason=suspect.reason) for suspect in doubted[:MOST_SUSPECTS]],
        len(doubted),
    )
