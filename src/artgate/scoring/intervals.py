"""How sure a figure is: 95 % intervals by resampling groups of artworks that share a prompt, a copy or a creator.

Artworks of one prompt succeed and fail together, so drawing single artworks would promise too much (Field and Welsh,
"Bootstrapping clustered data", 2007). A resample is told by how often it holds each artwork, which lets every figure
of `metrics.py` be computed for a thousand resamples at once; the two must agree, and a test holds them to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artgate.labels.grades import GRADES
from artgate.scoring.metrics import LEAST_OF_A_GENERATOR, RELIABILITY_BINS, expected_grade, predicted_grade

CONFIDENCE = 0.95
# Below this share of resamples in which a figure is defined, its interval would be of something else.
LEAST_DEFINED = 0.95
# Cells of a table of weights, (resamples, artworks): 32 MB.
MOST_CELLS = 4_000_000
# Means of absolute values: resampling adds noise, and noise only ever adds to them.
ERRORS = ("ece", "classwise_ece")

Interval = tuple[float, float]
Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Resamples:
    """Which artworks each of `count` resamples holds. groups: (N,) the group of each. The same seed draws the same."""

    groups: Sequence[str]
    count: int
    seed: int

    def of(self, statistic: Statistic) -> dict[str, np.ndarray]:
        """What `statistic`, of (b, N) weights, finds: each of its figures for every resample, (count,)."""
        parts = [statistic(weights) for weights in self.weights()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def weights(self) -> Iterator[np.ndarray]:
        """(b, N) how often each artwork is in each resample, until b sum to `count`; as many groups as there are."""
        names, place = np.unique(np.asarray(self.groups, dtype=object).astype(str), return_inverse=True)
        generator = np.random.default_rng(self.seed)
        at_once = max(1, MOST_CELLS // max(len(place), len(names)))
        for start in range(0, self.count, at_once):
            drawn = min(at_once, self.count - start)
            times = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=drawn)  # (b, G)
            yield times[:, place].astype(float)

    def subset(self, rows: np.ndarray) -> "Resamples":
        """Of the artworks `rows` alone, (N,) true or false."""
        return Resamples([group for group, kept in zip(self.groups, rows, strict=True) if kept], self.count, self.seed)


def intervals(found: Mapping[str, float | int | None], drawn: Mapping[str, np.ndarray]) -> dict[str, Interval | None]:
    """The interval of every figure that was drawn. found: the figures themselves; one that is None has none."""
    return {name: interval(found[name], values, name in ERRORS) for name, values in drawn.items()}


def interval(found: float | None, drawn: np.ndarray, centred: bool = False) -> Interval | None:
    """What the middle 95 % of the resamples say; None where the figure is not defined in too many.

    centred: move the resamples to have `found` for their mean.
    """
    defined = drawn[np.isfinite(drawn)]
    if found is None or not len(drawn) or len(defined) < LEAST_DEFINED * len(drawn):
        return None
    if centred:
        defined = np.maximum(defined - defined.mean() + found, 0)
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def differences(
    found: Mapping[str, float | int | None],
    other: Mapping[str, float | int | None],
    drawn: Mapping[str, np.ndarray],
    drawn_other: Mapping[str, np.ndarray],
) -> dict[str, dict[str, float | Interval | None]]:
    """How far figures lie beyond others', on the same resamples: figure -> difference and its interval."""
    table: dict[str, dict[str, float | Interval | None]] = {}
    for name in drawn:
        first, second = found[name], other[name]
        gap = None if first is None or second is None else first - second
        table[name] = {"difference": gap, "interval": interval(gap, drawn[name] - drawn_other[name])}
    return table


def figures(
    probabilities: np.ndarray, targets: np.ndarray, ratings: np.ndarray, generators: Sequence[str | None]
) -> Statistic:
    """`metrics.evaluate` of the same artworks, weighted: of (b, N) weights, each of its figures, (b,); NaN for None."""
    expected = expected_grade(probabilities)
    graded, predicted = targets.argmax(1), predicted_grade(probabilities)
    cells = np.eye(len(GRADES) ** 2)[graded * len(GRADES) + predicted]  # (N, K * K)
    loss = -(targets * np.log(probabilities.clip(1e-12))).sum(1)
    ranks = rank_correlation(expected, ratings)
    inside = _within_generators(expected, ratings, generators)
    good = area_under_roc(graded == len(GRADES) - 1, probabilities[:, -1])
    top, classwise = _calibration_gaps(probabilities, graded)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        confusion = (weights @ cells).reshape(-1, len(GRADES), len(GRADES))
        return {
            "srcc": ranks(weights),
            "plcc": _correlation(weights, expected, ratings),
            "qwk": _kappa(confusion),
            "macro_f1": _macro_f1(confusion),
            "accuracy": np.trace(confusion, axis1=1, axis2=2) / total,
            "auroc_good": good(weights),
            "ece": np.abs(weights @ top).sum(1) / total,
            "classwise_ece": np.mean([np.abs(weights @ gaps).sum(1) / total for gaps in classwise], axis=0),
            "nll": weights @ loss / total,
            "within_generator_srcc": inside(weights),
        }

    return statistic


