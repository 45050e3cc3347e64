"""A `DiffusionConfig` → diffusers' components in memory, with their fingerprint."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from artgate.errors import UserError
from artgate.generation.checkpoints import checkpoint_folder, lora_file, variant_of
from artgate.generation.devices import device_of, dtype_of
from artgate.generation.diffusion_config import DiffusionConfig

PIPELINES = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionImg2ImgPipeline": StableDiffusionPipeline,
    "LatentConsistencyModelPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXLPipeline,
}


def load_components(config: DiffusionConfig) -> tuple[Any, torch.device, str]:
    """(pipeline that holds the components, on the CPU; device they are meant for; fingerprint)."""
    device = device_of("diffusion.device", config.device)
    dtype = dtype_of("diffusion.dtype", config.dtype, device)
    folder = checkpoint_folder(
        config.model, config.revision, config.variant, config.download_gb or None, config.safety_checker
    )
    lora = lora_file(config.lora, config.lora_weight_name) if config.lora else None
    with quietly():
        pipeline = _load_pipeline(folder, variant_of(folder, config.variant), dtype)
        fingerprint = _digest(pipeline, dtype, lora, config.lora_scale)
        if lora:
            _fuse_lora(pipeline, lora, config.lora_scale)
    return pipeline, device, fingerprint


def _load_pipeline(folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    kind = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    if kind not in PIPELINES:
        raise UserError(f"{folder} holds a {kind}: use a Stable Diffusion 1.x, 2.x, XL or Turbo checkpoint")
    pipeline_class = PIPELINES[kind]
    # The safety checker is loaded by `safety`: it looks at pictures, and this only makes them
    left_out: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
    if pipeline_class is StableDiffusionPipeline:
        left_out |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        return pipeline_class.from_pretrained(
            folder,
            torch_dtype=_dtypes(folder, dtype),
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            **left_out,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{folder} cannot be loaded ({reason}): download or save it again") from error


def _dtypes(folder: Path, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Precision a component: SDXL's autoencoder overflows in float16, and its config says so."""
    codec = json.loads((folder / "vae" / "config.json").read_text())
    upcast = dtype == torch.float16 and codec.get("force_upcast", True)
    return {"default": dtype, "vae": torch.float32 if upcast else dtype}


def _fuse_lora(pipeline: Any, lora: Path, scale: float) -> None:
    try:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    except (ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"LoRA {lora} does not fit the model ({reason}): is it for another family?") from error
    pipeline.fuse_lora(lora_scale=scale)
    pipeline.unload_lora_weights()


def _digest(pipeline: Any, dtype: torch.dtype, lora: Path | None, lora_scale: float) -> str:
    """sha256 over what the images depend on, whatever files it came from: configs, vocabulary, weights as they run."""
    digest = hashlib.sha256(str(dtype).encode())
    for name, component in sorted(pipeline.components.items()):
        if component is not None:
            weights_digest(digest, name, component)
    if lora:
        digest.update(hashlib.sha256(lora.read_bytes()).digest() + str(lora_scale).encode())
    return digest.hexdigest()


def weights_digest(digest: Any, name: str, component: Any) -> None:
    """Take a component, on the CPU, into a sha256: its name, its config or vocabulary, its weights."""
    described: Any = component.get_vocab() if hasattr(component, "get_vocab") else _settings(component.config)
    digest.update(json.dumps([name, described], sort_keys=True, default=str).encode())
    for key, tensor in sorted(component.state_dict().items()) if hasattr(component, "state_dict") else ():
        digest.update(key.encode())
        digest.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))


def _settings(config: Any) -> dict[str, Any]:
    """A component's config without what names its origin."""
    entries = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    origin = {"transformers_version", "dtype", "torch_dtype"}
    return {key: value for key, value in entries.items() if not key.startswith("_") and key not in origin}


@contextmanager
def quietly() -> Iterator[None]:
    """Loading is one line of ours, not six bars of theirs, nor their advice on an argument of ours."""
    libraries = [
        module for module in (diffusers.utils.logging, transformers.utils.logging) if module.is_progress_bar_enabled()
    ]
    for library in libraries:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The oldest diffusers that will do knows no other name for it
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
