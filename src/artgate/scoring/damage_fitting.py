"""Features of sound and of damaged pictures -> a detector of damage."""

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from artgate.scoring.damage import DamageDetector
from artgate.scoring.heads import fit_projection

# It learns until what is sound is far from what is damaged: only then does what it sees of a sound picture cost it
# next to nothing.
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.05
MINIBATCH, STEPS = 192, 600
DAMAGED_WEIGHT = 2.0


def fit_detector(
    features: Tensor, damaged: Tensor, components: int, hidden: int, members: int, seed: int
) -> DamageDetector:
    """Of (N, D) features and (N,) whether each is of a damaged picture. The same seed gives the same detector.

    components: axes of all the features that it sees, at most.
    """
    projection = fit_projection(features, components)
    detector = DamageDetector(features.shape[1], projection.axes.shape[1], hidden, members)
    detector.mean.copy_(projection.mean)
    detector.scale.copy_(projection.scale)
    detector.axes.data.copy_(projection.axes)
    rows = TensorDataset(projection(features), damaged.float())
    order = RandomSampler(rows, True, MINIBATCH * STEPS, torch.Generator().manual_seed(seed))
    minibatches = DataLoader(rows, sampler=BatchSampler(order, MINIBATCH, drop_last=False), batch_size=None)
    trainer = lightning.Trainer(
        accelerator="cpu",  # as the head: too small for an accelerator
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Learning(detector), minibatches)
    return detector.eval()


class _Learning(lightning.LightningModule):
    def __init__(self, detector: DamageDetector):
        super().__init__()
        self.detector = detector

    def training_step(self, minibatch: tuple[Tensor, Tensor], index: int) -> Tensor:
        axes, damaged = minibatch
        seen = self.detector.each(axes)  # (M, B): each learns by itself
        weight = seen.new_tensor(DAMAGED_WEIGHT)
        return binary_cross_entropy_with_logits(seen, damaged.expand_as(seen), pos_weight=weight) * len(seen)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        learning = self.detector.members.parameters()
        optimizer = torch.optim.AdamW(learning, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
