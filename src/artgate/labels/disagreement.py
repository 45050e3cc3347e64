"""The artworks that people disagree on most."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from artgate.labels.ballots import Ballots, ballots
from artgate.labels.votes import Vote


@dataclass(frozen=True)
class Disputed:
    """An artwork whose votes differ. counts: votes poor, average, good. spread: their variance over the largest there
    is, in (0, 1]: 1 where half say poor and half good. entropy: of their shares, in bits.
    """

    image_id: str
    counts: tuple[int, ...]
    spread: float
    entropy: float


def by_disagreement(votes: Iterable[Vote], aspect: str = "quality") -> list[str]:
    """image_ids of the artworks whose votes differ, the most disputed first: what to ask more people about."""
    return [artwork.image_id for artwork in disputed(ballots(votes, aspect))]


def disputed(told: Ballots) -> list[Disputed]:
    """Artworks whose votes differ: by spread, then entropy, then fewer votes first, for there one more decides most.

    An artwork with a ground-truth vote is settled, and left out.
    """
    counts = told.counts
    total = counts.sum(1)
    open_ = np.flatnonzero(((counts > 0).sum(1) > 1) & (told.truth < 0))
    shares = counts[open_] / total[open_, None]
    grades = np.arange(counts.shape[1])
    mean = shares @ grades
    spread = (shares @ grades**2 - mean**2) / ((len(grades) - 1) / 2) ** 2
    entropy = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)
    order = np.lexsort((total[open_], -entropy.round(9), -spread.round(9)))
    return [
        Disputed(told.artworks[open_[row]], tuple(counts[open_[row]].tolist()), float(spread[row]), float(entropy[row]))
        for row in order
    ]
