"""Early rejection: midway, the predicted clean image is decoded, scored, and may end its candidate.

A look changes nothing of the candidate: what is not rejected ends in the same picture, bit by bit.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from artgate.errors import UserError

if TYPE_CHECKING:
    from artgate.generation.preview_config import PreviewConfig
    from artgate.generation.preview_decoders import PreviewDecoder
    from artgate.scoring.scorer import Scorer


@dataclass(frozen=True, eq=False)
class Preview:
    """What was seen of a candidate after `step` denoiser calls, which took `evaluations` rows of it.

    reason: why it ends there; None where it goes on.
    """

    step: int
    evaluations: int
    score: float
    picture: Image.Image
    reason: str | None = None


class Previewer:
    """Looks at candidates after some of their steps.

    decode: (C, h, w) clean latents → picture. score: picture → what the gate would look at, in [0, 1].
    thresholds: step → the least score that goes on; -inf where all do. seconds: spent on looking so far.
    """

    def __init__(
        self,
        decode: Callable[[torch.Tensor], Image.Image],
        score: Callable[[Image.Image], float],
        thresholds: Mapping[int, float],
    ) -> None:
        self._decode, self._score = decode, score
        self.thresholds = dict(thresholds)
        self.seconds = 0.0

    def look(self, step: int, steps: int, evaluations: int, clean: torch.Tensor) -> Preview:
        """The preview of clean latents (C, h, w) after `step` of `steps` denoiser calls, `evaluations` rows.

        Each candidate is looked at alone, so that its fate does not depend on its neighbours. Raises ValueError where
        there is no score.
        """
        begun = time.perf_counter()
        try:
            picture = self._decode(clean)
            score = self._score(picture)
        finally:
            self.seconds += time.perf_counter() - begun
        if not math.isfinite(score):
            raise ValueError(f"the preview's score is {score}")
        threshold = self.thresholds[step]
        if score >= threshold:
            return Preview(step, evaluations, score, picture)
        reason = f"preview {score:.3g} < threshold {threshold:.3g} at step {step} of {steps}"
        return Preview(step, evaluations, score, picture, reason)


def build_previewer(config: "PreviewConfig", decoder: "PreviewDecoder", scorer: "Scorer", gate_kind: str) -> Previewer:
    """What looks at candidates under a configuration of kind "thresholds" or "watch".

    gate_kind: decides what of a score counts: P(good) for "good". Raises UserError where no steps are given.
    """
    if not config.steps:
        raise UserError(f"preview={config.kind} has no steps: give preview.steps")
    thresholds = config.thresholds or [-math.inf] * len(config.steps)

    def score(picture: Image.Image) -> float:
        found = scorer([picture])[0]
        return found.probabilities["good"] if gate_kind == "good" else found.score

    return Previewer(decoder.decode, score, dict(zip(config.steps, thresholds, strict=True)))
