"""Encoder and head fitted together, from where the frozen encoder and its head are.

Two stages: `fitting.py` fits a head on frozen features; then the encoder's layers that `finetune` names learn with it,
on pictures. Each epoch leaves a checkpoint, and each tuned network its weights, under `finetuning/` of the cache:
what was killed goes on from there when the same command is run again.
"""

import hashlib
import json
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as lightning
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.scoring.calibration import fit_calibration
from artgate.scoring.config import FinetuneConfig, HeadConfig, TrainerConfig
from artgate.scoring.encoders import Encoder, build_encoder
from artgate.scoring.fitting import Examples, Fit, _quietly, fit_head
from artgate.scoring.heads import OrdinalHead, grade_probabilities
from artgate.scoring.layers import merged
from artgate.scoring.tuning_module import GradedPictures, KeepEpoch, TuningModule

log = logging.getLogger(__name__)

# By how much rounding the encoder's weights to float16 may change a score; where it does more, they stay float32.
ROUNDING = 1e-3
CHECKED = 16
CHECKPOINT, RESULT = "last.ckpt", "tuned.safetensors"


@dataclass(frozen=True)
class Tuned:
    """An encoder with other weights, the head that learnt with it, and the epoch that was kept, from 0."""

    encoder: Encoder
    head: OrdinalHead
    epoch: int


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning begins from. examples: with features of the frozen encoder. picture: row -> RGB image.

    extract: (encoder, rows) -> (n, D) features as they are scored. folder: where checkpoints and results are kept.
    """

    encoder: Encoder
    examples: Examples
    image_ids: Sequence[str]
    picture: Callable[[int], Image.Image]
    extract: Callable[[Encoder, Sequence[int]], Tensor]
    head: HeadConfig
    trainer: TrainerConfig
    finetune: FinetuneConfig
    seed: int
    folder: Path
    logger: Logger | None = None

    def on_splits(self, rows: Mapping[str, list[int]], frozen: Fit) -> tuple[Encoder, Fit]:
        """As `fit_on_splits`, whose fit is `frozen`: learn from `train`, choose by `val`, calibrate, measure."""
        tuned = self._with_head(self.tune(rows["train"], rows["val"], frozen.head), rows["train"], rows["val"])
        logits = {name: self._logits(tuned, rows[name]) for name in ("calibration", "test")}
        calibration = fit_calibration(logits["calibration"], self.examples.targets[rows["calibration"]])
        probabilities = calibration(logits["test"]).numpy()
        fit = replace(
            frozen, head=tuned.head, calibration=calibration, epoch=tuned.epoch, probabilities=probabilities,
            baselines=_beside(frozen),
        )  # fmt: skip
        return tuned.encoder, fit

    def on_all(self, folds: Sequence[int], frozen: Fit) -> tuple[Encoder, Fit]:
        """As `fit_on_all`, whose fit is `frozen`: measured and calibrated out of fold, one encoder a fold.

        The encoder that is kept learns from everything, for the median of the epochs that the folds chose.
        """
        count = max(folds) + 1
        parts = [[row for row, fold in enumerate(folds) if fold == part] for part in range(count)]
        targets = self.examples.targets
        logits = torch.zeros(len(folds), *targets.shape[1:])[..., :-1]  # (N, A, K - 1)
        epochs = []
        networks = replace(self.head, centres=0, detector=0)  # all that follows the encoder (`_that_can_follow`)
        for held_out in range(count):
            val = (held_out + 1) % count
            train = [row for part in range(count) if part not in (held_out, val) for row in parts[part]]
            head, _ = fit_head(self.examples, train, parts[val], networks, self.trainer, self.seed)
            tuned = self._with_head(self.tune(train, parts[val], head), train, parts[val])
            logits[parts[held_out]] = self._logits(tuned, parts[held_out])
            epochs.append(tuned.epoch)
        probabilities = np.zeros(targets.shape)
        for held_out in range(count):
            others = [row for row, fold in enumerate(folds) if fold != held_out]
            calibration = fit_calibration(logits[others], targets[others])
            probabilities[parts[held_out]] = calibration(logits[parts[held_out]]).numpy()
        last = int(statistics.median(epochs))
        everything = list(range(len(folds)))
        tuned = self._with_head(self.tune(everything, [], frozen.head, last), everything, [], frozen.epoch)
        fit = replace(
            frozen, head=tuned.head, calibration=fit_calibration(logits, targets), epoch=last,
            probabilities=probabilities, baselines=_beside(frozen),
        )  # fmt: skip
        return tuned.encoder, fit

    def tune(self, train: Sequence[int], val: Sequence[int], head: OrdinalHead, last_epoch: int | None = None) -> Tuned:
        """Let encoder and head learn from rows `train`; the epoch is the best on `val`, or `last_epoch` without them.

        The same seed on the same machine gives the same weights, interrupted or not. Raises UserError where the loss
        grows beyond all numbers.
        """
        head = _that_can_follow(head)
        folder = self.folder / self._key(train, val, head, last_epoch)
        kept = _read_result(folder / RESULT)
        if kept is None:
            kept = self._learn(train, val, head, last_epoch, folder)
        state, epoch = kept
        tuned_head = deepcopy(head)
        tuned_head.load_state_dict(_part(state, "head"))
        tuned_head.round_to_half()
        seen = [self.picture(row) for row in (val or train)[:CHECKED]]
        return Tuned(_rounded(self.encoder, _part(state, "network"), tuned_head, seen), tuned_head.eval(), epoch)

    def _with_head(self, tuned: Tuned, train: Sequence[int], val: Sequence[int], last: int | None = None) -> Tuned:
        """With `finetune.refit`, a head fitted on the tuned encoder's features in place of that which learnt along."""
        if not self.finetune.refit:
            return tuned
        rows = [*train, *val]
        features = torch.zeros(len(self.image_ids), tuned.encoder.dim)
        features[rows] = self.extract(tuned.encoder, rows)
        # Renditions have features of the frozen encoder alone.
        examples = replace(self.examples, features=features, renditions=None, damaged=())
        head, _ = fit_head(examples, train, val or None, self.head, self.trainer, self.seed, None, last)
        return replace(tuned, head=head)

    def _learn(
        self, train: Sequence[int], val: Sequence[int], head: OrdinalHead, last_epoch: int | None, folder: Path
    ) -> tuple[dict[str, Tensor], int]:
        config = self.finetune
        folder.mkdir(parents=True, exist_ok=True)
        keep = KeepEpoch(config.patience, last_epoch if not val else None)
        with torch.random.fork_rng(devices=[]), _quietly(), _repeatable():
            torch.manual_seed(self.seed)
            module = TuningModule(self.encoder, head, config, self.seed)
            data = GradedPictures(
                self.encoder, self.picture, self.examples.lessons, train, val, config, self.seed,
                self.trainer.class_balance, module.front,
            )  # fmt: skip
            trainer = self._trainer(keep, folder, validates=bool(val))
            checkpoint = folder / CHECKPOINT
            resumed = checkpoint if checkpoint.is_file() else None
            if resumed:
                log.info("fine-tuning goes on from %s", resumed)
            trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
            if not keep.state or not all(value.isfinite().all() for value in keep.state.values()):
                raise UserError(
                    f"the loss is not finite with finetune.learning_rate={config.learning_rate:g} and "
                    f"finetune.head_learning_rate={config.head_learning_rate:g}: give lower ones"
                )
            state = _merged_state(module, keep.state)
        write_atomic(folder / RESULT, save(state, {"epoch": str(keep.epoch)}))
        checkpoint.unlink(missing_ok=True)
        return state, keep.epoch

    def _trainer(self, keep: KeepEpoch, folder: Path, validates: bool) -> lightning.Trainer:
        device = self.encoder.device
        every_epoch = ModelCheckpoint(
            folder, filename=Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        return lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if self._half else "32-true",
            max_epochs=self.finetune.epochs,
            accumulate_grad_batches=self.finetune.accumulate,
            gradient_clip_val=1.0,
            callbacks=[keep, every_epoch],
            logger=self.logger or False,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if validates else 0,
        )

    @property
    def _half(self) -> bool:
        if self.finetune.precision != "auto":
            return self.finetune.precision == "bfloat16"
        return self.encoder.device.type == "cuda" and torch.cuda.is_bf16_supported()

    def _key(self, train: Sequence[int], val: Sequence[int], head: OrdinalHead, last_epoch: int | None) -> str:
        """Of everything that the result depends on."""
        lessons = self.examples.lessons[[*train, *val]].numpy().tobytes()
        weights = b"".join(value.numpy().tobytes() for value in head.state_dict().values())
        told = {
            "encoder": self.encoder.fingerprint,
            "config": {**asdict(self.finetune), "workers": 0, "refit": False},
            "half": self._half,
            "balance": self.trainer.class_balance,
            "train": [self.image_ids[row] for row in train],
            "val": [self.image_ids[row] for row in val],
            "last": last_epoch,
            "seed": self.seed,
        }
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        digest.update(lessons)
        digest.update(weights)
        return digest.hexdigest()[:16]

    def _logits(self, tuned: Tuned, rows: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            return tuned.head(self.extract(tuned.encoder, rows))


def _beside(frozen: Fit) -> dict[str, np.ndarray]:
    """The baselines, and what the frozen encoder reaches."""
    return {**frozen.baselines, "frozen_encoder": frozen.probabilities[:, 0]}


def _that_can_follow(head: OrdinalHead) -> OrdinalHead:
    """The head without what is fitted to the features of the encoder as it was, and has no part in `each_member`.

    That is its kernel, and its detector of damage.
    """
    follows: Any = deepcopy(head)
    follows.kernel = follows.detector = None
    left_out = ("centres", "width", "detector", "damage_axes", "strength")
    follows.config = {key: value for key, value in head.config.items() if key not in left_out}
    return cast(OrdinalHead, follows)


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _merged_state(module: TuningModule, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The kept weights under the names that they have in the encoder's network and in the head."""
    average: Any = module.average.module
    average.load_state_dict(kept)
    network = merged(average["network"]).state_dict()
    head = average["head"].state_dict()
    state = {f"network.{key}": value for key, value in network.items()} | {f"head.{k}": v for k, v in head.items()}
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _read_result(path: Path) -> tuple[dict[str, Tensor], int] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, int(file.metadata()["epoch"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): it is made again", path, error)
        return None


def _rounded(
    encoder: Encoder, weights: Mapping[str, Tensor], head: OrdinalHead, images: Sequence[Image.Image]
) -> Encoder:
    """The encoder with these weights, in float16 where that changes no score of `images` by more than `ROUNDING`."""
    halved = {key: value.half().float() if value.is_floating_point() else value for key, value in weights.items()}
    exact, half = (build_encoder(encoder.config, state) for state in (dict(weights), halved))
    change = (_scores(exact, head, images) - _scores(half, head, images)).abs().max()
    return half if change <= ROUNDING else exact


def _scores(encoder: Encoder, head: OrdinalHead, images: Sequence[Image.Image]) -> Tensor:
    with torch.inference_mode():
        probabilities = grade_probabilities(head(encoder.encode_images(images)))[:, 0]  # (N, K)
        return probabilities @ torch.arange(probabilities.shape[1]).float() / (probabilities.shape[1] - 1)


@contextmanager
def _repeatable() -> Iterator[None]:
    """CuDNN as it gives the same result twice."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        yield
