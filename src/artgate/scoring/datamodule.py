"""Features and grades as minibatches, cut straight out of tensors: a row at a time would cost more than the head.

Rows are drawn with replacement, so many minibatches to an epoch: fifty artworks and fifty thousand get the same number
of steps, which is what fits a small head.
"""

from collections.abc import Sequence

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from artgate.scoring.heads import balancing_weights

# features (B, D), targets (B, A, K), weights (B, A)
Minibatch = tuple[Tensor, Tensor, Tensor]


class GradedFeatures(lightning.LightningDataModule):
    """Training and validation minibatches.

    features: (N, D). targets: (N, A, K) grade probabilities, NaN where an aspect was not graded. train, val: rows of
    each. An epoch is `steps` minibatches. balance: weigh the grades alike, within each of the two.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        train: Sequence[int],
        val: Sequence[int],
        *,
        minibatch: int,
        steps: int,
        seed: int,
        balance: bool,
    ):
        super().__init__()
        self.train = _Rows(features[list(train)], targets[list(train)], balance)
        self.val = _Rows(features[list(val)], targets[list(val)], balance)
        self.minibatch, self.steps = minibatch, steps
        self.order = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader[Minibatch]:
        """`steps` minibatches, drawn anew each epoch."""
        drawn = self.steps * self.minibatch
        sampler = RandomSampler(self.train, replacement=True, num_samples=drawn, generator=self.order)
        return DataLoader(self.train, sampler=BatchSampler(sampler, self.minibatch, drop_last=False), batch_size=None)

    def val_dataloader(self) -> DataLoader[Minibatch]:
        """All validation rows, in large minibatches."""
        sampler = BatchSampler(SequentialSampler(self.val), 4096, drop_last=False)
        return DataLoader(self.val, sampler=sampler, batch_size=None)


class _Rows(Dataset[Minibatch]):
    """Indexed by a list of rows, it gives a whole minibatch."""

    def __init__(self, features: Tensor, targets: Tensor, balance: bool):
        self.features, self.targets = features, targets
        self.weights = balancing_weights(targets) if balance else torch.ones(targets.shape[:2])

    def __getitem__(self, rows: list[int]) -> Minibatch:
        index = torch.as_tensor(rows)
        return self.features[index], self.targets[index], self.weights[index]

    def __len__(self) -> int:
        return len(self.features)
