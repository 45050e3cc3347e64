"""What `generate.py` can be told: the whole configuration and its limits, checked before anything heavy is loaded."""

import math
from dataclasses import dataclass, field
from typing import Any

from artgate.errors import UserError
from artgate.scoring.config import LoggerConfig

MODES = ("generate", "calibrate", "remake")
GATES = ("score", "good", "best_of", "certified")
ON_DRIFT = ("warn", "stop")
FITS = ("crop", "extend")
IMAGE_FORMATS = ("png", "jpeg", "webp")
ALLOCATIONS = ("uniform", "bandit")
LARGEST_SIDE = 16384
# As in artworks/duplicates.py, which is not imported for it: numpy and Pillow would come along.
MAX_RADIUS = 63


@dataclass
class GateConfig:
    """What is accepted.

    kind: "score" (score >= threshold), "good" (P(good) >= threshold), "best_of" (of the `of` candidates of a prompt the
    `keep` best by score, if their score is >= threshold), or "certified" (what a certificate says).
    threshold: in [0, 1]; None for "certified", which has its own. certificate: its folder, of `artgate certify`.
    on_drift: what to do where candidates are not like those that the certificate was measured on: "warn" goes on with
    the certificate suspended, "stop" ends the batch.
    """

    kind: str
    threshold: float | None = None
    keep: int = 1
    of: int = 1
    certificate: str | None = None
    on_drift: str = "warn"

    def __post_init__(self) -> None:
        if self.kind not in GATES:
            raise UserError(f"gate.kind {self.kind} is not one of {', '.join(GATES)}: choose one, e.g. gate=score")
        if self.on_drift not in ON_DRIFT:
            raise UserError(f"gate.on_drift {self.on_drift} is not one of {', '.join(ON_DRIFT)}: choose one")
        if self.kind == "certified":
            self._check_certified()
        elif self.certificate is not None:
            raise UserError(f"gate.certificate is for gate=certified, not for {self.kind}: choose gate=certified")
        elif self.threshold is None:
            raise UserError("gate.threshold has no value: give one in [0, 1], e.g. gate.threshold=0.5")
        elif not 0 <= self.threshold <= 1:
            raise UserError(
                f"gate.threshold {self.threshold} is outside [0, 1]: scores and probabilities lie in [0, 1], e.g. 0.5"
            )
        if not 1 <= self.keep <= self.of:
            raise UserError(
                f"gate.keep {self.keep} is outside [1, gate.of = {self.of}]: keep at most as many as there are"
            )

    @property
    def group(self) -> int:
        """How many candidates in a row are judged together: they have one prompt."""
        return self.of if self.kind == "best_of" else 1

    def _check_certified(self) -> None:
        if self.certificate is None:
            raise UserError("gate.certificate has no value: give the folder that `artgate certify` wrote")
        if self.threshold is not None or self.of != 1:
            raise UserError(
                "gate.threshold, gate.keep and gate.of are not for gate=certified: the certificate has the threshold; "
                "leave them out"
            )


@dataclass
class AllocationConfig:
    """Which prompt templates the candidates are spent on.

    kind: "uniform" (templates in turn), or "bandit" (more to those that yield).
    floor: of the bandit's candidates the share in [0, 1] that goes to all templates in turn.
    round: groups of candidates (`gate.of` each) that the bandit decides on at once. It looks at the rounds before the
    last, so that slots do not wait: a round should hold more candidates than there are slots.
    """

    kind: str = "uniform"
    floor: float = 0.5
    round: int = 24

    def __post_init__(self) -> None:
        if self.kind not in ALLOCATIONS:
            raise UserError(f"allocation.kind {self.kind} is not one of {', '.join(ALLOCATIONS)}: choose one")
        if not 0 <= self.floor <= 1:
            raise UserError(
                f"allocation.floor {self.floor} is outside [0, 1]: give the share of all candidates, say 0.5"
            )
        if self.round < 1:
            raise UserError(f"allocation.round {self.round} is below 1: give more than there are slots, 24 say")


@dataclass
class NearDuplicatesConfig:
    """When a picture that the gate would accept is rejected because an accepted one looks like it.

    radius: in bits of a perceptual hash (PDQ), in [0, 63]: at most so many apart are near. distance: of features, as
    a share of what the first candidates of the batch lie apart, in [0, 1]. None: that test is not made.
    """

    radius: int | None = 31
    distance: float | None = 0.4

    def __post_init__(self) -> None:
        if self.radius is not None and not 0 <= self.radius <= MAX_RADIUS:
            raise UserError(f"near_duplicates.radius {self.radius} is outside [0, {MAX_RADIUS}] bits: 31 is usual")
        if self.distance is not None and not 0 <= self.distance <= 1:
            raise UserError(f"near_duplicates.distance {self.distance} is outside [0, 1]: give null for no such test")


