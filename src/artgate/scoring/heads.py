"""Features to ordinal logits: the CORN head, its loss and what its logits mean.

CORN (Shi, Cao and Raschka, "Deep neural networks for rank-consistent ordinal regression based on conditional
probabilities", 2021): with K grades, logit k of K - 1 is that of P(grade > k | grade >= k). Their products are the
probabilities of exceeding each grade, which so never cross.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from artgate.scoring.damage import DamageDetector
from artgate.scoring.kernel import KernelOpinion


class OrdinalHead(nn.Module):
    """(B, D) features -> (B, A, K - 1) CORN logits, one row an aspect.

    Features are standardised first, by the mean and scale of those it learnt from, and with `components` turned to
    their principal axes. `members` networks that differ by their random start and dropout are averaged; with
    `centres`, their mean is averaged with what a kernel says (kernel.py). With a `detector` (damage.py) of so many
    hidden units, on `damage_axes`, `strength` times what it sees of damage is taken from the first aspect's logits.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        dim: int,
        aspects: int,
        grades: int,
        kind: str,
        hidden: int,
        dropout: float,
        members: int,
        components: int = 0,
        centres: int = 0,
        width: float = 0.0,
        detector: int = 0,
        damage_axes: int = 0,
        strength: float = 0.0,
    ):
        super().__init__()
        self.config: dict[str, Any] = {"kind": kind, "hidden": hidden, "dropout": dropout, "members": members}
        self.shape = (aspects, grades - 1)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.axes: nn.Parameter | None = None
        if components:
            self.config["components"] = components
            self.axes = nn.Parameter(torch.zeros(dim, components), requires_grad=False)
        inputs, outputs = components or dim, aspects * (grades - 1)
        layers = _linear if kind == "linear" else _mlp
        self.members = nn.ModuleList(layers(inputs, hidden, outputs, dropout) for _ in range(members))
        self.kernel: KernelOpinion | None = None
        if centres:
            self.config |= {"centres": centres, "width": width}
            self.kernel = KernelOpinion(centres, inputs, aspects, grades, width)
        self.detector: DamageDetector | None = None
        self.strength = strength
        if detector:
            self.config |= {"detector": detector, "damage_axes": damage_axes, "strength": strength}
            self.detector = DamageDetector(dim, damage_axes, detector, members)

    def behind(
        self,
        projection: "Projection",
        kernel: KernelOpinion | None = None,
        detector: DamageDetector | None = None,
        strength: float = 0.0,
    ) -> "OrdinalHead":
        """The head on (N, D) features that says what this one says on their (N, C) projection.

        With a kernel on the projection beside it, and a detector on the features.
        """
        (dim, components), (aspects, thresholds) = projection.axes.shape, self.shape
        whole = OrdinalHead(dim, aspects, thresholds + 1, **self.config, components=components)
        whole.mean.copy_(projection.mean)
        whole.scale.copy_(projection.scale)
        whole.load_state_dict(self.members.state_dict(prefix="members.") | {"axes": projection.axes}, strict=False)
        if kernel is not None:
            whole.config |= {"centres": len(kernel.centres), "width": kernel.width}
            whole.kernel = kernel
        if detector is not None:
            whole.config |= {**detector.config, "strength": strength}
            whole.detector, whole.strength = detector, strength
        return whole

    def round_to_half(self) -> None:
        """Round the weights to float16, as they are kept; buffers stay exact."""
        for parameter in self.parameters():
            parameter.data = parameter.data.half().float()

    def forward(self, features: Tensor) -> Tensor:
        """Average the members' logits, then those with the kernel's, less the damage: (B, D) -> (B, A, K - 1)."""
        axes = self._axes(features)
        logits = self._each(axes).mean(0)
        if self.kernel is not None:
            logits = (logits + self.kernel(axes)) / 2
        if self.detector is None:
            return logits
        damage = self.strength * softplus(self.detector(features))  # (B,); almost 0 where it sees none
        return torch.cat([logits[:, :1] - damage[:, None, None], logits[:, 1:]], dim=1)

    def each_member(self, features: Tensor) -> Tensor:
        """Logits of every member: (B, D) -> (M, B, A, K - 1)."""
        return self._each(self._axes(features))

    def _axes(self, features: Tensor) -> Tensor:
        standardised = (features - self.mean) / self.scale
        return standardised if self.axes is None else standardised @ self.axes  # (B, C)

    def _each(self, axes: Tensor) -> Tensor:
        return torch.stack([member(axes).unflatten(1, self.shape) for member in self.members])


class Projection(NamedTuple):
    """Features standardised, then turned to their C principal axes: mean (D,), scale (D,), axes (D, C).

    All axes share one scale, so that the first still vary more than the last: a small head on few artworks does best
    where the features do most. Learning on C instead of D values is also many times faster.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, C), of mean square 1 on the features that it was fitted on."""
        return ((features - self.mean) / self.scale) @ self.axes


def fit_projection(features: Tensor, components: int) -> Projection:
    """Of (N, D) features, onto at most `components` axes; draws from torch's global generator."""
    mean = features.mean(0)
    spread = features.std(0, correction=0)
    scale = torch.where(spread > 1e-6 * spread.max(), spread, 1.0)  # a value that never varies is only centred
    standardised = (features - mean) / scale
    # Randomised (Halko et al., 2011): 256 of 4,608 axes in a second.
    _, strength, axes = torch.svd_lowrank(standardised, q=min(components, *features.shape), niter=2)
    axes = axes / (strength.square().mean() / len(features)).sqrt().clamp_min(1e-12)
    return Projection(mean, scale, axes.half().float())  # as they are kept


def corn_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted CORN loss with grade probabilities as targets; for one-hot targets the loss of the paper.

    logits: (..., K - 1). targets: (..., K), each row summing to 1, or NaN where the aspect was not graded.
    weights: (...), >= 0. Returns a scalar: the mean over all conditional decisions, each counted by how likely the
    target is to reach it.
    """
    targets = targets.nan_to_num(0)  # what was not graded reaches no decision
    reached = targets.flip(-1).cumsum(-1).flip(-1)  # (..., K): P(grade >= k)
    exceeded = reached[..., 1:]  # (..., K - 1): P(grade > k)
    reached = reached[..., :-1]
    losses = -(exceeded * logsigmoid(logits) + (reached - exceeded) * logsigmoid(-logits))
    weights = weights.unsqueeze(-1)
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


def _linear(dim: int, hidden: int, outputs: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(dropout), _even(nn.Linear(dim, outputs)))


def _mlp(dim: int, hidden: int, outputs: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), _even(nn.Linear(hidden, outputs))
    )


def _even(layer: nn.Linear) -> nn.Linear:
    """Start at even odds: hundreds of inputs would otherwise open with confident nonsense."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
