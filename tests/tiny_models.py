"""Stable Diffusion pipelines of every family, tiny and with random weights, saved to disk as the hub has them.

They are built by the classes that load the real ones, so that what runs on them runs on a real checkpoint.
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

Family = Literal["sd1", "sd2", "sd_turbo", "sdxl", "sdxl_turbo", "lcm"]
FAMILIES: tuple[Family, ...] = get_args(Family)

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a", "frog", "cat", "painting", "of", "the", "good", "poor", "quality")
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def build_tiny(family: Family, path: Path, seed: int = 0) -> Path:
    """Save a tiny pipeline of the family under `path` and return `path`. The same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = _sdxl(family) if family.startswith("sdxl") else _sd(family)
    pipeline.save_pretrained(path, safe_serialization=True)
    for tokenizer in path.glob("tokenizer*"):
        _write_tokenizer_as_on_the_hub(tokenizer)
    return path


def add_safety_checker(folder: Path, pictures: list[Image.Image], rejected: Image.Image, seed: int = 0) -> Path:
    """Give a tiny checkpoint a safety checker that rejects, of the pictures, one (and its like); return `folder`.

    A network of random weights sees all pictures alike: its last layer is laid so that it sees how they differ.
    """
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        config = CLIPConfig(
            text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=16
        )
        checker = StableDiffusionSafetyChecker(config).eval()
        preprocess = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        seen = checker.vision_model(preprocess(pictures, return_tensors="pt").pixel_values)[1]  # (N, D)
        mean = seen.mean(0)
        weights = checker.visual_projection.weight
        weights -= torch.outer(weights @ mean, mean) / mean.dot(mean)
        concept = checker.visual_projection(seen[pictures.index(rejected)])
        checker.concept_embeds.copy_(concept.expand_as(checker.concept_embeds))
        checker.concept_embeds_weights.fill_(0.99)
    checker.save_pretrained(folder / "safety_checker", safe_serialization=True)
    preprocess.save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        # As published in 2022, by the library's names of then
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "requires_safety_checker": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _sd(family: Family) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=32, time_cond_proj_dim=16 if family == "lcm" else None),
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(hidden_size=32, hidden_act="quick_gelu")).eval(),
        tokenizer=_tokenizer(),
        scheduler={
            "sd1": PNDMScheduler(**BETAS, skip_prk_steps=True),
            "sd2": DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False),
            "sd_turbo": EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"),
            "lcm": LCMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True),
        }[family],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(family: Family) -> StableDiffusionXLPipeline:
    turbo = family == "sdxl_turbo"
    return StableDiffusionXLPipeline(
        unet=_unet(
            cross_attention_dim=64,  # both text encoders side by side
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(hidden_size=32, hidden_act="quick_gelu")).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(hidden_size=32, hidden_act="gelu")).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(pad="!"),  # SDXL's second tokenizer pads with "!"
        scheduler=EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
        if turbo
        else EulerDiscreteScheduler(**BETAS),
        force_zeros_for_empty_prompt=True,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **options,
    ).eval()


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),  # three halvings: 8 px of the picture are one of the latents
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    ).eval()


def _text_config(hidden_size: int, hidden_act: str) -> CLIPTextConfig:
    vocabulary = _vocabulary()
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        projection_dim=hidden_size,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=hidden_act,
        bos_token_id=vocabulary[START],
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
    )


def _tokenizer(pad: str = END) -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_vocabulary(), merges=_merges(), pad_token=pad, model_max_length=77)


def _merges() -> list[tuple[str, str]]:
    """Byte pairs that build each of `WORDS` from its letters, left to right."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        left = pieces[0]
        for right in pieces[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
    return merges


def _vocabulary() -> dict[str, int]:
    """Printable ASCII, each also as the end of a word, the merged pieces, then the two special tokens."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in _merges())]
    return {piece: number for number, piece in enumerate([*dict.fromkeys(pieces), START, END])}


def _write_tokenizer_as_on_the_hub(folder: Path) -> None:
    """Replace the one-file form by `vocab.json` and `merges.txt`, which is what published checkpoints carry."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in _merges()))
