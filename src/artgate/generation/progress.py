"""Where a batch stands while it runs: a view kept up to date on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from artgate.artworks.text import one_line
from artgate.generation.batch import Batch
from artgate.generation.preview_summary import evaluations_saved
from artgate.generation.summary import decided_by, wilson_interval

LAST = 6  # verdicts that are seen
REFRESHES = 4  # a second: times go on while the model works
STYLES = {"accepted": "green", "gate": "default", "preview": "blue", "safety": "yellow", "near-duplicate": "default"}

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """The figures of a moment. candidates, accepted: of all sessions; the others of this one.

    rate: candidates a second. left: seconds until the target is reached, at that rate and the batch's yield. None:
    not known yet. of_candidates: the target is one of candidates, whatever becomes of them.
    """

    accepted: int
    target: int
    candidates: int
    seconds: float
    rate: float | None
    left: float | None
    of_candidates: bool = False

    @property
    def reached(self) -> int:
        """How much of the target is reached."""
        return min(self.candidates if self.of_candidates else self.accepted, self.target)


class Progress:
    """A context in which the standing of a batch is told.

    interval: seconds between two lines where `stream` (stderr, if None) is no terminal. of_candidates: see `Standing`.
    """

    def __init__(
        self,
        target: int,
        batch: Batch,
        interval: float,
        stream: TextIO | None = None,
        of_candidates: bool = False,
    ):
        self._target = target
        self._of_candidates = of_candidates
        self._batch = batch
        self._interval = interval
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._begun = self._told = time.monotonic()
        self._before = len(batch.lines)
        self._live = Live(
            console=self._console, get_renderable=self._view, refresh_per_second=REFRESHES, transient=False
        )

    def __enter__(self) -> "Progress":
        # The first candidate of a large model may take minutes: something is to be seen before it is there.
        if self._on_terminal:
            self._live.start(refresh=True)
        else:
            self._print()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_terminal:
            self._live.stop()  # shows the last state, and the cursor again, however the batch ended
        else:
            self._print()

    def advance(self) -> None:
        """Tell where the batch stands, if it is time to. A terminal is kept up to date without."""
        if not self._on_terminal and time.monotonic() - self._told >= self._interval:
            self._print()

    @property
    def _on_terminal(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _print(self) -> None:
        self._told = time.monotonic()
        print(in_one_line(self._standing()), file=self._console.file, flush=True)

    def _standing(self) -> Standing:
        lines = self._batch.lines
        seconds = time.monotonic() - self._begun
        decided_now = len(lines) - self._before
        return standing(self._batch.accepted, self._target, len(lines), decided_now, seconds, self._of_candidates)

    def _view(self) -> RenderableType:
        return view(self._standing(), self._batch.lines, str(self._batch.root))


def standing(
    accepted: int, target: int, candidates: int, decided_now: int, seconds: float, of_candidates: bool = False
) -> Standing:
    """decided_now: candidates decided in the `seconds` of this session; the others: of all sessions."""
    rate = decided_now / seconds if decided_now and seconds > 0 else None
    if of_candidates:
        left = max(0, target - candidates) / rate if rate else None
    else:
        left = max(0, target - accepted) * candidates / accepted / rate if accepted and rate else None
    return Standing(accepted, target, candidates, seconds, rate, left, of_candidates)


def in_one_line(now: Standing) -> str:
    """The standing as a line of a log."""
    share = f"{now.accepted / now.candidates:.0%}" if now.candidates else "?"
    rate = "?" if now.rate is None else f"{now.rate:.2f}"
    counts = [f"{now.accepted}/{now.target} accepted", f"{now.candidates} candidates"]
    if now.of_candidates:
        counts = [f"{now.candidates}/{now.target} candidates", f"{now.accepted} accepted"]
    return " · ".join([*counts, f"yield {share}", f"{rate} images/s", f"{_clock(now.left)} left"])


def view(now: Standing, lines: Sequence[Line], title: str) -> RenderableType:
    """The standing as a terminal shows it, above the last verdicts. lines: the ledger so far; it may grow meanwhile."""
    figures = Table.grid(padding=(0, 2))
    figures.add_column(style="dim", no_wrap=True)
    figures.add_column(no_wrap=True, overflow="ellipsis")
    figures.add_row("candidates" if now.of_candidates else "accepted", _bar(now))
    figures.add_row("yield", _yield(now))
    saved, share = saved_early(lines)
    if saved:
        figures.add_row("saved", Text(f"{saved:,} evaluations ({share:.0%}) by early rejection"))
    figures.add_row("time", Text(_time(now)))
    heading = Text(f"artgate · {one_line(title)}", style="bold", no_wrap=True, overflow="ellipsis")
    return Padding(Group(heading, figures, *_last_verdicts(lines)), (1, 1, 0, 1))


def saved_early(lines: Sequence[Line]) -> tuple[int, float]:
    """(denoiser evaluations that early rejection saved, their share of what all candidates would have taken)."""
    taken = [(decided_by(line), line["evaluations"]) for line in lines if line["status"] != "failed"]
    saved = evaluations_saved(
        (evaluations for verdict, evaluations in taken if verdict == "preview"),
        (evaluations for verdict, evaluations in taken if verdict != "preview"),
    )
    return saved, saved / (saved + sum(line["evaluations"] for line in lines)) if saved else 0.0


def _bar(now: Standing) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    row.add_row(
        ProgressBar(now.target, now.reached, width=40, complete_style="green", finished_style="green"),
        Text(f"{now.candidates if now.of_candidates else now.accepted} / {now.target}", style="bold"),
    )
    return row


def _yield(now: Standing) -> Text:
    if not now.candidates:
        return Text("? the first candidates are on their way")
    low, high = wilson_interval(now.accepted, now.candidates)
    told = Text(f"{now.accepted / now.candidates:.1%}", style="bold")
    return told.append(f"  95% interval {low:.0%} to {high:.0%}, {now.candidates} candidates", style="not bold")


def _time(now: Standing) -> str:
    rate = "" if now.rate is None else f" · {now.rate:.2f} candidates/s"
    return f"{_clock(now.seconds)} so far · {_clock(now.left)} left{rate}"


def _last_verdicts(lines: Sequence[Line]) -> list[RenderableType]:
    last = lines[-LAST:]
    if not last:
        return []
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=52)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
    for line in reversed(last):
        verdict = decided_by(line)
        style = "red" if line["status"] == "failed" else STYLES[verdict]
        told = "left early" if verdict == "preview" else line["status"]
        reason, prompt = one_line(line["reason"]), one_line(line["prompt"])
        table.add_row(f"#{line['index']}", Text(told, style=style), Text(reason), Text(prompt))
    return [Text(), table]


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
