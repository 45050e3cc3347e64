"""A batch as one HTML page to look at: accepted artworks first, then, folded, what was rejected and why, and failures.

The page stands alone: thumbnails are inside it, full files are linked by relative path, nothing comes from a network.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment
from PIL import Image

from artgate.artworks.files import write_atomic
from artgate.artworks.page import environment, thumbnail
from artgate.errors import UserError
from artgate.generation.batch import LEDGER, read_json, read_ledger
from artgate.generation.production import SUMMARY

GALLERY = "gallery.html"
ACCEPTED_SIDE, REJECTED_SIDE = 480, 240  # of thumbnails, in pixels
# A page of more opens slowly: beyond these, thumbnails are smaller, or only the best-scored are shown.
MANY_ACCEPTED, MOST_REJECTED, MOST_FAILED = 200, 200, 200
BINS = 20
HISTOGRAM_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
GRADES = ("poor", "average", "good")
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")

Line = Mapping[str, Any]


def write_gallery(batch_dir: Path | str) -> Path:
    """Write `gallery.html` of a batch folder, atomically, from its ledger, summary and pictures; returns its path.

    Raises UserError where there is no ledger, or a damaged ledger or summary. A missing summary only leaves out what it
    tells; a missing or broken picture leaves its place empty.
    """
    root = Path(batch_dir)
    if not (root / LEDGER).is_file():
        raise UserError(f"{root} holds no {LEDGER}: give the folder of a generate.py run")
    summary_file = root / SUMMARY
    summary = read_json(summary_file) if summary_file.is_file() else {}
    page = render(root, read_ledger(root), summary)
    write_atomic(root / GALLERY, page)
    return root / GALLERY


def render(root: Path, lines: Sequence[Line], summary: Mapping[str, Any]) -> str:
    """The page. lines: the ledger, in order; summary: of `summary.json`, or {}."""
    accepted = [line for line in lines if line["status"] == "accepted"]
    rejected = _best_first([line for line in lines if line["status"] == "rejected"])
    failed = [line for line in lines if line["status"] == "failed"]
    side = ACCEPTED_SIDE if len(accepted) <= MANY_ACCEPTED else REJECTED_SIDE
    templates = _environment()
    script = templates.get_template("gallery_script.html.j2").render()
    return templates.get_template("gallery.html.j2").render(
        batch=root.resolve().name,
        summary=summary,
        lines=lines,
        accepted=[_card(root, line, side) for line in _best_first(accepted)],
        accepted_poor=sum(line["grade"] == "poor" for line in accepted),
        rejected=[_card(root, line, REJECTED_SIDE) for line in rejected[:MOST_REJECTED]],
        rejected_count=len(rejected),
        failed=failed[:MOST_FAILED],
        failed_count=len(failed),
        gate=_gate_in_words(summary.get("config", {}).get("gate", {}), summary.get("gate", {})),
        warning=summary.get("gate", {}).get("warning"),
        stages=_stages(summary.get("seconds", {})),
        histogram=_histogram(lines),
        mean_scores={status: _mean_score(lines, status) for status in ("accepted", "rejected")},
        config=yaml.safe_dump(summary.get("config", {}), sort_keys=False, allow_unicode=True),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> Environment:
    made = environment(Path(__file__).parent)
    made.filters.update(duration=_duration, score=_score)
    return made


def _best_first(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: -(line["score"] or 0.0))


@dataclass(frozen=True)
class Card:
    """A candidate as the page shows it. href, thumbnail: None where there is no picture to show."""

    line: Line
    href: str | None
    thumbnail: str | None
    width: int
    height: int
    grades: list[tuple[str, float]]


def _card(root: Path, line: Line, side: int) -> Card:
    grades = [(grade, (line["probabilities"] or {}).get(grade, 0.0)) for grade in reversed(GRADES)]
    path = _picture_path(root, line["file"])
    try:
        thumbnail, width, height = _thumbnail(path, side) if path else (None, 1, 1)
    except (OSError, ValueError, Image.DecompressionBombError):
        path, thumbnail, width, height = None, None, 1, 1
    return Card(line, quote(line["file"]) if path else None, thumbnail, width, height, grades)


def _picture_path(root: Path, file: str | None) -> Path | None:
    """The picture's path; None for none, and for one that a tampered ledger puts outside the batch."""
    path = root / file if file else None
    return path if path and path.resolve().is_relative_to(root.resolve()) else None


def _thumbnail(path: Path, side: int) -> tuple[str, int, int]:
    """(data URI, width, height) of the picture shrunk to fit a square of `side`."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        return thumbnail(image.convert("RGB"), side)


def _gate_in_words(gate: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    if not gate:
        return ""
    if gate["kind"] == "certified":
        held = told["certificate"]
        return (
            f"{'P(good)' if held['kind'] == 'good' else 'a score'} of {held['threshold']:.3g} or more, certified: at "
            f"least {held['precision']:.0%} {held['acceptable']} or better with confidence {held['confidence']:g}, on "
            f"{held['labels']} labels"
        )
    if gate["kind"] == "best_of":
        floor = f", if they score {gate['threshold']:g} or more" if gate["threshold"] else ""
        return f"the best {gate['keep']} of every {gate['of']}{floor}"
    return f"{'P(good)' if gate['kind'] == 'good' else 'a score'} of {gate['threshold']:g} or more"


def _stages(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(stage, seconds, share of all) of the stages that took time."""
    total = sum(seconds.values())
    return [(stage, spent, spent / total) for stage, spent in seconds.items() if spent > 0]


def _histogram(lines: Sequence[Line]) -> tuple[float, list[tuple[float, float, str]]]:
    """(top, bars) of the scores in [0, top]: for each bar the heights of accepted and rejected, and both in words.

    The tallest bar is 1. top is below 1 where all scores are small: one bar of everything would tell nothing.
    """
    # A candidate that failed after the gate, in enlarging say, has a score too.
    scored = [line for line in lines if line["status"] != "failed" and line["score"] is not None]
    top = next(top for top in HISTOGRAM_TOPS if top >= max((line["score"] for line in scored), default=1.0) or top == 1)
    counts = {"accepted": [0] * BINS, "rejected": [0] * BINS}
    for line in scored:
        counts[line["status"]][min(int(line["score"] / top * BINS), BINS - 1)] += 1
    bars = list(zip(*counts.values(), strict=True))
    tallest = max(1, *map(sum, bars))
    return top, [
        (
            accepted / tallest,
            rejected / tallest,
            f"{top * k / BINS:.3g} to {top * (k + 1) / BINS:.3g}: {accepted} accepted, {rejected} rejected",
        )
        for k, (accepted, rejected) in enumerate(bars)
    ]


def _mean_score(lines: Sequence[Line], status: str) -> float | None:
    scores = [line["score"] for line in lines if line["status"] == status and line["score"] is not None]
    return sum(scores) / len(scores) if scores else None


def _score(score: float | None) -> str:
    if score is None:
        return "–"
    return f"{score:.2f}" if score >= 0.1 else f"{score:.2g}"  # the order of small scores shows too


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes = round(seconds / 60)
    return (
        f"{int(seconds // 60)} min {int(seconds % 60):02} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02} min"
    )
