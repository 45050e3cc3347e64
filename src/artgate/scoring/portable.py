"""Score images with an exported scorer and without torch: `python score.py picture.png …`, one JSON a line.

It needs numpy, Pillow and onnxruntime, and nothing of artgate: `artgate export` lays a copy of this file, named
score.py, beside model.onnx and model.json. From Python: `PortableScorer(folder)(image)`.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMAT = 1
MODEL, DESCRIPTION = "model.onnx", "model.json"
FORMATS = ("PNG", "JPEG", "WEBP")

Pixels = NDArray[np.uint8]


def main() -> None:
    """Score the files that the command line names; exit status 1 if any could not be read."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        raise SystemExit(2)
    scorer = PortableScorer(Path(__file__).parent)
    failed = False
    for file in sys.argv[1:]:
        try:
            line = {"file": file, **scorer(open_image(file))}
        # A hostile file can make a decoder raise nearly anything; the others are still scored.
        except Exception as error:
            line, failed = {"file": file, "error": str(error) or type(error).__name__}, True
        print(json.dumps(line), flush=True)
    raise SystemExit(failed)


def open_image(path: str | Path) -> Image.Image:
    """An 8-bit RGB image, upright. (artgate also refuses transparent, animated and CMYK images; this converts them.)"""
    with Image.open(path, formats=FORMATS) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class PortableScorer:
    """The model in `folder`. threads: of one forward pass; 0 is all cores.

    description: what model.json tells. Raises ValueError for a folder that was changed or that this file cannot run.
    """

    def __init__(self, folder: str | Path, threads: int = 0):
        self.description = read_description(folder)
        self._session = open_session(folder, self.description, threads)

    def __call__(self, image: Image.Image) -> dict[str, Any]:
        """What artgate says of an RGB image: score in [0, 1], grade and probabilities of quality; every aspect."""
        views = [view[None] for view in preprocess(image, **self.description["preprocessing"])]  # (1, V, s, s, 3)
        return explained(self.probabilities(views)[0], self.description)

    def probabilities(self, views: Sequence[Pixels]) -> NDArray[np.float32]:
        """(B, A, K) for one (B, V, size, size, 3) uint8 array a size: V views an image, whose features are averaged."""
        feed = dict(zip(self.description["inputs"], views, strict=True))
        found: NDArray[np.float32] = self._session.run(["probabilities"], feed)[0]
        return found


def explained(probabilities: NDArray[np.float32], description: dict[str, Any]) -> dict[str, Any]:
    """One image's (A, K) probabilities, as `artgate score` tells them."""
    grades = description["grades"]
    aspects = {
        aspect: dict(zip(grades, map(float, row), strict=True))
        for aspect, row in zip(description["aspects"], probabilities, strict=True)
    }
    quality = list(aspects["quality"].values())
    expected = sum(index * share for index, share in enumerate(quality))
    median = sum(1 - below > 0.5 for below in np.cumsum(quality)[:-1])
    return {
        "score": min(max(expected / (len(grades) - 1), 0.0), 1.0),
        "grade": grades[median],
        "probabilities": aspects["quality"],
        "aspects": aspects,
    }


def read_description(folder: str | Path) -> dict[str, Any]:
    """model.json of an exported scorer. Raises ValueError for another format."""
    path = Path(folder) / DESCRIPTION
    read: dict[str, Any] = json.loads(path.read_text())
    if read.get("format") != FORMAT:
        raise ValueError(f"{path} has format {read.get('format')}, and this reads {FORMAT}: export the scorer again")
    return read


