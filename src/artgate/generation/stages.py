"""The stages that a candidate passes, loaded once: sampler, scorer, upscaler."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artgate.config import validated
from artgate.generation.basemap import BasemapConfig, build_basemap
from artgate.generation.batch import Outcome
from artgate.generation.config import ApplicationConfig, GenerateConfig
from artgate.generation.fitting import fitted
from artgate.generation.likeness import sketch
from artgate.generation.memory import in_words, is_out_of_memory
from artgate.generation.models import load_model
from artgate.generation.preview import Preview, Previewer
from artgate.generation.prompts import Candidate
from artgate.generation.safety import SafetyChecker, load_safety_checker
from artgate.generation.sampler import Basemap, Failed, Finished, Left, SlotSampler
from artgate.generation.sizes import generated_size, too_large
from artgate.generation.upscale import Upscaler, build_upscaler
from artgate.scoring.scorer import Score, Scorer, default_scorer_path


@dataclass(frozen=True)
class Painter:
    """All that an artwork's pixels depend on. models: name, fingerprint and licence of each, for sidecars."""

    sampler: SlotSampler
    basemap: Basemap | None
    upscaler: Upscaler
    application: ApplicationConfig
    models: dict[str, dict[str, Any]]

    def enlarged(self, picture: Image.Image) -> Image.Image:
        """The picture as it is delivered: enlarged, then fitted to the application's final size."""
        return fitted(self.upscaler(picture), self.application)


@dataclass(frozen=True)
class Stages(Painter):
    """What `load_stages` loads: the painter, and who judges its pictures.

    safety: why a picture is rejected unseen, or None; None itself where the checkpoint carries no checker.
    """

    scorer: Scorer
    safety: SafetyChecker | None = None


def load_stages(settings: GenerateConfig) -> Stages:
    """Load diffusion model, upscaler and scorer. Raises UserError, with the cure."""
    painter = load_painter(settings)
    scorer_folder = Path(settings.scorer).expanduser() if settings.scorer else default_scorer_path()
    scorer = Scorer.load(scorer_folder, device=str(painter.sampler.model.device))
    safety = load_safety_checker(painter.sampler.model.config)
    judges = {"scorer": {"name": settings.scorer or "shipped", "fingerprint": scorer.fingerprint, "licence": None}}
    if safety:
        licence = painter.models["diffusion"]["licence"]
        judges["safety_checker"] = {"name": safety.name, "fingerprint": safety.fingerprint, "licence": licence}
    return Stages(**{**vars(painter), "models": painter.models | judges}, scorer=scorer, safety=safety)


def load_painter(settings: GenerateConfig) -> Painter:
    """Load upscaler and diffusion model: the quickest to fail first. Raises UserError, with the cure."""
    application = settings.application
    basemap = validated(BasemapConfig, settings.basemap, "basemap")
    upscaler = build_upscaler(settings.upscaler)
    model = load_model(settings.diffusion)
    config = model.config
    width, height = generated_size(application, model.size, model.scale, upscaler.scale)
    if warning := too_large((width, height), model.size):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    sampler = SlotSampler(
        model,
        scheduler=config.scheduler,
        steps=config.steps,
        guidance=config.guidance,
        slots=config.slots,
        width=width,
        height=height,
        strength=basemap.strength,
        eta=config.eta,
        scheduler_options=config.scheduler_options,
    )
    models: dict[str, dict[str, Any]] = {
        "diffusion": {"name": config.name, "fingerprint": model.fingerprint, "licence": config.licence},
        "upscaler": {"name": upscaler.name, "fingerprint": upscaler.fingerprint, "licence": upscaler.licence},
    }
    picture = build_basemap(basemap, sampler.width, sampler.height)
    return Painter(sampler, picture, upscaler, application, models)


def outcomes(
    stages: Stages,
    candidates: Iterable[Candidate],
    point: Callable[[np.ndarray], list[float]] | None = None,
    previewer: Previewer | None = None,
) -> Iterator[Outcome]:
    """Candidates as they leave the sampler, decoded and scored.

    Time in the sampler is booked on the candidate that it was waited for. A candidate is scored alone, so that its
    score does not depend, not even in the last digit, on its neighbours. point: what to keep of a picture's (D,)
    features, where a gate watches them. previewer: what looks at candidates midway, if anything.
    """
    leaving = stages.sampler.run(candidates, stages.basemap, previewer)
    looking = 0.0
    while True:
        begun = time.perf_counter()
        item = next(leaving, None)
        seconds = {"denoise": time.perf_counter() - begun}
        if item is None:
            return
        if previewer:
            seconds["preview"] = previewer.seconds - looking
            seconds["denoise"] -= seconds["preview"]
            looking = previewer.seconds
        if isinstance(item, Failed):
            yield _failed(item, seconds)
        elif isinstance(item, Left):
            yield _left(stages, item, seconds)
        else:
            yield _scored(stages, item, seconds, point)


def _failed(item: Failed, seconds: dict[str, float]) -> Outcome:
    return Outcome(item.candidate, error=f"{item.stage}: {item.error}", evaluations=item.evaluations, seconds=seconds)


def _failed_at(
    stage: str, error: Exception, stages: Stages, item: Finished | Left, seconds: dict[str, float]
) -> Outcome:
    if is_out_of_memory(error):
        stages.sampler.short_of_memory()
    message = f"{stage}: {in_words(error)}"
    return Outcome(item.candidate, error=message, evaluations=item.evaluations, seconds=seconds)


def _left(stages: Stages, item: Left, seconds: dict[str, float]) -> Outcome:
    last, begun = item.previews[-1], time.perf_counter()
    try:
        unsafe = stages.safety(last.picture) if stages.safety else None
    except Exception as error:  # whatever is wrong with one candidate must not end the batch
        return _failed_at("safety", error, stages, item, seconds)
    if stages.safety:
        seconds["safety"] = time.perf_counter() - begun
    return Outcome(
        item.candidate,
        None if unsafe else last.picture,
        evaluations=item.evaluations,
        seconds=seconds,
        rejected=last.reason,
        previews=_in_brief(item.previews),
    )


def _in_brief(previews: Sequence[Preview]) -> list[dict[str, float]] | None:
    return [{"step": seen.step, "score": seen.score, "evaluations": seen.evaluations} for seen in previews] or None


def _scored(
    stages: Stages, item: Finished, seconds: dict[str, float], point: Callable[[np.ndarray], list[float]] | None
) -> Outcome:
    stage, begun = "decode", time.perf_counter()
    try:
        picture = _with_content(stages.sampler.model.decode(item.latents[None])[0])
        seconds[stage], stage, begun = time.perf_counter() - begun, "safety", time.perf_counter()
        if stages.safety:
            unsafe = stages.safety(picture)
            seconds[stage] = time.perf_counter() - begun
            if unsafe:  # neither scored nor kept
                return Outcome(
                    item.candidate,
                    evaluations=item.evaluations,
                    seconds=seconds,
                    rejected=unsafe,
                    previews=_in_brief(item.previews),
                    slots=item.slots,
                )
        stage, begun = "score", time.perf_counter()
        features = stages.scorer.encoder.encode_images([picture])  # (1, D)
        score: Score = stages.scorer.score_features(features)[0]
        kept = point(features[0].numpy()) if point else None
        seconds[stage] = time.perf_counter() - begun
        if not math.isfinite(score.score):
            raise ValueError(f"the score is {score.score}")
    except Exception as error:  # whatever is wrong with one candidate must not end the batch
        return _failed_at(stage, error, stages, item, seconds)
    return Outcome(
        item.candidate,
        picture,
        score,
        point=kept,
        evaluations=item.evaluations,
        seconds=seconds,
        previews=_in_brief(item.previews),
        sketch=sketch(features[0].numpy()),
        slots=item.slots,
    )


def _with_content(picture: Image.Image) -> Image.Image:
    """The picture. Raises ValueError for one without any variation, black say: what codecs make of broken latents."""
    pixels = np.asarray(picture.convert("RGB"))  # (H, W, 3)
    if (pixels == pixels[0, 0]).all():
        colour = tuple(pixels[0, 0].tolist())
        raise ValueError(f"the picture has no variation, all of it is {colour}; try diffusion.dtype=float32")
    return picture
