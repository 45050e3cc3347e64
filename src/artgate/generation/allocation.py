"""Which prompt template each candidate is given to: templates in turn, or more to those that yield.

The bandit decides in rounds. What a round holds is a function of the ledger up to the end of the round before the last,
so that slots need not wait for verdicts, and a batch that is killed, resumed or run with other slots is the same batch.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Protocol

from artgate.generation.config import AllocationConfig
from artgate.generation.prompts import Candidate, CandidateSource

Line = Mapping[str, Any]


class Allocation(Protocol):
    """What decides the templates of a stream."""

    def template_of(self, index: int, lines: Sequence[Line]) -> int | None:
        """The template of candidate `index`; None where it takes more of the ledger, `lines`, to tell."""


class InTurn:
    """Templates in turn, a group of candidates each."""

    def __init__(self, templates: int, group: int = 1) -> None:
        self._templates, self._group = templates, group

    def template_of(self, index: int, lines: Sequence[Line]) -> int | None:
        """The template of candidate `index`, whatever the ledger says."""
        return index // self._group % self._templates


class Bandit:
    """Thompson sampling in rounds, with a floor (Thompson 1933; Chapelle and Li, "An empirical evaluation of Thompson
    sampling", 2011).

    A template's yield is Beta distributed, given its candidates and its accepted so far; each group of a round goes to
    the template whose yield, drawn from that, is largest. A share `floor` of the groups goes to all in turn, so that no
    template is forgotten, however the first ones turned out.
    """

    def __init__(self, templates: int, config: AllocationConfig, seed: int, group: int = 1) -> None:
        self._templates, self._group, self._seed = templates, group, seed
        self._groups = config.round
        self._floor = math.ceil(config.floor * config.round)  # groups of a round
        self._plans: dict[int, list[int]] = {}

    def template_of(self, index: int, lines: Sequence[Line]) -> int | None:
        """The template of candidate `index`; None where the rounds that decide it are not in `lines` yet."""
        number, place = divmod(index // self._group, self._groups)
        known = max(number - 1, 0) * self._groups * self._group
        if len(lines) < known:
            return None
        if number not in self._plans:
            self._plans[number] = self._plan(number, lines[:known])
        return self._plans[number][place]

    def _plan(self, number: int, lines: Sequence[Line]) -> list[int]:
        """The templates of a round's groups."""
        if not lines:
            return [(number * self._groups + place) % self._templates for place in range(self._groups)]
        in_turn = [(number * self._floor + place) % self._templates for place in range(self._floor)]
        accepted, other = [1] * self._templates, [1] * self._templates  # a uniform prior
        for line in lines:
            counts = accepted if line["status"] == "accepted" else other
            counts[line["template"]] += 1
        chance = random.Random(f"allocation {self._seed} {number}")
        beliefs = list(zip(accepted, other, strict=True))
        return in_turn + [_likeliest(beliefs, chance) for _ in range(self._groups - self._floor)]


def _likeliest(beliefs: Sequence[tuple[int, int]], chance: random.Random) -> int:
    """The place of the largest of one draw from each Beta distribution."""
    drawn = [chance.betavariate(*belief) for belief in beliefs]
    return drawn.index(max(drawn))


class Stream(Iterator[Candidate]):
    """The candidates of a run in order, as a sampler takes them.

    Where the next candidate's template waits for verdicts on those in work, it ends for now: asked again when they are
    in the ledger, it goes on.

    lines: the ledger, as it grows. end: the first index that is not made. finished: indices that are passed over.
    """

    def __init__(
        self,
        source: CandidateSource,
        allocation: Allocation,
        lines: Sequence[Line],
        end: int,
        finished: Set[int] = frozenset(),
    ) -> None:
        self._source, self._allocation, self._lines = source, allocation, lines
        self._end, self._finished, self._index = end, finished, len(lines)

    def __next__(self) -> Candidate:
        while self._index in self._finished:
            self._index += 1
        template = self._allocation.template_of(self._index, self._lines) if self._index < self._end else None
        if template is None:
            raise StopIteration
        self._index += 1
        return self._source.candidate(self._index - 1, template)


def build_allocation(config: AllocationConfig, source: CandidateSource, seed: int) -> Allocation:
    """What the configuration names. seed: of the stream of candidates."""
    if config.kind == "bandit":
        return Bandit(source.templates, config, seed, source.group)
    return InTurn(source.templates, source.group)
