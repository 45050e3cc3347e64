"""Everything that a crawl writes, in groups and off the event loop: artworks, drops, the ledger."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artgate.artworks.artwork import Artwork, Provenance, image_id_of
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.decode import Refused
from artgate.artworks.parameters import with_parameters

from .ledger import Ledger

# Images that came while the group before was written are written together: their syncs are shared.
GROUP = 64


@dataclass(frozen=True)
class Outcome:
    """What became of an image: the artwork, and why it was dropped ("" for kept, "held" for held already)."""

    artwork: Artwork | None
    reason: str = ""
    detail: str = ""


@dataclass
class _Job:
    done: asyncio.Future[Outcome | None]
    new: NewArtwork | None = None
    address: str = ""
    stratum: str = ""
    drop: tuple[str, str, dict[str, Any]] | None = None
    line: Mapping[str, Any] | None = None


class Keeper:
    """Writes for the pipeline; each call returns when what it asked for is on the disk.

    One thread writes at a time; the Collection comes before the ledger, so that a kill between them costs no image.
    """

    def __init__(self, collection: Collection, ledger: Ledger) -> None:
        self.collection, self.ledger = collection, ledger
        self._waiting: list[_Job] = []
        self._task: asyncio.Task[None] | None = None

    async def keep(self, new: NewArtwork, address: str, stratum: str) -> Outcome:
        """Add an image with its provenance; the generation parameters in the file fill in what that lacks."""
        outcome = await self._ask(new=new, address=address, stratum=stratum)
        assert outcome is not None
        return outcome

    async def drop(self, reason: str, detail: str, where: Mapping[str, Any], address: str | None) -> None:
        """Note in drops.jsonl that something is not kept, and in the ledger that its address is not to be asked again.

        address: None where it may be.
        """
        line = {"address": address, "dropped": reason} if address is not None else None
        await self._ask(drop=(reason, detail, dict(where)), line=line)

    async def note(self, line: Mapping[str, Any]) -> None:
        """Write a line of the ledger."""
        await self._ask(line=line)

    async def _ask(self, **job: Any) -> Outcome | None:
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(future, **job))
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            jobs, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            try:
                outcomes = await asyncio.to_thread(self._write, jobs)
            # A full disk fails each of the group; the pipeline ends the crawl.
            except Exception as error:
                for job in jobs:
                    job.done.set_exception(error)
            else:
                for job, outcome in zip(jobs, outcomes, strict=True):
                    job.done.set_result(outcome)

    def _write(self, jobs: Sequence[_Job]) -> list[Outcome | None]:
        adds = [job for job in jobs if job.new is not None]
        outcomes = dict(zip(map(id, adds), self._add([job.new for job in adds if job.new]), strict=True))
        for job in jobs:
            if job.drop:
                reason, detail, where = job.drop
                self.collection.drop(reason, detail, **where)
        lines = [_ledger_line(job, outcomes.get(id(job))) for job in jobs]
        self.ledger.append([line for line in lines if line is not None])
        return [outcomes.get(id(job)) for job in jobs]

    def _add(self, items: Sequence[NewArtwork]) -> list[Outcome]:
        if not items:
            return []
        items = [item._replace(provenance=with_parameters(item.provenance, item.data)) for item in items]
        held = {image_id for item in items if (image_id := image_id_of(item.data)) in self.collection}
        return [
            _outcome(result, item, held) for result, item in zip(self.collection.add_many(items), items, strict=True)
        ]


def _outcome(result: Artwork | Refused, item: NewArtwork, held: set[str]) -> Outcome:
    if isinstance(result, Refused):
        return Outcome(None, result.reason, result.detail)
    # Of two addresses of the same bytes in one group, the Collection has taken one, not always the first.
    if _place(result.provenance) == _place(item.provenance):
        return Outcome(result, "held" if result.image_id in held else "")
    where = result.provenance.image_url or result.provenance.source_id or result.image_id
    return Outcome(result, "same-bytes", f"held already, from {where}")


def _place(provenance: Provenance) -> tuple[str | None, ...]:
    return provenance.source, provenance.source_id, provenance.image_url


def _ledger_line(job: _Job, outcome: Outcome | None) -> Mapping[str, Any] | None:
    if outcome is None:
        return job.line
    if outcome.reason in ("", "held") and outcome.artwork is not None:
        return {"address": job.address, "kept": outcome.artwork.image_id, "stratum": job.stratum}
    return {"address": job.address, "dropped": outcome.reason}
