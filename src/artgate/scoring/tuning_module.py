"""The LightningModule of fine-tuning, its data, and the callback that keeps the best epoch and survives a kill."""

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from PIL import Image
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from artgate.scoring.augmentation import augmented
from artgate.scoring.config import FinetuneConfig
from artgate.scoring.encoders import Encoder
from artgate.scoring.frozen_front import FrozenFront, Record
from artgate.scoring.heads import OrdinalHead, balancing_weights, corn_loss
from artgate.scoring.layers import learning_groups, let_learn

log = logging.getLogger(__name__)

# views as `Encoder.features` takes them or what a frozen front made of them, targets (B, A, K), weights (B, A)
Minibatch = tuple[Any, Tensor, Tensor]
VAL = -1  # stands for the epoch where a picture is seen as it is


class TuningModule(lightning.LightningModule):
    """Trains a copy of an encoder's network, and a head; `average`, of the weights of both, is validated and kept."""

    def __init__(self, encoder: Encoder, head: OrdinalHead, config: FinetuneConfig, seed: int):
        super().__init__()
        self.config, self.seed = config, seed
        network = let_learn(deepcopy(encoder.network), config)
        self.front = _front(network, encoder, config)
        self.look = self.front.features if self.front else encoder.features
        self.learner = nn.ModuleDict({"network": network, "head": deepcopy(head)})
        self.average = AveragedModel(self.learner, avg_fn=self._towards)
        self.average.requires_grad_(False)

    def train(self, mode: bool = True) -> "TuningModule":
        """The head trains; the network stays as it infers: statistics of batch norms frozen, no dropout."""
        super().train(mode)
        self.learner["network"].eval()
        self.average.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """An epoch draws the same whether the run was interrupted before it or not."""
        torch.manual_seed(self.seed * 10_000 + self.current_epoch)

    def training_step(self, minibatch: Minibatch, index: int) -> Tensor:
        """Every member of the head learns by itself, and the network from all of them."""
        views, targets, weights = minibatch
        features = self.look(views, self.learner["network"])
        with torch.autocast(features.device.type, enabled=False):
            logits = self.learner["head"].each_member(features)  # type: ignore[operator]  # (M, B, A, K - 1)
            loss = corn_loss(logits, targets.expand(len(logits), -1, -1, -1), weights.expand(len(logits), -1, -1))
        self.log("finetune/train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))
        return loss

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Move the average along with the weights."""
        super().optimizer_step(*arguments, **named)
        self.average.update_parameters(self.learner)

    def validation_step(self, minibatch: Minibatch, index: int) -> None:
        """The loss of the averaged weights decides which epoch is kept."""
        views, targets, weights = minibatch
        average: Any = self.average.module
        features = self.look(views, average["network"])
        with torch.autocast(features.device.type, enabled=False):
            loss = corn_loss(average["head"](features), targets, weights)
        self.log("finetune/val_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, each group of layers at its own rate; all warm up together and fall along a cosine."""
        head = {"params": list(self.learner["head"].parameters()), "lr": self.config.head_learning_rate}
        groups = [*learning_groups(self.learner["network"], self.config), head]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)
        steps = max(int(self.trainer.estimated_stepping_batches), 2)
        schedule = LambdaLR(optimizer, lambda step: _rate(step, steps, self.config.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def kept(self) -> dict[str, Tensor]:
        """The averaged weights of network and head."""
        return {key: value.detach().cpu().clone() for key, value in self.average.module.state_dict().items()}

    def _towards(self, average: Tensor, weights: Tensor, steps: Tensor | int) -> Tensor:
        # The first steps hardly count, so that the average of a short run is not its start.
        decay = min(self.config.average_decay, (1 + int(steps)) / (10 + int(steps)))
        return average.lerp(weights, 1 - decay)  # exact where nothing moved


class KeepEpoch(lightning.Callback):
    """Keep the average of the epoch with the lowest validation loss and stop `patience` after it; or stop after `last`.

    What it holds goes into checkpoints, so that a resumed run still has the best of the epochs before the kill.
    """

    def __init__(self, patience: int, last: int | None):
        self.patience, self.last = patience, last
        self.loss, self.epoch = float("inf"), -1
        self.state: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Compare this epoch with the best one."""
        loss = float(trainer.callback_metrics["finetune/val_loss"])
        if loss < self.loss:
            self.loss, self.epoch, self.state = loss, trainer.current_epoch, pl_module.kept()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take the weights where nothing validates them, and stop when it is time."""
        if self.last is not None:
            self.epoch, self.state = trainer.current_epoch, pl_module.kept()
        trainer.should_stop = self._is_over(trainer.current_epoch)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """A run that was killed after its last epoch has nothing left to do."""
        if trainer.current_epoch and self._is_over(trainer.current_epoch - 1):
            trainer.should_stop = True
            trainer.limit_train_batches = 0

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"loss": self.loss, "epoch": self.epoch, "state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.loss, self.epoch, self.state = state_dict["loss"], state_dict["epoch"], state_dict["state"]

    def _is_over(self, epoch: int) -> bool:
        return epoch >= self.last if self.last is not None else epoch - self.epoch >= self.patience


class GradedPictures(lightning.LightningDataModule):
    """Pictures as an encoder's views: all of `train` once an epoch, changed by chance; `val` as they are.

    picture: row -> RGB image. targets: (N, A, K), NaN where ungraded. balance: weigh the grades alike. front: what
    does the frozen part of the work once for each picture and rendition.
    """

    def __init__(
        self,
        encoder: Encoder,
        picture: Callable[[int], Image.Image],
        targets: Tensor,
        train: Sequence[int],
        val: Sequence[int],
        config: FinetuneConfig,
        seed: int,
        balance: bool,
        front: FrozenFront | None = None,
    ):
        super().__init__()
        self.config, self.seed = config, seed
        self.train, self.val = (
            _Pictures(encoder, picture, targets, rows, config, seed, balance) for rows in (list(train), list(val))
        )
        keeps = front and _Kept.that_fits(front, self.train, len(train), len(val), config)
        self.collate: Callable[[Sequence[Any]], Any] = front.collate if front else encoder.collate
        # Processes would each keep their own.
        self.workers = 0 if front else config.workers
        if front:
            self.train.kept = self.val.kept = keeps or _Kept(front, renditions=0)

    def train_dataloader(self) -> DataLoader[Minibatch]:
        """In an order that seed and epoch decide."""
        return self._loader(self.train, _EpochOrder(len(self.train), self.seed))

    def val_dataloader(self) -> DataLoader[Minibatch]:
        """In order."""
        return self._loader(self.val, [(VAL, index) for index in range(len(self.val))])

    def _loader(self, pictures: "_Pictures", order: Any) -> DataLoader[Minibatch]:
        return DataLoader(
            pictures,
            self.config.minibatch,
            sampler=order,
            num_workers=self.workers,
            collate_fn=self._collated,
            persistent_workers=self.workers > 0,
        )

    def _collated(self, items: Sequence[tuple[Any, Tensor, Tensor]]) -> Minibatch:
        views, targets, weights = zip(*items, strict=True)
        return self.collate(views), torch.stack(targets), torch.stack(weights)


class _Pictures(Dataset[Any]):
    """Indexed by (epoch, index): what is drawn of a picture depends on these and the seed alone."""

    def __init__(
        self,
        encoder: Encoder,
        picture: Callable[[int], Image.Image],
        targets: Tensor,
        rows: list[int],
        config: FinetuneConfig,
        seed: int,
        balance: bool,
    ):
        self.encoder, self.picture, self.rows, self.config, self.seed = encoder, picture, rows, config, seed
        self.kept: _Kept | None = None
        self.targets = targets[rows]
        self.weights = balancing_weights(self.targets) if balance else torch.ones(self.targets.shape[:2])

    def __getitem__(self, place: tuple[int, int]) -> tuple[Any, Tensor, Tensor]:
        epoch, index = place
        seen = self.kept.record(self, epoch, index) if self.kept else self.views(epoch, index)
        return seen, self.targets[index], self.weights[index]

    def views(self, epoch: int, index: int) -> tuple[Tensor, ...]:
        """Of a picture, as it is changed in an epoch."""
        image = self.picture(self.rows[index])
        if epoch != VAL:
            image = augmented(image, self.config.augment, np.random.default_rng([self.seed, epoch, index]))
        return self.encoder.preprocess(image)

    def __len__(self) -> int:
        return len(self.rows)


class _Kept:
    """What a frozen front made of pictures: of so many renditions of each, taken in turn; 0 keeps nothing."""

    def __init__(self, front: FrozenFront, renditions: int):
        self.front, self.renditions = front, renditions
        self.found: dict[tuple[int, int], Record] = {}

    @classmethod
    def that_fits(
        cls, front: FrozenFront, pictures: "_Pictures", train: int, val: int, config: FinetuneConfig
    ) -> "_Kept":
        """As many renditions as memory takes, up to those asked for; validation needs one, of each picture as it is."""
        record = front.record(pictures.views(VAL, 0))
        each = sum(tensor.nbytes for view in record for tensor in view)
        room = config.memory_gib * 2**30 / each - val
        return cls(front, max(0, min(config.renditions, int(room // train))))

    def record(self, pictures: "_Pictures", epoch: int, index: int) -> Record:
        """Of a picture in an epoch, computed where it is not there."""
        if not self.renditions:
            return self.front.record(pictures.views(epoch, index))
        rendition = epoch if epoch == VAL else epoch % self.renditions
        if (rendition, index) not in self.found:
            self.found[rendition, index] = self.front.record(pictures.views(rendition, index))
        return self.found[rendition, index]


class _EpochOrder(Sampler[tuple[int, int]]):
    """(epoch, index) in an order that is drawn anew each epoch; Lightning tells the epoch."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter([(self.epoch, int(index)) for index in order])

    def __len__(self) -> int:
        return self.count


def _front(network: nn.Module, encoder: Encoder, config: FinetuneConfig) -> FrozenFront | None:
    """Where frozen blocks come before those that learn, and their results may be kept."""
    if config.mode != "last" or not config.renditions or not config.memory_gib:
        return None
    try:
        return FrozenFront(network, encoder)
    except ValueError as error:
        log.info("nothing is kept in memory: %s", error)
        return None


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the full learning rate at a step: up a line, then down a cosine to 0."""
    done = (step + 1) / (steps + 1)
    return done / warmup if done < warmup else 0.5 * (1 + float(np.cos(np.pi * (done - warmup) / (1 - warmup))))
