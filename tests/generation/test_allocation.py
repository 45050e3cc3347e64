"""Templates in turn and the bandit: what depends on what, floors, and what it brings in simulation."""

import random
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from artgate.errors import UserError
from artgate.generation.allocation import Bandit, InTurn, Stream, build_allocation
from artgate.generation.config import AllocationConfig
from artgate.generation.prompts import CandidateSource
from benchmarks.allocation import SETS, compared, simulated

PROMPTS = {"prompts": ["a {red|blue} frog", "a {red|blue} cat", "a {red|blue} dog"]}
SMALL = AllocationConfig("bandit", floor=0.5, round=4)


def lines_of(templates: list[int], yields: tuple[float, ...], seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [{"template": t, "status": "accepted" if chance.random() < yields[t] else "rejected"} for t in templates]


def test_a_round_depends_on_the_ledger_up_to_the_round_before_the_last_alone():
    lines = simulated(Bandit(3, SMALL, seed=1), (0.9, 0.1, 0.1), target=40, seed=0)
    templates = [line["template"] for line in lines]
    for index in (9, 12, 27, 31):
        known = (index // 4 - 1) * 4
        other_ending = [*lines[:known], *lines_of([0] * 12, (0.0,))]
        for ledger in (lines[:known], lines, other_ending):
            assert Bandit(3, SMALL, seed=1).template_of(index, ledger) == templates[index]
        assert Bandit(3, SMALL, seed=1).template_of(index, lines[: known - 1]) is None


def test_the_templates_of_a_round_follow_the_seed_and_the_verdicts():
    yields = (0.9, 0.1, 0.1)
    first, again, other = (
        [line["template"] for line in simulated(Bandit(3, SMALL, seed), yields, 40, seed=0)] for seed in (1, 1, 2)
    )
    assert first == again != other
    worse = [line["template"] for line in simulated(Bandit(3, SMALL, 1), (0.1, 0.9, 0.1), 40, seed=0)]
    assert Counter(first).most_common(1)[0][0] == 0 and Counter(worse).most_common(1)[0][0] == 1


@pytest.mark.parametrize("templates", [3, 7])
def test_every_template_gets_its_floor_however_bad_it_is(templates: int):
    yields = (0.95, *[0.0] * (templates - 1))
    config = AllocationConfig("bandit", floor=0.4, round=5)
    counts = Counter(line["template"] for line in simulated(Bandit(templates, config, 3), yields, 400, seed=1))
    total = sum(counts.values())
    assert min(counts.values()) >= 0.4 / templates * total - 2
    assert counts[0] > 0.55 * total


def test_groups_of_the_gate_stay_with_one_template_and_one_prompt():
    source = CandidateSource(PROMPTS, 1, group=4)
    bandit = build_allocation(AllocationConfig("bandit", floor=0.5, round=3), source, seed=1)
    lines = lines_of([0] * 12 + [1] * 12, (0.9, 0.1))
    candidates = list(islice(Stream(source, bandit, lines, end=48), 12))
    for first in range(0, 12, 4):
        group = candidates[first : first + 4]
        assert len({(c.template, c.prompt) for c in group}) == 1 and len({c.seed for c in group}) == 4
    assert [c.index for c in candidates] == list(range(24, 36))


def test_in_turn_is_the_source_as_it_is():
    source = CandidateSource(PROMPTS, 1)
    stream = Stream(source, InTurn(3), [], end=30, finished={2, 3, 7})
    assert list(stream) == [source[k] for k in range(30) if k not in {2, 3, 7}]


def test_a_stream_pauses_for_verdicts_and_goes_on():
    source = CandidateSource(PROMPTS, 1)
    bandit = build_allocation(SMALL, source, seed=1)
    lines: list[dict[str, Any]] = []
    stream = Stream(source, bandit, lines, end=14)
    assert [c.index for c in stream] == list(range(8))  # two rounds are known beforehand
    assert next(stream, None) is None
    lines += lines_of([0, 1, 2, 0], (1.0, 0.0, 0.0))
    assert [c.index for c in stream] == [8, 9, 10, 11]
    lines += lines_of([0, 1, 2, 0], (1.0, 0.0, 0.0))
    assert [c.index for c in stream] == [12, 13]  # the end


def test_the_bandit_takes_fewer_candidates_where_yields_differ_and_hardly_more_where_not():
    config = AllocationConfig("bandit")
    assert compared(SETS["skewed"], 64, config, trials=15)["gain"] >= 1.5
    assert compared(SETS["two of five"], 64, config, trials=15)["gain"] >= 1.3
    assert compared(SETS["alike"], 64, config, trials=15)["gain"] >= 0.95


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "greedy"}, "allocation.kind greedy is not one of uniform, bandit"),
        ({"floor": 1.5}, r"allocation.floor 1.5 is outside \[0, 1\]"),
        ({"round": 0}, "allocation.round 0 is below 1"),
    ],
)
def test_a_wrong_setting_is_told(wrong: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        AllocationConfig(**wrong)
