"""Votes come in by and by; whenever there are enough new ones, the scorer is trained again.

What it was last trained on lies in `learned.parquet` beside the votes, written when a training ended well: one that was
killed, or failed, is made up for.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from artgate.errors import UserError
from artgate.labels.votes import Vote, read_votes, write_votes

FILE_NAME = "learned.parquet"
LONGEST = 604_800.0  # between two looks, in seconds: a week

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Watch:
    """A Collection's folder, looked at each `every` seconds; trained on when `enough` votes are new or changed.

    Raises UserError for numbers outside their limits.
    """

    root: Path
    enough: int
    every: float

    def __post_init__(self) -> None:
        if self.enough < 1:
            raise UserError(f"votes {self.enough} is below 1: say after how many new votes to train")
        if not 1 <= self.every <= LONGEST:
            raise UserError(
                f"every {self.every:g} is outside [1, {LONGEST:g}] seconds: give the time between two looks, each of "
                "which asks the server what has changed"
            )

    def new(self, votes: Sequence[Vote]) -> list[Vote]:
        """Those of the votes that no training has learned from, or learned otherwise."""
        path = self.root / FILE_NAME
        learned = set(map(_opinion, read_votes(path))) if path.exists() else set()
        return [vote for vote in votes if _opinion(vote) not in learned]


def watch(
    watched: Watch,
    pull: Callable[[], Sequence[Vote]],
    train: Callable[[], bool],
    tell: Tell,
    looks: int | None = None,
) -> None:
    """Pull and, when there is enough that is new, train; again and again, or `looks` times.

    pull: the Collection's votes, brought up to date. A UserError of the first ends it, for it may be of a wrong name or
    token; one of a later look is told, and the next look tries again.
    train: whether it ended well. After one that did not, the next waits until as many votes more have come.
    """
    failed_at = 0
    for look in islice(count(), looks):
        if look:
            time.sleep(watched.every)
        try:
            votes = pull()
        except UserError as error:
            if not look:
                raise
            tell(f"votes could not be pulled: {error}")
            continue
        new = len(watched.new(votes))
        tell(f"{new} new votes of {len(votes)}, training begins at {failed_at + watched.enough}")
        if new < failed_at + watched.enough:
            continue
        if train():
            write_votes(watched.root / FILE_NAME, votes)
            failed_at = 0
        else:
            failed_at = new
            tell(f"the training failed: it is tried again when {watched.enough} votes more have come")


def _opinion(vote: Vote) -> tuple[object, ...]:
    return vote.project, vote.annotation, vote.image_id, vote.annotator, vote.aspect, vote.grade
