"""A folder of artworks in the Hugging Face imagefolder convention, safe against kills and power cuts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from artgate.artworks.artwork import Artwork, Provenance, file_name_of, image_id_of
from artgate.artworks.decode import LIMITS, Limits, Refused, decode, sketch, sniff
from artgate.artworks.duplicates import hash_and_quality
from artgate.artworks.near import NearIndex, mark
from artgate.artworks.purges import Rule
from artgate.artworks.storage import Storage, drop_line, map_in_threads, now
from artgate.errors import UserError


class NewArtwork(NamedTuple):
    """What `Collection.add_many` takes: the file's bytes, its provenance, and its name (whose suffix is checked)."""

    data: bytes
    provenance: Provenance = Provenance()
    name: str | None = None


class Collection:
    """A folder with `images/<image_id>.<suffix>` and `metadata.jsonl`, one line an artwork, in the order of adding.

    Beside them: `drops.jsonl` (all that was not kept, with the reason) and `purged.jsonl` (what may not return).
    An artwork that looks like one already held is kept and marked (`near_duplicate_of`).
    Any number of processes may add at once: each operation takes the folder's lock. Opening mends what a killed
    process left. An artwork whose image file is gone is not in the Collection until the file is back.
    """

    def __init__(self, root: Path | str, create: bool = False, limits: Limits = LIMITS, read_only: bool = False):
        """Open the Collection in `root`; with `create`, make it where it is missing; else UserError.

        read_only: change nothing in the folder, not even to mend it, and take no lock: for reading alone.
        """
        self.root = Path(root)
        self.limits = limits
        self._storage = Storage(self.root, self._describe)
        if create:
            self._storage.create()
        if not self._storage.exists:
            raise UserError(
                f"{self.root} is not a Collection (a folder with images/ and metadata.jsonl): "
                "check the path, or make one with `artgate import`"
            )
        self._storage.open(read_only)
        # Made of all that is held by the first add, then following it; _indexed: what it was made of, and how many.
        self._near = NearIndex()
        self._indexed: tuple[dict[str, Artwork], int] = ({}, 0)

    def add(self, data: bytes, provenance: Provenance = Provenance(), name: str | None = None) -> Artwork:  # noqa: B008
        """Add one image file; when this returns, the artwork is on the disk.

        The same bytes twice give the artwork already held. Raises Refused, after a line in drops.jsonl, for what
        `decode` refuses and for what was purged.
        """
        (result,) = self.add_many([NewArtwork(data, provenance, name)])
        if isinstance(result, Refused):
            raise result
        return result

    def add_many(self, items: Sequence[NewArtwork]) -> list[Artwork | Refused]:
        """Add a group of image files, decoded and synced beside each other: some times faster than `add` on each.

        Returns, in order, the artwork or why it was refused. As safe against a kill as `add`: what this returned is
        on the disk; of a group cut short, each artwork is there whole or not at all.
        """
        prepared = map_in_threads(self._prepare, items)
        with self._storage.up_to_date():
            results = [self._unless_purged(result, item) for result, item in zip(prepared, items, strict=True)]
            new = {
                result.image_id: (result, item.data)
                for result, item in zip(results, items, strict=True)
                if isinstance(result, Artwork) and result.image_id not in self
            }
            self._storage.write(self._marked(list(new.values())))
            self._storage.write_drops(list(self._drop_lines(items, results)))
        return [result if isinstance(result, Refused) else self[result.image_id] for result in results]

    def __len__(self) -> int:
        return len(self._storage.artworks)

    def __iter__(self) -> Iterator[Artwork]:
        return iter(list(self._storage.artworks.values()))

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._storage.artworks

    def __getitem__(self, image_id: str) -> Artwork:
        return self._storage.artworks[image_id]

    def path(self, artwork: Artwork) -> Path:
        """The image file."""
        return self.root / artwork.file_name

    def image(self, artwork: Artwork) -> Image.Image:
        """The image, 8-bit RGB, upright. Raises UserError if the file is gone or damaged since it was added.

        The limits are for what is to be added: what is held is read whatever they are, up to the size of its record.
        """
        path = self.path(artwork)
        try:
            data = path.read_bytes()
            return decode(data, limits=_as_held(artwork, len(data)))
        except FileNotFoundError:
            raise UserError(f"{path} is gone: put it back, or open the Collection anew to go on without it") from None
        except Refused as refused:
            raise UserError(f"{path} cannot be read ({refused}): put the file back, or purge the artwork") from None

    def drop(self, reason: str, detail: str, **where: Any) -> None:
        """Note in drops.jsonl that something was not kept. where: what it was, as `page_url=…`."""
        with self._storage.up_to_date():
            self._storage.write_drops([drop_line(reason, detail, where)])

    @property
    def gone(self) -> list[Artwork]:
        """Artworks that have a line, but whose image file is gone: not in the Collection, yet not purged either."""
        return list(self._storage.gone.values())

    def purge(self, image_ids: Iterable[str]) -> int:
        """Delete artworks for good: the images, their lines, and the way back.

        Adding the same bytes again is refused, and so is whatever comes from the same image address. Returns how many
        were there; raises UserError, purging nothing, if one is not. To let one return, delete its line in
        purged.jsonl.
        """
        with self._storage.up_to_date():
            wanted = list(dict.fromkeys(image_ids))
            unknown = [i for i in wanted if i not in self._storage.artworks and i not in self._storage.gone]
            if unknown:
                raise UserError(
                    f"image_id {unknown[0]!r} is not in {self.root} ({len(unknown)} such): nothing was purged"
                )
            self._storage.purge(self._storage.artworks.get(i) or self._storage.gone[i] for i in wanted)
        return len(wanted)

    def purge_all(self, creator: str | None = None, source: str | None = None) -> int:
        """As `purge`, for all artworks of a creator, of a source, or of that creator at that source.

        What comes of them later is refused too, under whatever bytes. Returns how many were there, 0 included.
        """
        rule = Rule(creator, source)
        with self._storage.up_to_date():
            storage = self._storage
            wanted = [a for a in (*storage.artworks.values(), *storage.gone.values()) if rule.fits(a.provenance)]
            storage.purge(wanted, rule)
        return len(wanted)

    @property
    def purged_ids(self) -> frozenset[str]:
        """The image_ids of what was purged."""
        return self._storage.purges.image_ids

    @property
    def purged_addresses(self) -> frozenset[str]:
        """The image URLs of what was purged: nothing there need be fetched."""
        return self._storage.purges.addresses

    def refusal(self, provenance: Provenance) -> str:
        """Why an artwork of this provenance is not to be fetched, "" if it may: its address, creator or source."""
        return self._storage.purges.refusal(provenance)

    def _prepare(self, item: NewArtwork) -> Artwork | Refused:
        image_id = image_id_of(item.data)
        if image_id in self:
            return self[image_id]
        try:
            return self._describe(item.data, item.provenance, item.name, image_id)
        except Refused as refused:
            return refused

    def _describe(
        self, data: bytes, provenance: Provenance, name: str | None = None, image_id: str | None = None
    ) -> Artwork:
        width, height, picture = sketch(data, name, self.limits)
        pdq, quality = hash_and_quality(picture)
        image_id, format = image_id or image_id_of(data), sniff(data) or ""
        return Artwork(
            image_id=image_id,
            file_name=file_name_of(image_id, format),
            width=width,
            height=height,
            format=format,
            pdq=pdq.tobytes().hex(),
            pdq_quality=quality,
            provenance=replace(provenance, collected_at=provenance.collected_at or now()),
        )

    def _unless_purged(self, result: Artwork | Refused, item: NewArtwork) -> Artwork | Refused:
        if isinstance(result, Refused):
            return result
        refusal = self._storage.purges.refusal(item.provenance, result.image_id)
        return Refused("purged", refusal) if refusal else result

    def _marked(self, new: list[tuple[Artwork, bytes]]) -> list[tuple[Artwork, bytes]]:
        """The new artworks, each with the earliest one that it looks like; call inside `up_to_date`."""
        if not new:
            return []
        artworks, count = self._storage.artworks, self._indexed[1]
        if artworks is not self._indexed[0]:
            self._near, count = NearIndex(), 0
        # From the end, because the beginning of a large dict is far.
        self._near.extend(reversed(list(islice(reversed(artworks.values()), len(artworks) - count))))
        self._indexed = artworks, len(artworks)
        originals = mark([artwork for artwork, _ in new], self._near)
        return [
            (replace(artwork, near_duplicate_of=original), data)
            for (artwork, data), original in zip(new, originals, strict=True)
        ]

    def _drop_lines(
        self, items: Sequence[NewArtwork], results: Sequence[Artwork | Refused]
    ) -> Iterator[dict[str, Any]]:
        for item, result in zip(items, results, strict=True):
            if isinstance(result, Refused):
                yield drop_line(result.reason, result.detail, _where(item))
            elif _differs(item.provenance, self[result.image_id].provenance):
                yield drop_line("same-bytes", f"held already as {result.image_id}", _where(item))


def _where(item: NewArtwork) -> dict[str, Any]:
    names = ("source", "source_id", "page_url", "image_url")
    return {"name": item.name, **{name: getattr(item.provenance, name) for name in names}}


def _as_held(artwork: Artwork, size: int) -> Limits:
    """Limits that just let through an image of this record, in a file of `size` bytes."""
    width, height = artwork.width, artwork.height
    return Limits(max(1, size), width * height, min(width, height), max_aspect=max(width, height))


def _differs(offered: Provenance, held: Provenance) -> bool:
    return replace(offered, collected_at=None) != replace(held, collected_at=None)
