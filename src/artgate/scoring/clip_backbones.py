"""The image towers of open_clip models, with the preprocessing and activation that their weights were trained with."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
from torch import Tensor, nn

from artgate.errors import UserError
from artgate.scoring.backbones import NO_NETWORK_CURE, Backbone, name_of
from artgate.scoring.weights import library_errors, unknown, weights_file, weights_sha256


def open_clip_backbone(model: str, pretrained: str | None, checkpoint: str | None) -> Backbone:
    """`model` with the weights of a `pretrained` tag, or of a local `checkpoint` file of the whole CLIP model.

    model may also be `hf-hub:owner/name` or `local-dir:PATH`, which bring their weights. With a checkpoint,
    `pretrained` names the tag it comes from, wherever the model's tags differ in preprocessing or activation: the file
    does not tell.
    """
    settings = _settings(model, pretrained, checkpoint)
    cure = f"is {checkpoint} a state dict of this whole model?" if checkpoint else NO_NETWORK_CURE
    with library_errors(f"open_clip model {model!r}", cure), warnings.catch_warnings():
        # A mismatch of activations degrades features silently: too little for a warning.
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        clip = open_clip.create_model(model, require_pretrained=True, weights_only=True, **settings)
    data = clip.visual.preprocess_cfg
    tower = _ImageTower(clip.visual)
    return Backbone(
        name=f"{name_of(model)}/{pretrained}" if pretrained else name_of(model),
        network=tower,
        weights_sha256=weights_sha256(tower),
        features="last",
        normalisation="l2",
        size=data["size"] if isinstance(data["size"], int) else max(data["size"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        fit="squash" if data["resize_mode"] == "squash" else "crop",
    )


def _settings(model: str, pretrained: str | None, checkpoint: str | None) -> dict[str, Any]:
    if ":" in model:  # a repository or folder, which brings its own settings
        return {}
    if model not in open_clip.list_models():
        raise unknown(f"open_clip model {model!r}", model, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained and pretrained not in tags:
        raise unknown(f"pretrained {pretrained!r} of {model}", pretrained, tags)
    if not pretrained and not checkpoint:
        raise UserError(f"{model} comes with several weights: give pretrained={'|'.join(tags)}, or checkpoint=PATH")
    trained = _as_trained(model, [pretrained] if pretrained else tags)
    return {"pretrained": str(weights_file(checkpoint)) if checkpoint else pretrained, **trained}


def _as_trained(model: str, tags: Sequence[str]) -> dict[str, Any]:
    """Activation and preprocessing that the tags agree on; the model's own where it has no tags."""
    settings = [_tag_settings(open_clip.get_pretrained_cfg(model, tag)) for tag in tags]
    if any(setting != settings[0] for setting in settings):
        raise UserError(
            f"weights of {model} differ in preprocessing or activation: beside checkpoint, give the tag that the file "
            f"comes from, pretrained={'|'.join(tags)}"
        )
    return settings[0] if settings else {}


def _tag_settings(tag: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {
        "force_quick_gelu": bool(tag.get("quick_gelu")),
        "force_preprocess_cfg": {key: tag[key] for key in keys if tag.get(key) is not None},
    }


class _ImageTower(nn.Module):
    def __init__(self, visual: nn.Module):
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.visual(images)
        pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # some towers return their tokens too
        return nn.functional.normalize(pooled.float(), dim=-1)  # (B, D)
