"""What `conf/preview/*.yaml` says of early rejection, checked before anything heavy is imported."""

from dataclasses import dataclass
from typing import Any

from artgate.errors import UserError

KINDS = ("none", "calibrated", "thresholds", "watch")
DECODERS = ("codec", "tiny", "linear")
COSTS = ("evaluations", "seconds")


@dataclass
class PreviewConfig:
    """Which previews are looked at, and which of them end a candidate.

    kind: "none"; "calibrated" (as `file` says, which mode=calibrate wrote); "thresholds" (those given here); "watch"
    (scores are kept and nothing is rejected: what mode=calibrate does).
    steps: denoiser calls after which a preview is taken, from 1; for mode=calibrate the grid that it chooses from, None
    for an even one. thresholds: one a step: a preview that scores less ends its candidate.
    decoder: "codec" (the model's own), "tiny" (an `AutoencoderTiny` in `tiny`: folder or hub repository) or "linear" (a
    fitted linear map from latents to pixels; `linear` is its file, None lets mode=calibrate fit one).
    shrink: how many times smaller the preview is than the picture, along each side; not for "linear".
    cost: what mode=calibrate minimises per accepted artwork: denoiser "evaluations", or "seconds" on this machine.
    """

    kind: str = "none"
    file: str | None = None
    decoder: str = "codec"
    tiny: str | None = None
    linear: str | None = None
    shrink: int = 1
    steps: list[int] | None = None
    thresholds: list[float] | None = None
    cost: str = "evaluations"

    def __post_init__(self) -> None:
        for key, choices in (("kind", KINDS), ("decoder", DECODERS), ("cost", COSTS)):
            _check_choice(key, getattr(self, key), choices)
        if (self.kind == "calibrated") != (self.file is not None):
            raise UserError(
                "preview.file and preview=calibrated go together: give both, the file being the calibration.json that "
                "mode=calibrate wrote"
            )
        if self.shrink not in (1, 2, 4, 8) or (self.decoder == "linear" and self.shrink != 1):
            raise UserError(f"preview.shrink {self.shrink} is not one of 1, 2, 4, 8, or not 1 with decoder=linear")
        if self.decoder == "tiny" and self.tiny is None:
            raise UserError("preview.tiny has no value: give the folder or the repository of an AutoencoderTiny")
        for step in self.steps or []:
            if step < 1:
                raise UserError(f"preview.steps {step} is below 1: steps count the denoiser's calls, from 1")
        if self.steps is not None and (not self.steps or sorted(set(self.steps)) != self.steps):
            raise UserError(f"preview.steps {self.steps} is not a rising list of at least one step, as [4,8]")
        if self.kind == "thresholds":
            self._check_thresholds()
        elif self.thresholds is not None:
            raise UserError(f"preview.thresholds is for preview=thresholds, not for {self.kind}: leave it out")

    def _check_thresholds(self) -> None:
        if not self.steps or not self.thresholds or len(self.steps) != len(self.thresholds):
            raise UserError("preview=thresholds needs preview.steps and preview.thresholds, one threshold a step")
        for threshold in self.thresholds:
            if not 0 <= threshold <= 1:
                raise UserError(f"preview.thresholds {threshold} is outside [0, 1]: scores lie in [0, 1]")
        if self.decoder == "linear" and self.linear is None:
            raise UserError("preview.linear has no value: give the linear.safetensors that mode=calibrate fitted")


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"preview.{key} {value!r} is not one of {', '.join(choices)}: choose one")
