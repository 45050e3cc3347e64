"""The frozen first blocks of a network run once for each picture; their results are kept in memory and given again.

Where only the last groups of layers learn, most of a step is the forward pass of what does not. `FrozenFront` takes the
place of the frozen blocks' `forward`: it records what the last of them gives, in float16, and of those before it mean
and deviation of each channel, which is all that `PooledFeatures` wants of them; then it gives these back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from artgate.scoring.encoders import Encoder
from artgate.scoring.layers import towers

# Side of the blank picture that goes through a convolutional stem, whose result is not used.
BLANK = 32

Record = list[list[Tensor]]  # for each view what the blocks gave, as far as it is wanted


class FrozenFront:
    """Of a network that `let_learn` has marked. Copies of the network made afterwards share it.

    Raises ValueError for a network whose frozen blocks cannot be skipped.
    """

    def __init__(self, network: nn.Module, encoder: Encoder):
        self._encoder = encoder
        self._recorded: list[Tensor | None] | None = None
        self._given: list[Tensor | None] | None = None
        self._convolutional = True
        place = 0
        for _, tower in towers(network):
            blocks = _frozen_blocks(tower)
            self._convolutional &= hasattr(tower, "stage_ends")
            for block in blocks:
                block.forward = self._instead(place, block.forward, last=block is blocks[-1])
                place += 1
        self._network = network

    def record(self, views: Sequence[Tensor]) -> Record:
        """What the frozen blocks make of one picture; views: those of `Encoder.preprocess`."""
        return [self._record(view) for view in views]

    @staticmethod
    def collate(records: Sequence[Record]) -> Record:
        """Records of B pictures as those of one minibatch."""
        return [[torch.stack(places) for places in zip(*views, strict=True)] for views in zip(*records, strict=True)]

    def features(self, records: Record, network: nn.Module) -> Tensor:
        """(B, D) of what was recorded, as `Encoder.features` of the pictures; differentiable."""
        parts = []
        for size, given in zip(self._encoder.preprocessing.sizes, records, strict=True):
            side = BLANK if self._convolutional else size
            blank = torch.zeros(len(given[0]), 3, side, side, device=self._encoder.device)
            self._given = [_as_block(tensor.to(self._encoder.device).float()) for tensor in given]
            try:
                parts.append(network(blank).float())
            finally:
                self._given = None
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def _record(self, view: Tensor) -> list[Tensor]:
        self._recorded = []
        self._network(self._encoder.preprocessing.normalise(view[None].to(self._encoder.device)))
        found, self._recorded = self._recorded, None
        return [tensor[0].half().cpu() for tensor in found if tensor is not None]

    def _instead(self, place: int, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def recorded_or_given(x: Tensor, *others: Any, **named: Any) -> Any:
            if self._given is not None:
                return self._given[place] if x.ndim == 4 else self._given[-1] if last else x
            found = forward(x, *others, **named)
            if self._recorded is not None:
                self._recorded.append(found if last else _summary(found))
            return found

        return recorded_or_given


def _frozen_blocks(tower: Any) -> list[nn.Module]:
    """The first blocks of a tower, up to that which learns."""
    blocks = tower.blocks if hasattr(tower, "blocks") else getattr(getattr(tower, "transformer", None), "resblocks", ())
    frozen: list[nn.Module] = []
    for block in blocks:
        if any(parameter.requires_grad for parameter in block.parameters()):
            break
        frozen.append(block)
    if not frozen or len(frozen) == len(blocks) or 0 in getattr(tower, "stage_ends", ()):
        raise ValueError(f"{type(tower).__name__} has no frozen blocks before those that learn")
    return frozen


def _summary(found: Tensor) -> Tensor | None:
    """(B, C, h, w) -> (B, C, 2, 1) with the same mean and deviation of each channel; None of tokens."""
    if found.ndim != 4:
        return None
    variance, mean = torch.var_mean(found.float(), dim=(2, 3), correction=0)
    deviation = variance.sqrt()
    return torch.stack([mean - deviation, mean + deviation], dim=-1).unsqueeze(-1)


def _as_block(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
