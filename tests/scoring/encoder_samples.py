"""Tiny encoders with real files for weights, and pictures that are the same everywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

TIMM_MODEL = "test_resnet"  # timm's own, 0.5 M parameters


def picture(seed: int = 0, width: int = 96, height: int = 96) -> Image.Image:
    """Waves and a disc; integer arithmetic at the end, so that every machine draws the same."""
    y, x = np.mgrid[:height, :width]
    phases = np.arange(3)[:, None, None] * 2 + seed
    waves = 128 + 100 * np.sin(x / (5 + seed % 7) + phases) * np.cos(y / 9 + phases)  # (3, H, W)
    disc = (x - width / 3) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
    waves[:, disc] = np.array([[200], [40], [90]]) + seed % 20
    return Image.fromarray(waves.round().astype(np.uint8).transpose(1, 2, 0))


def save_timm_checkpoint(path: Path, model: str = TIMM_MODEL, seed: int = 0, num_classes: int = 10) -> Path:
    """A timm model with weights that no default could give, running statistics included."""
    torch.manual_seed(seed)
    network = timm.create_model(model, num_classes=num_classes)
    for name, tensor in network.state_dict().items():
        # Some are initialised to zero, which would hide what they do.
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5) if name.endswith(("weight", "running_var")) else tensor.uniform_(-0.5, 0.5)
    save_file(network.state_dict(), path)
    return path


def timm_config(checkpoint: Path, **others: Any) -> dict[str, Any]:
    return {"kind": "timm", "model": TIMM_MODEL, "checkpoint": str(checkpoint), "device": "cpu", **others}
