"""The ledger as the gallery shows it: each line cleaned and bounded, for a ledger may come from anywhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from artgate.artworks.text import clean_float, clean_int, clean_text, one_line

GRADES = ("good", "average", "poor")  # the best first
# What became of a candidate: as the ledger says, and apart from the rejected those that a preview turned away midway.
ACCEPTED, REJECTED, EARLY, FAILED = "accepted", "rejected", "early", "failed"
VERDICTS = (ACCEPTED, REJECTED, EARLY, FAILED)
LARGEST = 2.0**63
LONGEST_PROMPT, LONGEST_REASON = 4000, 500
# Reasons that name a figure or a picture, which would make each of them a kind of its own.
KINDS = (
    (re.compile(r"near-duplicate\b"), "too like an accepted one"),
    (re.compile(r"safety\b"), "the safety checker"),
    (re.compile(r"score \S+ < threshold"), "score below the threshold"),
    (re.compile(r"P\(good\) \S+ < threshold"), "P(good) below the threshold"),
    (re.compile(r"rank \d+ of"), "others of its group are better"),
)


@dataclass(frozen=True)
class Preview:
    """The look at a candidate midway. step: of the schedule, from 1. file: its picture, inside the batch."""

    step: int | None
    score: float | None
    file: str | None


@dataclass(frozen=True)
class Shown:
    """A candidate as the page tells of it. score: in [0, 1]. odds: of the grades, the best first, {} if not graded."""

    index: int
    verdict: str
    prompt: str
    negative_prompt: str
    seed: int | None
    score: float | None
    grade: str | None
    odds: dict[str, float]
    reason: str
    kind: str
    image_id: str | None
    file: str | None
    preview: Preview | None
    evaluations: int
    seconds: dict[str, float] = field(default_factory=dict)


def shown(line: Mapping[str, Any]) -> Shown:
    """A line of the ledger; what is missing or of the wrong type counts as not known."""
    previews = line.get("previews")
    preview = _preview(line.get("preview") or (previews[-1] if isinstance(previews, list) and previews else None))
    reason = one_line(line.get("reason"), LONGEST_REASON)
    early = line.get("status") == REJECTED and reason.startswith("preview")
    verdict = EARLY if early else str(line["status"])
    grade = line.get("grade")
    image_id = line.get("image_id")
    return Shown(
        index=int(line["index"]),
        verdict=verdict,
        prompt=clean_text(line.get("prompt"), LONGEST_PROMPT),
        negative_prompt=clean_text(line.get("negative_prompt"), LONGEST_PROMPT),
        seed=clean_int(line.get("seed"), 0, 2**63),
        score=clean_float(line.get("score"), 0, 1),
        grade=grade if grade in GRADES else None,
        odds=_odds(line.get("probabilities")),
        reason=reason,
        kind=_kind(verdict, reason),
        image_id=image_id if isinstance(image_id, str) and re.fullmatch(r"[0-9a-f]{64}", image_id) else None,
        file=_text(line.get("file")),
        preview=preview,
        evaluations=clean_int(line.get("evaluations"), 0, 2**63) or 0,
        seconds=_seconds(line.get("seconds")),
    )


def _preview(value: Any) -> Preview | None:
    if not isinstance(value, Mapping):
        return None
    step, score = clean_int(value.get("step"), 0, 2**31), clean_float(value.get("score"), 0, 1)
    return Preview(step, score, _text(value.get("picture")))


def _odds(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {grade: clean_float(value.get(grade), 0, 1) or 0.0 for grade in GRADES}


def _seconds(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    spent = {one_line(stage, 40): clean_float(seconds, 0, LARGEST) for stage, seconds in value.items()}
    return {stage: seconds for stage, seconds in spent.items() if seconds}


def _kind(verdict: str, reason: str) -> str:
    """What reasons of its kind have in common, in words for a table: "" of an accepted one."""
    if verdict == ACCEPTED:
        return ""
    if verdict == EARLY:
        return "left early, by its preview"
    if verdict == FAILED:
        # "upscale: ValueError: …": where it happened, and what
        return "failed: " + (", ".join(reason.split(": ", 2)[:2])[:60] or "for no reason known")
    known = (words for pattern, words in KINDS if pattern.match(reason))
    return next(known, None) or re.split(r"[\d:]", reason, maxsplit=1)[0].strip()[:60] or "for no reason known"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
