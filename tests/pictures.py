"""Pictures and hashes for the tests of artworks: each number another picture, cheap to encode."""

import io
import os
import resource
import signal
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from artgate.artworks.duplicates import mirrored_hash


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def painting(number: int, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """A picture with detail at every scale, as real ones have; `picture` has none that is fine."""
    rng = np.random.default_rng(number)
    total = np.zeros((size[1], size[0], 3))
    for cells in (4, 8, 16, 32, 64):
        octave = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(octave.resize(size, Image.Resampling.BICUBIC), float) / cells
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(number: int) -> bytes:
    return encoded(picture(number))


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


def clusters(seed: int, n: int, spread: int) -> np.ndarray:
    """(n, 32) hashes around 40 centres, 0 to `spread` bits from them, half of them mirrored."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (40, 32), dtype=np.uint8)[rng.integers(0, 40, n)]
    for row in rows:
        for bit in rng.choice(256, rng.integers(0, spread + 1), replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
    return np.where(rng.random((n, 1)) < 0.5, rows, mirrored_hash(rows))


def run_in_fork(work: Callable[[], None]) -> int:
    """Exit status of `work` in a forked child: 0 if it returned, minus the signal if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"in the fork: {error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def within_memory(megabytes: int, work: Callable[[], None]) -> Callable[[], None]:
    """`work` in a process whose address space may grow by so much and no more."""

    def limited() -> None:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
        work()

    return limited


def fork_killed_at(work: Callable[[], object], number: int) -> int:
    """Run `work` in a fork that is killed at its `number`-th open, rename, removal or listing; its exit status."""

    def counted() -> None:
        left = number

        def hook(event: str, arguments: tuple) -> None:
            nonlocal left
            if event in ("open", "os.rename", "os.remove", "os.listdir", "os.scandir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()

    return run_in_fork(counted)
