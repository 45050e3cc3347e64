"""Ctrl-C and SIGTERM: at once between two operations, but never in the middle of saving a candidate."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While this context is entered, a signal raises KeyboardInterrupt, put off to the end of any `put_off` block.

    A second signal is not put off. Outside the main thread signals are left as they are.
    """

    def __init__(self) -> None:
        self._asked = False
        self._saving = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Let the block finish before a signal takes effect."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False
        if self._asked:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if again or not self._saving:
            raise KeyboardInterrupt
