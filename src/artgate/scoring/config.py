"""The settings of a training run: what there is to set and what each may be. The values themselves are in conf/."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES

SPLITS = ("train", "val", "calibration", "test")
GROUP_KEYS = ("near_duplicates", "prompt", "creator")
IMPORTERS = ("agiqa3k",)
GRADE_SOURCES = ("auto", "grades", "votes", "ratings")
CONSENSUS = ("majority", "dawid-skene")
HEADS = ("linear", "mlp")
FINETUNE_MODES = ("none", "last", "all", "lora")
FINETUNE_PRECISIONS = ("auto", "float32", "bfloat16")
# What a certificate's threshold is on, and the lowest grades that it may count as right.
CERTIFICATE_KINDS = ("score", "good")
ACCEPTABLE = GRADES[1:]
LOGGERS = ("wandb", "none")
WANDB_MODES = ("offline", "online", "disabled")


@dataclass
class Fractions:
    """Shares of the graded artworks in each split; they sum to 1."""

    train: float
    val: float
    calibration: float
    test: float

    def __post_init__(self) -> None:
        shares = self.shares()
        for name, share in shares.items():
            _check_range(f"data.fractions.{name}", share, 0.01, 0.97)
        if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
            raise UserError(f"data.fractions sum to {sum(shares.values()):g}: {', '.join(SPLITS)} must sum to 1")

    def shares(self) -> dict[str, float]:
        """Share of each split, in the order of `SPLITS`."""
        return {name: getattr(self, name) for name in SPLITS}


@dataclass
class DataConfig:
    """Which artworks to learn from, what grades them, and how they are divided.

    harmless, damaged: renditions of each artwork that damage is learnt from (renditions.py).
    """

    root: str
    importer: str | None
    grades: str
    consensus: str
    cuts: dict[str, list[float]]
    raters: int | None
    soft: float
    aspects: list[str]
    fractions: Fractions
    group_by: list[str]
    duplicate_radius: int
    folds: int
    harmless: int
    damaged: int
    workers: int
    minibatch: int

    def __post_init__(self) -> None:
        if not Path(self.root).is_dir():
            raise UserError(
                f"data.root {self.root!r} is not a folder: give the folder of a graded collection "
                "(with metadata.jsonl), or with experiment=agiqa3k the folder of AGIQA-3K (with data.csv)"
            )
        if self.importer is not None:
            _check_choices("data.importer", [self.importer], IMPORTERS)
        _check_choices("data.grades", [self.grades], GRADE_SOURCES)
        _check_choices("data.consensus", [self.consensus], CONSENSUS)
        _check_choices("data.aspects", self.aspects, ASPECTS)
        _check_choices("data.group_by", self.group_by, GROUP_KEYS)
        if self.aspects[:1] != ["quality"] or len(set(self.aspects)) < len(self.aspects):
            raise UserError(
                f"data.aspects {self.aspects} must begin with quality (the score) and name each aspect once"
            )
        _check_choices("data.cuts", self.cuts, ASPECTS)
        for aspect, cuts in self.cuts.items():
            if len(cuts) != 2 or not cuts[0] < cuts[1]:
                raise UserError(f"data.cuts.{aspect} {cuts} must be two rising ratings, as in [2.25,3.08]")
        if self.raters is not None:
            _check_range("data.raters", self.raters, 1, 1_000_000)
        _check_range("data.soft", self.soft, 0, 1)
        _check_range("data.duplicate_radius", self.duplicate_radius, 0, 40)
        _check_range("data.folds", self.folds, 3, 50)  # one is held out, one chooses the epoch
        _check_range("data.harmless", self.harmless, 0, 64)
        _check_range("data.damaged", self.damaged, 0, 64)
        _check_range("data.workers", self.workers, 0, 256)
        _check_range("data.minibatch", self.minibatch, 1, 4096)


@dataclass
class HeadConfig:
    """What lies between features and ordinal logits.

    components: principal axes of the features that it sees. centres: artworks that the kernel beside the networks
    compares with, at most; 0 is no kernel. width, ridge: of the kernel (kernel.py, kernel_fitting.py).
    detector: hidden units of the networks that see damage; 0 leaves them out, as does data without damaged renditions.
    damage_axes: principal axes, of renditions too, that these see. strength: how much damage counts.
    """

    kind: str
    components: int
    hidden: int
    dropout: float
    members: int
    centres: int = 0
    width: float = 0.5
    ridge: float = 0.1
    detector: int = 0
    damage_axes: int = 512
    strength: float = 1.0

    def __post_init__(self) -> None:
        _check_choices("head.kind", [self.kind], HEADS)
        _check_range("head.components", self.components, 1, 65536)
        _check_range("head.hidden", self.hidden, 1, 65536)
        _check_range("head.dropout", self.dropout, 0, 0.99)
        _check_range("head.members", self.members, 1, 64)
        _check_range("head.centres", self.centres, 0, 65536)
        _check_range("head.width", self.width, 1e-4, 1e4)
        _check_range("head.ridge", self.ridge, 1e-6, 1e6)
        _check_range("head.detector", self.detector, 0, 65536)
        _check_range("head.damage_axes", self.damage_axes, 1, 65536)
        _check_range("head.strength", self.strength, 0, 100)


@dataclass
class TrainerConfig:
    """How the head is fitted. steps: minibatches to an epoch, whatever the number of artworks."""

    epochs: int
    earliest: int
    patience: int
    minibatch: int
    steps: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    class_balance: bool

    def __post_init__(self) -> None:
        _check_range("trainer.epochs", self.epochs, 1, 100_000)
        _check_range("trainer.earliest", self.earliest, 0, 100_000)
        _check_range("trainer.patience", self.patience, 1, 100_000)
        _check_range("trainer.minibatch", self.minibatch, 1, 2**20)
        _check_range("trainer.steps", self.steps, 1, 1_000_000)
        _check_range("trainer.learning_rate", self.learning_rate, 1e-9, 10)
        _check_range("trainer.weight_decay", self.weight_decay, 0, 100)
        _check_range("trainer.average_decay", self.average_decay, 0, 0.99999)


@dataclass
class ReportConfig:
    """What the run tells beside its figures. without: generators that the figures are given without, once more."""

    resamples: int
    without: list[str]
    group_gap: bool

    def __post_init__(self) -> None:
        _check_range("report.resamples", self.resamples, 100, 100_000)
        if not all(self.without):
            raise UserError(f"report.without {self.without} has an empty name: name generators, as in [glide]")


@dataclass
class AugmentConfig:
    """How a picture is changed before each look at it. Chances and shares are in [0, 1], quality in [1, 100]."""

    flip: float
    least_crop: float
    resize: float
    compress: float
    least_quality: int

    def __post_init__(self) -> None:
        for name in ("flip", "resize", "compress"):
            _check_range(f"finetune.augment.{name}", getattr(self, name), 0, 1)
        _check_range("finetune.augment.least_crop", self.least_crop, 0.3, 1)
        _check_range("finetune.augment.least_quality", self.least_quality, 1, 100)


@dataclass
class FinetuneConfig:
    """How the encoder learns with the head. mode: none, last (so many groups of layers), all, lora."""

    mode: str
    groups: int
    epochs: int
    patience: int
    minibatch: int
    accumulate: int
    learning_rate: float
    layer_decay: float
    head_learning_rate: float
    weight_decay: float
    warmup: float
    average_decay: float
    refit: bool
    precision: str
    checkpointing: bool
    renditions: int
    memory_gib: float
    workers: int
    augment: AugmentConfig
    rank: int
    alpha: int

    def __post_init__(self) -> None:
        _check_choices("finetune.mode", [self.mode], FINETUNE_MODES)
        _check_choices("finetune.precision", [self.precision], FINETUNE_PRECISIONS)
        _check_range("finetune.groups", self.groups, 1 if self.mode == "last" else 0, 1000)
        _check_range("finetune.epochs", self.epochs, 1, 10_000)
        _check_range("finetune.patience", self.patience, 1, 10_000)
        _check_range("finetune.minibatch", self.minibatch, 1, 4096)
        _check_range("finetune.accumulate", self.accumulate, 1, 4096)
        for name in ("learning_rate", "head_learning_rate"):
            _check_range(f"finetune.{name}", getattr(self, name), 1e-9, 10)
        _check_range("finetune.layer_decay", self.layer_decay, 0.01, 1)
        _check_range("finetune.weight_decay", self.weight_decay, 0, 100)
        _check_range("finetune.warmup", self.warmup, 0, 0.9)
        _check_range("finetune.average_decay", self.average_decay, 0, 0.99999)
        _check_range("finetune.renditions", self.renditions, 0, 1000)
        _check_range("finetune.memory_gib", self.memory_gib, 0, 100_000)
        _check_range("finetune.workers", self.workers, 0, 256)
        _check_range("finetune.rank", self.rank, 1, 1024)
        _check_range("finetune.alpha", self.alpha, 1, 65536)


@dataclass
class LoggerConfig:
    """Where the run is recorded."""

    kind: str
    mode: str
    project: str
    entity: str | None
    name: str | None
    tags: list[str]

    def __post_init__(self) -> None:
        _check_choices("logger.kind", [self.kind], LOGGERS)
        _check_choices("logger.mode", [self.mode], WANDB_MODES)


@dataclass
class PathsConfig:
    """Folders: of this run's results, of what can be computed again, of imported collections."""

    run: str
    cache: str
    collections: str


