"""Which previews end a candidate: chosen on unpruned trajectories, at least cost, under a bound on what is lost.

The bound is exact, however many steps and thresholds there are to choose from, by two properties of samples.

Given its verdict, a trajectory is a draw from the acceptable or from the others, and the two samples are independent.
What is lost depends on the acceptable alone; so any rule that looks at the others alone may decide at which steps to
reject, and costs nothing of the confidence.

And of n independent draws, cut away the lowest by their score at one step, then, of those left, the lowest at another
step, and so on: the chance of a new draw to fall into one of j such cuts is Beta(j, n + 1 - j), whatever the steps
(Wald 1943, Tukey 1947: statistically equivalent blocks). A threshold at the border of each cut therefore loses more
than `max_loss` of the acceptable with the probability that a binomial (n, max_loss) is below j: for one step this is
the bound of Clopper and Pearson with j - 1 lost.

Leaving out a step afterwards, whatever the reason, only loses less.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Of the candidates that the gate rejects, the best this share stand for the acceptable while steps are chosen.
NEAR = 0.25
FEWEST_NEAR = 5
RESAMPLED = 500
# Steps are chosen for so many cuts at once that it takes no more rounds than these.
ROUNDS = 12
# What "n more would do" means, the multiples of the trajectories at hand that are tried, and how often each.
LIKELY = 0.8
MULTIPLES = (1.5, 2, 3, 4, 6, 8)
TRIALS = 15

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Policy = dict[int, float]  # step → the least preview score that goes on


@dataclass(frozen=True)
class Trajectories:
    """N candidates that were all taken to the end.

    steps: (K,), where previews were taken. previews: (N, K) their scores; inf where a candidate never came there.
    final: (N,) final scores, -inf of those that failed. accepted: (N,) the gate's verdicts. spent: (N, K) denoiser
    evaluations until each preview; whole: (N,) until the end.
    """

    steps: tuple[int, ...]
    previews: Scores
    final: Scores
    accepted: Flags
    spent: Scores
    whole: Scores

    def __len__(self) -> int:
        return len(self.final)

    def rows(self, rows: NDArray[np.intp] | Flags) -> "Trajectories":
        """Some of them."""
        parts = {name: getattr(self, name)[rows] for name in ("previews", "final", "accepted", "spent", "whole")}
        return replace(self, **parts)


@dataclass(frozen=True)
class Prices:
    """What there is to pay: for a denoiser evaluation, for a look at a preview, and for finishing a candidate."""

    evaluation: float = 1.0
    look: float = 0.0
    finish: float = 0.0


@dataclass(frozen=True)
class Choice:
    """A policy (empty: reject nothing) and what is to be expected of it.

    blocks: cuts that it makes; acceptable: trajectories behind the bound. loss: expected share of the acceptable that
    is lost; loss_bound: what it stays below with the asked confidence. saving: cost per accepted without previews, over
    that with them; saving_95: its interval. reason: why nothing is rejected. more: how many more trajectories would do,
    where that is known.
    """

    policy: Policy
    blocks: int
    acceptable: int
    loss: float
    loss_bound: float
    saving: float
    saving_95: tuple[float, float]
    reason: str | None = None
    more: int | None = None


def choose(seen: Trajectories, prices: Prices, max_loss: float, confidence: float, seed: int = 0) -> Choice:
    """The policy of least expected cost per accepted that loses at most `max_loss` of the acceptable, with confidence.

    Where none is that sure, or none is surely cheaper than no previews (the lower end of its saving's 95 % interval is
    above 1), the empty policy, with the reason. seed: of the resampling behind intervals.
    """
    found = confident(seen, prices, max_loss, confidence, seed)
    if found.reason is None:
        return found
    return replace(found, more=_more_needed(seen, prices, max_loss, confidence, seed))


def cuts_allowed(acceptable: int, max_loss: float, confidence: float) -> int:
    """How many blocks may be cut off: the most j with P(binomial(acceptable, max_loss) < j) <= 1 - confidence."""
    from scipy.stats import binom

    below = binom.cdf(np.arange(acceptable + 1), acceptable, max_loss)
    return int((below <= 1 - confidence).sum())


def fewest_acceptable(max_loss: float, confidence: float) -> int:
    """The fewest acceptable trajectories with which anything can be rejected."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_loss))


def loss_bound(blocks: int, acceptable: int, confidence: float) -> float:
    """What the share of the acceptable that is lost stays below, with confidence, after so many cuts."""
    from scipy.stats import beta

    return float(beta.ppf(confidence, blocks, acceptable + 1 - blocks)) if blocks else 0.0


