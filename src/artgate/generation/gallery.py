"""A batch as one HTML page to look at: the accepted artworks, what was rejected and why, and what it all took.

The page stands alone: thumbnails are inside it, full files are linked by relative path, nothing comes from a network.
Whatever the ledger holds is text on it, cleaned and escaped.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from artgate.artworks.files import write_atomic
from artgate.artworks.page import environment
from artgate.artworks.text import one_line
from artgate.errors import UserError
from artgate.generation import gallery_figures as figures
from artgate.generation.batch import CONFIG, LEDGER, read_json, read_ledger
from artgate.generation.gallery_lines import ACCEPTED, EARLY, FAILED, REJECTED, VERDICTS, Shown, shown
from artgate.generation.gallery_pictures import OTHERS_SIDE, Picture, accepted_side, pictures
from artgate.generation.production import MODELS, SUMMARY
from artgate.generation.remake_command import remake_command

GALLERY = "gallery.html"
# A page of more opens slowly: of these only the best-scored, of failures the first, are shown.
MOST_SHOWN = {ACCEPTED: 2000, REJECTED: 300, EARLY: 300, FAILED: 200}
TITLES = {ACCEPTED: "Accepted", REJECTED: "Rejected", EARLY: "Left early", FAILED: "Failed"}
# A panorama or a banner is cropped on the page: it would fill a row, or be no wider than its caption's words.
NARROWEST, WIDEST = 0.42, 2.6
ROW_HEIGHT, LOWEST_ROW, HIGHEST_ROW = 250, 170, 360  # pixels: of square pictures, of wide and of high ones
UNKNOWN = "–"
MOST_DIGITS = 9

Line = Mapping[str, Any]


def write_gallery(batch_dir: Path | str) -> Path:
    """Write `gallery.html` of a batch folder, atomically, from its ledger, summary and pictures; returns its path.

    Raises UserError where there is no ledger, or a damaged ledger or summary. A missing summary only leaves out what it
    tells; a missing or broken picture leaves its place empty.
    """
    root = Path(batch_dir)
    if not (root / LEDGER).is_file():
        raise UserError(f"{root} holds no {LEDGER}: give the folder of a generate.py run")
    write_atomic(root / GALLERY, render(root, read_ledger(root), _summary(root)))
    return root / GALLERY


def _summary(root: Path) -> dict[str, Any]:
    """What `summary.json` holds; of a batch that was killed before it had one, what was written at its start."""
    if (root / SUMMARY).is_file():
        return read_json(root / SUMMARY)
    begun = {"config": root / CONFIG, "models": root / MODELS}
    return {key: read_json(path) for key, path in begun.items() if path.is_file()}


@dataclass(frozen=True)
class Card:
    """A candidate on the page. aspect: width / height of its place. prompt: the number of its prompt in the filter.

    told: what the dialog shows beside the picture.
    """

    shown: Shown
    picture: Picture | None
    aspect: float
    prompt: int
    told: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """The candidates of one verdict. count: all of them; cards: those that are shown. row: pixels a row is high."""

    verdict: str
    title: str
    count: int
    cards: list[Card]
    row: int


def render(root: Path, lines: Sequence[Line], summary: Mapping[str, Any]) -> str:
    """The page. lines: the ledger, in order; summary: as `_summary` reads it."""
    candidates = [shown(line) for line in lines]
    config = _mapping(summary, "config")
    groups, prompts = figures.prompt_groups(lines, _templates(config))
    sections = [_section(root, verdict, candidates, groups) for verdict in VERDICTS]
    templates = _environment()
    script = templates.get_template("gallery_script.html.j2").render()
    return templates.get_template("gallery.html.j2").render(
        batch=one_line(root.resolve().name),
        summary=summary if "seconds" in summary else None,
        models=_mapping(summary, "models"),
        candidates=candidates,
        counts=figures.counts_by_verdict(candidates),
        sections=[section for section in sections if section.count],
        accepted_poor=sum(told.verdict == ACCEPTED and told.grade == "poor" for told in candidates),
        gate=_gate_in_words(_mapping(config, "gate"), _mapping(summary, "gate")),
        warnings=_warnings(summary),
        saving=_saving_in_words(_mapping(summary, "preview")),
        common=_common(config, _mapping(summary, "models")),
        prompts=prompts,
        yields=figures.yields(candidates, groups, prompts),
        prompt_number={label: number for number, label in enumerate(prompts)},
        reasons=figures.reasons(candidates),
        stages=figures.stages(summary.get("seconds")),
        histogram=figures.histogram(candidates),
        mean_scores={verdict: figures.mean_score(candidates, verdict) for verdict in (ACCEPTED, REJECTED)},
        saved=figures.saved_evaluations(candidates),
        interval=figures.wilson_interval(sum(told.verdict == ACCEPTED for told in candidates), len(candidates)),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else None,
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> Environment:
    made = environment(Path(__file__).parent)
    made.filters.update(duration=_duration, score=_score)
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return made


def _section(root: Path, verdict: str, candidates: Sequence[Shown], groups: Sequence[int]) -> Section:
    """The candidates of a verdict, the best first; of failures the first ones."""
    of_verdict = [pair for pair in zip(candidates, groups, strict=True) if pair[0].verdict == verdict]
    ordered = of_verdict if verdict == FAILED else sorted(of_verdict, key=lambda pair: -(best(pair[0]) or 0.0))
    kept = ordered[: MOST_SHOWN[verdict]]
    side = accepted_side(len(kept)) if verdict == ACCEPTED else OTHERS_SIDE
    small = [None] * len(kept) if verdict == FAILED else pictures(root, [told for told, _ in kept], side)
    cards = [_card(root, told, picture, prompt) for (told, prompt), picture in zip(kept, small, strict=True)]
    return Section(verdict, TITLES[verdict], len(of_verdict), cards, _row_height(cards))


def best(told: Shown) -> float | None:
    """The score that a candidate is known by: the final one, or that of its preview."""
    return told.score if told.score is not None or told.preview is None else told.preview.score


def _card(root: Path, told: Shown, picture: Picture | None, prompt: int) -> Card:
    aspect = picture.width / picture.height if picture else 1.0
    return Card(told, picture, min(max(aspect, NARROWEST), WIDEST), prompt, _told(root, told))


def _row_height(cards: Sequence[Card]) -> int:
    """So that a picture of the usual shape has the area of a square one in a row of ROW_HEIGHT."""
    aspects = sorted(card.aspect for card in cards) or [1.0]
    return round(min(max(ROW_HEIGHT / aspects[len(aspects) // 2] ** 0.5, LOWEST_ROW), HIGHEST_ROW))


def _told(root: Path, told: Shown) -> dict[str, Any]:
    """What the dialog tells of a candidate: rows of (what, value), and of an accepted one the way to make it again."""
    rows: list[tuple[str, str]] = [
        ("score", f"{_score(told.score)}{f' · {told.grade}' if told.grade else ''}"),
        ("seed", UNKNOWN if told.seed is None else str(told.seed)),
        ("candidate", f"#{told.index}"),
        ("negative prompt", told.negative_prompt),
        ("verdict", told.reason),
    ]
    if told.preview:
        step = UNKNOWN if told.preview.step is None else told.preview.step
        rows.append(("preview", f"score {_score(told.preview.score)} at step {step}"))
    rows.append(("took", f"{told.evaluations} denoiser evaluations, {_duration(sum(told.seconds.values()))}"))
    if told.image_id:
        rows.append(("image_id", told.image_id))
    odds = [(grade, round(share, 4)) for grade, share in told.odds.items()]
    return {"rows": [row for row in rows if row[1]], "odds": odds, **_remaking(root, told)}


def _remaking(root: Path, told: Shown) -> dict[str, str]:
    """The command that makes an accepted artwork again, and its sidecar; {} where there is none."""
    sidecar = f"accepted/sidecars/{told.image_id}.json"
    if told.verdict != ACCEPTED or told.image_id is None or not (root / sidecar).is_file():
        return {}
    return {"remake": remake_command(root / sidecar), "sidecar": sidecar}


def _common(config: Mapping[str, Any], models: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What all candidates of a batch have in common, for the dialog."""
    diffusion = _mapping(config, "diffusion")
    rows = [("model", _mapping(models, "diffusion").get("name") or diffusion.get("name"))]
    rows += [(key, diffusion.get(key)) for key in ("scheduler", "steps", "guidance")]
    rows += [(role, _mapping(models, role).get("name")) for role in ("scorer", "upscaler")]
    return [(role, one_line(str(value), 300)) for role, value in rows if value is not None]


