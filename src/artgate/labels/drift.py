"""Whether an annotator's grades drift in time: kinder, stricter, or further from the others than before.

An annotator's votes, in the order in which they were given, are cut into blocks. In each, two things are looked at:
how far the grades lie above those of the others on the same artworks, and how far from them. A poor artwork can only
be graded too high, so a stretch of poor ones would look like drift. Therefore blocks are compared among artworks that
the others gave the same grade, and not at all where the others' grades differ from block to block: then it was the
artworks, or one of the others, that changed.
"""

from dataclasses import dataclass

import numpy as np

from artgate.labels.agreement import Others
from artgate.labels.ballots import Ballots

LEAST_IN_BLOCK, MOST_BLOCKS, LEAST_BLOCKS = 25, 6, 3
# How often a whole set of annotators that do not drift may give an alarm.
FALSE_ALARMS = 0.05
# The p-value below which blocks of artworks are taken to differ.
SURELY_UNLIKE = 0.05


@dataclass(frozen=True)
class Block:
    """votes: that others graded too. level: mean grade above the others', in grades; distance: mean distance."""

    votes: int
    level: float
    distance: float


@dataclass(frozen=True)
class Drift:
    """The blocks of one annotator in time, none where votes are too few, and which of the two moved among them.

    comparable: whether the others graded all blocks alike. level_p, distance_p: p-values, already multiplied by the
    number of tests over all annotators (Bonferroni), at most 1; None where there was nothing to test.
    """

    blocks: tuple[Block, ...]
    comparable: bool
    level_p: float | None
    distance_p: float | None

    @property
    def level_moved(self) -> bool:
        """Whether the annotator grew kinder or stricter."""
        return self.level_p is not None and self.level_p < FALSE_ALARMS

    @property
    def distance_moved(self) -> bool:
        """Whether the annotator came to agree less, or more, with the others."""
        return self.distance_p is not None and self.distance_p < FALSE_ALARMS


def drifts(told: Ballots, rest: Others) -> list[Drift]:
    """Of each of the M annotators, in order. Votes without a time, or that nobody else voted beside, are left out."""
    divided = [_in_time(told, rest, person) for person in range(len(told.annotators))]
    blocks = [_blocks(len(own)) for own in divided]
    tests = 2 * sum(bool(len(of)) for of in blocks)
    return [_drift(told.grade[own], rest.mean[own], of, tests) for own, of in zip(divided, blocks, strict=True)]


def _drift(grades: np.ndarray, expected: np.ndarray, blocks: np.ndarray, tests: int) -> Drift:
    """grades: (V,) one's own in order of time; expected: (V,) the others' mean of the same artworks."""
    if not len(blocks):
        return Drift((), False, None, None)
    above = grades - expected
    told = [above[blocks == block] for block in np.unique(blocks)]
    found = tuple(Block(len(own), float(own.mean()), float(np.abs(own).mean())) for own in told)
    if not _alike(expected, blocks):
        return Drift(found, False, None, None)
    strata = np.rint(2 * expected)
    return Drift(
        found,
        True,
        _corrected(mean_score_test(above, blocks, strata), tests),
        _corrected(mean_score_test(np.abs(above), blocks, strata), tests),
    )


def _alike(expected: np.ndarray, blocks: np.ndarray) -> bool:
    from scipy.stats import kruskal

    if np.ptp(expected) == 0:
        return True
    return float(kruskal(*(expected[blocks == block] for block in np.unique(blocks))).pvalue) >= SURELY_UNLIKE


def mean_score_test(values: np.ndarray, blocks: np.ndarray, strata: np.ndarray) -> float | None:
    """p-value of the extended Mantel-Haenszel test of mean scores (Landis, Heyman and Koch, 1978).

    values: (V,) scores; blocks, strata: (V,) whole numbers. Asks whether the blocks differ in their scores beyond
    what drawing the blocks anew within each stratum would give. None where no stratum leaves anything to draw.
    """
    from scipy.stats import chi2

    names, block = np.unique(blocks, return_inverse=True)
    excess, covariance = np.zeros(len(names)), np.zeros((len(names), len(names)))
    for stratum in np.unique(strata):
        own = strata == stratum
        size = int(own.sum())
        if size < 2:
            continue
        votes = np.bincount(block[own], minlength=len(names))
        centred = values[own] - values[own].mean()
        excess += np.bincount(block[own], centred, minlength=len(names))
        # Sums over a draw without replacement: the covariance of the hypergeometric distribution.
        covariance += centred @ centred / (size - 1) * (np.diag(votes) - np.outer(votes, votes) / size)
    freedom = int(np.linalg.matrix_rank(covariance, hermitian=True))
    if not freedom:
        return None
    return float(chi2.sf(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess, freedom))


def _in_time(told: Ballots, rest: Others, person: int) -> np.ndarray:
    own = np.flatnonzero((told.annotator == person) & rest.known & ~np.isnan(told.time))
    return own[np.argsort(told.time[own], kind="stable")]


def _blocks(votes: int) -> np.ndarray:
    """(votes,) the block of each, of about one size; empty where there are too few for any."""
    count = min(votes // LEAST_IN_BLOCK, MOST_BLOCKS)
    return np.arange(votes) * count // votes if count >= LEAST_BLOCKS else np.empty(0, dtype=np.intp)


def _corrected(p_value: float | None, tests: int) -> float | None:
    return None if p_value is None else min(1.0, tests * p_value)