@dataclass
class CertifyConfig:
    """Whether a training run certifies its scorer on its test split, and what is asked of the certificate."""

    split: str
    precision: float
    confidence: float
    acceptable: str
    kind: str | None

    def __post_init__(self) -> None:
        _check_choices("certify.split", [self.split], ("none", "test"))
        _check_range("certify.precision", self.precision, 0.5, 0.999)
        _check_range("certify.confidence", self.confidence, 0.5, 0.999)
        _check_choices("certify.acceptable", [self.acceptable], ACCEPTABLE)
        if self.kind is not None:
            _check_choices("certify.kind", [self.kind], CERTIFICATE_KINDS)


@dataclass
class TrainConfig:
    """Everything that `train.py` reads. final: fit on all graded artworks, measured out of fold."""

    seed: int
    final: bool
    device: str
    data: DataConfig
    encoder: dict[str, Any]
    head: HeadConfig
    trainer: TrainerConfig
    finetune: FinetuneConfig
    report: ReportConfig
    certify: CertifyConfig
    logger: LoggerConfig
    paths: PathsConfig

    def __post_init__(self) -> None:
        _check_range("seed", self.seed, 0, 2**32 - 1)
        if "device" in self.encoder:
            device = self.encoder["device"]
            raise UserError(f"encoder.device={device} is not read here: give device={device} without encoder.")
        if self.final and self.certify.split != "none":
            raise UserError(
                "certify=test is not for final=true, which leaves no artwork unseen: certify the scorer on other "
                "artworks with `artgate certify`, or train with final=false"
            )


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{key} {value:g} is outside [{low:g}, {high:g}]: set it within")


def _check_choices(key: str, values: Iterable[str], choices: tuple[str, ...]) -> None:
    for value in values:
        if value not in choices:
            raise UserError(f"{key} {value!r} is not one of {', '.join(choices)}: choose from these")
