"""What is said of annotators, of simulated ones whose faults are planted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import friedmanchisquare
from simulated_votes import simulated, simulated_with_truth

from artgate.labels.agreement import others
from artgate.labels.annotators import Annotator, _kappas, _of_agreement, annotators
from artgate.labels.ballots import ballots
from artgate.labels.drift import drifts, mean_score_test
from artgate.labels.grades import GRADES
from artgate.labels.pace import paces
from artgate.labels.votes import Vote

START = datetime(2026, 3, 1, tzinfo=UTC)


def dated(votes: list[Vote]) -> list[Vote]:
    """The votes as given one a minute, in their order."""
    return [
        replace(vote, created_at=(START + timedelta(minutes=place)).isoformat()) for place, vote in enumerate(votes)
    ]


def timed(votes: list[Vote], seconds: dict[str, float], seed: int = 0) -> list[Vote]:
    """Lead times about so many seconds, as wide as people's are; `seconds` by the last letter of the name."""
    rng = np.random.default_rng(seed)
    return [
        replace(vote, lead_time=float(seconds[vote.annotator[-1]] * rng.lognormal(0, 0.8)))
        if vote.annotator[-1] in seconds
        else vote
        for vote in votes
    ]


def of(votes: list[Vote]) -> dict[str, Annotator]:
    return {annotator.name[-1]: annotator for annotator in annotators(ballots(votes, "quality"))}


def test_a_careless_annotator_is_found_among_careful_ones() -> None:
    found = of(simulated(200, (0.85, 0.85, 0.85, 0.4), seed=0))
    assert [bool(annotator.remarks) for annotator in found.values()] == [False, False, False, True]
    assert "agrees less with the others" in found["3"].remarks[0]
    assert found["3"].kappa < 0.3 < 0.6 < found["0"].kappa
    low, high = found["0"].interval
    assert low < found["0"].kappa < high and high - low < 0.3
    assert found["0"].errors.diagonal().mean() > 0.75 > 0.5 > found["3"].errors.diagonal().mean()
    assert found["0"].votes == 200 == found["0"].confusion.sum()


def test_annotators_who_are_alike_are_rarely_blamed() -> None:
    blamed = 0
    for seed in range(60):
        told = ballots(simulated(120, (0.75,) * 5, seed=seed), "quality")
        kappas, spreads = _kappas(told, others(told))
        blamed += any(_of_agreement(kappas, spreads, person) for person in range(5))
    assert blamed <= 6


def test_few_votes_have_no_kappa_and_no_remark() -> None:
    (found, *_) = annotators(ballots(simulated(10, (0.2, 0.9, 0.9), seed=0), "quality"))
    assert found.kappa is None and found.interval is None and found.remarks == ()


def test_a_lone_annotator_has_nobody_to_compare_with() -> None:
    (found,) = annotators(ballots(timed(dated(simulated(100, (0.9,), seed=0)), {"0": 5.0}), "quality"))
    assert found.kappa is None and found.drift.blocks == () and found.remarks == ()
    assert found.pace.usual is None and found.pace.hurried_share is None and found.pace.seconds > 0


def test_who_takes_a_fifth_of_the_time_is_fast() -> None:
    votes = timed(simulated(60, (0.9,) * 4, seed=0), {"0": 10, "1": 14, "2": 7, "3": 2})
    found = of(votes)
    assert [annotator.pace.hurries for annotator in found.values()] == [False, False, False, True]
    assert any(remark.startswith("fast: ") for remark in found["3"].remarks)
    assert found["3"].pace.hurried_share > 0.5 > 0.3 > found["0"].pace.hurried_share


def test_neither_a_long_pause_nor_a_quick_third_makes_one_fast() -> None:
    votes = timed(simulated(60, (0.9,) * 3, seed=0), {"0": 10, "1": 10, "2": 10})
    own = [vote for vote in votes if vote.annotator[-1] == "0"]
    changed = {own[place].image_id: 0.0 for place in range(20)} | {own[20].image_id: 86_400.0}
    votes = [
        replace(vote, lead_time=changed[vote.image_id]) if vote in own and vote.image_id in changed else vote
        for vote in votes
    ]
    assert not of(votes)["0"].pace.hurries


def test_unknown_lead_times_tell_nothing() -> None:
    votes = timed(simulated(60, (0.9,) * 3, seed=0), {"0": 10, "1": 10})
    told = ballots(votes, "quality")
    first, _, last = paces(told)
    assert (last.timed, last.seconds, last.hurries, last.hurries_lately) == (0, None, False, False)
    assert last.usual == pytest.approx(10, rel=0.3) and last.hurried_share is None
    assert first.timed == 60 and first.usual == pytest.approx(10, rel=0.4)
    few = paces(ballots(timed(simulated(19, (0.9,) * 2, seed=0), {"0": 10, "1": 1}), "quality"))
    assert [pace.hurries for pace in few] == [False, False]