def _mapping(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = mapping.get(key)
    return found if isinstance(found, Mapping) else {}


def _templates(config: Mapping[str, Any]) -> Sequence[Any]:
    found = _mapping(config, "prompts").get("prompts")
    return found if isinstance(found, list) else []


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    """What the run warns of."""
    told = [_mapping(summary, part).get("warning") for part in ("gate", "diversity")]
    return [one_line(warning, 600) for warning in told if isinstance(warning, str) and warning]


def _saving_in_words(preview: Mapping[str, Any]) -> str:
    """What early rejection saved, as measured in this batch; "" where it was not used, or was not calibrated."""
    saving, limits = preview.get("saving"), preview.get("saving_95")
    if not isinstance(saving, float) or not isinstance(limits, list) or len(limits) != 2:
        return ""
    return f"Early rejection: {saving:.2f}x fewer evaluations per accepted ({limits[0]:.2f}x to {limits[1]:.2f}x)"


def _gate_in_words(gate: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    if not gate:
        return ""
    if gate["kind"] == "certified":
        held = _mapping(told, "certificate")
        if not held:  # a batch that was killed before it had a summary
            return "what its certificate says"
        return (
            f"{'P(good)' if held['kind'] == 'good' else 'a score'} of {held['threshold']:.3g} or more, certified: at "
            f"least {held['precision']:.0%} {held['acceptable']} or better with confidence {held['confidence']:g}, on "
            f"{held['labels']} labels"
        )
    if gate["kind"] == "best_of":
        floor = f", if they score {gate['threshold']:g} or more" if gate["threshold"] else ""
        return f"the best {gate['keep']} of every {gate['of']}{floor}"
    return f"{'P(good)' if gate['kind'] == 'good' else 'a score'} of {_plain(gate['threshold'])} or more"


def _plain(number: float) -> str:
    """As it was given, without an exponent."""
    return f"{number:.{MOST_DIGITS}f}".rstrip("0").rstrip(".")


def _score(score: float | None) -> str:
    """Two figures, and never an exponent: 0.52, 0.0081, 0.000068. Of small scores the order shows too."""
    if score is None:
        return UNKNOWN
    leading = 2 if score >= 0.1 else min(1 - math.floor(math.log10(score)), MOST_DIGITS) if score > 0 else 0
    told = f"{score:.{leading}f}"
    return told if score >= 0.1 or "." not in told else told.rstrip("0").rstrip(".")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes = round(seconds / 60)
    return (
        f"{int(seconds // 60)} min {int(seconds % 60):02} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02} min"
    )