def cut(previews: Scores, order: Sequence[int]) -> list[float]:
    """The threshold at each of the columns `order`, in turn: the lowest score of the rows that no earlier cut took.

    previews: (n, K) of the acceptable. Each cut takes the row that lies on its border. Where none of them came, -inf.
    """
    left = np.ones(len(previews), dtype=bool)
    thresholds = []
    for column in order:
        row = int(np.argmin(np.where(left, previews[:, column], math.inf)))
        lowest = float(previews[row, column])
        thresholds.append(lowest if math.isfinite(lowest) else -math.inf)
        left[row] = False
    return thresholds


def left_at(seen: Trajectories, policy: Policy) -> NDArray[np.intp]:
    """(N,) which of the columns ends each trajectory; K where none does."""
    least = np.array([policy.get(step, -math.inf) for step in seen.steps])
    below = np.column_stack([seen.previews < least, np.ones(len(seen), dtype=bool)])
    return below.argmax(axis=1)


def costs(seen: Trajectories, policy: Policy, prices: Prices) -> Scores:
    """(N,) what each trajectory costs under a policy."""
    left, count = left_at(seen, policy), len(seen.steps)
    evaluations = np.column_stack([seen.spent, seen.whole])[np.arange(len(seen)), left]
    watched = np.array([step in policy for step in seen.steps])
    came = np.isfinite(seen.previews) & watched  # (N, K)
    looks = (came & (np.arange(count) <= left[:, None])).sum(axis=1)
    return evaluations * prices.evaluation + looks * prices.look + (left == count) * prices.finish


def rates(seen: Trajectories, policy: Policy) -> tuple[float, float]:
    """(TPR, FPR): the shares of the acceptable and of the others that the previews keep. nan of no candidates."""
    kept = left_at(seen, policy) == len(seen.steps)
    shares = [float(kept[rows].mean()) if rows.any() else math.nan for rows in (seen.accepted, ~seen.accepted)]
    return shares[0], shares[1]


def cost_per_accepted(yield_: float, fraction: float, tpr: float, fpr: float) -> float:
    """Expected full generations per accepted image, with one preview.

    yield_: share of finished images that the gate accepts, in (0, 1].
    fraction: how far along the trajectory the preview is taken, in [0, 1].
    tpr, fpr: shares of acceptable and of other images that the preview keeps.
    """
    kept = yield_ * tpr + (1 - yield_) * fpr
    return (fraction + kept * (1 - fraction)) / (yield_ * tpr)


def confident(seen: Trajectories, prices: Prices, max_loss: float, confidence: float, seed: int = 0) -> Choice:
    """As `choose`, without saying how many more trajectories would do."""
    acceptable = int(seen.accepted.sum())
    allowed = cuts_allowed(acceptable, max_loss, confidence)
    if not allowed:
        return _nothing(
            acceptable,
            f"{acceptable} of {len(seen)} candidates are acceptable, and below "
            f"{fewest_acceptable(max_loss, confidence)} no rejection loses at most {max_loss:g} of them with "
            f"confidence {confidence:g}",
        )
    order = _order(seen.rows(~seen.accepted), prices, allowed, acceptable)
    thresholds = cut(seen.previews[seen.accepted], order)
    policy, blocks = _worthwhile(seen, prices, order, thresholds)
    if not policy:
        return _nothing(acceptable, f"no rejection that loses at most {max_loss:g} is cheaper than none")
    saving, interval = saving_of(seen, policy, blocks, prices, seed)
    choice = Choice(
        policy,
        blocks,
        acceptable,
        blocks / (acceptable + 1),
        loss_bound(blocks, acceptable, confidence),
        saving,
        interval,
    )
    if interval[0] > 1:
        return choice
    told = f"no rejection is surely worth it: the best found saves {saving:.3f}x, 95 % interval {interval[0]:.3f}x to "
    return replace(choice, policy={}, reason=f"{told}{interval[1]:.3f}x")


def _nothing(acceptable: int, reason: str) -> Choice:
    return Choice({}, 0, acceptable, 0.0, 0.0, 1.0, (1.0, 1.0), reason)


