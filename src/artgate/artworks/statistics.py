"""What a Collection holds, counted: sources, sizes, formats, generators, licences, prompts, drops, copies, times."""

import heapq
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.duplicates import MIN_QUALITY
from artgate.artworks.files import read_lines
from artgate.artworks.text import one_line

TOP = 12
TOP_WORDS = 48
MOST_PERIODS = 60
SIDES = (0, 256, 512, 768, 1024, 1536, 2048)  # edges of the classes of the shorter side, in pixels
# Width / height from which each class begins.
ASPECTS = (
    (0.0, "tall, below 1:2"),
    (0.5, "portrait"),
    (0.9, "about square"),
    (1 / 0.9, "landscape"),
    (2.01, "wide, over 2:1"),
)
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
WORD = re.compile(r"[^\W\d_]{3,}")
# Words that most prompts share and that tell nothing of their pictures.
STOP_WORDS = frozenset(
    ("the", "and", "with", "from", "for", "her", "his", "its", "their", "into", "onto", "over", "under", "that", "this")
    + ("has", "have", "are", "was", "she", "him", "they", "them", "who", "out", "off", "not", "but", "very", "all")
)


@dataclass(frozen=True)
class Tally:
    """How often each name occurs, of so many in all.

    top: the most frequent names, as they may be shown, with their counts. distinct: how many names there are.
    missing: how many have none.
    """

    top: tuple[tuple[str, int], ...]
    total: int
    distinct: int
    missing: int = 0

    @property
    def others(self) -> int:
        """How many names are not in `top`."""
        return self.distinct - len(self.top)


@dataclass(frozen=True)
class Statistics:
    """Counts over the artworks of one Collection.

    bytes: of all image files. sizes: width x height; sides: classes of the shorter side, pixels; aspects: of width /
    height. prompted: artworks with a prompt; prompts: different ones; words: in how many prompts each occurs.
    near_duplicates: artworks marked as such; flat: too uniform to tell. dropped: by reason. times: by day, month or
    year of collection, in order.
    """

    artworks: int
    bytes: int
    sources: Tally
    generators: Tally
    licences: Tally
    creators: Tally
    formats: Tally
    sizes: Tally
    sides: tuple[tuple[str, int], ...]
    aspects: tuple[tuple[str, int], ...]
    prompted: int
    prompts: int
    words: Tally
    near_duplicates: int
    flat: int
    purged: int
    dropped: Tally
    times: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return asdict(self)


def statistics(collection: Collection) -> Statistics:
    """Count a Collection: one pass over its records, one over the sizes of its files; pictures are not opened."""
    artworks = list(collection)
    provenances = [artwork.provenance for artwork in artworks]
    prompts = Counter(prompt for provenance in provenances if (prompt := provenance.prompt))
    drops = read_lines(collection.root / "drops.jsonl")
    return Statistics(
        artworks=len(artworks),
        bytes=_bytes(collection),
        sources=tally(provenance.source for provenance in provenances),
        generators=tally(provenance.generator for provenance in provenances),
        licences=tally(provenance.licence for provenance in provenances),
        creators=tally(provenance.creator for provenance in provenances),
        formats=tally(artwork.format for artwork in artworks),
        sizes=tally(f"{artwork.width} x {artwork.height}" for artwork in artworks),
        sides=_sides(artworks),
        aspects=_aspects(artworks),
        prompted=sum(prompts.values()),
        prompts=len(prompts),
        words=_words(prompts),
        near_duplicates=sum(bool(artwork.near_duplicate_of) for artwork in artworks),
        flat=sum(artwork.pdq_quality < MIN_QUALITY for artwork in artworks),
        purged=len(collection.purged_ids),
        dropped=tally(drop.get("reason") for drop in drops),
        times=by_period(tuple(_days(p.collected_at or "" for p in provenances)), MOST_PERIODS),
    )


def tally(names: Iterable[str | None], top: int = TOP) -> Tally:
    """Count names; what is none, or empty, is missing."""
    counts = Counter(names)
    total = counts.total()
    missing = counts.pop(None, 0) + counts.pop("", 0)
    return Tally(_top(counts, top), total, len(counts), missing)


def _top(counts: Mapping[Any, int], top: int) -> tuple[tuple[str, int], ...]:
    ranked = heapq.nsmallest(top, counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return tuple((one_line(str(name), 80) or "(unprintable)", count) for name, count in ranked)


def _bytes(collection: Collection) -> int:
    held = {artwork.file_name.rpartition("/")[2] for artwork in collection}
    with os.scandir(collection.root / "images") as files:
        return sum(file.stat().st_size for file in files if file.name in held)


def _sides(artworks: Iterable[Artwork]) -> tuple[tuple[str, int], ...]:
    counts = Counter(sum(min(a.width, a.height) >= edge for edge in SIDES) - 1 for a in artworks)
    names = [f"{low} to {high - 1} px" if low else f"below {high} px" for low, high in pairwise(SIDES)]
    return tuple((name, counts[place]) for place, name in enumerate([*names, f"{SIDES[-1]} px and more"]))


def _aspects(artworks: Iterable[Artwork]) -> tuple[tuple[str, int], ...]:
    counts = Counter(sum(a.width / a.height >= edge for edge, _ in ASPECTS) - 1 for a in artworks)
    return tuple((name, counts[place]) for place, (_, name) in enumerate(ASPECTS))


def _words(prompts: Mapping[str, int]) -> Tally:
    counts: Counter[str] = Counter()
    for prompt, times in prompts.items():
        for word in set(WORD.findall(prompt.casefold())) - STOP_WORDS:
            counts[word] += times
    return Tally(_top(counts, TOP_WORDS), sum(prompts.values()), len(counts))


def _days(times: Iterable[str]) -> Iterator[tuple[str, int]]:
    yield from Counter(time[:10] for time in times if DAY.match(time)).items()


def by_period(days: Sequence[tuple[str, int]], most: int) -> tuple[tuple[str, int], ...]:
    """Counts by day as they are, by month or by year: the finest that gives at most `most` of them, else the last."""
    for length in (10, 7, 4):
        periods: Counter[str] = Counter()
        for day, count in days:
            periods[day[:length]] += count
        if len(periods) <= most:
            break
    return tuple(sorted(periods.items())[-most:])
