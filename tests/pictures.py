"""Small pictures for the tests of artworks: each number another picture, cheap to encode."""

import io
import os
import resource
from collections.abc import Callable

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(number: int) -> bytes:
    return encoded(picture(number))


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
