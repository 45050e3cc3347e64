"""Tiny encoders with real files for weights, and pictures that are the same everywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

TIMM_MODEL = "test_resnet"  # timm's own, 0.5 M parameters
TINY_CLIP, TINY_SIGLIP = "tiny-text-clip", "tiny-siglip2"
WORDS = ("[PAD]", "[UNK]", "a", "cat", "dog", "tree", "house", "red", "blue", "green", "of", "painting")


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


def tiny_clip(folder: Path) -> dict[str, Any]:
    """An OpenAI-style CLIP of 64 px that reads text with open_clip's own vocabulary, weights in a file; its config."""
    vision = {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return _registered(folder, TINY_CLIP, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text})


def tiny_siglip(folder: Path) -> dict[str, Any]:
    """SigLIP 2's classes, small: a timm tower with attention pooling, a text tower without causal mask, a tokenizer."""
    vision = {
        "image_size": 64,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text = {
        "context_length": 16,
        "vocab_size": len(WORDS),
        "hf_tokenizer_name": "nobody/tiny-siglip2",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    config = _registered(
        folder, TINY_SIGLIP, {"embed_dim": 64, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    )
    return config | {"tokenizer": str(save_tokenizer(folder / "tokenizer"))}


def save_tokenizer(folder: Path) -> Path:
    """A tokenizer of a dozen words as transformers keeps them."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def _registered(folder: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(3)
    save_file(open_clip.create_model(name).state_dict(), folder / f"{name}.safetensors")
    checkpoint = str(folder / f"{name}.safetensors")
    return {"kind": "open_clip", "model": name, "checkpoint": checkpoint, "device": "cpu"}
