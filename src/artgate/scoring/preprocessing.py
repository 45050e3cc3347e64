"""An RGB image → the uint8 squares that an encoder takes, and their normalisation."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

FITS = ("squash", "crop")


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder sees an image.

    sizes: side of each square view in pixels. interpolation: `bicubic`, `bilinear` or `nearest`. fit: how an image
    that is not square becomes one: `squash` keeps all of the picture and loses its aspect; `crop` takes the middle.
    mean, std: of each channel, for values in [0, 1].
    """

    sizes: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    fit: str = "squash"

    def __call__(self, image: Image.Image) -> tuple[Tensor, ...]:
        """One (size, size, 3) uint8 tensor a size: small to hand from a loader to the encoder, which normalises."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)  # (3, H, W)
        if self.fit == "crop":
            pixels = _middle_square(pixels)
        return tuple(self._resize(pixels, size).permute(1, 2, 0).contiguous() for size in self.sizes)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, size, size, 3) uint8 → (B, 3, size, size) float32, in channels-last memory."""
        mean = torch.tensor(self.mean, device=pixels.device) * 255
        std = torch.tensor(self.std, device=pixels.device) * 255
        return ((pixels - mean) / std).permute(0, 3, 1, 2)

    def _resize(self, pixels: Tensor, size: int) -> Tensor:
        # On uint8 tensors this is the antialiased resampling of Pillow to one level in 255, several times as fast.
        mode = InterpolationMode(self.interpolation)
        return transforms.resize(pixels, [size, size], interpolation=mode, antialias=True)


def _middle_square(pixels: Tensor) -> Tensor:
    side = min(pixels.shape[1:])
    return transforms.center_crop(pixels, [side, side])  # (3, side, side)
