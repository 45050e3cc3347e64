"""calibration.json: at which steps and thresholds previews reject, what that was fitted on, and what it is good for.

It is bound to the model, schedule, prompts, scorer, gate and decoder that it was made with, and refused for others.
`calibrating.py` makes it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artgate.artworks.files import write_atomic
from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.basemap import BasemapConfig
from artgate.generation.config import GenerateConfig
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.preview_config import PreviewConfig
from artgate.generation.prompts import CandidateSource

FORMAT = 1
CALIBRATION, LINEAR = "calibration.json", "linear.safetensors"
# Candidates that the fingerprint of prompts reads, beside the configuration: what word lists in files hold shows there.
READ = 512
SCHEDULE = ("scheduler", "scheduler_options", "steps", "guidance", "eta")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """What mode=calibrate found. An empty list of steps: no rejection, and `reason` says why.

    made_for: what it is bound to, part by part. decoder: the settings that previews are decoded with.
    steps, thresholds: after each of these denoiser calls, a preview that scores less ends its candidate.
    candidates, accepted: behind it; cost: what was made least, and seconds of one evaluation, look and finish.
    blocks: cuts of the acceptable (`preview_policy`); loss: expected share of the acceptable that is lost; loss_bound:
    below that, with `confidence`. saving: times less per accepted than without previews, of evaluations and of
    seconds, each (expected, low, high) of a 95 % interval. more: further candidates that would do, where known.
    unpruned: yield, its interval and evaluations per candidate without previews. grid: for each step that was tried its
    Spearman correlation with final scores, and what a threshold there alone, losing `max_loss`, keeps of the others.
    """

    made_for: dict[str, Any]
    decoder: dict[str, Any]
    steps: list[int]
    thresholds: list[float]
    candidates: int
    accepted: int
    max_loss: float
    confidence: float
    cost: str
    prices: dict[str, float]
    blocks: int
    loss: float
    loss_bound: float
    saving: dict[str, list[float]]
    unpruned: dict[str, Any]
    grid: list[dict[str, float | None]]
    reason: str | None
    more: int | None
    made_at: str

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """What sidecars, summaries and models.json tell of it."""
        told = ("steps", "thresholds", "loss_bound", "confidence", "saving", "made_at")
        return {"name": "preview", "fingerprint": self.fingerprint, "licence": None} | {
            name: getattr(self, name) for name in told
        }


def save_calibration(path: Path, calibration: Calibration) -> Path:
    """Write it as a whole; returns the path."""
    record = {"format": FORMAT, "fingerprint": calibration.fingerprint, **asdict(calibration)}
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path


def load_calibration(path: Path) -> Calibration:
    """Read `save_calibration`'s file; UserError where it is missing, was changed, or is of another artgate."""
    try:
        read = json.loads(path.read_text())
        kept, form = read.pop("fingerprint"), read.pop("format")
    except OSError as error:
        raise UserError(
            f"preview.file {path} cannot be read ({error.strerror}): give the {CALIBRATION} that mode=calibrate wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"preview.file {path} is no {CALIBRATION}: give what mode=calibrate wrote") from None
    if form != FORMAT:
        raise UserError(f"preview.file {path} has format {form}, and this artgate reads {FORMAT}: calibrate again")
    try:
        calibration = Calibration(**read)
    except TypeError:
        raise UserError(f"preview.file {path} is no {CALIBRATION}: give what mode=calibrate wrote") from None
    if calibration.fingerprint != kept:
        raise UserError(
            f"preview.file {path} was changed (its fingerprint is another): copy it again, or calibrate again"
        )
    return calibration


def resolved_preview(settings: GenerateConfig, kept: Path | None = None) -> tuple[PreviewConfig, Calibration | None]:
    """The previews that a batch is made with, and the calibration that they are from, if any.

    kept: the batch's own copy of the calibration that it was begun with; counts instead of what preview.file has now.
    Raises UserError for a calibration of another schedule, other prompts or another gate, or one that rejects nothing,
    and for previews beside a gate whose verdicts do not stand for themselves.
    """
    config = validated(PreviewConfig, settings.preview, "preview")
    if config.kind == "none":
        return config, None
    check_gate(settings)
    if config.kind != "calibrated":
        return config, None
    path = kept or Path(str(config.file)).expanduser()
    calibration = load_calibration(path)
    refuse_other(calibration.made_for, made_for_settings(settings), path)
    if not calibration.steps:
        raise UserError(f"preview.file {path} rejects nothing: {calibration.reason}; take preview=none")
    decoder = calibration.decoder
    linear = str(path.parent / decoder["linear"]) if decoder["linear"] else None
    resolved = PreviewConfig(
        kind="thresholds",
        decoder=decoder["decoder"],
        tiny=decoder["tiny"],
        linear=linear,
        shrink=decoder["shrink"],
        steps=calibration.steps,
        thresholds=calibration.thresholds,
    )
    return resolved, calibration


def keep_calibration(root: Path, calibration: Calibration, preview: PreviewConfig) -> None:
    """Copy a calibration and the map that it names into a batch folder: the batch goes on by it, whatever comes after.

    preview: what it was resolved to.
    """
    if preview.linear:
        write_atomic(root / LINEAR, Path(preview.linear).read_bytes())
    save_calibration(root / CALIBRATION, calibration)


def check_gate(settings: GenerateConfig) -> None:
    """Refuse gates under which it cannot be said which candidates a preview would lose."""
    if settings.gate.kind == "best_of":
        raise UserError(
            "previews are not for gate=best_of: whether a candidate is accepted depends on the others of its group, so "
            "that nobody can say what a preview loses; choose gate=score, or preview=none"
        )
    if settings.gate.kind == "certified":
        raise UserError(
            "previews are not for gate=certified: it watches whether candidates are like those that the certificate "
            "was measured on, and previews let only some through; take gate=score with the certificate's threshold, "
            "or preview=none"
        )


def made_for_settings(settings: GenerateConfig) -> dict[str, Any]:
    """What a calibration is bound to, as far as the configuration tells without loading a model."""
    diffusion = validated(DiffusionConfig, settings.diffusion, "diffusion")
    basemap = asdict(validated(BasemapConfig, settings.basemap, "basemap"))
    return {
        "schedule": {key: getattr(diffusion, key) for key in SCHEDULE} | {"strength": basemap["strength"]},
        "prompts": {"fingerprint": prompts_fingerprint(settings.prompts, basemap)},
        "gate": {"kind": settings.gate.kind, "threshold": settings.gate.threshold},
    }


def made_for_models(stages: Any, decoder: Any) -> dict[str, Any]:
    """The rest, of loaded `Stages` and a `PreviewDecoder`."""
    kept = ("name", "fingerprint")
    return {
        "model": {key: stages.models["diffusion"][key] for key in kept},
        "size": {"width": stages.sampler.width, "height": stages.sampler.height},
        "scorer": {key: stages.models["scorer"][key] for key in kept},
        "decoder": {"name": decoder.name, "fingerprint": decoder.fingerprint},
    }


def refuse_other(made_for: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """UserError that names every part of `now` that is not as in the calibration. Names alone may differ."""
    differing = []
    for part, values in json.loads(json.dumps(now)).items():
        before = made_for.get(part, {})
        for key, value in values.items():
            told = "" if key == "fingerprint" else f" {key}"
            if key != "name" and before.get(key) != value:
                differing.append(f"{part}{told} is {_short(before.get(key))} there and {_short(value)} here")
    if differing:
        raise UserError(
            f"preview.file {path} was made for something else: {'; '.join(differing)}. Run mode=calibrate with these "
            "settings, or take preview=none"
        )


def prompts_fingerprint(prompts: Mapping[str, Any], basemap: Mapping[str, Any]) -> str:
    """Hex sha256 over the templates, the first candidates that they make, and the base pictures' settings."""
    source = CandidateSource(prompts, 0)
    made = [[source[k].prompt, source[k].negative_prompt] for k in range(READ)]
    return hashlib.sha256(json.dumps([dict(prompts), dict(basemap), made], sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
