"""Near-duplicates: which copies of AGIQA-3K's images are found, what is merged wrongly, and the times for N hashes.

    python -m benchmarks.duplicates --images .../agiqa3k/images

prints four tables. A copy counts as found if it and its original fall into one group by the defaults of
`artgate.artworks.duplicates` (radius, quality guard, mirrored hashes); byte-identical files are one image here.
"""

import argparse
import io
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from artgate.artworks.artwork import Artwork, file_name_of, image_id_of
from artgate.artworks.decode import sketch
from artgate.artworks.duplicates import MIN_QUALITY, RADIUS, group_duplicates, hash_and_quality, mirrored_hash
from artgate.artworks.near import NearIndex

Change = Callable[[Image.Image], Image.Image]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of images; without it only the times are measured")
    parser.add_argument("--every", type=int, default=1, help="make copies of every so manieth image only")
    parser.add_argument("--sizes", type=int, nargs="*", default=[20_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    hashes = None
    if arguments.images:
        hashes = report_merges(arguments.images)
        report_copies(arguments.images, arguments.every)
    report_times(arguments.sizes, hashes)
    report_marks(arguments.sizes)


def report_merges(folder: Path) -> NDArray[np.uint8]:
    """Print which different images fall into one group; return the hashes that tell something, (N, 32)."""
    files = {image_id_of(path.read_bytes()): path for path in sorted(folder.iterdir())}
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(_hash_file, files.values(), chunksize=32))
    telling = [i for i, (_, quality) in enumerate(rows) if quality >= MIN_QUALITY]
    hashes = np.stack([rows[i][0] for i in telling])
    labels = group_duplicates(hashes, RADIUS, mirrored_hash(hashes))
    sizes = np.bincount(labels, minlength=len(labels))[labels]
    wrong = int((sizes > 1).sum())
    print(f"radius {RADIUS}: {wrong} of {len(rows)} different images merged ({wrong / len(rows):.3%}), ", end="")
    print(f"{len(rows) - len(telling)} too flat to tell (quality below {MIN_QUALITY})")
    names = [list(files.values())[i].name for i in telling]
    for label in sorted(set(labels[sizes > 1].tolist())):
        print("  merged:", ", ".join(names[i] for i in np.flatnonzero(labels == label)))
    print("  closest pairs:", "; ".join(_closest_pairs(hashes, names)))
    return hashes


def report_copies(folder: Path, every: int) -> None:
    """Print the share of each kind of copy that falls into its original's group, and its distance in bits."""
    paths = sorted(folder.iterdir())[::every]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(_copies_of, paths, chunksize=8))
    distances, telling = np.array([row for row, _ in rows]), np.array([quality >= MIN_QUALITY for _, quality in rows])
    print(f"\n{len(paths)} images\n{'copy':<28}{'found':>8}{'median':>8}{'99 %':>6}")
    for kind, column in zip(KINDS, distances.T, strict=True):
        found = np.mean((column <= RADIUS) & telling)
        print(f"{kind:<28}{found:>8.2%}{np.median(column):>8.0f}{np.percentile(column, 99):>6.0f}")


