"""Which previews end a candidate: the cost formula, and that the promise on what is lost is kept over many draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from artgate.generation.preview_policy import (
    Prices,
    Trajectories,
    choose,
    confident,
    cost_per_accepted,
    costs,
    cut,
    cuts_allowed,
    fewest_acceptable,
    left_at,
    loss_bound,
    rates,
    saving_of,
    spearman,
)

STEPS = (2, 4, 6, 8)
WHOLE = 10
AGREEMENT = (0.5, 0.7, 0.85, 0.95)  # of previews at STEPS with final scores, all normal
MAX_LOSS, CONFIDENCE = 0.05, 0.95


def simulated(
    n: int, yield_: float, draw: np.random.Generator, agreement: tuple[float, ...] = AGREEMENT
) -> Trajectories:
    """Final scores are normal, previews correlate with them; the gate accepts the best `yield_` of all."""
    final = draw.standard_normal(n)
    rho = np.array(agreement)
    previews = rho * final[:, None] + np.sqrt(1 - rho**2) * draw.standard_normal((n, len(rho)))
    spent = np.tile(np.array(STEPS, dtype=float), (n, 1))
    return Trajectories(STEPS, previews, final, final >= norm.isf(yield_), spent, np.full(n, float(WHOLE)))


def test_the_bound_on_the_loss_is_the_binomial_one():
    assert fewest_acceptable(0.05, 0.95) == 59
    assert [cuts_allowed(n, 0.05, 0.95) for n in (0, 58, 59, 92, 93, 124)] == [0, 0, 1, 1, 2, 3]
    assert loss_bound(0, 70, 0.95) == 0
    assert loss_bound(1, 70, 0.95) == pytest.approx(1 - 0.05 ** (1 / 70))  # none of 70 lost
    for blocks, n in ((1, 59), (4, 200), (9, 400)):
        bound = loss_bound(blocks, n, 0.95)
        assert binom.cdf(blocks - 1, n, bound) == pytest.approx(0.05)


def test_a_cut_takes_the_lowest_that_no_earlier_cut_took():
    previews = np.array([[1.0, 9.0], [2.0, 8.0], [3.0, 1.0], [4.0, 2.0]])
    assert cut(previews, [0]) == [1.0]
    assert cut(previews, [0, 0, 1]) == [1.0, 2.0, 1.0]
    assert cut(previews, [1, 1, 0, 0]) == [1.0, 2.0, 1.0, 2.0]
    assert cut(np.full((2, 1), math.inf), [0]) == [-math.inf]  # where no preview was taken none is rejected


def test_costs_follow_each_candidate_to_where_it_ends():
    seen = replace(
        simulated(4, 0.5, np.random.default_rng(0)),
        previews=np.array(
            [[0.0, 5.0, 5.0, 5.0], [2.0, 0.0, 5.0, 5.0], [2.0, 2.0, 0.0, 0.0], [2.0, math.inf, 5.0, 5.0]]
        ),
        accepted=np.array([True, False, True, False]),
    )
    policy = {2: 1.0, 4: 1.0}
    assert left_at(seen, policy).tolist() == [0, 1, 4, 4]
    assert costs(seen, policy, Prices()).tolist() == [2, 4, 10, 10]
    assert costs(seen, {}, Prices()).tolist() == [10] * 4
    # two evaluations and a look; four and two; ten, two looks and a finish; the last one's second preview never came
    assert costs(seen, policy, Prices(1.0, 0.5, 3.0)).tolist() == [2.5, 5.0, 14.0, 13.5]
    assert rates(seen, policy) == (0.5, 0.5)
    assert rates(seen, {}) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("yield_", "fraction", "tpr", "fpr", "saving"),
    [(0.35, 0.2, 1.0, 0.0, 2.08), (0.35, 0.2, 0.9, 0.3, 1.48), (0.35, 1.0, 1.0, 0.0, 1.0), (0.1, 0.0, 1.0, 0.0, 10.0)],
)
def test_the_cost_of_one_preview_in_full_generations(yield_, fraction, tpr, fpr, saving):
    assert 1 / yield_ / cost_per_accepted(yield_, fraction, tpr, fpr) == pytest.approx(saving, abs=0.005)


def test_the_formula_is_what_trajectories_cost():
    seen = simulated(20_000, 0.35, np.random.default_rng(1))
    policy = {4: 0.1}
    tpr, fpr = rates(seen, policy)
    kept = float((seen.accepted & (left_at(seen, policy) == len(STEPS))).sum())
    paid = float(costs(seen, policy, Prices()).sum()) / WHOLE / kept
    assert paid == pytest.approx(cost_per_accepted(float(seen.accepted.mean()), 4 / WHOLE, tpr, fpr))


@pytest.mark.parametrize(("n", "yield_", "used"), [(200, 0.35, 0.6), (700, 0.1, 0.9), (600, 0.35, 0.95)])
@pytest.mark.slow
def test_what_is_lost_stays_below_the_limit_with_the_stated_confidence(n: int, yield_: float, used: float):
    """300 calibrations, each measured on 20,000 acceptable trajectories that it never saw."""
    draw = np.random.default_rng(n)
    truth = simulated(round(20_000 / yield_), yield_, draw)
    truth = truth.rows(truth.accepted)
    policies = [confident(simulated(n, yield_, draw), Prices(), MAX_LOSS, CONFIDENCE).policy for _ in range(300)]
    lost = np.array([1 - rates(truth, policy)[0] for policy in policies])
    assert np.mean(lost > MAX_LOSS) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 300)
    # and it does not keep its promise by doing nothing
    assert np.mean([bool(policy) for policy in policies]) > used and lost.mean() > 0.15 * MAX_LOSS


def test_choosing_the_step_on_the_acceptable_as_well_would_break_the_promise():
    """What the rule is there for: the strictest of six thresholds, each of which holds by itself, loses too much."""
    draw = np.random.default_rng(3)
    steps, alike = (1, 2, 3, 4, 5, 6), (0.7,) * 6
    final = draw.standard_normal(300 * 59 + 20_000)
    acceptable = np.abs(final) + 0.4
    previews = 0.7 * acceptable[:, None] + 0.7 * draw.standard_normal((len(final), len(alike)))
    seen, truth = previews[: 300 * 59].reshape(300, 59, 6), previews[300 * 59 :]
    assert cuts_allowed(59, MAX_LOSS, CONFIDENCE) == 1
    thresholds = np.array([[cut(one, [column])[0] for column in range(len(steps))] for one in seen])  # (300, 6)
    lost = np.array([(truth < row).mean(axis=0) for row in thresholds])
    assert np.mean(lost > MAX_LOSS, axis=0).max() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.mean(lost.max(axis=1) > MAX_LOSS) > 0.12


@pytest.mark.parametrize(("n", "yield_"), [(400, 0.35), (1500, 0.1)])
def test_the_predicted_saving_is_the_one_that_new_candidates_give(n: int, yield_: float):
    draw = np.random.default_rng(5)
    truth = simulated(100_000, yield_, draw)
    before = WHOLE / yield_
    inside = []
    for _ in range(40):
        seen = simulated(n, yield_, draw)
        found = choose(seen, Prices(), MAX_LOSS, CONFIDENCE)
        assert found.reason is None and found.blocks and found.loss <= found.loss_bound <= MAX_LOSS
        kept = truth.accepted & (left_at(truth, found.policy) == len(STEPS))
        got = before / (float(costs(truth, found.policy, Prices()).sum()) / float(kept.sum()))
        inside.append(found.saving_95[0] <= got <= found.saving_95[1])
        assert found.saving == pytest.approx(got, rel=0.15)
    assert np.mean(inside) >= 0.85
    assert found.saving > (1.1 if yield_ == 0.35 else 1.3)


def test_a_choice_is_a_function_of_what_was_seen():
    seen = simulated(300, 0.35, np.random.default_rng(7))
    assert choose(seen, Prices(), MAX_LOSS, CONFIDENCE) == choose(seen, Prices(), MAX_LOSS, CONFIDENCE)


def test_looks_that_cost_more_than_they_save_are_not_taken():
    seen = simulated(400, 0.35, np.random.default_rng(9))
    free, dear = (choose(seen, Prices(1.0, look, 0.0), MAX_LOSS, CONFIDENCE) for look in (0.0, 8.0))
    assert free.policy and not dear.policy
    assert "no rejection" in str(dear.reason)
    # where finishing costs more still, a look is worth its price
    assert choose(seen, Prices(1.0, 8.0, 100.0), MAX_LOSS, CONFIDENCE).policy


def test_too_few_acceptable_are_told_with_how_many_more_would_do():
    found = choose(simulated(60, 0.35, np.random.default_rng(11)), Prices(), MAX_LOSS, CONFIDENCE)
    assert found.policy == {} and found.saving == 1.0
    assert "below 59 no rejection loses at most 0.05 of them with confidence 0.95" in str(found.reason)
    assert found.more is not None and 100 < found.more < 500
    enough = choose(simulated(60 + found.more, 0.35, np.random.default_rng(12)), Prices(), MAX_LOSS, CONFIDENCE)
    assert enough.policy


def test_where_nothing_is_acceptable_nobody_can_say_how_many_would_do():
    seen = simulated(50, 0.35, np.random.default_rng(13))
    found = choose(replace(seen, accepted=np.zeros(50, dtype=bool)), Prices(), MAX_LOSS, CONFIDENCE)
    assert found.policy == {} and found.more is None


def test_previews_that_say_nothing_end_nobody():
    found = choose(simulated(300, 0.35, np.random.default_rng(15), (0.0,) * 4), Prices(), MAX_LOSS, CONFIDENCE)
    if found.policy:  # what it may cut at random, it may; it gains next to nothing
        assert found.saving < 1.05
    else:
        assert found.reason


def test_the_saving_counts_what_cuts_lose_and_not_what_the_sample_shows():
    seen = simulated(300, 0.35, np.random.default_rng(17))
    acceptable = int(seen.accepted.sum())
    [threshold] = cut(seen.previews[seen.accepted], [2])
    assert rates(seen, {6: threshold})[0] == 1.0  # nothing lost in the sample
    saving, (low, high) = saving_of(seen, {6: threshold}, 1, Prices())
    plain = WHOLE / float(costs(seen, {6: threshold}, Prices()).mean())
    assert saving == pytest.approx(plain * (1 - 1 / (acceptable + 1)))
    assert low < saving < high


def test_rank_agreement_is_over_those_that_came_to_a_step():
    seen = simulated(2000, 0.35, np.random.default_rng(19))
    gone = replace(seen, previews=np.where(np.arange(2000)[:, None] < 1000, math.inf, seen.previews))
    for one in (seen, gone):
        found = list(spearman(one).values())
        assert found == sorted(found) and found[0] == pytest.approx(0.48, abs=0.06) and found[-1] > 0.9
    assert math.isnan(spearman(replace(seen, previews=np.ones((2000, 4))))[2])
