"""The towers of open_clip models, with the preprocessing and activation that their weights were trained with."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn

from artgate.errors import UserError
from artgate.scoring.backbones import NO_NETWORK_CURE, Backbone, name_of
from artgate.scoring.weights import library_errors, unknown, weights_file, weights_sha256


@dataclass(frozen=True)
class TextTower:
    """A network whose `encode_text` takes (B, L) tokens → (B, T), and the tokenizer that it was trained with."""

    name: str
    network: Any
    tokenize: Callable[[list[str]], Tensor]
    weights_sha256: str
    tokenizer_sha256: str


def open_clip_backbone(model: str, pretrained: str | None, checkpoint: str | None, bare: bool = False) -> Backbone:
    """The image tower of `model`, from a `pretrained` tag or a local `checkpoint` file of the whole CLIP model.

    model may also be `hf-hub:owner/name` or `local-dir:PATH`, which bring their weights. With a checkpoint,
    `pretrained` names the tag it comes from, wherever the model's tags differ in preprocessing or activation: the file
    does not tell. bare: at random weights, for others to be laid in.
    """
    clip = _clip(model, pretrained, checkpoint, bare)
    data = clip.visual.preprocess_cfg
    tower = _ImageTower(clip.visual)
    return Backbone(
        name=_name(model, pretrained),
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


def open_clip_text(model: str, pretrained: str | None, checkpoint: str | None, tokenizer: str | None) -> TextTower:
    """The text tower of the same model, and its tokenizer: open_clip's, or the files in the folder `tokenizer`."""
    clip = _clip(model, pretrained, checkpoint, bare=False)
    clip.visual = nn.Identity()
    cure = f"is {tokenizer} a tokenizer's folder?" if tokenizer else f"{NO_NETWORK_CURE}; or tokenizer=FOLDER"
    with library_errors(f"the tokenizer of {model!r}", cure):
        tokenize: Any = _local_tokenizer(model, tokenizer) if tokenizer else open_clip.get_tokenizer(model)
    return TextTower(_name(model, pretrained), clip, tokenize, weights_sha256(clip), _tokenizer_sha256(tokenize))


def _clip(model: str, pretrained: str | None, checkpoint: str | None, bare: bool) -> Any:
    settings = _settings(model, pretrained, checkpoint, bare)
    cure = f"is {checkpoint} a state dict of this whole model?" if checkpoint else NO_NETWORK_CURE
    with library_errors(f"open_clip model {model!r}", cure), warnings.catch_warnings():
        # A mismatch of activations degrades features silently: too little for a warning.
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        return open_clip.create_model(
            model, require_pretrained=not bare, load_weights=not bare, weights_only=True, **settings
        )


def _name(model: str, pretrained: str | None) -> str:
    return f"{name_of(model)}/{pretrained}" if pretrained else name_of(model)


def _local_tokenizer(model: str, folder: str) -> Any:
    if not Path(folder).is_dir():
        raise UserError(f"encoder.tokenizer {folder} is not a folder: give the one with tokenizer.json")
    text = (open_clip.get_model_config(model) or {}).get("text_cfg", {})
    return open_clip.tokenizer.HFTokenizer(
        folder, context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
    )


def _tokenizer_sha256(tokenize: Any) -> str:
    """Of the vocabulary, and of what becomes of texts that tokenizers tell apart by case, space and length."""
    inner = getattr(tokenize, "tokenizer", tokenize)
    vocabulary = inner.get_vocab() if hasattr(inner, "get_vocab") else getattr(inner, "encoder", {})
    probes = ["", "A cat.", "two  dogs, naïve\nstyle", "99% OFF!", "long " * 200]
    digest = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode())
    digest.update(json.dumps(tokenize(probes).tolist()).encode())
    return digest.hexdigest()


def _settings(model: str, pretrained: str | None, checkpoint: str | None, bare: bool) -> dict[str, Any]:
    if ":" in model:  # a repository or folder, which brings its own settings
        return {}
    if model not in open_clip.list_models():
        raise unknown(f"open_clip model {model!r}", model, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained and pretrained not in tags:
        raise unknown(f"pretrained {pretrained!r} of {model}", pretrained, tags)
    if not pretrained and not checkpoint and not bare:
        raise UserError(f"{model} comes with several weights: give pretrained={'|'.join(tags)}, or checkpoint=PATH")
    trained = _as_trained(model, [pretrained] if pretrained else tags)
    if bare:
        return trained
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