def rank_correlation(first: np.ndarray, second: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Spearman's, of (N,) and (N,): (b, N) weights -> (b,)."""
    rank_first, rank_second = _ranker(first), _ranker(second)
    return lambda weights: _correlation(weights, rank_first(weights), rank_second(weights))


def area_under_roc(positive: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of (N,) and (N,): (b, N) weights -> (b,). The mean rank of the positive among the negative, ties half."""
    ranker = _ranker(score)

    def area(weights: np.ndarray) -> np.ndarray:
        among = weights * ~positive
        negatives, positives = among.sum(1), (weights * positive).sum(1)
        below = ranker(among)  # half of the ties counts as below
        return _divided((weights * positive * below).sum(1), negatives * positives)

    return area


def judgement_figures(
    judged: np.ndarray, opinions: np.ndarray, cuts: tuple[float, float], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """How well judgements foretell opinions: SRCC, and after cutting both into grades QWK and macro-F1, (b,) each.

    judged: (b, N), another for each resample. opinions: (N,). weights: (b, N).
    """
    graded, guessed = np.digitize(opinions, cuts), np.digitize(judged, cuts)  # (N,), (b, N)
    confusion = np.zeros((len(judged), len(GRADES), len(GRADES)))
    for row, column in np.ndindex(*confusion.shape[1:]):
        confusion[:, row, column] = (weights * ((graded == row) & (guessed == column))).sum(1)
    order = np.argsort(judged, axis=1)
    own = np.take_along_axis(weights, order, axis=1)
    ranks = np.empty_like(own)
    np.put_along_axis(ranks, order, own.cumsum(1) - own / 2, axis=1)
    srcc = _correlation(weights, ranks, _ranker(opinions)(weights))
    return {"srcc": srcc, "qwk": _kappa(confusion), "macro_f1": _macro_f1(confusion)}


def calibration_by_chance(probabilities: np.ndarray, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """The calibration errors that these (N, K) probabilities would show if they were exactly true.

    Few artworks make any errors look larger than nothing: a scorer cannot be told from a perfectly calibrated one below
    `most`, the level that perfect calibration keeps to in 95 of 100 draws.
    """
    generator = np.random.default_rng(seed)
    tops, classwise = [], []
    limits = probabilities.cumsum(1)[:, :-1]  # (N, K - 1)
    for _ in range(draws):
        graded = (generator.random(len(probabilities))[:, None] > limits).sum(1)
        top, each = _calibration_gaps(probabilities, graded)
        tops.append(np.abs(top.sum(0)).sum() / len(graded))
        classwise.append(np.mean([np.abs(gaps.sum(0)).sum() for gaps in each]) / len(graded))
    return {
        name: {"mean": float(np.mean(found)), "most": float(np.quantile(found, CONFIDENCE))}
        for name, found in zip(ERRORS, (tops, classwise), strict=True)
    }


def _calibration_gaps(probabilities: np.ndarray, graded: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """What each artwork adds to each bin: (N, bins) of the likeliest grade, and the same of every grade."""
    top = _gaps(probabilities.max(1), probabilities.argmax(1) == graded)
    return top, [_gaps(probabilities[:, grade], graded == grade) for grade in range(probabilities.shape[1])]


def _gaps(said: np.ndarray, came: np.ndarray) -> np.ndarray:
    bins = np.minimum((said * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    return np.eye(RELIABILITY_BINS)[bins] * (said - came)[:, None]


def _ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(N,) values: (b, N) weights -> (b, N) how much weight lies below each value, and half of that at it."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    place = np.empty(len(values), dtype=int)
    place[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))

    def ranks(weights: np.ndarray) -> np.ndarray:
        own = np.add.reduceat(weights[:, order], starts, axis=1)  # (b, distinct values)
        return (own.cumsum(1) - own / 2)[:, place]

    return ranks


def _within_generators(
    expected: np.ndarray, ratings: np.ndarray, generators: Sequence[str | None]
) -> Callable[[np.ndarray], np.ndarray]:
    """The mean over generators with enough artworks; in a resample, over those of them that it has."""
    made_by = np.array([generator or "" for generator in generators])
    each = []
    for name in sorted(set(made_by.tolist()) - {""}):
        rows = np.flatnonzero(made_by == name)
        if len(rows) >= LEAST_OF_A_GENERATOR:
            each.append((rows, rank_correlation(expected[rows], ratings[rows])))

    def mean(weights: np.ndarray) -> np.ndarray:
        if not each:
            return np.full(len(weights), np.nan)
        found = np.array([ranks(weights[:, rows]) for rows, ranks in each])  # (generators, b)
        return _divided(np.nansum(found, axis=0), np.isfinite(found).sum(0))

    return mean


def _correlation(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's of (b, N) or (N,) values under (b, N) weights; NaN where one side does not vary."""
    total = weights.sum(1, keepdims=True)
    total[total == 0] = np.nan
    first = first - (weights * first).sum(1, keepdims=True) / total
    second = second - (weights * second).sum(1, keepdims=True) / total
    spread = (weights * first**2).sum(1) * (weights * second**2).sum(1)
    # What rounding leaves of a constant is no spread.
    scale = (np.abs(first).max(1) * np.abs(second).max(1) * total[:, 0]) ** 2
    spread[spread <= 1e-18 * scale] = 0
    return _divided((weights * first * second).sum(1), np.sqrt(spread))


def _kappa(confusion: np.ndarray) -> np.ndarray:
    """(b, K, K) weights of people's grade and the scorer's -> (b,); NaN where both hold the same single grade."""
    rows, columns = confusion.sum(2), confusion.sum(1)
    distance = (np.arange(len(GRADES))[:, None] - np.arange(len(GRADES))) ** 2
    by_chance = rows[:, :, None] * columns[:, None, :] / confusion.sum((1, 2))[:, None, None]
    return 1 - _divided((confusion * distance).sum((1, 2)), (by_chance * distance).sum((1, 2)))


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    both = confusion.sum(2) + confusion.sum(1)  # (b, K)
    found = np.divide(2 * np.diagonal(confusion, axis1=1, axis2=2), both, out=np.zeros_like(both), where=both > 0)
    return found.sum(1) / (both > 0).sum(1)


def _divided(number: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(number, by, out=np.full(len(number), np.nan), where=np.asarray(by) != 0)
