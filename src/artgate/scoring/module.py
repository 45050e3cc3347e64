"""The LightningModule: fits an ordinal head and keeps the running average of its weights that validates best."""

from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from artgate.scoring.config import TrainerConfig
from artgate.scoring.datamodule import Minibatch
from artgate.scoring.heads import OrdinalHead, corn_loss


class HeadModule(lightning.LightningModule):
    """Trains `head`; `average`, the moving average of its weights, is what is validated and kept."""

    def __init__(self, head: OrdinalHead, config: TrainerConfig):
        super().__init__()
        self.head = head
        self.average = AveragedModel(head, avg_fn=self._towards)
        self.config = config

    def training_step(self, minibatch: Minibatch, index: int) -> Tensor:
        """Every member learns by itself: averaging before the loss would let them lean on each other."""
        features, targets, weights = minibatch
        logits = self.head.each_member(features)  # (M, B, A, K - 1)
        loss = corn_loss(logits, targets.expand(len(logits), -1, -1, -1), weights.expand(len(logits), -1, -1))
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(features))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Minibatch, batch_idx: int) -> None:
        """Move the average along with the weights."""
        self.average.update_parameters(self.head)

    def _towards(self, average: Tensor, weights: Tensor, steps: Tensor | int) -> Tensor:
        # The first steps hardly count: an average that starts slowly would remember the random start for long.
        decay = min(self.config.average_decay, (1 + int(steps)) / (10 + int(steps)))
        return average * decay + weights * (1 - decay)

    def validation_step(self, minibatch: Minibatch, index: int) -> None:
        """The loss of the averaged weights decides which epoch is kept."""
        features, targets, weights = minibatch
        loss = corn_loss(self.average(features), targets, weights)
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(features))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW under one cycle of the learning rate."""
        rate = self.config.learning_rate
        optimizer = torch.optim.AdamW(self.head.members.parameters(), rate, weight_decay=self.config.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, rate, total_steps=max(steps, 2))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class KeepBest(lightning.Callback):
    """Keep the averaged head of the epoch with the lowest validation loss; stop `patience` epochs after it.

    Epochs before `earliest` are not considered. On a few validation artworks a head that has hardly begun, and gives
    every grade a third, beats one that ranks them well but is too sure of it; and that one calibration can mend.
    """

    def __init__(self, earliest: int, patience: int):
        self.earliest, self.patience = earliest, patience
        self.loss = float("inf")
        self.epoch = -1
        self.state: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Compare this epoch with the best one."""
        if trainer.current_epoch < min(self.earliest, (trainer.max_epochs or 1) - 1):
            return
        loss = float(trainer.callback_metrics["val/loss"])
        if loss < self.loss:
            self.loss, self.epoch = loss, trainer.current_epoch
            self.state = {key: value.clone() for key, value in pl_module.average.module.state_dict().items()}
        elif trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = True


class StopAfter(lightning.Callback):
    """Stop after `epoch` (from 0) and keep the averaged head as it is then."""

    def __init__(self, epoch: int):
        self.epoch = epoch
        self.state: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take the weights at the end of every epoch; the last one stays."""
        self.state = pl_module.average.module.state_dict()
        trainer.should_stop = trainer.current_epoch >= self.epoch
