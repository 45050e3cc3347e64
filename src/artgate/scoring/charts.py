"""What the charts of a run are drawn from: numbers only, so that the page and the pictures of a run show the same."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from artgate.labels.grades import GRADES
from artgate.scoring.intervals import CONFIDENCE, Resamples
from artgate.scoring.metrics import RELIABILITY_BINS, expected_grade, grade_calibration_error

LEAST_OF_A_BIN = 5
LEAST_ACCEPTED = 10  # a precision of fewer artworks says nothing
YIELDS = 60
SCORE_BINS = 20


@dataclass(frozen=True)
class Bin:
    """Artworks whose probability of a grade is alike: said, came: mean probability, and share that had the grade."""

    said: float
    came: float
    low: float
    high: float
    count: int

    @property
    def enough(self) -> bool:
        """Whether there are enough of them for a line through charts to heed: one artwork is 0 or 1."""
        return self.count >= LEAST_OF_A_BIN


@dataclass(frozen=True)
class Reliability:
    """Are the probabilities of a grade true? error: the mean gap over the bins, weighted by their counts."""

    grade: str
    bins: list[Bin]
    error: float


@dataclass(frozen=True)
class Passing:
    """What a gate at `threshold` does: accepts the share `passed`, of which `precision` is good (95 %: low to high)."""

    passed: float
    threshold: float
    precision: float
    low: float
    high: float


def reliability_of_grades(probabilities: np.ndarray, graded: np.ndarray) -> list[Reliability]:
    """For each grade, (N, K) probabilities in equal bins of [0, 1]; intervals are Wilson's, at 95 %."""
    charts = []
    for index, grade in enumerate(GRADES):
        said, came = probabilities[:, index], graded == index
        place = np.minimum((said * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
        bins = []
        for number in np.unique(place):
            own = place == number
            limits = binomtest(int(came[own].sum()), int(own.sum())).proportion_ci(CONFIDENCE, "wilson")
            bins.append(
                Bin(
                    float(said[own].mean()),
                    float(came[own].mean()),
                    float(limits.low),
                    float(limits.high),
                    int(own.sum()),
                )
            )
        charts.append(Reliability(grade, bins, grade_calibration_error(said, came)))
    return charts


def precision_and_yield(
    probabilities: np.ndarray, graded: np.ndarray, resamples: Resamples, kind: str = "score"
) -> list[Passing]:
    """What thresholds on the score would do on N artworks, from the strictest that accepts a few to one that takes all.

    probabilities: (N, K). graded: (N,). kind: "score", or "good" for thresholds on P(good), as in a gate. The intervals
    hold for one threshold that was chosen beforehand, not for all.
    """
    scores = probabilities[:, -1] if kind == "good" else expected_grade(probabilities) / (len(GRADES) - 1)
    good = graded == len(GRADES) - 1
    order = np.argsort(-scores, kind="stable")
    least = min(LEAST_ACCEPTED, len(order))
    counts = np.unique(np.linspace(least, len(order), YIELDS).astype(int))
    drawn = [_precisions(weights[:, order], good[order], counts / len(order)) for weights in resamples.weights()]
    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    precisions = good[order].cumsum()[counts - 1] / counts
    return [
        Passing(
            float(count / len(order)), float(scores[order][count - 1]), float(precision), float(lowest), float(most)
        )
        for count, precision, lowest, most in zip(counts, precisions, low, high, strict=True)
    ]


def _precisions(weights: np.ndarray, good: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(b, N) weights, best first -> (b, S) share of good ones among the best `shares` (S,) of each resample."""
    taken, right = weights.cumsum(1), (weights * good).cumsum(1)
    ends = np.array([np.searchsorted(row, shares * row[-1] - 1e-9) for row in taken]).clip(max=taken.shape[1] - 1)
    return np.take_along_axis(right, ends, 1) / np.take_along_axis(taken, ends, 1)


def scores_by_grade(probabilities: np.ndarray, graded: np.ndarray) -> list[list[int]]:
    """How many artworks of each grade have a score in each of `SCORE_BINS` equal parts of [0, 1]: one list a part."""
    place = np.minimum(expected_grade(probabilities) / (len(GRADES) - 1) * SCORE_BINS, SCORE_BINS - 1).astype(int)
    table = np.zeros((SCORE_BINS, len(GRADES)), dtype=int)
    np.add.at(table, (place, graded), 1)
    return [[int(count) for count in row] for row in table]


def confusion(graded: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    """Counts of people's grade (rows) against the scorer's (columns)."""
    table = np.zeros((len(GRADES), len(GRADES)), dtype=int)
    np.add.at(table, (graded, predicted), 1)
    return [[int(count) for count in row] for row in table]
