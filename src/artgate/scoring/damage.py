"""How damaged a picture looks, by its features: what a head takes from the grade.

On axes of its own: those along which sound pictures differ are not those that damage moves along.
"""

import torch
from torch import Tensor, nn

DROPOUT = 0.2


class DamageDetector(nn.Module):
    """(B, D) features -> (B,) log-odds of damage, the mean of `members` small networks of `hidden` units.

    Features are standardised, and turned to `components` axes, as the detector was fitted to (damage_fitting.py).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, components: int, hidden: int, members: int):
        super().__init__()
        self.config = {"detector": hidden, "damage_axes": components}
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.axes = nn.Parameter(torch.zeros(dim, components), requires_grad=False)
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(DROPOUT),
                nn.Linear(components, hidden),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Linear(hidden, 1),
            )
            for _ in range(members)
        )
        for parameter in (parameter for member in self.members for parameter in member[-1].parameters()):  # type: ignore[index]
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Log-odds: (B, D) -> (B,)."""
        return self.each(((features - self.mean) / self.scale) @ self.axes).mean(0)

    def each(self, axes: Tensor) -> Tensor:
        """Log-odds of every member, on the axes: (B, C) -> (M, B)."""
        return torch.stack([member(axes)[:, 0] for member in self.members])
