"""Checkpoints of every family, loaded by path; what cannot be loaded is told with its cure."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, build_tiny

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.models import load_model
from artgate.generation.schedulers import SCHEDULERS

CONF = Path("conf").resolve()


def config(model: object, **settings: object) -> dict[str, object]:
    return {"name": "tiny", "model": str(model), "licence": "none", "device": "cpu", **settings}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_a_folder(loaded, family):
    model = loaded(family)
    assert model.family == ("sdxl" if family.startswith("sdxl") else "sd")
    assert model.size == (64, 64)
    assert model.latent_shape(128, 64) == (4, 8, 16)
    rows = model.encode_prompts(["a frog", "a cat"])
    assert rows.text.shape == (2, 77, 64 if model.family == "sdxl" else 32)
    assert (rows.pooled is None) == (model.family == "sd")
    assert model.guided(7.5) == (family != "lcm")
    assert not model.guided(1.0)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_pictures_are_those_of_diffusers_and_do_not_depend_on_their_neighbours(loaded, tiny, family):
    model = loaded(family)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = model.decode(latents)
    codec = AutoencoderKL.from_pretrained(tiny(family) / "vae")
    with torch.inference_mode():
        pixels = codec.decode(latents / codec.config.scaling_factor).sample[1].permute(1, 2, 0)
    expected = (pixels / 2 + 0.5).clamp(0, 1).numpy() * 255
    assert abs(np.asarray(pictures[1]).astype(float) - expected).max() <= 0.51
    assert model.decode(latents[1:2])[0].tobytes() == pictures[1].tobytes()


def test_encoding_a_picture_samples_with_the_candidates_generator(loaded):
    model = loaded("sd1")
    picture = Image.effect_noise((64, 64), 80).convert("RGB")

    def latents(seed):
        return model.encode([picture], [torch.Generator().manual_seed(seed)])

    assert latents(1).shape == (1, 4, 8, 8)
    assert torch.equal(latents(1), latents(1))
    assert not torch.equal(latents(1), latents(2))
    assert torch.equal(model.encode([picture]), model.encode([picture]))


def test_channel_statistics_of_an_autoencoder_are_used_both_ways(tiny, tmp_path):
    folder = shutil.copytree(tiny("sdxl"), tmp_path / "sdxl")
    plain = load_model(config(folder))
    codec = OmegaConf.load(folder / "vae" / "config.json")
    codec.update(latents_mean=[0.5, -1.0, 0.0, 2.0], latents_std=[2.0, 1.0, 0.5, 4.0])
    (folder / "vae" / "config.json").write_text(json.dumps(OmegaConf.to_container(codec)))
    model = load_model(config(folder))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    raw = plain.encode([picture]) / codec.scaling_factor
    mean, std = (torch.tensor(list(codec[key])).view(1, 4, 1, 1) for key in ("latents_mean", "latents_std"))
    expected = (raw - mean) / std * codec.scaling_factor
    torch.testing.assert_close(model.encode([picture]), expected)
    decoded = [np.asarray(of.decode(z)[0], int) for of, z in ((model, expected), (plain, raw * codec.scaling_factor))]
    difference = np.abs(decoded[0] - decoded[1])  # the way there and back rounds in float32
    assert difference.max() <= 1 and (difference > 0).mean() < 0.002


def test_a_prompt_is_encoded_the_same_in_any_company(loaded):
    model = loaded("sdxl")
    alone, together = model.encode_prompts(["a frog"]), model.encode_prompts(["of of", "a frog"])
    assert torch.equal(alone.text[0], together.text[1])
    assert torch.equal(alone.pooled[0], together.pooled[1])
    assert not torch.equal(together.pooled[0], together.pooled[1])


def test_an_empty_negative_prompt_is_zeros_where_the_checkpoint_says_so(loaded):
    assert loaded("sdxl").encode_prompts([""], negative=True).text.abs().max() == 0
    assert loaded("sdxl").encode_prompts(["poor"], negative=True).text.abs().max() > 0
    assert loaded("sdxl").encode_prompts([""]).text.abs().max() > 0
    assert loaded("sd1").encode_prompts([""], negative=True).text.abs().max() > 0


def test_the_end_of_a_prompt_that_is_too_long_is_named(loaded, caplog):
    loaded("sd1").encode_prompts(["frog " * 75 + "unread words"])
    assert "the model reads 77 tokens" in caplog.text
    assert "it does not see 'unread words'" in caplog.text


def test_the_fingerprint_is_that_of_weights_configs_and_precision(tiny, tmp_path):
    def fingerprint(folder, **settings):
        return load_model(config(folder, **settings)).fingerprint

    folder = tiny("sd1")
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    original = fingerprint(folder)
    assert len(original) == 64
    assert fingerprint(elsewhere, name="another", steps=3) == original
    assert fingerprint(folder, dtype="bfloat16") != original
    weights = load_file(elsewhere / "vae" / "diffusion_pytorch_model.safetensors")
    weights["decoder.conv_out.bias"][0] += 1e-3
    save_file(weights, elsewhere / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    assert fingerprint(elsewhere) != original
    reconfigured = shutil.copytree(folder, tmp_path / "reconfigured")
    scheduler = reconfigured / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    assert fingerprint(reconfigured) != original


def lora_for_one_layer(path: Path, rank: int = 2, alpha: float = 1.0) -> torch.Tensor:
    """Write a LoRA of one attention layer, with the keys that LCM LoRAs have; its change of the layer's weights."""
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(rank, 32, generator=generator), torch.randn(32, rank, generator=generator)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    save_file({f"{key}.{name}": tensor for name, tensor in tensors.items()}, path)
    return alpha / rank * up @ down


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_lora_is_fused_into_the_weights(loaded, tiny, tmp_path, scale):
    change = lora_for_one_layer(tmp_path / "lcm.safetensors")
    plain = loaded("sd1")
    fused = load_model(config(tiny("sd1"), lora=str(tmp_path / "lcm.safetensors"), lora_scale=scale))
    before, after = plain._denoiser.state_dict(), fused._denoiser.state_dict()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert before.keys() == after.keys()
    torch.testing.assert_close(after[layer], before[layer] + scale * change)
    assert all(torch.equal(before[key], after[key]) for key in before if key != layer)
    assert fused.fingerprint != plain.fingerprint


