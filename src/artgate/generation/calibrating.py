"""mode=calibrate: a batch in which nothing is rejected early and every preview is kept, then a choice from that.

Its candidates are a batch like any other: resumable, and what the gate accepts is there to be used. They are not those
of a batch of the same seed, so that nothing is made twice.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.basemap import BasemapConfig
from artgate.generation.config import GenerateConfig
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.preview_calibration import (
    CALIBRATION,
    LINEAR,
    Calibration,
    check_gate,
    made_for_models,
    made_for_settings,
    save_calibration,
)
from artgate.generation.preview_config import PreviewConfig
from artgate.generation.preview_policy import (
    Choice,
    Prices,
    Trajectories,
    choose,
    costs,
    rates,
    saving_of,
    spearman,
)
from artgate.generation.summary import decided_by, wilson_interval

if TYPE_CHECKING:
    from artgate.generation.stages import Stages

# Shares of the trajectory after which the default grid takes a look.
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
# Finished candidates that a linear map from latents to pixels is fitted on.
FITTED_ON = 16

Line = Mapping[str, Any]


def calibration_settings(settings: GenerateConfig) -> GenerateConfig:
    """The batch that a calibration is: `n` candidates of a stream of their own, all looked at, none rejected early."""
    check_gate(settings)
    if settings.allocation.kind != "uniform":
        raise UserError(
            f"allocation={settings.allocation.kind} is not for mode=calibrate: what is acceptable would depend on what "
            "was before; take allocation=uniform"
        )
    preview = validated(PreviewConfig, settings.preview, "preview")
    if preview.kind not in ("none", "watch"):
        raise UserError(
            f"preview={preview.kind} is not for mode=calibrate, which looks for the thresholds: leave it out"
        )
    watch = replace(preview, kind="watch", steps=preview.steps or default_grid(steps_of(settings)))
    return replace(
        settings,
        target=settings.n,
        max_candidates=settings.n,
        seed=seed_beside(settings.seed),
        preview=asdict(watch),
    )


def default_grid(steps: int) -> list[int]:
    """The steps of an even grid; UserError where a trajectory is too short to end early."""
    grid = sorted({max(1, round(share * steps)) for share in GRID} - {steps})
    if not grid:
        raise UserError(f"diffusion.steps {steps} leaves no step to take a preview at: early rejection needs 2 or more")
    return grid


def steps_of(settings: GenerateConfig) -> int:
    """Denoiser calls of the longest trajectory."""
    diffusion = validated(DiffusionConfig, settings.diffusion, "diffusion")
    basemap = validated(BasemapConfig, settings.basemap, "basemap")
    return max(1, int(diffusion.steps * basemap.strength)) if basemap.kind != "none" else diffusion.steps


def seed_beside(seed: int) -> int:
    """A base seed that is given by another one, and shares no candidates with it."""
    return int.from_bytes(hashlib.sha256(f"calibration {seed}".encode()).digest()[:7], "big")


def conclude(root: Path, settings: GenerateConfig, lines: Sequence[Line], models: Mapping[str, Any]) -> Calibration:
    """Choose from the ledger of a calibration, write `calibration.json` and tell what is in it.

    settings: of `calibration_settings`. models: of the batch; its "previews" says what made them.
    """
    preview = validated(PreviewConfig, settings.preview, "preview")
    seen = trajectories(lines, preview.steps or [], settings.gate.kind)
    measured = prices(lines)
    in_cost = measured if preview.cost == "seconds" else Prices()
    choice = choose(seen, in_cost, settings.max_loss, settings.confidence)
    made = Calibration(
        made_for=made_for_settings(settings) | dict(models["previews"]["made_for"]),
        decoder={
            "decoder": preview.decoder,
            "tiny": preview.tiny,
            "linear": LINEAR if preview.decoder == "linear" else None,
            "shrink": preview.shrink,
        },
        steps=list(choice.policy),
        thresholds=list(choice.policy.values()),
        candidates=len(seen),
        accepted=choice.acceptable,
        max_loss=settings.max_loss,
        confidence=settings.confidence,
        cost=preview.cost,
        prices=asdict(measured),
        blocks=choice.blocks if choice.policy else 0,
        loss=choice.loss if choice.policy else 0.0,
        loss_bound=choice.loss_bound if choice.policy else 0.0,
        saving=_savings(seen, choice, measured),
        unpruned=_unpruned(seen),
        grid=_grid(seen, settings.max_loss),
        reason=choice.reason,
        more=choice.more,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = save_calibration(root / CALIBRATION, made)
    print(told(made, path), flush=True)
    return made


def trajectories(lines: Sequence[Line], steps: Sequence[int], gate_kind: str = "score") -> Trajectories:
    """What a ledger with previews shows. Acceptable is what the gate lets pass, also where its like was there before.

    gate_kind: "good" where P(good) is what counts of a score.
    """
    previews = np.full((len(lines), len(steps)), math.inf)
    spent = np.zeros((len(lines), len(steps)))
    for row, line in enumerate(lines):
        seen = {preview["step"]: preview for preview in line.get("previews") or []}
        for column, step in enumerate(steps):
            if step in seen:
                previews[row, column], spent[row, column] = seen[step]["score"], seen[step]["evaluations"]
    return Trajectories(
        steps=tuple(steps),
        previews=previews,
        final=np.array([_final(line, gate_kind) for line in lines], dtype=float),
        accepted=np.array([decided_by(line) in ("accepted", "near-duplicate") for line in lines], dtype=bool),
        spent=spent,
        whole=np.array([line["evaluations"] for line in lines], dtype=float),
    )


def prices(lines: Sequence[Line]) -> Prices:
    """Seconds that an evaluation, a look and a finish (decoding and scoring) took in these candidates."""

    def each(stages: Sequence[str], count: int) -> float:
        return sum(line["seconds"].get(stage, 0.0) for line in lines for stage in stages) / max(count, 1)

    looks = sum(len(line.get("previews") or []) for line in lines)
    finished = sum(line["score"] is not None for line in lines)
    return Prices(
        evaluation=each(["denoise"], sum(line["evaluations"] for line in lines)),
        look=each(["preview"], looks),
        finish=each(["decode", "score"], finished),
    )


def fit_linear_map(stages: "Stages", settings: GenerateConfig, path: Path) -> None:
    """Fit the linear map from latents to pixels on candidates of its own, and write it; nothing where it is there."""
    from artgate.generation.preview_decoders import fit_linear
    from artgate.generation.prompts import CandidateSource
    from artgate.generation.sampler import Finished

    if path.exists():
        return
    import torch

    source = CandidateSource(settings.prompts, seed_beside(settings.seed))
    finished = stages.sampler.run((source[k] for k in range(FITTED_ON)), stages.basemap)
    latents = [
        item.latents for item in sorted(finished, key=lambda item: item.candidate.index) if isinstance(item, Finished)
    ]
    if not latents:
        raise UserError("no candidate was finished to fit preview.decoder=linear on: take preview.decoder=codec")
    pictures = [stages.sampler.model.decode(one[None])[0] for one in latents]
    fit_linear(torch.stack(latents), pictures).save(path)


def previews_as_model(stages: "Stages", decoder: Any) -> dict[str, Any]:
    """Beside the models of a calibration, so that it does not go on with others than it was begun with."""
    made_for = made_for_models(stages, decoder)
    return {
        "previews": {"name": decoder.name, "fingerprint": decoder.fingerprint, "licence": None, "made_for": made_for}
    }


def told(made: Calibration, path: Path) -> str:
    """The calibration in words."""
    unpruned = made.unpruned
    low, high = unpruned["yield_95"]
    lines = [
        f"calibrated on {made.candidates} candidates, {made.accepted} of them acceptable: yield "
        f"{unpruned['yield']:.1%}, 95 % interval {low:.1%} to {high:.1%}"
    ]
    for row in made.grid:
        agreement = "unknown" if row["spearman"] is None else f"{row['spearman']:.2f}"
        others = "unknown" if row["others_kept"] is None else f"{row['others_kept']:.0%}"
        lines.append(
            f"step {row['step']}: rank agreement with the final score {agreement}; a threshold that loses "
            f"{made.max_loss:g} of these acceptable keeps {others} of the others"
        )
    if made.steps:
        where = ", ".join(f"below {t:.3g} at step {s}" for s, t in zip(made.steps, made.thresholds, strict=True))
        lines += [
            f"rejects early {where}",
            f"loses at most {made.loss_bound:.1%} of the acceptable with confidence {made.confidence:g}, "
            f"{made.loss:.1%} expected",
        ]
        for cost, (expected, least, most) in made.saving.items():
            lines.append(f"saves {expected:.2f}x {cost} per accepted, 95 % interval {least:.2f}x to {most:.2f}x")
        if made.saving["seconds"][2] < 1:
            lines.append("warning: on this machine looking takes longer than it saves; take preview.cost=seconds")
        lines.append(f"use it: preview=calibrated preview.file={path}")
    else:
        lines.append(f"nothing is rejected early: {made.reason}")
        if made.more:
            lines.append(
                f"about {made.more} more candidates would do: the same command with n={made.candidates + made.more}"
            )
        else:
            lines.append("more candidates like these would hardly change that")
    return "\n".join([*lines, f"calibration {path}"])


def _savings(seen: Trajectories, choice: Choice, measured: Prices) -> dict[str, list[float]]:
    if not choice.policy:
        return {"evaluations": [1.0, 1.0, 1.0], "seconds": [1.0, 1.0, 1.0]}
    found = {}
    for name, cost in (("evaluations", Prices()), ("seconds", measured)):
        expected, interval = saving_of(seen, choice.policy, choice.blocks, cost)
        found[name] = [expected, *interval]
    return found


def _unpruned(seen: Trajectories) -> dict[str, Any]:
    accepted, n = int(seen.accepted.sum()), len(seen)
    return {
        "yield": accepted / n,
        "yield_95": list(wilson_interval(accepted, n)),
        "evaluations": float(seen.whole.mean()),
        "evaluations_per_accepted": float(seen.whole.sum()) / accepted if accepted else None,
    }


def _grid(seen: Trajectories, max_loss: float) -> list[dict[str, float | None]]:
    agreement = spearman(seen)
    rows = []
    for column, step in enumerate(seen.steps):
        good = seen.previews[seen.accepted, column]
        row: dict[str, float | None] = {
            "step": step,
            "spearman": _finite(agreement[step]),
            "others_kept": None,
            "saving": None,
        }
        if len(good):
            threshold = float(np.quantile(good, max_loss, method="inverted_cdf"))
            policy = {step: threshold}
            row["others_kept"] = _finite(rates(seen, policy)[1])
            kept = rates(seen, policy)[0]
            row["saving"] = float(seen.whole.mean() / costs(seen, policy, Prices()).mean()) * kept
        rows.append(row)
    return rows


def _final(line: Line, gate_kind: str) -> float:
    if line["score"] is None:
        return -math.inf
    return float(line["probabilities"]["good"] if gate_kind == "good" else line["score"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
