"""A batch as one HTML page to look at: accepted artworks first, then, folded, what was rejected and why, and failures.

The page stands alone: thumbnails are inside it, full files are linked by relative path, nothing comes from a network.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from artgate.artworks.files import read_lines, write_atomic
from artgate.errors import UserError
from artgate.generation.batch import LEDGER
from artgate.generation.production import SUMMARY

GALLERY = "gallery.html"
ACCEPTED_SIDE, REJECTED_SIDE = 480, 240  # of thumbnails, in pixels
# A page of more opens slowly: beyond these, thumbnails are smaller, or only the best-scored are shown.
MANY_ACCEPTED, MOST_REJECTED, MOST_FAILED = 200, 200, 200
BINS = 20
GRADES = ("poor", "average", "good")
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")

Line = Mapping[str, Any]


def write_gallery(batch_dir: Path | str) -> Path:
    """Write `gallery.html` of a batch folder, atomically, from its ledger, summary and pictures; returns its path.

    Raises UserError where there is no ledger. A missing summary only leaves out what it tells; a missing or broken
    picture leaves its place empty.
    """
    root = Path(batch_dir)
    if not (root / LEDGER).is_file():
        raise UserError(f"{root} holds no {LEDGER}: give the folder of a generate.py run")
    summary_file = root / SUMMARY
    summary = json.loads(summary_file.read_text()) if summary_file.is_file() else {}
    page = render(root, read_lines(root / LEDGER), summary)
    write_atomic(root / GALLERY, page)
    return root / GALLERY


def render(root: Path, lines: Sequence[Line], summary: Mapping[str, Any]) -> str:
    """The page. lines: the ledger, in order; summary: of `summary.json`, or {}."""
    accepted = [line for line in lines if line["status"] == "accepted"]
    rejected = _best_first([line for line in lines if line["status"] == "rejected"])
    failed = [line for line in lines if line["status"] == "failed"]
    side = ACCEPTED_SIDE if len(accepted) <= MANY_ACCEPTED else REJECTED_SIDE
    environment = _environment()
    script = environment.get_template("gallery_script.html.j2").render()
    return environment.get_template("gallery.html.j2").render(
        batch=root.resolve().name,
        summary=summary,
        lines=lines,
        accepted=[_card(root, line, side) for line in _best_first(accepted)],
        rejected=[_card(root, line, REJECTED_SIDE) for line in rejected[:MOST_REJECTED]],
        rejected_count=len(rejected),
        failed=failed[:MOST_FAILED],
        failed_count=len(failed),
        gate=_gate_in_words(summary.get("config", {}).get("gate", {})),
        stages=_stages(summary.get("seconds", {})),
        bins=_histogram(lines),
        mean_scores={status: _mean_score(lines, status) for status in ("accepted", "rejected")},
        config=yaml.safe_dump(summary.get("config", {}), sort_keys=False, allow_unicode=True),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, duration=_duration, score=_score)
    return environment


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
    """(data URI of a WebP, width, height) of the picture shrunk to fit a square of `side`; smaller ones stay."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    small.save(data, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode(), small.width, small.height


def _gate_in_words(gate: Mapping[str, Any]) -> str:
    if not gate:
        return ""
    if gate["kind"] == "best_of":
        floor = f", if they score {gate['threshold']:g} or more" if gate["threshold"] else ""
        return f"the best {gate['keep']} of every {gate['of']}{floor}"
    return f"{'P(good)' if gate['kind'] == 'good' else 'a score'} of {gate['threshold']:g} or more"


def _stages(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(stage, seconds, share of all) of the stages that took time."""
    total = sum(seconds.values())
    return [(stage, spent, spent / total) for stage, spent in seconds.items() if spent > 0]


def _histogram(lines: Sequence[Line]) -> list[tuple[float, float, str]]:
    """For each of `BINS` ranges of the score: heights of accepted and rejected (the tallest bar is 1), and in words."""
    counts = {"accepted": [0] * BINS, "rejected": [0] * BINS}
    for line in lines:
        if line["status"] in counts and line["score"] is not None:
            counts[line["status"]][min(int(line["score"] * BINS), BINS - 1)] += 1
    tallest = max(1, *map(sum, zip(*counts.values(), strict=True)))
    return [
        (
            accepted / tallest,
            rejected / tallest,
            f"{k / BINS:.2f} to {(k + 1) / BINS:.2f}: {accepted} accepted, {rejected} rejected",
        )
        for k, (accepted, rejected) in enumerate(zip(*counts.values(), strict=True))
    ]


def _mean_score(lines: Sequence[Line], status: str) -> float | None:
    scores = [line["score"] for line in lines if line["status"] == status and line["score"] is not None]
    return sum(scores) / len(scores) if scores else None


def _percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{share:.{digits}%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.2f}"


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
