"""Where a network runs and in which numbers: what `auto` means, and what this machine does not have."""

import torch

from artgate.errors import UserError


def device_of(setting: str, name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU where torch finds one. Raises UserError naming `setting`."""
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"{setting} {name}: torch finds no CUDA GPU here; use auto or cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{setting} mps: torch finds no Apple GPU here; use auto or cpu")
    return torch.device(name)


def dtype_of(setting: str, name: str, device: torch.device) -> torch.dtype:
    """The torch type called `name`; `auto` is float32 on a CPU, else float16. Raises UserError naming `setting`."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if name == "float16" and device.type == "cpu":
        raise UserError(f"{setting} float16 is not for the CPU: use float32, bfloat16 or auto")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
