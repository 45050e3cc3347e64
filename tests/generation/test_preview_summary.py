from types import SimpleNamespace

import pytest

from artgate.generation.preview_summary import previews_told

CALIBRATION = SimpleNamespace(
    loss=0.1,
    saving={"evaluations": [1.5, 1.2, 1.8]},
    unpruned={"evaluations": 40.0, "evaluations_per_accepted": 120.0},
)


def test_the_saving_is_without_what_was_in_the_slots_at_the_end():
    lines = [{"evaluations": 40}, {"evaluations": 40}, {"evaluations": 20, "preview": {"step": 10}}]
    summary = {"accepted": 1, "evaluations": 220, "evaluations_per_accepted": 220.0}  # 120 of candidates not decided
    told = previews_told(lines, summary, CALIBRATION)
    assert told["same_candidates"] == pytest.approx(3 * 40 / 100 * 0.9)
    assert told["saving"] == pytest.approx(120 / 100)  # as what it is compared with, which is of decided candidates
    assert (told["left"], told["by_step"]) == (1, {"10": 1})
