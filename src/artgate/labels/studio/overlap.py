"""Which artworks several people grade, decided here.

The community edition hands a task out until it has as many annotations, by different people, as its `overlap` says, and
takes that number from the project for every task that is imported. It chooses tasks for a second opinion only by chance
and anew with every import. So the choice is made here, by a hash of the artwork and the seed: the same whenever it is
asked, on any machine, whatever was pushed before.
"""

import hashlib
from dataclasses import dataclass

from artgate.errors import UserError

MOST = 20


@dataclass(frozen=True)
class Overlap:
    """Each artwork of a share is graded by `annotators` people, the others by one. share: in [0, 1].

    Raises UserError for numbers outside their limits.
    """

    annotators: int = 1
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.annotators <= MOST:
            raise UserError(f"overlap {self.annotators} is outside [1, {MOST}]: ask for so many annotators an artwork")
        if not 0 <= self.share <= 1:
            raise UserError(f"share {self.share:g} is outside [0, 1]: give the part of artworks that several grade")

    def of(self, image_id: str) -> int:
        """How many people grade this artwork."""
        digest = hashlib.sha256(f"overlap {self.seed} {image_id}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64  # in [0, 1), as good as by chance
        return self.annotators if place < self.share else 1

    @property
    def usual(self) -> int:
        """What most artworks get: the project's own number, so that fewer tasks are to be set one by one."""
        return self.annotators if self.share > 0.5 else 1
