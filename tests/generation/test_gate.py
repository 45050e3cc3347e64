from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artgate.errors import UserError
from artgate.generation.config import GateConfig
from artgate.generation.gate import BestOf, Gate, build_gate


@dataclass(frozen=True)
class Scored:
    score: float
    good: float = 0.0

    @property
    def probabilities(self) -> dict[str, float]:
        return {"poor": 1 - self.good, "average": 0.0, "good": self.good}


def test_the_score_is_held_against_the_threshold_which_itself_passes():
    gate = build_gate(GateConfig(kind="score", threshold=0.5))
    verdicts = gate.judge([Scored(0.31, good=0.9), Scored(0.5), Scored(0.71)])
    assert [(v.accepted, v.reason) for v in verdicts] == [
        (False, "score 0.31 < threshold 0.50"),
        (True, "score 0.50 >= threshold 0.50"),
        (True, "score 0.71 >= threshold 0.50"),
    ]


def test_the_good_gate_looks_at_the_probability_of_good_alone():
    gate = Gate("good", 0.6)
    assert gate.decide(Scored(0.9, good=0.25)).reason == "P(good) 0.25 < threshold 0.60"
    assert gate.decide(Scored(0.1, good=0.6)).accepted


def test_small_numbers_are_told_with_two_digits():
    assert Gate("score", 0.000009).decide(Scored(0.0000031)).reason == "score 0.0000031 < threshold 0.0000090"
    assert Gate("score", 0.0).decide(Scored(0.0)).reason == "score 0.00 >= threshold 0.00"


@pytest.mark.parametrize("score", [0.4999, 0.49999999])
def test_a_reason_never_says_that_a_number_is_below_itself(score: float):
    verdict = Gate("score", 0.5).decide(Scored(score))
    below, above = verdict.reason.removeprefix("score ").split(" < threshold ")
    assert not verdict.accepted and float(below) < float(above)


def test_best_of_keeps_the_best_and_gives_every_rank():
    gate = build_gate(GateConfig(kind="best_of", threshold=0, keep=2, of=5))
    verdicts = gate.judge([Scored(s) for s in (0.2, 0.9, 0.1, 0.4, 0.4)])
    assert gate.of == 5
    assert [v.accepted for v in verdicts] == [False, True, False, True, False]  # of equal ones the earlier
    assert verdicts[0].reason == "rank 4 of 5, best 2 are kept"


def test_best_of_takes_nothing_below_its_threshold():
    verdicts = BestOf(GateConfig(kind="best_of", threshold=0.5, keep=2, of=3)).judge([Scored(0.9), Scored(0.4)])
    assert [v.accepted for v in verdicts] == [True, False]
    assert verdicts[1].reason == "score 0.40 < threshold 0.50"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 12))
def test_best_of_keeps_k_and_none_better_is_left(scores: list[float], keep: int):
    verdicts = BestOf(GateConfig(kind="best_of", threshold=0, keep=keep, of=12)).judge([Scored(s) for s in scores])
    kept = [s for s, v in zip(scores, verdicts, strict=True) if v.accepted]
    left = [s for s, v in zip(scores, verdicts, strict=True) if not v.accepted]
    assert len(kept) == min(keep, len(scores))
    assert not left or min(kept) >= max(left)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "score", "threshold": 1.2}, "gate.threshold 1.2 is outside [0, 1]"),
        ({"kind": "score", "threshold": float("nan")}, "gate.threshold nan is outside [0, 1]"),
        ({"kind": "median", "threshold": 0.5}, "gate.kind median is not one of score, good, best_of"),
        ({"kind": "best_of", "threshold": 0, "keep": 3, "of": 2}, "gate.keep 3 is outside [1, gate.of = 2]"),
    ],
)
def test_settings_outside_their_limits_are_refused(settings: dict, told: str):
    with pytest.raises(UserError) as error:
        GateConfig(**settings)
    assert told in str(error.value)
