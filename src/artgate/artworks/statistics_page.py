"""The statistics of a Collection as one HTML page with pictures; of a large one, samples of bounded number and size.

The page stands alone: thumbnails are inside it, nothing comes from a network. All text in it came from outside.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.files import write_atomic
from artgate.artworks.page import environment, thumbnail
from artgate.artworks.statistics import Statistics
from artgate.artworks.text import one_line
from artgate.errors import UserError

SIDE = 224  # of thumbnails, in pixels: 5 to 12 kB each
SAMPLE, GENERATORS, PER_GENERATOR, COPIED, COPIES = 24, 6, 8, 8, 3


@dataclass(frozen=True)
class Picture:
    """An artwork as the page shows it. thumbnail: a data URI, None where the file cannot be read."""

    thumbnail: str | None
    width: int
    height: int
    caption: str
    image_id: str


@dataclass(frozen=True)
class Row:
    """Pictures that belong together, under a name. count: how many there are in all."""

    name: str
    count: int
    pictures: list[Picture]


def write_page(collection: Collection, statistics: Statistics, path: Path) -> None:
    """Write the page, replacing `path` as a whole. Raises UserError where its folder is missing."""
    write_atomic(path, render(collection, statistics))


def render(collection: Collection, statistics: Statistics) -> str:
    """The page. statistics: of this Collection."""
    artworks = list(collection)
    template = environment(Path(__file__).parent).get_template("statistics.html.j2")
    return template.render(
        name=one_line(collection.root.resolve().name),
        told=statistics,
        size=_size(statistics.bytes),
        sample=_pictures(collection, _sample(artworks, SAMPLE)),
        generators=_by_generator(collection, artworks),
        copied=_copied(collection, artworks),
    )


def _sample(artworks: Iterable[Artwork], n: int) -> list[Artwork]:
    """N artworks, as good as drawn at random and the same each time: those of the least sha256."""
    return heapq.nsmallest(n, artworks, key=lambda artwork: artwork.image_id)


def _by_generator(collection: Collection, artworks: Sequence[Artwork]) -> list[Row]:
    of: dict[str, list[Artwork]] = defaultdict(list)
    for artwork in artworks:
        if artwork.provenance.generator:
            of[artwork.provenance.generator].append(artwork)
    largest = heapq.nlargest(GENERATORS, of.items(), key=lambda pair: len(pair[1]))
    return [
        Row(one_line(name, 80), len(group), _pictures(collection, _sample(group, PER_GENERATOR)))
        for name, group in largest
    ]


def _copied(collection: Collection, artworks: Sequence[Artwork]) -> list[Row]:
    """The originals with the most near-duplicates, each before some of them."""
    counts = Counter(artwork.near_duplicate_of for artwork in artworks if artwork.near_duplicate_of in collection)
    shown = dict(counts.most_common(COPIED))
    of: dict[str, list[Artwork]] = {image_id: [collection[image_id]] for image_id in shown}
    for artwork in artworks:
        group = of.get(artwork.near_duplicate_of, [])
        if group and len(group) <= COPIES:
            group.append(artwork)
    return [Row(image_id[:12], shown[image_id], _pictures(collection, group)) for image_id, group in of.items()]


def _pictures(collection: Collection, artworks: Iterable[Artwork]) -> list[Picture]:
    return [_picture(collection, artwork) for artwork in artworks]


def _picture(collection: Collection, artwork: Artwork) -> Picture:
    told = [f"{artwork.width} x {artwork.height} {artwork.format}", one_line(artwork.provenance.generator, 80)]
    caption = " · ".join([part for part in told if part] + [one_line(artwork.provenance.prompt, 300) or "no prompt"])
    try:
        return Picture(*thumbnail(collection.image(artwork), SIDE), caption, artwork.image_id)
    except UserError:  # gone or damaged since it was added
        return Picture(None, 1, 1, caption, artwork.image_id)


def _size(count: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
