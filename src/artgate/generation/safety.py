"""The safety checker that a checkpoint carries: pictures that show what its makers would not have shown are rejected.

It sees each small picture once it is decoded, before the scorer: what it rejects is neither scored nor kept, nor shown
among the rejected. (Behind the gate it would run on a third of the pictures; but the gallery would show the others.)
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import safety_checker as published
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from artgate.errors import UserError
from artgate.generation.checkpoints import carries_safety_checker, checkpoint_folder, variant_of
from artgate.generation.devices import device_of, dtype_of
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.loading import quietly, weights_digest

REASON = "safety checker: the picture shows what it rejects"


class SafetyChecker:
    """Stable Diffusion's: CLIP's embedding of a picture against those of concepts (arXiv 2210.04610 looks into it).

    fingerprint: sha256 hex over weights, configs and precision.
    """

    name = "safety checker"

    def __init__(self, network: Any, preprocess: Any, fingerprint: str) -> None:
        self._network, self._preprocess = network, preprocess
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> str | None:
        """Why an RGB picture is rejected; None where it is not."""
        pixels = self._preprocess(picture, return_tensors="pt").pixel_values  # (1, 3, S, S)
        with _without_its_remark():
            # It blackens what it rejects, in this case nothing
            _, found = self._network(
                clip_input=pixels.to(self._network.device, self._network.dtype), images=np.zeros((1, 1))
            )
        return REASON if found[0] else None


def load_safety_checker(config: DiffusionConfig) -> SafetyChecker | None:
    """The checker of the checkpoint; None where it carries none, or the configuration says `safety_checker=off`.

    Raises UserError where there should be one and it cannot be loaded, whole.
    """
    if not config.safety_checker:
        return None
    folder = checkpoint_folder(config.model, config.revision, config.variant, config.download_gb or None)
    if not carries_safety_checker(folder):
        return None
    device = device_of("diffusion.device", config.device)
    dtype = dtype_of("diffusion.dtype", config.dtype, device)
    network = _network(folder, config.variant, dtype)
    preprocess = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
    fingerprint = _fingerprint(network, preprocess, dtype)
    return SafetyChecker(network.to(device), preprocess, fingerprint)


def _network(folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    part = "safety_checker"
    try:
        with quietly():
            network, info = StableDiffusionSafetyChecker.from_pretrained(
                folder / part,
                dtype=dtype,
                variant=variant_of(folder, variant, part),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{folder / part} cannot be loaded ({reason}): {CURE}") from error
    lacking = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if lacking:  # they would be random numbers, and nobody would see it
        raise UserError(f"{folder / part} has no weights {lacking[0]} that fit: {CURE}")
    return network.eval()


CURE = "download or save the checkpoint again, or say diffusion.safety_checker=off and look at the pictures yourself"


def _fingerprint(network: Any, preprocess: Any, dtype: torch.dtype) -> str:
    digest = hashlib.sha256(str(dtype).encode())
    digest.update(json.dumps(preprocess.to_dict(), sort_keys=True, default=str).encode())
    weights_digest(digest, "safety_checker", network)
    return digest.hexdigest()


@contextmanager
def _without_its_remark() -> Iterator[None]:
    """It says that a black picture will be returned, which it is not here."""
    logger = published.logger
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
