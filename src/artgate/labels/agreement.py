"""How far people agree: Krippendorff's alpha of all, quadratic kappa of each two, and each against the others."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from artgate.labels.ballots import Ballots
from artgate.labels.grades import GRADES

# Fewer artworks that two people both graded say nothing about the two.
LEAST_SHARED = 20
DRAWS = 1000
CONFIDENCE = 0.95
K = len(GRADES)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two annotators. artworks: how many both graded. kappa: None where all their grades are the same one."""

    first: str
    second: str
    artworks: int
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """What the votes on one aspect say together.

    votes: of people; anchors: artworks whose grade a ground-truth vote fixed; contradicted: with two such grades.
    overlapping: artworks with two votes or more, which alone tell anything. alpha: Krippendorff's, for ordered grades;
    None where fewer than two grades were given to those. interval: where it lies by resampling the artworks.
    pairs: of annotators with `LEAST_SHARED` artworks in common.
    """

    aspect: str
    artworks: int
    votes: int
    annotators: int
    anchors: int
    contradicted: int
    overlapping: int
    alpha: float | None
    interval: Interval | None
    pairs: tuple[Pair, ...]


def agreement(told: Ballots, aspect: str) -> Agreement:
    """All of it, of the votes on `aspect`. Ground-truth votes are no opinions: they are left out."""
    counts = told.counts
    return Agreement(
        aspect,
        len(told.artworks),
        len(told),
        len(told.annotators),
        int((told.truth >= 0).sum()),
        told.contradicted,
        int((counts.sum(1) >= 2).sum()),
        krippendorff_alpha(told.artwork, told.annotator, told.grade),
        alpha_interval(counts),
        tuple(pairs(told)),
    )


def krippendorff_alpha(artwork: np.ndarray, annotator: np.ndarray, grade: np.ndarray) -> float | None:
    """Alpha for ordered grades (Krippendorff, "Computing Krippendorff's alpha-reliability", 2011), of V votes.

    artwork, annotator: (V,) any numbers; grade: (V,) ranks from 0. 1 is perfect, 0 is chance. None where artworks with
    two votes or more have fewer than two grades between them: then there is nothing to agree about.
    """
    import pandas as pd
    from crowdkit.metrics.data import alpha_krippendorff  # imports nltk: a second

    _, place, votes = np.unique(artwork, return_inverse=True, return_counts=True)
    marginals = np.bincount(grade[votes[place] >= 2])
    if (marginals > 0).sum() < 2:
        return None
    table = pd.DataFrame({"task": artwork, "worker": annotator, "label": grade})
    return float(alpha_krippendorff(table, ordinal_distance(marginals)))


def ordinal_distance(marginals: np.ndarray) -> Callable[[Hashable, Hashable], float]:
    """Krippendorff's squared distance of two ranks: how many votes lie from the one to the other, each end half.

    marginals: (R,) how often each rank was given, on artworks with two votes or more. So two grades that hardly anyone
    uses lie close together.
    """
    distances = _squared_distances(np.asarray(marginals, dtype=np.float64))

    def distance(first: Any, second: Any) -> float:
        return float(distances[first, second])

    return distance