def _order(others: Trajectories, prices: Prices, allowed: int, acceptable: int) -> list[int]:
    """The column of each cut, chosen by those alone that the gate rejects.

    The best of them stand for the acceptable: cut by cut, the step is taken at which another cut lowers their cost per
    kept the most. A cut of one of `acceptable` is a cut of as large a share of theirs.
    """
    near = max(FEWEST_NEAR, round(NEAR * len(others)))
    ranked = np.argsort(-others.final, kind="stable")
    best, columns = others.previews[ranked[:near]], range(len(others.steps))
    share = 1 / (acceptable + 1)
    cuts = np.zeros(len(others.steps), dtype=int)
    order: list[int] = []
    while len(order) < allowed:
        more = min(-(-allowed // ROUNDS), allowed - len(order))
        tried = [
            _stand_in_cost(others, best, cuts + more * (one == np.arange(len(cuts))), share, prices) for one in columns
        ]
        order += [int(np.argmin(tried))] * more
        cuts[order[-1]] += more
    return order


def _stand_in_cost(others: Trajectories, best: Scores, cuts: NDArray[np.int_], share: float, prices: Prices) -> float:
    if not len(best):
        return 0.0
    policy = {
        others.steps[column]: float(np.quantile(best[:, column], min(1.0, count * share), method="inverted_cdf"))
        for column, count in enumerate(cuts)
        if count
    }
    return float(costs(others, policy, prices).mean()) / (1 - share * int(cuts.sum()))


def _worthwhile(
    seen: Trajectories, prices: Prices, order: Sequence[int], thresholds: Sequence[float]
) -> tuple[Policy, int]:
    """The steps that lower the cost per accepted, and how many cuts those make: others are left out, one by one."""
    count = {column: list(order).count(column) for column in order}
    policy: dict[int, float] = {}
    for column, threshold in zip(order, thresholds, strict=True):
        policy[column] = max(threshold, policy.get(column, -math.inf))
    policy = {column: threshold for column, threshold in policy.items() if math.isfinite(threshold)}

    def cost(columns: frozenset[int]) -> float:
        blocks = sum(count[column] for column in columns)
        steps = {seen.steps[column]: policy[column] for column in columns}
        return float(costs(seen, steps, prices).mean()) / (1 - blocks / (int(seen.accepted.sum()) + 1))

    chosen = frozenset(policy)
    while chosen:
        fewer = min((chosen - {column} for column in sorted(chosen)), key=cost)
        if cost(fewer) > cost(chosen):
            break
        chosen = fewer
    return {seen.steps[column]: policy[column] for column in sorted(chosen)}, sum(count[column] for column in chosen)


def saving_of(
    seen: Trajectories, policy: Policy, blocks: int, prices: Prices, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Cost per accepted without previews over that with them, and its 95 % interval.

    The share that is lost is not what the trajectories show, which set the thresholds, but what the cuts are known to
    lose: Beta(blocks, acceptable + 1 - blocks).
    """
    draw = np.random.default_rng(seed)
    before, after = costs(seen, {}, prices), costs(seen, policy, prices)
    acceptable = int(seen.accepted.sum())
    expected = float(before.mean() / after.mean()) * (1 - blocks / (acceptable + 1))
    rows = draw.integers(len(seen), size=(RESAMPLED, len(seen)))
    kept = 1 - draw.beta(blocks, acceptable + 1 - blocks, size=RESAMPLED)
    drawn = before[rows].mean(axis=1) / after[rows].mean(axis=1) * kept
    low, high = np.quantile(drawn, [0.025, 0.975])
    return expected, (float(low), float(high))


def _more_needed(seen: Trajectories, prices: Prices, max_loss: float, confidence: float, seed: int) -> int | None:
    """How many more trajectories like these would do, `LIKELY`; None where eight times as many do not.

    Counted from those that are here, or from those that hold enough acceptable ones for a confident rejection.
    """
    if not seen.accepted.any():
        return None
    draw = np.random.default_rng(seed)
    enough = math.ceil(fewest_acceptable(max_loss, confidence) / float(seen.accepted.mean()))
    counts = [math.ceil(multiple * max(len(seen), enough)) for multiple in MULTIPLES]

    def would_do(count: int) -> bool:
        failed = 0
        for trial in range(TRIALS):
            rows = draw.integers(len(seen), size=count)
            failed += confident(seen.rows(rows), prices, max_loss, confidence, trial).reason is not None
            if failed > (1 - LIKELY) * TRIALS:
                return False
        return True

    # Where the most do not, there is no need to try the others
    return next((count - len(seen) for count in counts if would_do(count)), None) if would_do(counts[-1]) else None


def spearman(seen: Trajectories) -> Mapping[int, float]:
    """Step → rank agreement of its previews with the final scores, over those that came there."""
    from scipy.stats import spearmanr

    found = {}
    for column, step in enumerate(seen.steps):
        came = np.isfinite(seen.previews[:, column]) & np.isfinite(seen.final)
        varied = came.sum() > 2 and np.ptp(seen.previews[came, column]) > 0 and np.ptp(seen.final[came]) > 0
        found[step] = float(spearmanr(seen.previews[came, column], seen.final[came])[0]) if varied else math.nan
    return found
