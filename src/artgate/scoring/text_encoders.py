"""Frozen text towers: prompts → features in the space of the same model's image features.

Only encoders of kind `open_clip` have one. It has a fingerprint of its own, so that the features of images, and
whatever was made of them, stay what they are whether prompts are read or not.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artgate.config import validated
from artgate.scoring.encoders import EncoderConfig, torch_device

# The aspect that is about the prompt.
PROMPTED = "alignment"
MINIBATCH = 64
# Raised when the code that turns prompts into features changes what it computes.
RECIPE = 1
# A joint feature holds the cosine this often. A head sees the principal axes of standardised features (`heads.py`): a
# single value among thousands would lie on one of the last of them, which are left out.
COSINE_COPIES = 64


def build_text_encoder(config: Mapping[str, Any]) -> "TextEncoder | None":
    """The text tower that belongs to the encoder that `config` describes; None where it has none.

    Raises UserError, with the cure, for weights or a tokenizer that are missing or do not fit.
    """
    settings = validated(EncoderConfig, config, "encoder")
    if settings.kind != "open_clip":
        return None
    from artgate.scoring.clip_backbones import TextTower, open_clip_text

    tower: TextTower = open_clip_text(str(settings.model), settings.pretrained, settings.checkpoint, settings.tokenizer)
    return TextEncoder(tower, settings.device)


class TextEncoder:
    """Prompts → (N, T) float32 features of unit length, always in inference mode.

    dim: T. fingerprint: hex sha256 over weights, tokenizer and name.
    """

    def __init__(self, tower: Any, device: str = "cpu"):
        self.name: str = tower.name
        self.device = torch_device(device)
        self.fingerprint = _fingerprint(tower)
        self._tokenize = tower.tokenize
        self._network = tower.network.eval().requires_grad_(False).to(self.device)
        self.dim = int(self.encode([""]).shape[1])

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(N, T) on the CPU; no prompts give (0, T). A prompt longer than the model reads is cut there."""
        parts = [torch.empty(0, self.dim)] if not prompts else []
        for start in range(0, len(prompts), MINIBATCH):
            tokens = self._tokenize(list(prompts[start : start + MINIBATCH])).to(self.device)
            features = self._network.encode_text(tokens)
            parts.append(torch.nn.functional.normalize(features.float(), dim=-1).cpu())
        return torch.cat(parts)


def text_features(encoder: TextEncoder, prompts: Sequence[str], cache_dir: Path | str) -> Tensor:
    """(N, T) features of prompts, computed once and kept beside those of images, by the sha256 of the prompt."""
    from artgate.scoring.feature_store import FeatureStore

    keys = [hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest() for prompt in prompts]
    description = {"name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim, "of": "prompts"}
    store = FeatureStore(cache_dir, encoder.fingerprint, encoder.dim, description)
    found = store.read(keys)
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in found}
    if missing:
        computed = encoder.encode(list(missing.values())).numpy()
        store.write(list(missing), computed)
        found |= dict(zip(missing, computed, strict=True))
    return torch.stack([torch.from_numpy(found[key]) for key in keys]) if keys else torch.empty(0, encoder.dim)


def joint_features(images: Tensor, prompts: Tensor) -> Tensor:
    """What tells how an image fits a prompt: both features, their product for each view, and its sum, the cosine.

    images: (N, …, V x T), features of V views. prompts: (N, T). Returns (N, …, V x T + T + V x T + V x copies).
    """
    (length,) = prompts.shape[1:]
    beside = prompts.reshape(len(prompts), *[1] * (images.ndim - 2), length).expand(*images.shape[:-1], length)
    views = images.unflatten(-1, (-1, length))  # (N, …, V, T)
    product = views * beside.unsqueeze(-2)
    cosine = product.sum(-1).repeat_interleave(COSINE_COPIES, -1)
    return torch.cat([images, beside, product.flatten(-2), cosine], -1)


def joint_dim(image_dim: int, text_dim: int) -> int:
    """Length of a joint feature."""
    return 2 * image_dim + text_dim + image_dim // text_dim * COSINE_COPIES


def _fingerprint(tower: Any) -> str:
    identity = {
        "recipe": RECIPE,
        "name": tower.name,
        "weights": tower.weights_sha256,
        "tokenizer": tower.tokenizer_sha256,
        "quick_gelu": any(type(module).__name__ == "QuickGELU" for module in tower.network.modules()),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
