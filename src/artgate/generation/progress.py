"""The live line of a batch: accepted of target, yield, images/s and the time left."""

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from artgate.generation.batch import Batch


class Progress:
    """One line that is rewritten on a terminal, and a plain line every `interval` seconds elsewhere."""

    def __init__(self, target: int, batch: Batch, interval: float, stream: TextIO | None = None):
        self._target = target
        self._batch = batch
        self._interval = interval
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._begun = self._told = time.monotonic()
        self._decided_before, self._accepted_before = len(batch.lines), batch.accepted

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        # The first candidate of a large model may take minutes
        self._tell(at_once=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(at_once=True)
        self._live.stop()

    def advance(self) -> None:
        """Tell where the batch stands, if it is time to."""
        self._tell(at_once=False)

    def _tell(self, at_once: bool) -> None:
        now = time.monotonic()
        if self._console.is_terminal:
            self._live.update(Text(self._text(now)), refresh=True)
        elif at_once or now - self._told >= self._interval:
            self._told = now
            print(self._text(now), file=self._console.file, flush=True)

    def _text(self, now: float) -> str:
        decided, accepted = len(self._batch.lines), self._batch.accepted
        here = decided - self._decided_before, accepted - self._accepted_before
        return standing(accepted, self._target, decided, *here, now - self._begun)


def standing(accepted: int, target: int, candidates: int, decided_now: int, accepted_now: int, seconds: float) -> str:
    """The line in words. decided_now, accepted_now: in the `seconds` of this session; the others: of all sessions."""
    share = f"{accepted / candidates:.0%}" if candidates else "?"
    rate = f"{decided_now / seconds:.2f}" if decided_now and seconds > 0 else "?"
    left = _clock((target - accepted) * seconds / accepted_now) if accepted_now else "?"
    return f"{accepted}/{target} accepted · {candidates} candidates · yield {share} · {rate} images/s · {left} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
