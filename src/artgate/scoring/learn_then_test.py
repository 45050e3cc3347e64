"""Which threshold holds a precision with a stated confidence: Learn then Test, on scores and what people said.

Angelopoulos, Bates, Candes, Jordan and Lei ("Learn then Test", 2021): thresholds are hypotheses "its precision is below
the one asked for", each with a p-value from the labels that it accepts, tested in an order that no label decided
(fixed-sequence testing), the strictest first. The first that cannot be rejected ends the sequence, so the chance that
any wrong one is rejected is at most 1 - confidence, however many there are.

Two choices make few labels go far. The p-value is the exact binomial one, the tail that Clopper and Pearson invert.
And thresholds are told by how many they accept: each lies just above one of the scores, so that, given that score,
those above it are independent draws from what it accepts. That the sequence as a whole keeps its promise needs a scorer
whose precision does not rise as the threshold falls.

Artworks of one prompt succeed and fail together. Their labels are worth fewer, by the design effect 1 + (m - 1) rho
(Kish, 1965) of a mean group size m among the accepted and the correlation rho of mistakes within groups; the binomial
is taken at that effective number.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Each threshold accepts so many times more than the one before it: fewer steps are fewer chances to stop by bad luck.
STEP = 1.1
# The sequence begins where at least this share is accepted: a gate that passes less is of no use, and the few best
# scores of very many decide too little to begin with.
LEAST_YIELD = 1 / 30
# With fewer groups nothing is known of how alike their artworks are: then a group counts as one label.
LEAST_GROUPS = 20
# What "n labels would do" means, and the multiples of the labels at hand that are tried.
LIKELY = 0.8
MULTIPLES = (1.5, 2, 3, 4, 6, 8, 12, 16)
RESAMPLED = 40

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Groups = NDArray[np.intp]


@dataclass(frozen=True)
class Labels:
    """N labelled artworks: scores (N,), what a gate looks at; right (N,), good enough; groups (N,), 0 and up."""

    scores: Scores
    right: Flags
    groups: Groups

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Step:
    """One threshold of the sequence. accepted, right: labels at or above it, and the good ones among them.

    effective: what the accepted labels are worth if they were independent, at most `accepted`. p_value: of "precision
    is below the one asked for".
    """

    threshold: float
    accepted: int
    right: int
    effective: float
    p_value: float

    @property
    def precision(self) -> float:
        """The share of the accepted that are right."""
        return self.right / self.accepted


def certified(labels: Labels, precision: float, confidence: float) -> Step | None:
    """The lowest threshold that holds `precision` with `confidence`; None where none does."""
    found = None
    for step in sequence(labels, precision, confidence):
        if step.p_value > 1 - confidence:
            break
        found = step
    return found


def sequence(labels: Labels, precision: float, confidence: float) -> Iterator[Step]:
    """The thresholds in the order of testing, the strictest first. Where they lie is not the labels' doing.

    It begins with the first that accepts enough to be certified with one mistake, and at least `LEAST_YIELD`.
    """
    enough = fewest_accepted(precision, confidence, mistakes=1)
    order = np.argsort(-labels.scores, kind="stable")
    scores, right, groups = labels.scores[order], labels.right[order], labels.groups[order]
    alike = correlation_within_groups(labels)
    for threshold, accepted in _thresholds(scores, first=max(enough, int(np.ceil(LEAST_YIELD * len(scores))))):
        effective = accepted / design_effect(groups[:accepted], alike)
        if effective < enough:
            continue
        good = int(right[:accepted].sum())
        worth = effective / accepted
        yield Step(threshold, accepted, good, effective, p_value(good * worth, (accepted - good) * worth, precision))


def p_value(right: float, wrong: float, precision: float) -> float:
    """The chance of so few wrong or fewer among right + wrong, were the true precision `precision`.

    The binomial's lower tail, P(X <= wrong), by its identity with the beta function, which takes effective numbers that
    are not whole as well.
    """
    from scipy.special import betainc

    return float(betainc(right, wrong + 1, precision)) if right > 0 else 1.0


def fewest_accepted(precision: float, confidence: float, mistakes: int) -> int:
    """The fewest accepted labels, `mistakes` of them wrong, that certify `precision` with `confidence`."""
    right = 1
    while p_value(right, mistakes, precision) > 1 - confidence:
        right += 1
    return right + mistakes


def correlation_within_groups(labels: Labels) -> float:
    """How alike the mistakes of one group's artworks are, in [0, 1]: their intraclass correlation.

    A mistake is what is left of "right" once the score is allowed for (isotonic regression); the estimator is that of
    the analysis of variance, for groups of any sizes. 0 where every artwork is a group of its own; 1 where there are
    fewer than `LEAST_GROUPS` groups.
    """
    from sklearn.isotonic import IsotonicRegression

    _, group, sizes = np.unique(labels.groups, return_inverse=True, return_counts=True)
    n, count = len(labels), len(sizes)
    if count == n:
        return 0.0
    if count < LEAST_GROUPS:
        return 1.0
    expected = IsotonicRegression(out_of_bounds="clip").fit_transform(labels.scores, labels.right.astype(float))
    mistakes = labels.right - expected
    mistakes -= mistakes.mean()
    between = float((np.bincount(group, mistakes) ** 2 / sizes).sum())
    within = (float((mistakes**2).sum()) - between) / (n - count)
    between /= count - 1
    size = (n - (sizes**2).sum() / n) / (count - 1)
    total = between + (size - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 0 else 0.0


def design_effect(groups: Groups, alike: float) -> float:
    """How many labels count as one, at least 1. groups: of the accepted; alike: of `correlation_within_groups`."""
    _, sizes = np.unique(groups, return_counts=True)
    return 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * alike


def yield_interval(labels: Labels, threshold: float) -> tuple[float, float, float]:
    """The share of the artworks at or above the threshold, and its 95 % confidence interval over new groups.

    Clopper and Pearson's at the effective number of artworks, by the variance between groups.
    """
    from scipy.stats import beta

    taken = labels.scores >= threshold
    n, share = len(taken), float(taken.mean())
    _, group = np.unique(labels.groups, return_inverse=True)
    spread = float((np.bincount(group, taken - share) ** 2).sum()) / n**2
    effective = n / max(1.0, spread * n / (share * (1 - share))) if 0 < share < 1 else float(group.max() + 1)
    hits, misses = share * effective, (1 - share) * effective
    low = float(beta.ppf(0.025, hits, misses + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, misses)) if misses > 0 else 1.0
    return share, low, high


def labels_needed(labels: Labels, precision: float, confidence: float, seed: int = 0) -> int | None:
    """How many labels like these would certify with a chance of `LIKELY`; None where sixteen times as many do not.

    By resampling whole groups: what the scorer can and cannot tell apart stays as observed.
    """
    draw = np.random.default_rng(seed)
    _, group = np.unique(labels.groups, return_inverse=True)
    members = [np.flatnonzero(group == one) for one in range(group.max() + 1)]
    for multiple in MULTIPLES:
        count = round(multiple * len(members))
        won = sum(
            certified(_resampled(labels, members, draw.integers(len(members), size=count)), precision, confidence)
            is not None
            for _ in range(RESAMPLED)
        )
        if won >= LIKELY * RESAMPLED:
            return round(multiple * len(labels))
    return None


def one_per_group(labels: Labels, seed: int = 0) -> Labels:
    """One artwork of each group, drawn at random: independent whatever groups have in common, and far fewer."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first = np.unique(labels.groups[order], return_index=True)
    rows = order[first]
    return Labels(labels.scores[rows], labels.right[rows], labels.groups[rows])


def _thresholds(scores: Scores, first: int) -> Iterator[tuple[float, int]]:
    """(threshold, accepted) of falling scores, accepting `first` or more, the last accepting all.

    A threshold is the least number above the score that it just does not accept.
    """
    accepted, wanted = 0, float(first)
    while accepted < len(scores):
        if round(wanted) >= len(scores):
            yield 0.0, len(scores)
            return
        refused = float(scores[round(wanted)])
        now = int(np.searchsorted(-scores, -refused))  # of equal scores none is accepted
        if now > accepted:
            accepted = now
            yield float(np.nextafter(refused, 2.0)), accepted
        wanted = max(wanted * STEP, wanted + 1)


def _resampled(labels: Labels, members: list[NDArray[np.intp]], drawn: NDArray[np.int64]) -> Labels:
    rows = np.concatenate([members[one] for one in drawn])
    groups = np.repeat(np.arange(len(drawn)), [len(members[one]) for one in drawn])
    return Labels(labels.scores[rows], labels.right[rows], groups)
