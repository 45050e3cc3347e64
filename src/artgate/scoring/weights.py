"""Weights of frozen networks: read from a local file safely, hashed, or got by a library from the hub."""

import difflib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from artgate.errors import UserError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUB_PATIENCE = 4.0  # seconds for the hub's first answer


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pt, .pth or .bin file loaded with weights_only=True.

    Raises UserError for a missing or damaged file, and for a pickle of anything but tensors.
    """
    file = weights_file(path)
    try:
        read = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        weights = _unwrapped(read)
    # A damaged or hostile file can make a reader raise nearly anything.
    except Exception as error:
        raise UserError(f"{file} cannot be loaded ({first_line(error)}): {_SAVE_CURE}") from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{file} holds no state dict: {_SAVE_CURE}")
    return weights


def weights_file(path: str | Path) -> Path:
    """`path`, if a weights file of a known kind is there; else UserError."""
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise UserError(f"checkpoint {path} does not end in {', '.join(SUFFIXES)}: convert it to .safetensors")
    if not file.is_file():
        raise UserError(f"checkpoint {path} is not there: check the path")
    return file


def weights_sha256(network: nn.Module) -> str:
    """Hex sha256 over the names, types, shapes and values of a network's parameters and buffers (on the CPU)."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


@contextmanager
def library_errors(what: str, cure: str) -> Iterator[None]:
    """Whatever keeps a library from making `what`, such as no network, becomes a UserError with the cure, soon."""
    with _quietly(), _hub_if_it_answers():
        try:
            yield
        # open_clip, timm, the hub and pickle each raise kinds of their own, down to plain Exception.
        except Exception as error:
            raise UserError(f"{what} cannot be made ({first_line(error)}): {cure}") from error


def unknown(what: str, given: str, known: Sequence[str]) -> UserError:
    """The error for a name that is not among `known`, with the nearest that are."""
    close = difflib.get_close_matches(given, known, n=3)
    return UserError(f"{what} is not known: did you mean {' or '.join(close) or ', '.join(known[:20])}?")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch's first line only announces the list of what does not fit.
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__


_SAVE_CURE = "give a state dict, saved as .safetensors or with torch.save"


def _unwrapped(read: Mapping[str, Any]) -> dict[str, Any]:
    """Trainers wrap the state dict ({"state_dict": …, "epoch": …}) and its keys (`module.…`)."""
    for key in ("state_dict", "model"):
        if isinstance(read.get(key), Mapping):
            return _unwrapped(read[key])
    return {key.removeprefix("module."): value for key, value in read.items()}


@contextmanager
def _hub_if_it_answers() -> Iterator[None]:
    """Use the hub's cache alone while the hub cannot be reached: its client would retry for a minute."""
    constants = huggingface_hub.constants
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _hub_answers() -> bool:
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_PATIENCE)
    # Any failure, of whichever HTTP client the hub uses, means the same here.
    except Exception:
        return False
    return True


@contextmanager
def _quietly() -> Iterator[None]:
    """What the libraries log about a failure, and the handler they install to do so, would bury the message."""
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers
