"""Upscalers: our engine against the realesrgan package's, tiled against untiled: time, pixels, seams, memory.

    python -m benchmarks.upscale --side 160 --repeats 3
    python -m benchmarks.upscale --screen --weights realesrgan-x4plus

The first prints a table. Times are processor seconds, medians over repeats that alternate between the rows; ratios are
to RealESRGANer with the same tile and surroundings where that is installed, else to ours untiled. Differences are grey
levels from ours untiled; seams are the gradient across the tiles' borders over the same gradient untiled (1: none).
The second makes 3840x2160 of 960x540 in a process of its own and tells the memory that it took beyond what there was.
Needs the extras `embedded` and, for its rows, `realesrgan`.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from artgate.generation.ncnn_weights import EMBEDDED
from artgate.generation.tiling import Tiling, spans
from artgate.generation.upscale import DEEP_PAD, Upscaler, build_upscaler

OURS = "spandrel untiled"
THEIRS = "realesrgan tiled"
COMPACT_PAD = 18  # what ours takes by default for the compact network
SCREEN = (960, 540)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a picture to enlarge the middle of; without it, a painted one")
    parser.add_argument("--side", type=int, default=160, help="of what is enlarged, in pixels")
    parser.add_argument("--height", type=int, help="of what is enlarged, else as its width")
    parser.add_argument("--tile", type=int, help="of the tiled rows, else half the side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", nargs="*", choices=EMBEDDED, default=list(EMBEDDED))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--screen", action="store_true", help="make 3840x2160 of 960x540 and tell the memory it takes")
    arguments = parser.parse_args()
    if arguments.screen:
        for weights in arguments.weights:
            print(screen(weights, arguments.threads), flush=True)
        return
    torch.set_num_threads(arguments.threads)
    picture = middle(Image.open(arguments.image).convert("RGB") if arguments.image else painted(), arguments.side)
    picture = picture.crop((0, 0, arguments.side, arguments.height or arguments.side))
    tile = max(16, arguments.tile or arguments.side // 2)
    print(f"{arguments.side} px, {arguments.threads} threads, medians of {arguments.repeats}")
    print(f"{'weights':26}{'engine':32}{'seconds':>9}{'ratio':>8}{'largest':>9}{'mean':>8}{'seams':>8}")
    for weights in arguments.weights:
        report(weights, picture, tile, arguments.repeats)


def report(weights: str, picture: Image.Image, tile: int, repeats: int) -> None:
    engines = build(weights, max(picture.size), tile)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    pictures: dict[str, np.ndarray] = {}
    for name, upscaler in [*engines.items()] * (repeats + 1):  # the first round warms up
        begun = time.process_time()
        pictures[name] = np.asarray(upscaler(picture)).astype(np.float64)
        seconds[name].append(time.process_time() - begun)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        difference = np.abs(pictures[name] - pictures[OURS])
        ratio = median / medians.get(THEIRS, medians[OURS])
        seam = seams(pictures[name], pictures[OURS], picture.size, tile)
        print(f"{weights:26}{name:32}{median:9.2f}{ratio:8.2f}{difference.max():9.0f}{difference.mean():8.3f}", end="")
        print(f"{seam:8.3f}", flush=True)


def build(weights: str, side: int, tile: int) -> dict[str, Upscaler]:
    """Each engine untiled, ours in tiles with surroundings as by default, and cut hard as a warning."""
    base = {"name": weights, "weights": {"embedded": weights}, "device": "cpu", "tile": max(16, side)}
    tiled = base | {"tile": tile}
    settings = {
        OURS: base,
        "spandrel tiled": tiled,
        "spandrel cut hard": tiled | {"pad": 0, "feather": 0},
        "spandrel tiled, bfloat16": tiled | {"dtype": "bfloat16"},
    }
    if find_spec("realesrgan"):
        pad = COMPACT_PAD if "video" in weights else DEEP_PAD
        settings["realesrgan untiled"] = base | {"engine": "realesrgan"}
        settings[THEIRS] = tiled | {"engine": "realesrgan", "pad": pad}
        settings["realesrgan tiled, its own pad 10"] = tiled | {"engine": "realesrgan", "pad": 10}
    return {name: build_upscaler(cfg) for name, cfg in settings.items()}


def seams(enlarged: np.ndarray, untiled: np.ndarray, size: tuple[int, int], tile: int) -> float:
    """Mean gradient across the tiles' borders over that of the untiled picture."""
    scale = len(untiled) // size[1]
    borders = [[span.start * scale for span in spans(length, Tiling(tile, 0, 0))[1:]] for length in size]

    def across(pixels: np.ndarray) -> float:
        steps = [np.abs(pixels[:, border] - pixels[:, border - 1]).mean() for border in borders[0]]
        steps += [np.abs(pixels[border] - pixels[border - 1]).mean() for border in borders[1]]
        return float(np.mean(steps))

    return across(enlarged) / across(untiled)


def screen(weights: str, threads: int) -> str:
    """What 4K of a 960x540 picture takes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, extra, size = pool.apply(enlarged_apart, (weights, threads))
    return f"{weights}: {size[0]}x{size[1]} of {SCREEN[0]}x{SCREEN[1]}, {seconds:.0f} s, {extra / 1e9:.2f} GB extra"


def enlarged_apart(
    weights: str, threads: int = 2, size: tuple[int, int] = SCREEN
) -> tuple[float, int, tuple[int, int]]:
    """(processor seconds, bytes of memory beyond those before at most, size) of enlarging a picture of `size`."""
    torch.set_num_threads(threads)
    upscaler = build_upscaler({"name": weights, "weights": {"embedded": weights}, "device": "cpu"})
    picture = painted(max(size)).crop((0, 0, *size))
    upscaler(picture.crop((0, 0, 16, 16)))  # what is set up once
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark begins anew
    begun = time.process_time()
    enlarged = upscaler(picture)
    seconds = time.process_time() - begun
    status = Path("/proc/self/status").read_text().splitlines()
    highest = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return seconds, highest - before, enlarged.size


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