@dataclass
class ApplicationConfig:
    """What the artworks are for: the size they are generated at and the size they are delivered in, in pixels.

    width, height: generated; None takes the model's own, or what suits both it and the final size (`sizes`).
    final_width, final_height: delivered, exactly; None takes what the upscaler makes.
    fit: what becomes of other proportions: "crop" shrinks the enlarged image to cover the final size and crops it
    around its middle, "extend" shrinks it to lie within and paints its surroundings (`fitting`).
    """

    name: str
    width: int | None = None
    height: int | None = None
    final_width: int | None = None
    final_height: int | None = None
    fit: str = "crop"

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise UserError("application.width and application.height go together: give both, or null for both")
        if (self.final_width is None) != (self.final_height is None):
            raise UserError("application.final_width and final_height go together: give both, or null for both")
        for key in ("width", "height"):
            side = getattr(self, key)
            if side is not None and (side % 8 or not 8 <= side <= LARGEST_SIDE):
                near = min(max(8, side // 8 * 8), LARGEST_SIDE)
                raise UserError(f"application.{key} {side} is not a multiple of 8 in [8, {LARGEST_SIDE}]: try {near}")
        for key in ("final_width", "final_height"):
            side = getattr(self, key)
            if side is not None and not 1 <= side <= LARGEST_SIDE:
                raise UserError(f"application.{key} {side} is outside [1, {LARGEST_SIDE}] pixels")
        if self.fit not in FITS:
            raise UserError(f"application.fit {self.fit!r} is not one of {', '.join(FITS)}: choose one")


@dataclass
class ImageConfig:
    """The files of accepted artworks.

    format: "png" (every pixel as it is), "jpeg" or "webp" (at a quality from 1 to 100). Each holds how it was made.
    sign: make copies with Content Credentials, too (`signing`).
    """

    format: str = "png"
    quality: int = 95
    sign: bool = False

    def __post_init__(self) -> None:
        if self.format not in IMAGE_FORMATS:
            raise UserError(f"image.format {self.format!r} is not one of {', '.join(IMAGE_FORMATS)}: choose one")
        if not 1 <= self.quality <= 100:
            raise UserError(
                f"image.quality {self.quality} is outside [1, 100]: 95 is hardly to be told from the original"
            )


@dataclass
class MovedConfig:
    """For mode=remake: where things lie by now that the sidecar has elsewhere. None: as it says.

    model: the diffusion model's folder. lora, upscaler: files of weights. basemap: the folder of the base pictures.
    """

    model: str | None = None
    lora: str | None = None
    upscaler: str | None = None
    basemap: str | None = None


@dataclass
class GenerateConfig:
    """The whole of `conf/generate.yaml`. The groups of other modules are checked by those modules.

    mode: "generate" until `target` are accepted; "calibrate" the early rejection on `n` candidates, to lose at
    most `max_loss` of the acceptable with `confidence`; "remake" the artwork that `sidecar` tells of, into the file or
    folder `out` (None: below `outputs`), with what has `moved` since.
    target: accepted artworks to make. max_candidates: where to give up. seed: of the stream of candidates.
    outputs: where dated batch folders are made. keep_rejected: keep small pictures of the rejected for the gallery.
    max_failures: candidates that may fail in a row before the run stops.
    progress_seconds: between progress lines where there is no terminal.
    batch_dir: the batch folder; None makes a dated one in `outputs`.
    scorer: folder of a scorer made by train.py; None takes the one that is shipped.
    """

    target: int
    max_candidates: int
    seed: int
    outputs: str
    keep_rejected: bool
    max_failures: int
    progress_seconds: float
    gate: GateConfig
    application: ApplicationConfig
    prompts: dict[str, Any]
    basemap: dict[str, Any]
    diffusion: dict[str, Any]
    upscaler: dict[str, Any]
    batch_dir: str | None = None
    scorer: str | None = None
    mode: str = "generate"
    sidecar: str | None = None
    out: str | None = None
    moved: MovedConfig = field(default_factory=MovedConfig)
    preview: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    n: int = 200
    max_loss: float = 0.05
    confidence: float = 0.95
    image: ImageConfig = field(default_factory=ImageConfig)
    logger: LoggerConfig = field(default_factory=lambda: LoggerConfig("none", "disabled", "artgate", None, None, []))
    allocation: AllocationConfig = field(default_factory=AllocationConfig)
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode} is not one of {', '.join(MODES)}: choose one, e.g. mode=generate")
        if (self.mode == "remake") != (self.sidecar is not None):
            raise UserError("mode=remake and sidecar go together: give both, e.g. mode=remake sidecar=FILE, or neither")
        if self.out is not None and self.mode != "remake":
            raise UserError(f"out {self.out} is for mode=remake: the folder of a batch is batch_dir")
        if self.mode != "remake" and any(vars(self.moved).values()):
            raise UserError("moved is for mode=remake: in a batch give diffusion.model and the like themselves")
        for key in ("target", "max_candidates", "max_failures"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} {getattr(self, key)} is below 1: give at least 1")
        if self.n < 2:
            raise UserError(f"n {self.n} is below 2: mode=calibrate learns from many candidates; give 200, say")
        for key in ("max_loss", "confidence"):
            if not 0 < getattr(self, key) < 1:
                raise UserError(f"{key} {getattr(self, key)} is outside (0, 1): the defaults are 0.05 and 0.95")
        if not 0 <= self.progress_seconds < math.inf:
            raise UserError(f"progress_seconds {self.progress_seconds} is outside [0, inf): give 5, say")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed} is outside [0, 2^63): give a whole number of at least 0")
        if self.max_candidates < max(self.target, self.gate.of):
            raise UserError(
                f"max_candidates {self.max_candidates} is below target {self.target} or gate.of {self.gate.of}: "
                f"no batch can end well; give max_candidates of at least {max(self.target, self.gate.of)}"
            )
