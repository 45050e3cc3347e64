"""Features and grades to a calibrated head, and its probabilities on artworks that it did not learn from."""

import logging
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from artgate.errors import UserError
from artgate.scoring.baselines import generator_majority, logistic_regression
from artgate.scoring.calibration import Calibration, fit_calibration
from artgate.scoring.config import HeadConfig, TrainerConfig
from artgate.scoring.damage import DamageDetector
from artgate.scoring.damage_fitting import fit_detector
from artgate.scoring.datamodule import GradedFeatures
from artgate.scoring.heads import OrdinalHead, fit_projection
from artgate.scoring.kernel import KernelOpinion
from artgate.scoring.kernel_fitting import fit_kernel
from artgate.scoring.module import HeadModule, KeepBest, StopAfter


@dataclass(frozen=True)
class Examples:
    """N graded artworks as tensors: features (N, D), generators (N,).

    targets: (N, A, K) with NaN where ungraded, to calibrate and measure by; lessons: the same, to learn from.
    levels: (N, A) opinions in grades, finer than these (graded.py), where there are any.
    renditions: (N, R, D) features of other renditions of each, to tell damage by; damaged: (R,), which of them are.
    """

    features: Tensor
    targets: Tensor
    lessons: Tensor
    generators: Sequence[str | None]
    levels: Tensor | None = None
    renditions: Tensor | None = None
    damaged: Sequence[bool] = ()

    def grades(self, rows: Sequence[int]) -> np.ndarray:
        """(M, K) target probabilities of quality, which every example has."""
        return self.targets[list(rows), 0].numpy()

    def of_aspects(self, columns: Sequence[int]) -> "Examples":
        """The same artworks with some of the aspects."""
        chosen = list(columns)
        levels = None if self.levels is None else self.levels[:, chosen]
        return replace(self, targets=self.targets[:, chosen], lessons=self.lessons[:, chosen], levels=levels)

    def of_rows(self, rows: Sequence[int]) -> "Examples":
        """Some of the artworks."""
        chosen = list(rows)
        return Examples(
            self.features[chosen],
            self.targets[chosen],
            self.lessons[chosen],
            [self.generators[row] for row in chosen],
            None if self.levels is None else self.levels[chosen],
            None if self.renditions is None else self.renditions[chosen],
            self.damaged,
        )

    def finer(self) -> Tensor:
        """(N, A) what opinions there are, else what the lessons expect, in grades."""
        if self.levels is not None:
            return self.levels
        return self.lessons @ torch.arange(self.lessons.shape[2], dtype=self.lessons.dtype)

    def sound_and_damaged(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features (M, D) of artworks and of all their renditions, and (M,) which of these are damaged."""
        chosen = list(rows)
        sound = torch.zeros(len(chosen), dtype=torch.bool)
        if self.renditions is None:
            return self.features[chosen], sound
        features = torch.cat([self.features[chosen], self.renditions[chosen].flatten(0, 1)])
        return features, torch.cat([sound, torch.tensor(self.damaged).repeat(len(chosen))])


@dataclass(frozen=True)
class Fit:
    """A head, its calibration, and what it says of the `rows` that it is measured on.

    probabilities: (M, A, K) of those rows. baselines: name -> (M, K) for quality. epoch: the one kept, from 0.
    """

    head: OrdinalHead
    calibration: Calibration
    epoch: int
    rows: list[int]
    probabilities: np.ndarray
    baselines: dict[str, np.ndarray]


def fit_on_splits(
    examples: Examples,
    rows: Mapping[str, list[int]],
    head_config: HeadConfig,
    config: TrainerConfig,
    seed: int,
    logger: Logger | None,
) -> Fit:
    """Learn from `train`, choose the epoch by `val`, calibrate on `calibration`, measure on `test`."""
    head, epoch = fit_head(examples, rows["train"], rows["val"], head_config, config, seed, logger)
    calibration = fit_calibration(_logits(head, examples, rows["calibration"]), examples.targets[rows["calibration"]])
    test = rows["test"]
    # The baselines choose no epoch, so they may learn from `val` as well.
    baselines = _baselines(examples, rows["train"] + rows["val"], test)
    return Fit(head, calibration, epoch, test, calibration(_logits(head, examples, test)).numpy(), baselines)


def fit_on_all(
    examples: Examples,
    folds: Sequence[int],
    head_config: HeadConfig,
    config: TrainerConfig,
    seed: int,
    logger: Logger | None,
) -> Fit:
    """Learn from every example; measure and calibrate on what heads say of the fold that they did not see.

    folds: (N,) the fold of each example. For each held-out fold the fold after it chooses the epoch, and then is
    learnt from as well: a head of all other folds is measured. It is measured under a calibration fitted on the other
    folds; the calibration that is kept is fitted on all of them. The epoch that is kept is the median.
    """
    count = max(folds) + 1
    # What chooses the epoch are the networks; the kernel and the detector of that head would not be looked at.
    networks = replace(head_config, centres=0, detector=0)
    parts = [[row for row, fold in enumerate(folds) if fold == part] for part in range(count)]
    logits = torch.zeros(len(folds), *examples.targets.shape[1:])[..., :-1]  # (N, A, K - 1)
    baselines: dict[str, np.ndarray] = {}
    epochs = []
    for held_out in range(count):
        val = (held_out + 1) % count
        train = [row for part in range(count) if part not in (held_out, val) for row in parts[part]]
        _, epoch = fit_head(examples, train, parts[val], networks, config, seed)
        head, _ = fit_head(examples, train + parts[val], None, head_config, config, seed, None, epoch)
        logits[parts[held_out]] = _logits(head, examples, parts[held_out])
        epochs.append(epoch)
        for name, found in _baselines(examples, train + parts[val], parts[held_out]).items():
            baselines.setdefault(name, np.zeros((len(folds), found.shape[1])))[parts[held_out]] = found

    probabilities = np.zeros(examples.targets.shape)
    for held_out in range(count):
        others = [row for row, fold in enumerate(folds) if fold != held_out]
        calibration = fit_calibration(logits[others], examples.targets[others])
        probabilities[parts[held_out]] = calibration(logits[parts[held_out]]).numpy()

    everything = list(range(len(folds)))
    last = int(statistics.median(epochs))
    head, _ = fit_head(examples, everything, None, head_config, config, seed, logger, last)
    return Fit(head, fit_calibration(logits, examples.targets), last, everything, probabilities, baselines)


def fit_head(
    examples: Examples,
    train: Sequence[int],
    val: Sequence[int] | None,
    head_config: HeadConfig,
    config: TrainerConfig,
    seed: int,
    logger: Logger | None = None,
    last_epoch: int | None = None,
) -> tuple[OrdinalHead, int]:
    """Train a head on rows `train`; the epoch is the best on rows `val`, or `last_epoch` where there are none.

    Returns the head, rounded to float16 as it will be kept, and the epoch. The same seed gives the same head.
    Raises UserError where the loss grows beyond all numbers.
    """
    stop: KeepBest | StopAfter = KeepBest(config.earliest, config.patience) if val else StopAfter(last_epoch or 0)
    with torch.random.fork_rng(devices=[]), _quietly():
        torch.manual_seed(seed)
        rows = list(train)
        projection = fit_projection(examples.features[rows], head_config.components)
        axes = projection(examples.features)
        head = OrdinalHead(
            projection.axes.shape[1],
            examples.targets.shape[1],
            examples.targets.shape[2],
            head_config.kind,
            head_config.hidden,
            head_config.dropout,
            head_config.members,
        )
        module = HeadModule(head, config)
        data = GradedFeatures(
            axes,
            examples.lessons,
            rows,
            val or [],
            minibatch=config.minibatch,
            steps=config.steps,
            seed=seed,
            balance=config.class_balance,
        )
        with _one_thread():
            _trainer(config.epochs, stop, logger, validates=bool(val)).fit(module, data)
        # An epoch whose loss is not a number is never the best
        if not stop.state or not all(value.isfinite().all() for value in stop.state.values()):
            raise UserError(
                f"the head's loss is not finite with trainer.learning_rate={config.learning_rate:g}: "
                "give a lower one, 1e-3 say"
            )
        head.load_state_dict(stop.state)
        kernel = _kernel(axes[rows], examples.finer()[rows], examples.lessons[rows], head_config, seed)
        detector = _detector(*examples.sound_and_damaged(rows), head_config, seed)
        whole = head.behind(projection, kernel, detector, head_config.strength)
    whole.round_to_half()
    return whole.eval(), stop.epoch


def _kernel(axes: Tensor, levels: Tensor, lessons: Tensor, config: HeadConfig, seed: int) -> KernelOpinion | None:
    if not config.centres:
        return None
    return fit_kernel(axes, levels, lessons, config.width, config.ridge, config.centres, seed)


def _detector(features: Tensor, damaged: Tensor, config: HeadConfig, seed: int) -> DamageDetector | None:
    if not config.detector or not damaged.any():
        return None
    with _one_thread():
        return fit_detector(features, damaged, config.damage_axes, config.detector, config.members, seed)


def _trainer(epochs: int, stop: lightning.Callback, logger: Logger | None, validates: bool) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",  # the head is small: moving features to an accelerator costs more than it saves
        devices=1,
        max_epochs=epochs,
        callbacks=[stop],
        logger=logger or False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if validates else 0,
    )


def _logits(head: OrdinalHead, examples: Examples, rows: Sequence[int]) -> Tensor:
    with torch.inference_mode():
        return head(examples.features[list(rows)])


def _baselines(examples: Examples, learnt: Sequence[int], asked: Sequence[int]) -> dict[str, np.ndarray]:
    grades, features = examples.grades(learnt), examples.features
    known = [examples.generators[row] for row in learnt]
    found = {
        "logistic_regression": logistic_regression(
            features[list(learnt)].numpy(), grades, features[list(asked)].numpy()
        )
    }
    if any(known):
        found["generator_majority"] = generator_majority(known, grades, [examples.generators[row] for row in asked])
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small are slower on several cores, and on busy ones far slower: threads wait by spinning."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Lightning's advice on hardware, loader workers and loggers: the head is small on purpose."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        log.setLevel(level)
