"""The `realesrgan` package's own RealESRGANer as an engine: the reference that ours is held against."""

import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from artgate.errors import UserError
from artgate.generation.tiling import Tiling

CURE = "pip install 'artgate[realesrgan]', or use upscaler.engine=spandrel, which gives the same pictures"
RENAMED_MODULE = "torchvision.transforms.functional_tensor"
# Channels that enter the first convolution → scale: RRDBNet folds 2x2 or 4x4 pixels into channels for small scales.
RRDB_SCALES = {3: 4, 12: 2, 48: 1}


def realesrgan_network(
    state_dict: dict[str, torch.Tensor], tiling: Tiling, device: torch.device, dtype: torch.dtype
) -> Callable[[np.ndarray], np.ndarray]:
    """(H, W, 3) uint8 RGB → (s H, s W, 3) uint8 RGB, with RealESRGANer's own tiles (its pad, no feathering).

    Raises `UserError` where the package is missing, or has no architecture for the weights.
    """
    realesrgan, rrdbnet_arch = _import_realesrgan()
    if dtype == torch.bfloat16:
        raise UserError("upscaler.dtype bfloat16 is not for upscaler.engine=realesrgan: use float32 or float16")
    model, scale = _architecture(state_dict, realesrgan, rrdbnet_arch)
    with tempfile.TemporaryDirectory() as folder:  # it takes weights from a file only
        path = Path(folder) / "weights.pth"
        torch.save({"params": state_dict}, path)
        engine = realesrgan.RealESRGANer(
            scale=scale,
            model_path=str(path),
            model=model,
            tile=tiling.tile,
            tile_pad=tiling.pad,
            pre_pad=0,
            half=dtype == torch.float16,
            device=device,
        )

    def network(pixels: np.ndarray) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            enlarged, _ = engine.enhance(np.ascontiguousarray(pixels[:, :, ::-1]))  # it works in BGR
        if "Error" in printed.getvalue():  # it prints a tile's failure and goes on with another tile's result
            raise RuntimeError(f"RealESRGANer failed on a tile: {printed.getvalue().strip()}")
        return np.ascontiguousarray(enlarged[:, :, ::-1])

    return network


def _import_realesrgan() -> tuple[Any, Any]:
    if find_spec("realesrgan") is None:
        raise UserError(f"upscaler.engine=realesrgan needs the package realesrgan, which is not installed: {CURE}")
    with _renamed_torchvision_module():
        try:
            return importlib.import_module("realesrgan"), importlib.import_module("basicsr.archs.rrdbnet_arch")
        except ImportError as error:
            raise UserError(f"the package realesrgan cannot be imported ({error}): {CURE}") from error


@contextlib.contextmanager
def _renamed_torchvision_module() -> Iterator[None]:
    """Offer the module that basicsr imports and torchvision 0.17 took away, for as long as the import lasts."""
    if RENAMED_MODULE in sys.modules or find_spec(RENAMED_MODULE) is not None:
        yield
        return
    module = ModuleType(RENAMED_MODULE)
    functional = importlib.import_module("torchvision.transforms.functional")
    module.__dict__["rgb_to_grayscale"] = functional.rgb_to_grayscale
    sys.modules[RENAMED_MODULE] = module
    try:
        yield
    finally:
        del sys.modules[RENAMED_MODULE]


def _architecture(state_dict: dict[str, torch.Tensor], realesrgan: Any, rrdbnet_arch: Any) -> tuple[Any, int]:
    """(untrained network in which the weights fit, its scale), read off the tensors' names and shapes."""
    if "conv_body.weight" in state_dict:
        features, channels = state_dict["conv_first.weight"].shape[:2]
        growth = state_dict["body.0.rdb1.conv1.weight"].shape[0]
        scale = RRDB_SCALES[channels]
        blocks = 1 + _last_index(state_dict)
        return rrdbnet_arch.RRDBNet(3, 3, scale, features, blocks, growth), scale
    if "body.1.weight" in state_dict:
        features, last = state_dict["body.0.weight"].shape[0], _last_index(state_dict)
        scale = round((state_dict[f"body.{last}.weight"].shape[0] / 3) ** 0.5)
        compact = realesrgan.archs.srvgg_arch.SRVGGNetCompact
        return compact(3, 3, features, num_conv=last // 2 - 1, upscale=scale), scale
    raise UserError("upscaler.engine=realesrgan runs RRDBNet and SRVGGNetCompact only: use upscaler.engine=spandrel")


def _last_index(state_dict: dict[str, torch.Tensor]) -> int:
    return max(int(name.split(".")[1]) for name in state_dict if name.startswith("body."))