def alpha_interval(counts: np.ndarray, draws: int = DRAWS, confidence: float = CONFIDENCE) -> Interval | None:
    """Where alpha lies, by drawing the artworks anew; None where alpha is not defined, or on fewer than two artworks.

    counts: (N, R) how many votes gave each rank to each artwork. The annotators are taken as they are.
    """
    patterns, times = np.unique(counts[counts.sum(1) >= 2], axis=0, return_counts=True)  # (P, R), (P,)
    artworks = int(times.sum())
    if artworks < 2 or (patterns.sum(0) > 0).sum() < 2:
        return None
    # Thousands of artworks have a dozen different counts of votes: drawing how often each comes costs nothing.
    drawn = np.random.default_rng(0).multinomial(artworks, times / artworks, size=draws)  # (draws, P)
    alphas = _alphas(patterns, drawn)
    alphas = alphas[np.isfinite(alphas)]
    low, high = np.quantile(alphas, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def pairs(told: Ballots, least: int = LEAST_SHARED) -> list[Pair]:
    """Every two annotators that graded `least` artworks or more in common, with their quadratic kappa."""
    from scipy.sparse import coo_array

    size = (len(told.artworks), len(told.annotators) * K)
    votes = coo_array((np.ones(len(told), dtype=np.int64), (told.artwork, told.annotator * K + told.grade)), shape=size)
    together = (votes.T @ votes).tocsr()  # (M K, M K): how many artworks one gave this grade and the other that one
    found = []
    for first, name in enumerate(told.annotators):
        rows = together[first * K : (first + 1) * K].toarray()  # one person at a time: a crowd's pairs fill the memory
        tables = rows.reshape(K, len(told.annotators), K).transpose(1, 0, 2)
        kappas, shared = quadratic_kappa(tables), tables.sum((1, 2))
        for second in np.flatnonzero(shared[first + 1 :] >= least) + first + 1:
            found.append(Pair(name, told.annotators[second], int(shared[second]), _defined(kappas[second])))
    return found


def quadratic_kappa(tables: np.ndarray) -> np.ndarray:
    """(..., K, K) counts of one's grade (rows) against another's -> (...) Cohen's kappa with quadratic weights.

    NaN where both used one and the same grade alone. As scikit-learn's, but of many tables at a time.
    """
    grades = np.arange(tables.shape[-1])
    weights = np.square(grades[:, None] - grades)
    total = tables.sum((-2, -1))
    chance = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (weights * tables).sum((-2, -1)) * total / (weights * chance).sum((-2, -1))


@dataclass(frozen=True)
class Others:
    """What the others say of the artwork of each of V votes; an anchor's truth is all that others say of it.

    known: (V,) whether anybody does. mean: (V,) of their grades. low, high: (V,) their median; the two in the middle
    where an even number has two. -1 and NaN where nobody does.
    """

    known: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def others(told: Ballots) -> Others:
    """The votes of all but the one who votes, for every vote."""
    rest = told.counts[told.artwork]  # (V, K)
    rest[np.arange(len(told)), told.grade] -= 1
    certain = told.truth[told.artwork] >= 0
    rest[certain] = np.eye(K, dtype=rest.dtype)[told.truth[told.artwork[certain]]]
    number = rest.sum(1)
    known = number > 0
    with np.errstate(invalid="ignore"):
        mean = rest @ np.arange(K) / number
    below = 2 * rest.cumsum(1)[:, :-1]
    low = (below < number[:, None]).sum(1)
    high = (below <= number[:, None]).sum(1)
    return Others(known, mean, np.where(known, low, -1), np.where(known, high, -1))


def against_others(told: Ballots, rest: Others) -> np.ndarray:
    """(M, K, K) of each annotator: the others' grade (rows) against their own (columns), in votes.

    The others' grade is their median. Where two stand in the middle each has half a vote: to choose one of them
    would show everyone as too kind or too strict.
    """
    tables = np.zeros((len(told.annotators), K, K))
    known = rest.known
    for median in (rest.low, rest.high):
        np.add.at(tables, (told.annotator[known], median[known], told.grade[known]), 0.5)
    return tables


def people(told: Ballots) -> dict[str, float | int | None]:
    """How far people agree, in the figures that a scorer is compared by: quadratic kappas.

    pairwise: the mean over pairs of annotators, each weighing by the artworks it shares. against_others: the mean over
    annotators, each weighing by votes, of the kappa with the others' median. pairs, artworks: how many stand behind.
    """
    # Few annotators share thousands of artworks, a crowd shares few each: pairs of both kinds must count.
    found = [pair for pair in pairs(told, least=2) if pair.kappa is not None]
    return {
        "pairwise": _mean([float(pair.kappa or 0) for pair in found], [pair.artworks for pair in found]),
        "against_others": mean_kappa(against_others(told, others(told))),
        "pairs": len(found),
        "artworks": int((told.counts.sum(1) >= 2).sum()),
    }


def mean_kappa(tables: np.ndarray) -> float | None:
    """The mean kappa of (M, K, K) tables, each weighing by its votes; None where none is defined."""
    kappas, votes = quadratic_kappa(tables), tables.sum((1, 2))
    defined = np.isfinite(kappas)
    return _mean(kappas[defined].tolist(), votes[defined].tolist())


def _squared_distances(marginals: np.ndarray) -> np.ndarray:
    """(..., R) -> (..., R, R)."""
    middle = marginals.cumsum(-1) - marginals / 2  # the votes below a rank and half of its own
    return np.square(middle[..., :, None] - middle[..., None, :])


def _alphas(patterns: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(D,) alphas of D draws, (D, P) times each of P (P, R) counts of votes; NaN where it is not defined."""
    votes = patterns.sum(1)[:, None, None]
    coincidences = patterns[:, :, None] * patterns[:, None, :] - patterns[:, :, None] * np.eye(patterns.shape[1])
    observed = np.tensordot(drawn, coincidences / (votes - 1), axes=1)  # (D, R, R)
    marginals = observed.sum(2)
    distances = _squared_distances(marginals)
    expected = marginals[:, :, None] * marginals[:, None, :] / (marginals.sum(1) - 1)[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (observed * distances).sum((1, 2)) / (expected * distances).sum((1, 2))


def _mean(values: list[float], weights: list[float] | list[int]) -> float | None:
    return float(np.average(values, weights=weights)) if values else None


def _defined(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
