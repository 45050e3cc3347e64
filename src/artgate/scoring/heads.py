"""Features to ordinal logits: the CORN head, its loss and what its logits mean.

CORN (Shi, Cao and Raschka, "Deep neural networks for rank-consistent ordinal regression based on conditional
probabilities", 2021): with K grades, logit k of K - 1 is that of P(grade > k | grade >= k). Their products are the
probabilities of exceeding each grade, which so never cross.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from artgate.scoring.config import HeadConfig


class OrdinalHead(nn.Module):
    """(B, D) features -> (B, A, K - 1) CORN logits, one row an aspect.

    Features are standardised first, by the mean and scale of those it learns from. `members` networks that differ
    by their random start and dropout are averaged.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, aspects: int, grades: int, kind: str, hidden: int, dropout: float, members: int):
        super().__init__()
        self.config = {"kind": kind, "hidden": hidden, "dropout": dropout, "members": members}
        self.shape = (aspects, grades - 1)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.members = nn.ModuleList(
            _linear(dim, aspects * (grades - 1), dropout)
            if kind == "linear"
            else _mlp(dim, hidden, aspects * (grades - 1), dropout)
            for _ in range(members)
        )

    @classmethod
    def from_config(cls, config: HeadConfig, dim: int, aspects: int, grades: int) -> "OrdinalHead":
        """Build the head that a configuration describes, for features of `dim` values."""
        return cls(dim, aspects, grades, config.kind, config.hidden, config.dropout, config.members)

    def standardise(self, features: Tensor) -> None:
        """Take mean and scale from (N, D) features; a value that never varies is only centred."""
        self.mean.copy_(features.mean(0))
        scale = features.std(0, correction=0)
        self.scale.copy_(torch.where(scale > 1e-6 * scale.max(), scale, torch.ones_like(scale)))

    def round_to_half(self) -> None:
        """Round the weights to float16, as they are kept; mean and scale stay exact."""
        for parameter in self.members.parameters():
            parameter.data = parameter.data.half().float()

    def forward(self, features: Tensor) -> Tensor:
        """Average the members' logits: (B, D) -> (B, A, K - 1)."""
        return self.each_member(features).mean(0)

    def each_member(self, features: Tensor) -> Tensor:
        """Logits of every member: (B, D) -> (M, B, A, K - 1)."""
        standardised = (features - self.mean) / self.scale
        return torch.stack([member(standardised).unflatten(1, self.shape) for member in self.members])


def corn_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted CORN loss with grade probabilities as targets; for one-hot targets the loss of the paper.

    logits: (..., K - 1). targets: (..., K), each row summing to 1, or NaN where the aspect was not graded.
    weights: (...), >= 0. Returns a scalar: the mean over all conditional decisions, each counted by how likely the
    target is to reach it.
    """
    graded = ~targets.isnan().any(-1)
    targets = targets.nan_to_num(0)
    reached = targets.flip(-1).cumsum(-1).flip(-1)  # (..., K): P(grade >= k)
    exceeded = reached[..., 1:]  # (..., K - 1): P(grade > k)
    reached = reached[..., :-1]
    losses = -(exceeded * logsigmoid(logits) + (reached - exceeded) * logsigmoid(-logits))
    weights = (weights * graded).unsqueeze(-1)
    return (weights * losses).sum() / (weights * reached).sum().clamp_min(1e-12)


def grade_probabilities(logits: Tensor) -> Tensor:
    """(..., K - 1) CORN logits -> (..., K) probabilities of the grades; each row sums to 1."""
    exceeded = logits.sigmoid().cumprod(-1)  # (..., K - 1): P(grade > k)
    certain = torch.ones_like(exceeded[..., :1])
    return torch.cat([certain, exceeded], -1) - torch.cat([exceeded, torch.zeros_like(certain)], -1)


def balancing_weights(targets: Tensor) -> Tensor:
    """Weights that let every grade count alike: (N, A, K) targets -> (N, A), of mean 1 over what is graded.

    A grade that nothing carries weighs nothing. Ungraded entries weigh 0.
    """
    graded = ~targets.isnan().any(-1)  # (N, A)
    targets = targets.nan_to_num(0)
    mass = targets.sum(0)  # (A, K)
    per_grade = torch.where(mass > 0, 1 / mass.clamp_min(1e-12), 0)
    weights = (targets * per_grade).sum(-1)
    return weights * graded.sum(0) / weights.sum(0).clamp_min(1e-12)


def _linear(dim: int, out: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(dropout), _small(nn.Linear(dim, out)))


def _mlp(dim: int, hidden: int, out: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), _small(nn.Linear(hidden, out))
    )


def _small(layer: nn.Linear) -> nn.Linear:
    """Start at even odds: thousands of features would otherwise open with confident nonsense."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
