"""How good grade probabilities are: against people's grades, their ratings, and within each generator."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from artgate.labels.grades import GRADES

# Rank correlation over fewer artworks of a generator says nothing.
LEAST_OF_A_GENERATOR = 8
RELIABILITY_BINS = 10

Metrics = dict[str, float | int | None]


def evaluate(
    probabilities: np.ndarray, targets: np.ndarray, ratings: np.ndarray, generators: Sequence[str | None]
) -> Metrics:
    """Every figure of a report, for one aspect.

    probabilities, targets: (N, K), rows sum to 1; a target's grade is its likeliest. ratings: (N,) what people
    thought, on any scale: rank and linear correlation of the expected grade are with these. generators: (N,), who
    made each. A figure that is not defined on these data (one grade only, say) is None.
    """
    expected = expected_grade(probabilities)
    graded, predicted = targets.argmax(1), predicted_grade(probabilities)
    return {
        "n": len(targets),
        "srcc": _defined(spearmanr, expected, ratings),
        "plcc": _defined(pearsonr, expected, ratings),
        "qwk": quadratic_kappa(graded, predicted),
        "macro_f1": macro_f1(graded, predicted),
        "accuracy": float(np.mean(graded == predicted)),
        "auroc_good": auroc(graded == len(GRADES) - 1, probabilities[:, -1]),
        "ece": expected_calibration_error(probabilities, graded),
        "classwise_ece": classwise_calibration_error(probabilities, graded),
        "nll": float(-np.mean((targets * np.log(probabilities.clip(1e-12))).sum(1))),
        "within_generator_srcc": within_generator_srcc(expected, ratings, generators),
    }


def expected_grade(probabilities: np.ndarray) -> np.ndarray:
    """(N, K) -> (N,), in [0, K - 1]."""
    return probabilities @ np.arange(probabilities.shape[1])


def predicted_grade(probabilities: np.ndarray) -> np.ndarray:
    """(N, K) -> (N,) the median grade: the lowest that with all below it has at least half of the probability.

    It is CORN's own rule, and unlike the likeliest grade it knows the order: (.4, .2, .4) is average.
    """
    return (1 - probabilities.cumsum(1)[:, :-1] > 0.5).sum(1)


def quadratic_kappa(graded: np.ndarray, predicted: np.ndarray) -> float | None:
    """Cohen's kappa with quadratic weights, in [-1, 1]; None where both hold the same single grade."""
    if len(np.union1d(graded, predicted)) < 2:
        return None
    return float(cohen_kappa_score(graded, predicted, weights="quadratic", labels=range(len(GRADES))))


def macro_f1(graded: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the grades that occur in either; a grade that is never predicted counts 0."""
    return float(f1_score(graded, predicted, average="macro", zero_division=0))


def auroc(positive: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve; None where all or none are positive."""
    return float(roc_auc_score(positive, score)) if 0 < positive.sum() < len(positive) else None


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = RELIABILITY_BINS) -> list[tuple[float, ...]]:
    """Mean confidence, share right and count, for each of the equal bins of [0, 1] that is not empty."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [(confidence[index == b], right[index == b]) for b in range(bins)]
    return [(float(c.mean()), float(r.mean()), float(len(c))) for c, r in rows if len(c)]


def expected_calibration_error(probabilities: np.ndarray, graded: np.ndarray) -> float:
    """Mean gap between the likeliest grade's probability and how often it is right (Naeini et al., 2015)."""
    rows = reliability(probabilities.max(1), probabilities.argmax(1) == graded)
    return sum(count * abs(confidence - right) for confidence, right, count in rows) / len(graded)


def classwise_calibration_error(probabilities: np.ndarray, graded: np.ndarray) -> float:
    """Mean over the grades of the gap between a grade's probability and how often it is right (Kull et al., 2019)."""
    return float(
        np.mean([grade_calibration_error(probabilities[:, k], graded == k) for k in range(probabilities.shape[1])])
    )


def grade_calibration_error(probability: np.ndarray, came_true: np.ndarray) -> float:
    """The gap between (N,) probabilities of one grade and how often it came true, over equal bins of [0, 1]."""
    return sum(count * abs(said - came) for said, came, count in reliability(probability, came_true)) / len(came_true)


def within_generator_srcc(expected: np.ndarray, ratings: np.ndarray, generators: Sequence[str | None]) -> float | None:
    """Rank correlation inside each generator's artworks, averaged over the generators with enough of them.

    A scorer that only recognises the generator has none of it. None where no generator has enough.
    """
    found = []
    for name in sorted({generator for generator in generators if generator}):
        own = np.array([generator == name for generator in generators])
        if own.sum() >= LEAST_OF_A_GENERATOR:
            found.append(_defined(spearmanr, expected[own], ratings[own]))
    correlations = [correlation for correlation in found if correlation is not None]
    return float(np.mean(correlations)) if correlations else None


def _defined(correlation: Callable[..., Any], first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(correlation(first, second).statistic)
