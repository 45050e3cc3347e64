"""A kernel's view of people's opinion, the second half of a head.

A small network that learns grades and a kernel that learns opinions err differently: averaged, they rank better than
either, most of all within a generator. Opinions are finer than grades: they still tell a good artwork from a better
one.
"""

import torch
from torch import Tensor, nn


class KernelOpinion(nn.Module):
    """(B, C) axes of features -> (B, A, K - 1) CORN logits, by way of an opinion in grades (0 poor to K - 1) an aspect.

    The opinion is a sum over `count` centres, each weighed by exp(-width * squared distance / C); its distance from the
    middle between two grades, times a slope, is the logit of exceeding the lower one.
    """

    weights: Tensor
    middle: Tensor
    slope: Tensor

    def __init__(self, count: int, components: int, aspects: int, grades: int, width: float):
        super().__init__()
        self.width = width
        self.thresholds = grades - 1
        self.centres = nn.Parameter(torch.zeros(count, components), requires_grad=False)
        self.register_buffer("weights", torch.zeros(count, aspects))
        self.register_buffer("middle", torch.zeros(aspects))
        self.register_buffer("slope", torch.ones(aspects))

    def forward(self, axes: Tensor) -> Tensor:
        """Logits of exceeding each grade given that the one below is: as a CORN head's."""
        return self.logits(self.opinion(axes))

    def opinion(self, axes: Tensor) -> Tensor:
        """(B, C) -> (B, A), in grades."""
        return similarity(axes, self.centres, self.width) @ self.weights + self.middle

    def logits(self, opinion: Tensor) -> Tensor:
        """(B, A) -> (B, A, K - 1)."""
        edges = torch.arange(self.thresholds, dtype=opinion.dtype, device=opinion.device) + 0.5
        exceeds = (self.slope[:, None] * (opinion[..., None] - edges)).sigmoid()  # (B, A, K - 1): P(grade > k)
        reached = torch.cat([torch.ones_like(exceeds[..., :1]), exceeds[..., :-1]], dim=-1)
        return (exceeds / reached).clamp(1e-6, 1 - 1e-6).logit()


def similarity(points: Tensor, centres: Tensor, width: float) -> Tensor:
    """(B, C), (M, C) -> (B, M) of exp(-width * squared distance / C), in (0, 1]."""
    distance = points.square().sum(1)[:, None] + centres.square().sum(1) - 2 * points @ centres.T
    return torch.exp(-width / points.shape[1] * distance.clamp_min(0))
