"""A page of a source, done when everything on it is decided; and how the target is shared among the strata."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, inf


class Page:
    """One page of a stratum (a list of pages that follow each other by cursors).

    cursor: what the page is asked for by, "" for the first; following: the next page's, None after the last.
    Whoever reads the page, and each item on it, holds it open; with the last one settled it is done, unless something
    on it is to be tried again.
    """

    def __init__(self, stratum: str, cursor: str = "", following: str | None = None) -> None:
        self.stratum, self.cursor, self.following = stratum, cursor, following
        self.open = 1
        self.barren = True  # nothing was on it, not even what is held already
        self.again = False

    def hold(self) -> "Page":
        """One item more to wait for."""
        self.open += 1
        self.barren = False
        return self

    def settle(self, decided: bool) -> bool:
        """One item less; decided: not to be tried again. Returns whether it was the last."""
        self.open -= 1
        self.again = self.again or not decided
        return self.open == 0


class Quotas:
    """How many artworks each stratum may still give, so that all together give `target`.

    The target is split evenly; what an exhausted stratum has not given falls to the others. target: None for no
    limit. kept: artworks that the Collection has of each stratum already; those of unknown strata count too.
    """

    def __init__(self, target: int | None, strata: Iterable[str], kept: Mapping[str, int]) -> None:
        self.target = inf if target is None else target
        self.active = set(strata)
        self.kept = Counter(kept)
        self.flying: Counter[str] = Counter()
        self._changed = asyncio.Event()

    @property
    def reached(self) -> bool:
        """Whether the target is."""
        return self.kept.total() >= self.target

    def share(self, stratum: str) -> float:
        """How many artworks a stratum may give in all."""
        if stratum not in self.active:
            return inf
        given = sum(count for name, count in self.kept.items() if name not in self.active)
        return ceil(max(0.0, self.target - given) / len(self.active)) if self.target < inf else inf

    def full(self, stratum: str) -> bool:
        """Whether a stratum has given its share, or the target is reached."""
        return self.reached or self.kept[stratum] >= self.share(stratum)

    async def take(self, stratum: str) -> bool:
        """Reserve a place for one artwork; False if none is left.

        Waits where all places are reserved by artworks on their way, of which some may be dropped: so there are never
        more kept than the target.
        """
        while not self.full(stratum):
            flying = self.flying[stratum]
            room = self.kept[stratum] + flying < self.share(stratum)
            if room and self.kept.total() + self.flying.total() < self.target:
                self.flying[stratum] += 1
                return True
            await self._changed.wait()
        return False

    def give_back(self, stratum: str, kept: bool) -> None:
        """The artwork that a place was reserved for is kept, or it is not."""
        self.flying[stratum] -= 1
        self.kept[stratum] += kept
        self._wake()

    def exhaust(self, stratum: str) -> None:
        """A stratum has nothing more to give."""
        if len(self.active) > 1:
            self.active.discard(stratum)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
