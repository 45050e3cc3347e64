"""Upscalers: our engine against the realesrgan package's, and tiled against untiled, in time and in pixels.

    python -m benchmarks.upscale --side 160 --repeats 3

prints a table. Times are medians over repeats that alternate between the rows; ratios are to ours untiled of the same
weights. Differences are grey levels from that picture. Needs the extras `embedded` and, for its rows, `realesrgan`.
"""

import argparse
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from artgate.generation.ncnn_weights import EMBEDDED
from artgate.generation.upscale import Upscaler, build_upscaler

OURS = "spandrel untiled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a picture to enlarge the middle of; without it, a painted one")
    parser.add_argument("--side", type=int, default=160, help="of what is enlarged, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", nargs="*", choices=EMBEDDED, default=list(EMBEDDED))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    picture = middle(Image.open(arguments.image).convert("RGB") if arguments.image else painted(), arguments.side)
    print(f"{arguments.side} px, {arguments.threads} threads, medians of {arguments.repeats}")
    print(f"{'weights':26}{'engine':20}{'seconds':>9}{'ratio':>8}{'largest':>9}{'mean':>8}")
    for weights in arguments.weights:
        report(weights, picture, arguments.repeats)


def report(weights: str, picture: Image.Image, repeats: int) -> None:
    engines = build(weights, picture.width)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    pictures: dict[str, np.ndarray] = {}
    for name, upscaler in [*engines.items()] * (repeats + 1):  # the first round warms up
        begun = time.perf_counter()
        pictures[name] = np.asarray(upscaler(picture)).astype(np.float64)
        seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        difference = np.abs(pictures[name] - pictures[OURS])
        ratio = f"{median / medians[OURS]:8.2f}"
        print(f"{weights:26}{name:20}{median:9.2f}{ratio}{difference.max():9.0f}{difference.mean():8.3f}", flush=True)


def build(weights: str, side: int) -> dict[str, Upscaler]:
    """Each engine untiled, ours in four tiles with surroundings as by default, and cut hard as a warning."""
    base = {"name": weights, "weights": {"embedded": weights}, "device": "cpu", "tile": max(16, side)}
    settings = {
        OURS: base,
        "spandrel tiled": base | {"tile": max(16, side // 2)},
        "spandrel cut hard": base | {"tile": max(16, side // 2), "pad": 0, "feather": 0},
        "spandrel bfloat16": base | {"dtype": "bfloat16"},
    }
    if find_spec("realesrgan"):
        settings["realesrgan untiled"] = base | {"engine": "realesrgan"}
    return {name: build_upscaler(cfg) for name, cfg in settings.items()}


def middle(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def painted(side: int = 512) -> Image.Image:
    """Waves that grow finer from left to right, in three colours: edges of every width."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin((20 + 60 * x) * (x * np.cos(angle) + y * np.sin(angle)) * 3) for angle in (0.2, 1.1, 2.3)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8))


if __name__ == "__main__":
    main()
