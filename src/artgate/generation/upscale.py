"""Real-ESRGAN: accepted artworks, enlarged. Only these are: enlarging costs more than generating small."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from spandrel import (  # type: ignore[import-untyped]
    ImageModelDescriptor,
    ModelLoader,
    UnsupportedModelError,
)

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.devices import device_of, dtype_of
from artgate.generation.memory import is_out_of_memory
from artgate.generation.realesrgan_engine import realesrgan_network
from artgate.generation.tiling import Tiling, enlarge
from artgate.generation.upscaler_config import UpscalerConfig
from artgate.generation.upscaler_weights import state_dict_of, tensors_sha256

# A deep network's tiles by default: measured on a leafy photograph, a 32-pixel surround leaves steps of 6 grey levels
# on average where tiles meet, and 32 pixels of fading, 16 to each side and beyond them 32 that are dropped, spread them
# out of sight (a fade over 16 leaves a gradient of 1.1 there).
DEEP_PAD = 48
DEEP_FEATHER = 32
# On two CPU cores 1.2 (deep) to 1.6 times (compact) as fast as the other layout, the network alone.
LAYOUT = torch.channels_last


class Upscaler(Protocol):
    """Enlarges pictures. scale: result over input. fingerprint: hex; equal ones give equal pictures."""

    name: str
    licence: str | None
    scale: float
    fingerprint: str

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB (w, h) → RGB (scale w, scale h), rounded. Raises `UserError` for other modes."""
        ...


def build_upscaler(cfg: Mapping[Any, Any]) -> Upscaler:
    """The upscaler that `cfg` (see `UpscalerConfig`) describes, with its weights. Raises `UserError` with the cure."""
    config = validated(UpscalerConfig, cfg, "upscaler")
    return NoUpscaler(config) if config.engine == "none" else NetworkUpscaler(config)


class NoUpscaler:
    """Leaves pictures as they are."""

    def __init__(self, config: UpscalerConfig) -> None:
        self.name, self.licence, self.scale = config.name, config.licence, 1.0
        self.fingerprint = hashlib.sha256(b"none").hexdigest()

    def __call__(self, image: Image.Image) -> Image.Image:
        """The picture itself."""
        return _rgb(image)


class NetworkUpscaler:
    """A super-resolution network at its own scale, then Lanczos down to the scale asked for."""

    def __init__(self, config: UpscalerConfig) -> None:
        self.name, self.licence = config.name, config.licence
        device = device_of("upscaler.device", config.device)
        dtype = dtype_of("upscaler.dtype", config.dtype, device)
        state_dict = state_dict_of(config.weights)
        descriptor = _descriptor(state_dict)
        tiling = _tiling(config, descriptor)
        self.scale = _scale(config, descriptor.scale)
        self.fingerprint = _fingerprint(config, tiling, dtype, self.scale, tensors_sha256(state_dict))
        if config.engine == "realesrgan":
            self._network = realesrgan_network(state_dict, tiling, device, dtype)
        else:
            self._network = _spandrel_network(descriptor, tiling, device, dtype)

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB (w, h) → RGB (scale w, scale h), rounded."""
        try:
            enlarged = Image.fromarray(self._network(np.asarray(_rgb(image))))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UserError("the upscaler's tiles do not fit in memory: halve upscaler.tile, to 128 say") from error
        size = (max(1, round(image.width * self.scale)), max(1, round(image.height * self.scale)))
        return enlarged if enlarged.size == size else enlarged.resize(size, Image.Resampling.LANCZOS)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode != "RGB":
        raise UserError(f"a picture of mode {image.mode} cannot be enlarged: convert it to RGB first")
    return image


def _descriptor(state_dict: dict[str, torch.Tensor]) -> ImageModelDescriptor[Any]:
    """The architecture that spandrel knows the weights by, with them in it, in inference mode."""
    try:
        descriptor = ModelLoader().load_from_state_dict(dict(state_dict))
    except (UnsupportedModelError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0] or "unknown architecture"
        raise UserError(
            f"the upscaler's weights fit no network that spandrel knows ({reason}): take a Real-ESRGAN checkpoint"
        ) from error
    channels = (descriptor.input_channels, descriptor.output_channels)
    if not isinstance(descriptor, ImageModelDescriptor) or channels != (3, 3):
        raise UserError(
            f"the upscaler's weights are a {descriptor.architecture.name} of {channels[0]} to {channels[1]} channels: "
            "take one that makes RGB pictures of RGB pictures"
        )
    return descriptor.eval()


def _spandrel_network(
    descriptor: ImageModelDescriptor[Any], tiling: Tiling, device: torch.device, dtype: torch.dtype
) -> Callable[[np.ndarray], np.ndarray]:
    if not {torch.float16: descriptor.supports_half, torch.bfloat16: descriptor.supports_bfloat16}.get(dtype, True):
        raise UserError(f"upscaler.dtype {dtype} is not for {descriptor.architecture.name}: use upscaler.dtype=float32")
    descriptor.to(device, dtype)
    descriptor.model.to(memory_format=LAYOUT)

    @torch.inference_mode()
    def network(pixels: np.ndarray) -> np.ndarray:
        tile = torch.tensor(pixels, device=device).permute(2, 0, 1)[None].float() / 255  # (1, 3, h, w)
        enlarged = descriptor(tile.to(dtype, memory_format=LAYOUT))  # (1, 3, s h, s w) in [0, 1]
        return enlarged[0].permute(1, 2, 0).float().cpu().numpy()

    return lambda pixels: enlarge(network, pixels, descriptor.scale, tiling)


def _tiling(config: UpscalerConfig, descriptor: ImageModelDescriptor[Any]) -> Tiling:
    if descriptor.architecture.id == "Compact":
        pad, feather = int(descriptor.model.num_conv) + 2, 0  # its whole receptive field: exact
    else:
        pad, feather = DEEP_PAD, DEEP_FEATHER
    pad = pad if config.pad is None else config.pad
    feather = min(feather, config.tile // 2, 2 * pad) if config.feather is None else config.feather
    if feather > 2 * pad:
        raise UserError(
            f"upscaler.feather {feather} is more than twice upscaler.pad {pad}, the surroundings that tiles fade over: "
            f"give at most {2 * pad}, or null"
        )
    return Tiling(tile=config.tile, pad=pad, feather=feather)


def _scale(config: UpscalerConfig, native: int) -> float:
    if config.scale is None:
        return float(native)
    if config.scale > native:
        raise UserError(
            f"upscaler.scale {config.scale:g} is more than the {native} of {config.name}: give at most that, or null"
        )
    return config.scale


def _fingerprint(config: UpscalerConfig, tiling: Tiling, dtype: torch.dtype, scale: float, weights: str) -> str:
    """Over all that the pixels depend on but the device, which only moves the last digits."""
    parts = {"engine": config.engine, "dtype": str(dtype), "scale": scale, "weights": weights, **asdict(tiling)}
    if config.engine == "spandrel":
        parts["layout"] = str(LAYOUT)  # decides the last digits too
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