def test_who_becomes_fast_is_found_by_his_own_median() -> None:
    votes = dated(simulated(200, (0.9, 0.9), seed=0))
    late = votes[len(votes) * 4 // 5].created_at
    votes = [
        replace(vote, lead_time=1.0 if vote.annotator[-1] == "1" and vote.created_at > late else 10.0) for vote in votes
    ]
    found = of(votes)
    assert [annotator.pace.hurries_lately for annotator in found.values()] == [False, True]
    assert not found["1"].pace.hurries
    assert found["1"].remarks == ("fast of late: 1.0 s a vote, 10.0 s over all",)


def test_drift_of_the_level_is_found_and_told() -> None:
    """From the middle on, one annotator gives every second artwork a grade more."""
    votes, half = dated(simulated(300, (0.85, 0.85, 0.85), seed=0)), 450
    rng = np.random.default_rng(1)
    votes = [
        replace(vote, grade=GRADES[min(GRADES.index(vote.grade) + 1, 2)])
        if place >= half and vote.annotator[-1] == "2" and rng.random() < 0.5
        else vote
        for place, vote in enumerate(votes)
    ]
    found = of(votes)
    assert [annotator.drift.level_moved for annotator in found.values()][2] is True
    assert any(remark.startswith("level drifted: ") for remark in found["2"].remarks)
    blocks = found["2"].drift.blocks
    assert len(blocks) == 6 and sum(block.votes for block in blocks) == 300
    assert blocks[-1].level > blocks[0].level + 0.15


def test_drift_of_agreement_is_found() -> None:
    """An annotator who answers at random after two thirds."""
    votes = dated(simulated(300, (0.9, 0.9, 0.9), seed=0))
    rng = np.random.default_rng(1)
    votes = [
        replace(vote, grade=GRADES[rng.integers(3)]) if place >= 600 and vote.annotator[-1] == "0" else vote
        for place, vote in enumerate(votes)
    ]
    found = of(votes)
    assert found["0"].drift.distance_moved
    assert found["0"].drift.blocks[-1].distance > found["0"].drift.blocks[0].distance + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("trend", [0.0, 0.25, 4.0])
def test_steady_annotators_give_few_alarms_even_where_artworks_grow_better(trend: float) -> None:
    """At most 5 in 100 sets of five. Who errs rates poor artworks too high: a trend of theirs is not his drift."""
    alarms, tested, trials = 0, 0, 150
    for seed in range(trials):
        votes, truth = simulated_with_truth(150, (0.9, 0.8, 0.7, 0.6, 0.8), seed)
        rng = np.random.default_rng(seed)
        place = {image_id: trend * true + rng.normal() for image_id, true in truth.items()}
        told = ballots(dated(sorted(votes, key=lambda vote: place[vote.image_id])), "quality")
        found = drifts(told, others(told))
        assert all(drift.blocks for drift in found)
        tested += sum(drift.comparable for drift in found)
        alarms += any(drift.level_moved or drift.distance_moved for drift in found)
    assert alarms <= 14, alarms  # 7.5 expected at most; more than 14 by chance once in 100
    assert tested > 4.5 * trials if trend == 0 else tested < 5 * trials


def test_the_test_of_mean_scores_is_friedmans_where_every_stratum_has_each_block_once() -> None:
    """With ranks as scores it is then Friedman's test, as Landis, Heyman and Koch show."""
    values = np.random.default_rng(0).random((12, 4))
    ranks = values.argsort(1).argsort(1) + 1
    strata, blocks = np.indices(ranks.shape).reshape(2, -1)
    found = mean_score_test(ranks.ravel().astype(float), blocks, strata)
    assert found == pytest.approx(friedmanchisquare(*values.T).pvalue, abs=1e-12)
    assert mean_score_test(np.ones(48), blocks, strata) is None


def test_drift_wants_times_and_votes() -> None:
    told = ballots(simulated(300, (0.9, 0.9), seed=0), "quality")
    assert all(drift.blocks == () and drift.level_p is None for drift in drifts(told, others(told)))
    few = ballots(dated(simulated(70, (0.9, 0.9), seed=0)), "quality")
    assert all(drift.blocks == () for drift in drifts(few, others(few)))
    same = ballots(dated(simulated(100, (1.0, 1.0), seed=0)), "quality")
    assert [(drift.level_p, len(drift.blocks)) for drift in drifts(same, others(same))] == [(None, 4)] * 2


def test_anchors_measure_everyone_but_who_set_them() -> None:
    votes, truth = simulated_with_truth(60, (0.9, 0.9, 0.3), seed=2)
    anchors = [Vote(image_id, "boss", "quality", GRADES[truth[image_id]], ground_truth=True) for image_id in truth]
    found = of([*votes, *anchors[:40]])
    assert found.keys() == {"0", "1", "2"}
    right = {
        vote.annotator[-1]: sum(
            other.grade == GRADES[truth[other.image_id]]
            for other in votes
            if other.annotator == vote.annotator and int(other.image_id.split()[1]) < 40
        )
        for vote in votes
    }
    for name, annotator in found.items():
        assert (annotator.anchors.graded, annotator.anchors.right) == (40, right[name])
        low, high = annotator.anchors.interval
        assert low < right[name] / 40 < high
    assert found["0"].anchors.kappa > 0.7 > 0.4 > found["2"].anchors.kappa
    assert any("anchors right, of the others" in remark for remark in found["2"].remarks)
    assert not found["0"].remarks
    assert of(votes)["0"].anchors is None