def report_times(sizes: list[int], real: NDArray[np.uint8] | None) -> None:
    """Print the time to group N hashes with 5 % planted copies: independent bits, and bits that depend as real ones."""
    print(f"\n{'bits':<14}{'N':>10}{'seconds':>9}{'CPU':>8}{'planted found':>15}{'others merged':>15}{'peak MiB':>10}")
    for kind in ("independent", "as AGIQA-3K") if real is not None else ("independent",):
        times = []
        for n in sizes:
            rng = np.random.default_rng(n)
            hashes = _random(rng, n) if kind == "independent" or real is None else _alike(rng, n, real)
            source, copy = _plant_copies(rng, hashes)
            wall, cpu = time.perf_counter(), time.process_time()
            labels = group_duplicates(hashes, RADIUS, mirrored_hash(hashes))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            found = (labels[source] == labels[copy]).mean()
            groups = n - len(copy)
            merged = groups - len(np.unique(labels))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{kind:<14}{n:>10,}{wall:>9.2f}{cpu:>8.2f}{found:>15.2%}{merged:>15}{peak:>10.0f}", flush=True)
            times.append(cpu)
        for (n, a), (m, b) in zip(
            zip(sizes, times, strict=True), list(zip(sizes, times, strict=True))[1:], strict=False
        ):
            print(f"  {n:,} -> {m:,}: CPU time x {b / a:.1f}, N^{np.log(b / a) / np.log(m / n):.2f}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def report_marks(sizes: list[int], searches: int = 50) -> None:
    """Print the time to find the earliest look-alike of one new artwork among N held, where there is none."""
    print(f"\n{'held':>10}{'index, s':>10}{'search, ms':>12}")
    for n in sizes:
        held = [_artwork(hash) for hash in _random(np.random.default_rng(n), n)]
        new = [_artwork(hash) for hash in _random(np.random.default_rng(n + 1), searches)]
        start = time.perf_counter()
        index = NearIndex(held)
        built = time.perf_counter()
        assert not any(map(index.earliest, new))
        print(f"{n:>10,}{built - start:>10.2f}{(time.perf_counter() - built) / searches * 1000:>12.2f}", flush=True)


def _artwork(hash: NDArray[np.uint8]) -> Artwork:
    digits = hash.tobytes().hex()
    return Artwork(digits, file_name_of(digits, "PNG"), 512, 512, "PNG", digits)


def _jpeg(quality: int) -> Change:
    return lambda image: _recoded(image, "JPEG", quality)


def _recoded(image: Image.Image, format: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality)
    return Image.open(buffer).convert("RGB")


def _resized(width: int, height: int, method: Image.Resampling) -> Change:
    return lambda image: image.resize((width, height), method)


def _cropped(share: float) -> Change:
    """The picture without a border; `share` of its width and of its height are lost."""
    return lambda image: ImageOps.crop(image, round(image.width * share / 2))


KINDS: dict[str, Change] = {
    "rescaled to 128": _resized(128, 128, Image.Resampling.LANCZOS),
    "rescaled to 256": _resized(256, 256, Image.Resampling.BICUBIC),
    "rescaled to 384, nearest": _resized(384, 384, Image.Resampling.NEAREST),
    "rescaled to 1024": _resized(1024, 1024, Image.Resampling.BICUBIC),
    "rescaled to 400 x 300": _resized(400, 300, Image.Resampling.BILINEAR),
    "JPEG 95": _jpeg(95),
    "JPEG 75": _jpeg(75),
    "JPEG 50": _jpeg(50),
    "JPEG 30": _jpeg(30),
    "256 px and JPEG 30": lambda image: _recoded(image.resize((256, 256)), "JPEG", 30),
    "WebP 50": lambda image: _recoded(image, "WEBP", 50),
    "brighter by 15 %": lambda image: image.point(lambda value: min(255, round(value * 1.15))),
    "mirrored": ImageOps.mirror,
    "mirrored and JPEG 50": lambda image: _recoded(ImageOps.mirror(image), "JPEG", 50),
    "cropped by 1 %": _cropped(0.01),
    "cropped by 2 %": _cropped(0.02),
    "cropped by 3 %": _cropped(0.03),
    "cropped by 5 %": _cropped(0.05),
    "cropped by 10 %": _cropped(0.10),
}


def _hash_file(path: Path) -> tuple[NDArray[np.uint8], int]:
    return hash_and_quality(sketch(path.read_bytes()).picture)  # as a Collection does


def _copies_of(path: Path) -> tuple[list[int], int]:
    """Distance of each kind of copy from the image or from its mirror picture, whichever is less; its quality."""
    image = Image.open(path).convert("RGB")
    original, quality = _hash_file(path)
    copies = np.stack([hash_and_quality(change(image))[0] for change in KINDS.values()])
    direct, mirrored = (np.bitwise_count(copies ^ h).sum(1) for h in (original, mirrored_hash(original)))
    return np.minimum(direct, mirrored).tolist(), quality


def _closest_pairs(hashes: NDArray[np.uint8], names: list[str], most: int = 3) -> list[str]:
    words, mirrored = hashes.view(np.uint64), mirrored_hash(hashes).view(np.uint64)
    pairs = []
    for i in range(1, len(words)):
        distance = np.minimum(*(np.bitwise_count(words[:i] ^ own[i]).sum(1) for own in (words, mirrored)))
        j = int(distance.argmin())
        pairs.append((int(distance[j]), f"{names[j]} and {names[i]}, {distance[j]} bits"))
    return [text for _, text in sorted(pairs)[:most]]


def _random(rng: np.random.Generator, n: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (n, 32), dtype=np.uint8)


def _alike(rng: np.random.Generator, n: int, real: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 32) hashes whose bits have about the means and pairwise correlations of `real`: signs of a Gaussian."""
    bits = np.unpackbits(real, axis=1) * 2.0 - 1.0  # (R, 256)
    # For signs of a Gaussian E[sign a sign b] = 2/pi asin(correlation); shrinking keeps the matrix positive definite.
    covariance = np.sin(np.pi / 2 * np.corrcoef(bits.T)) * 0.95 + 0.05 * np.eye(256)
    values, vectors = np.linalg.eigh(covariance)
    factor = (vectors * np.sqrt(np.clip(values, 0, None))).T.astype(np.float32)  # (256, 256)
    hashes = np.empty((n, 32), np.uint8)
    for start in range(0, n, 50_000):
        noise = rng.standard_normal((len(hashes[start : start + 50_000]), 256), np.float32)
        hashes[start : start + 50_000] = np.packbits(noise @ factor > 0, axis=1)
    return hashes


def _plant_copies(rng: np.random.Generator, hashes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Overwrite 5 % of the rows by copies of others, 0 to RADIUS bits off, every second mirrored; (sources, copies)."""
    order = rng.permutation(len(hashes))
    n = len(hashes) // 20
    copy, source = order[:n], order[n : 2 * n]
    flips = np.zeros((n, 256), np.uint8)
    for row, count in zip(flips, rng.integers(0, RADIUS + 1, n), strict=True):
        row[rng.choice(256, count, replace=False)] = 1
    copies = hashes[source] ^ np.packbits(flips, axis=1)
    copies[::2] = mirrored_hash(copies[::2])
    hashes[copy] = copies
    return source, copy


if __name__ == "__main__":
    main()