def test_a_lora_of_another_family_is_refused(tiny, tmp_path):
    save_file({"lora_unet_nothing_of_ours.lora_down.weight": torch.zeros(2, 32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="LoRA .*other.safetensors does not fit the model"):
        load_model(config(tiny("sd1"), lora=str(tmp_path / "other.safetensors")))


def test_half_precision_files_are_read_where_they_are_and_only_then(tiny, tmp_path):
    half = tmp_path / "half"
    StableDiffusionPipeline.from_pretrained(tiny("sd1"), torch_dtype=torch.float16).save_pretrained(
        half, variant="fp16"
    )
    assert (half / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    asked, unasked = load_model(config(half, variant="fp16")), load_model(config(half))
    assert asked.fingerprint == unasked.fingerprint
    assert asked.dtype == torch.float32
    load_model(config(tiny("sd1"), variant="fp16"))  # has only whole precision


def test_eight_latent_channels_and_a_short_tokenizer_are_taken_as_they_come(tmp_path):
    # What the embedded model has
    options = {"in_channels": 8, "out_channels": 8}
    pipeline = StableDiffusionPipeline.from_pretrained(build_tiny("sd2", tmp_path / "sd2"))
    unet = type(pipeline.unet).from_config({**pipeline.unet.config, **options})
    vae = type(pipeline.vae).from_config({**pipeline.vae.config, "latent_channels": 8})
    pipeline.register_modules(unet=unet, vae=vae)
    pipeline.tokenizer.model_max_length = 32
    pipeline.save_pretrained(tmp_path / "eight")
    model = load_model(config(tmp_path / "eight"))
    assert model.latent_shape(64, 64) == (8, 8, 8)
    assert model.encode_prompts(["a frog"]).text.shape[1] == 32
    assert model.decode(torch.zeros(1, 8, 8, 8))[0].size == (64, 64)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "it lacks model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "it lacks a readable model_index.json"),
        (lambda folder: (folder / "vae" / "config.json").unlink(), "it lacks vae/config.json"),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
                folder / "unet" / "diffusion_pytorch_model.bin"
            ),
            "it lacks unet/diffusion_pytorch_model.safetensors. A single-file or pickled checkpoint is converted by",
        ),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100),
            "cannot be loaded .*: download or save it again",
        ),
        (
            lambda folder: (folder / "model_index.json").write_text(
                (folder / "model_index.json").read_text().replace('"StableDiffusionPipeline"', '"FluxPipeline"')
            ),
            "holds a FluxPipeline: use a Stable Diffusion 1.x",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_its_cure(tiny, tmp_path, damage, message):
    folder = shutil.copytree(tiny("sd1"), tmp_path / "damaged")
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_model(config(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/no/such/folder"}, "diffusion.model '/no/such/folder' is not there; give a folder"),
        ({"model": __file__}, "is a file, not a folder: convert it by `StableDiffusionPipeline.from_single_file"),
        ({"model": "no name at all!"}, "diffusion.model 'no name at all!' is not there"),
        ({"lora": "/no/lora.safetensors"}, "LoRA /no/lora.safetensors: no safetensors file at"),
        ({"scheduler": "dimm"}, "diffusion.scheduler 'dimm' is not one of ddim"),
        ({"dtype": "float16"}, "diffusion.dtype float16 is not for the CPU: use float32"),
        ({"dtype": "int8"}, "diffusion.dtype 'int8' is not one of auto, float32"),
        ({"device": "tpu"}, "diffusion.device 'tpu' is not one of auto, cpu"),
        ({"steps": 0}, r"diffusion.steps 0 is outside \[1, 1000\]"),
        ({"slots": 0}, r"diffusion.slots 0 is outside \[1, 1024\]"),
        ({"guidence": 3}, "diffusion.guidence is not a setting: did you mean diffusion.guidance"),
        ({"steps": "many"}, "diffusion.steps: .*many"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny, settings, message):
    with pytest.raises(UserError, match=message):
        load_model({**config(tiny("sd1")), **settings})


@pytest.mark.parametrize("path", sorted((CONF / "diffusion").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_of_conf_composes_and_names_licence_size_and_settings(path):
    given = ["diffusion.model=folder", "diffusion.licence=mine"] if path.stem == "local" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("generate", [f"diffusion={path.stem}", *given]).diffusion
    settings = validated(DiffusionConfig, cfg, "diffusion")
    assert settings.name == path.stem
    assert settings.licence
    assert settings.terms or path.stem == "local"
    assert {"model", "download_gb", "scheduler", "steps", "guidance", "slots"} <= set(OmegaConf.load(path))
    assert (settings.download_gb > 1) == (settings.model.count("/") == 1)
    assert settings.scheduler in SCHEDULERS
    assert {"width", "height"} <= set(OmegaConf.load(path)) or settings.download_gb == 0
    assert (settings.guidance == 0) == ("turbo" in path.stem)


def test_the_default_model_may_be_used_commercially():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("generate").diffusion
    assert cfg.terms.startswith("commercial use allowed")
