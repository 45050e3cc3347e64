"""Who votes too fast: lead times against those of the others, and against one's own."""

from dataclasses import dataclass

import numpy as np

from artgate.labels.ballots import Ballots

# Surveys call an answer hurried below a third of the usual time. People differ by less, pictures by more: so the rule
# is about medians over many artworks, which neither long pauses nor single quick votes move.
HURRIED = 1 / 3
# Fewer known lead times tell nothing; so many make a block of the latest votes.
LEAST_TIMED = 20


@dataclass(frozen=True)
class Pace:
    """The lead times of one annotator. timed: votes whose lead time is known; seconds: their median.

    usual: the median of the other annotators' medians; latest: the median of the last `LEAST_TIMED` votes in time.
    None where fewer than `LEAST_TIMED` are known (for latest, twice as many).
    hurried_share: of the timed votes, those that took less than a third of the usual time.
    """

    timed: int
    seconds: float | None
    usual: float | None
    latest: float | None
    hurried_share: float | None

    @property
    def hurries(self) -> bool:
        """Whether the median is less than a third of the others'."""
        return self.seconds is not None and self.usual is not None and self.seconds < HURRIED * self.usual

    @property
    def hurries_lately(self) -> bool:
        """Whether the latest votes took less than a third of one's own median."""
        return self.seconds is not None and self.latest is not None and self.latest < HURRIED * self.seconds


def paces(told: Ballots) -> list[Pace]:
    """Of each of the M annotators, in order."""
    known = ~np.isnan(told.lead_time)
    own = [told.lead_time[known & (told.annotator == person)] for person in range(len(told.annotators))]
    medians = np.array([np.median(times) if len(times) >= LEAST_TIMED else np.nan for times in own])
    return [
        _pace(times, _latest(told, known & (told.annotator == person)), medians, person)
        for person, times in enumerate(own)
    ]


def _pace(times: np.ndarray, latest: np.ndarray, medians: np.ndarray, person: int) -> Pace:
    others = np.delete(medians, person)
    others = others[~np.isnan(others)]
    usual = float(np.median(others)) if len(others) else None
    enough = len(times) >= LEAST_TIMED
    return Pace(
        len(times),
        float(medians[person]) if enough else None,
        usual,
        float(np.median(latest)) if len(latest) else None,
        float(np.mean(times < HURRIED * usual)) if enough and usual is not None else None,
    )


def _latest(told: Ballots, own: np.ndarray) -> np.ndarray:
    """Lead times of the last votes of those that have both times; none where they are most of all there is."""
    dated = np.flatnonzero(own & ~np.isnan(told.time))
    if len(dated) < 2 * LEAST_TIMED:
        return np.empty(0)
    in_order = dated[np.argsort(told.time[dated], kind="stable")]
    return told.lead_time[in_order[-LEAST_TIMED:]]
