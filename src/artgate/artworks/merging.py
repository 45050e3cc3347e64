"""Several Collections → one: every artwork of the sources with its provenance, exact copies once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from artgate.artworks.artwork import Artwork, image_id_of
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.decode import Refused
from artgate.artworks.files import read_lines
from artgate.errors import UserError

# Images read, and held in memory, at once.
GROUP = 64

ADDED, HELD, PURGED, DAMAGED = "added", "held already", "purged", "damaged"


def merge(target: Collection, sources: Sequence[Path]) -> Counter[str]:
    """Add all artworks of the `sources` to `target`, in their order; what came of them: `added`, `held already` …

    Sources are only read. Near-duplicates are marked anew, for the target's order. What the target has purged stays
    out. Where a copy's provenance differs from that of the artwork held, a line in drops.jsonl keeps its address. What
    is done already is passed over: a merge that was killed goes on when it is run again. Labels stay where they are.
    Raises UserError for a source that is no Collection, or is the target.
    """
    for source in sources:
        if source.resolve() == target.root.resolve():
            raise UserError(f"{source} is the target too: name other Collections as sources")
    opened = [Collection(source, read_only=True) for source in sources]
    known = {_origin(line) for line in read_lines(target.root / "drops.jsonl")}
    counts: Counter[str] = Counter()
    for collection in opened:
        artworks = (artwork for artwork in collection if _is_wanted(artwork, target, known, counts))
        while group := list(islice(artworks, GROUP)):
            counts.update(_add(target, list(_read(target, collection, group, counts))))
    return counts


def _is_wanted(artwork: Artwork, target: Collection, known: set[tuple[str, ...]], counts: Counter[str]) -> bool:
    """Whether there is something to add of the artwork: itself, or that its copy came from elsewhere too."""
    if artwork.image_id in target.purged_ids or target.refusal(artwork.provenance):
        counts[PURGED] += 1
        return False
    if artwork.image_id not in target:
        return True
    counts[HELD] += 1
    held = target[artwork.image_id].provenance
    origin = _origin(artwork.to_json())
    told = origin in known or replace(held, collected_at=None) == replace(artwork.provenance, collected_at=None)
    known.add(origin)
    return not told


def _read(
    target: Collection, collection: Collection, artworks: Sequence[Artwork], counts: Counter[str]
) -> Iterator[NewArtwork]:
    for artwork in artworks:
        try:
            data = collection.path(artwork).read_bytes()
        except OSError as error:
            raise UserError(f"{collection.path(artwork)} cannot be read ({error.strerror}): put it back") from None
        if image_id_of(data) == artwork.image_id:
            yield NewArtwork(data, artwork.provenance)
        else:
            counts[DAMAGED] += 1
            target.drop(DAMAGED, "its bytes are not those of its name", file_name=str(collection.path(artwork)))


def _add(target: Collection, items: Sequence[NewArtwork]) -> Counter[str]:
    new = [image_id_of(item.data) not in target for item in items]
    results = target.add_many(items)  # which notes copies from elsewhere
    told = (result.reason if isinstance(result, Refused) else ADDED for result in results)
    return Counter(what for what, is_new in zip(told, new, strict=True) if is_new)


def _origin(line: dict[str, str]) -> tuple[str, ...]:
    return tuple(line.get(name) or "" for name in ("source", "source_id", "page_url", "image_url"))