def open_session(folder: str | Path, description: dict[str, Any], threads: int) -> Any:
    """Onnxruntime's session of the model. Raises ValueError where the file is not the one that model.json tells of."""
    import onnxruntime

    path = Path(folder) / MODEL
    model = path.read_bytes()
    if hashlib.sha256(model).hexdigest() != description["sha256"]:
        raise ValueError(f"{path} is not the model that {DESCRIPTION} tells of: export the scorer again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait by spinning take the cores from those that work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def preprocess(
    image: Image.Image, sizes: Sequence[int], interpolation: str = "bicubic", fit: str = "squash", **others: Any
) -> tuple[Pixels, ...]:
    """One (V, size, size, 3) array a size: the very pixels that artgate's preprocessing gives.

    Pillow's own resize differs from torch's here and there by a level or two in 255, enough to move scores.
    others: mean and std, which the model itself applies. Raises ValueError for a way that this file does not know.
    """
    unknown = [*(others.keys() - {"mean", "std"}), *({fit} - {"squash", "crop"})]
    if unknown:
        raise ValueError(f"this file does not know preprocessing {unknown[0]!r}: use the one that came with the model")
    pixels = np.asarray(image.convert("RGB"))  # (H, W, 3)
    if fit == "crop":
        pixels = _middle_square(pixels)
    return tuple(_resized(pixels, size, interpolation)[None] for size in sizes)


def _middle_square(pixels: Pixels) -> Pixels:
    side = min(pixels.shape[:2])
    # Halves are rounded to even, as torchvision does.
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _resized(pixels: Pixels, size: int, interpolation: str) -> Pixels:
    """(H, W, 3) → (size, size, 3): along rows, rounded to 8 bits, then along columns."""
    across = _resampled(pixels, size, interpolation)
    return _resampled(across.transpose(1, 0, 2), size, interpolation).transpose(1, 0, 2)


def _resampled(pixels: Pixels, size: int, interpolation: str) -> Pixels:
    """(n, length, 3) → (n, size, 3)."""
    length = pixels.shape[1]
    if length == size:
        return pixels
    if interpolation == "nearest":
        scale = np.float32(length / size)
        return pixels[:, np.minimum((np.arange(size, dtype=np.float32) * scale).astype(int), length - 1)]
    bits, windows = _windows(length, size, *_KERNELS[interpolation])
    found = np.empty((len(pixels), size, 3), np.uint8)
    for place, (first, weights) in enumerate(windows):
        # Whole numbers below 2^53: float64 holds them exactly, and multiplies them faster than integers.
        window = pixels[:, first : first + len(weights)].astype(np.float64)
        total = np.tensordot(window, weights, (1, 0))  # (n, 3)
        found[:, place] = np.clip(np.floor((total + 2.0 ** (bits - 1)) / 2.0**bits), 0, 255)
    return found


def _windows(length: int, size: int, kernel: Callable[[Any], Any], radius: int) -> tuple[int, list[tuple[int, Any]]]:
    """Of each of `size` places, the first of `length` it is made of and their weights, whole numbers of 2^-bits.

    The antialiased resampling of 8-bit tensors in torch (aten/src/ATen/native/cpu/UpSampleKernel.cpp), which follows
    Pillow's (Resample.c): weights take as many bits as the largest leaves room for in 16.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    windows = []
    for centre in (np.arange(size) + 0.5) * scale:
        first = max(int(centre - radius * stretch + 0.5), 0)
        last = min(int(centre + radius * stretch + 0.5), length)
        weights = kernel(np.abs(np.arange(first, last) - centre + 0.5) / stretch)
        windows.append((first, weights / weights.sum()))
    largest = max(weights.max() for _, weights in windows)
    bits = next((bits for bits in range(22) if int(0.5 + largest * 2 ** (bits + 1)) >= 2**15), 22)
    return bits, [(first, np.trunc(weights * 2**bits + np.copysign(0.5, weights))) for first, weights in windows]


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((x - 5) * x + 8) * x - 4
    return np.where(x < 1, near, np.where(x < 2, -0.5 * far, 0.0))


def _linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0.0)


_KERNELS = {"bicubic": (_cubic, 2), "bilinear": (_linear, 1)}


if __name__ == "__main__":
    main()
