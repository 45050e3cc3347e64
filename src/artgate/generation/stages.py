"""The stages that a candidate passes, loaded once: sampler, scorer, upscaler."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
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
from artgate.generation.models import load_model
from artgate.generation.prompts import Candidate
from artgate.generation.sampler import Basemap, Failed, Finished, SlotSampler
from artgate.generation.sizes import generated_size
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
    """What `load_stages` loads: the painter, and who judges its pictures."""

    scorer: Scorer


def load_stages(settings: GenerateConfig) -> Stages:
    """Load diffusion model, upscaler and scorer. Raises UserError, with the cure."""
    painter = load_painter(settings)
    scorer_folder = Path(settings.scorer).expanduser() if settings.scorer else default_scorer_path()
    scorer = Scorer.load(scorer_folder, device=str(painter.sampler.model.device))
    judges = {"scorer": {"name": settings.scorer or "shipped", "fingerprint": scorer.fingerprint, "licence": None}}
    return Stages(**{**vars(painter), "models": painter.models | judges}, scorer=scorer)


def load_painter(settings: GenerateConfig) -> Painter:
    """Load upscaler and diffusion model: the quickest to fail first. Raises UserError, with the cure."""
    application = settings.application
    basemap = validated(BasemapConfig, settings.basemap, "basemap")
    upscaler = build_upscaler(settings.upscaler)
    model = load_model(settings.diffusion)
    config = model.config
    width, height = generated_size(application, model.size, model.scale, upscaler.scale)
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
    stages: Stages, candidates: Iterable[Candidate], point: Callable[[np.ndarray], list[float]] | None = None
) -> Iterator[Outcome]:
    """Candidates as they leave the sampler, decoded and scored.

    Time in the sampler is booked on the candidate that it was waited for. A candidate is scored alone, so that its
    score does not depend, not even in the last digit, on its neighbours. point: what to keep of a picture's (D,)
    features, where a gate watches them.
    """
    leaving = stages.sampler.run(candidates, stages.basemap)
    while True:
        begun = time.perf_counter()
        item = next(leaving, None)
        seconds = {"denoise": time.perf_counter() - begun}
        if item is None:
            return
        yield _failed(item, seconds) if isinstance(item, Failed) else _scored(stages, item, seconds, point)


def _failed(item: Failed, seconds: dict[str, float]) -> Outcome:
    return Outcome(item.candidate, error=f"denoise: {item.error}", evaluations=item.evaluations, seconds=seconds)


def _scored(
    stages: Stages, item: Finished, seconds: dict[str, float], point: Callable[[np.ndarray], list[float]] | None
) -> Outcome:
    stage, begun = "decode", time.perf_counter()
    try:
        picture = stages.sampler.model.decode(item.latents[None])[0]
        seconds[stage], stage, begun = time.perf_counter() - begun, "score", time.perf_counter()
        features = stages.scorer.encoder.encode_images([picture])  # (1, D)
        score: Score = stages.scorer.score_features(features)[0]
        kept = point(features[0].numpy()) if point else None
        seconds[stage] = time.perf_counter() - begun
        if not math.isfinite(score.score):
            raise ValueError(f"the score is {score.score}")
    except Exception as error:  # whatever is wrong with one candidate must not end the batch
        message = f"{stage}: {type(error).__name__}: {error}"
        return Outcome(item.candidate, error=message, evaluations=item.evaluations, seconds=seconds)
    return Outcome(item.candidate, picture, score, point=kept, evaluations=item.evaluations, seconds=seconds)
