"""One push, pull or import at a time on a Collection: two pushes at once would each add what the other is adding."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from artgate.errors import UserError

NAME = ".label.lock"
SECONDS = 60.0


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold a Collection's lock of labelling. Raises UserError if another process holds it for long."""
    lock = FileLock(root / NAME)
    try:
        lock.acquire(timeout=SECONDS)
    except Timeout:
        raise UserError(
            f"another push, pull or import has been at work on {root} for {SECONDS:.0f} s: wait for it, or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()
