"""What early rejection did for a batch: who left where, and the saving got beside the one predicted."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from artgate.generation.preview_calibration import Calibration
from artgate.generation.summary import wilson_interval

Line = Mapping[str, Any]


def previews_told(lines: Sequence[Line], summary: Mapping[str, Any], calibration: Calibration | None) -> dict[str, Any]:
    """The part "preview" of `summary.json`.

    left: candidates that a preview ended; by_step: how many at each step. With a calibration: "predicted", its saving
    of denoiser evaluations per accepted, and "saving", the one got: the evaluations per accepted that the calibration
    says it takes without previews, over those that decided candidates took; "saving_95" for the chance in this batch's
    own yield. "same_candidates" is what these very candidates would have taken to their ends, over what they took, less
    what previews are expected to lose: the yield's ups and downs are not in it.
    """
    left = Counter(line["preview"]["step"] for line in lines if "preview" in line)
    told: dict[str, Any] = {"left": sum(left.values()), "by_step": {str(step): left[step] for step in sorted(left)}}
    if calibration is None:
        return told
    unpruned = calibration.unpruned
    accepted, candidates = summary["accepted"], len(lines)
    told["predicted"] = calibration.saving["evaluations"]
    told["unpruned_evaluations_per_accepted"] = unpruned["evaluations_per_accepted"]
    # Without what was in the slots when the target was reached, as the calibration is
    taken = sum(line["evaluations"] for line in lines)
    if accepted and taken:
        saving = unpruned["evaluations_per_accepted"] * accepted / taken
        low, high = wilson_interval(accepted, candidates)
        told["saving"] = saving
        told["saving_95"] = [saving * bound * candidates / accepted for bound in (low, high)]
    if taken:
        told["same_candidates"] = candidates * unpruned["evaluations"] / taken * (1 - calibration.loss)
    return told


def previews_in_words(told: Mapping[str, Any]) -> list[str]:
    """Lines for the report at the end of a run; none where there were no previews."""
    if not told:
        return []
    where = ", ".join(f"{count} at step {step}" for step, count in told["by_step"].items())
    lines = [f"left early, by their previews: {told['left']}{f' ({where})' if where else ''}"]
    if "saving" in told:
        (expected, least, most), (low, high) = told["predicted"], told["saving_95"]
        lines.append(
            f"saving: {told['saving']:.2f}x fewer evaluations per accepted than predicted without previews "
            f"({low:.2f}x to {high:.2f}x for the yield's chance); {told['same_candidates']:.2f}x on the same "
            f"candidates; predicted {expected:.2f}x ({least:.2f}x to {most:.2f}x)"
        )
    return lines


def evaluations_saved(early: Iterable[int], whole: Iterable[int]) -> int:
    """Denoiser evaluations that candidates which left early did not take, by the most that one took to its end.

    early, whole: what each candidate took that a preview ended, and each that the gate (or the safety checker) judged.
    """
    most = max(whole, default=0)
    return sum(max(0, most - taken) for taken in early)
