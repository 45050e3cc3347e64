"""DiffusionDB (Wang et al., 2023, arXiv 2210.14896): two or fourteen million Stable Diffusion images, CC0.

A metadata table (parquet), and parts of a thousand images each: a zip file, or a folder where it was unpacked. The JSON
in a part says nothing that the table does not.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from scrapy.exceptions import CloseSpider

from artgate.artworks.artwork import Provenance
from artgate.artworks.decode import Refused
from artgate.artworks.text import clean_float, clean_int, clean_text
from artgate.errors import UserError

from ..archives import Archive, is_plain
from ..downloads import DownloadError, download_file
from ..items import Found, Lost
from ..ledger import is_undecided
from ..network.addresses import web_address
from ..pages import Page
from .local import LocalSpider

logger = logging.getLogger(__name__)

HOME = "https://huggingface.co/datasets/poloclub/diffusiondb"
# The address of an image wherever its part came from: a mirror, and a copy on the disk, are the same.
ORIGIN = f"{HOME}/resolve/main"
TERMS = "DiffusionDB, CC0 1.0; the authors take requests for removal at https://poloclub.github.io/diffusiondb"
SAMPLERS = dict(
    enumerate(
        ("ddim", "plms", "k_euler", "k_euler_ancestral", "k_heun", "k_dpm_2", "k_dpm_2_ancestral", "k_lms", "others"), 1
    )
)
COLUMNS = ("image_name", "prompt", "part_id", "seed", "step", "cfg", "sampler", "user_name", "timestamp")
SCORES = ("image_nsfw", "prompt_nsfw")
# Of both scores, in [0, 1], where the authors leave the choice to the user; 2 means that the image was blurred.
MAX_NSFW = 0.2
MAX_TABLE_BYTES = 4 * 2**30
MAX_PART_BYTES = 8 * 2**30
SUBSETS = {"2m": ("metadata.parquet", 2000), "large": ("metadata-large.parquet", 14_000)}


class DiffusionDBSpider(LocalSpider):
    """The images of DiffusionDB, a part at a time: one zip file on the disk, one image in memory.

    Arguments besides those of `CollectingSpider`: base, a mirror's address or a local folder; subset, 2m or large;
    parts, as `1-20,35`; max_image_nsfw and max_prompt_nsfw, in [0, 2], the scores below which an image is taken;
    downloads, the folder for the table and the part at hand. Images whose user had deleted them by the time of the
    second scrape are not taken (`withdrawn`). Raises UserError for what is wrong in them.
    """

    name = "diffusiondb"

    def __init__(
        self,
        collection: str = "",
        base: str = ORIGIN,
        subset: str = "2m",
        parts: str = "",
        max_image_nsfw: str | float = MAX_NSFW,
        max_prompt_nsfw: str | float = MAX_NSFW,
        downloads: str = "",
        **arguments: Any,
    ) -> None:
        if not collection:
            raise UserError("collection is needed: give -a collection=FOLDER")
        super().__init__(collection, "diffusiondb", **arguments)
        if subset not in SUBSETS:
            raise UserError(f"subset {subset!r} is not one of {', '.join(SUBSETS)}")
        self.table_name, last = SUBSETS[subset]
        self.subset = subset
        self.base = _base(base, self.table_name)
        self.parts = _parts(parts or f"1-{last}", last)
        scores = {"image_nsfw": max_image_nsfw, "prompt_nsfw": max_prompt_nsfw}
        self.max_scores = {name: _score(f"max_{name}", value) for name, value in scores.items()}
        # Hidden, or `datasets` would take the table for the Collection's own metadata.
        self.downloads = Path(downloads) if downloads else self.collection_root / "crawl" / ".downloads"
        # Parts never change: one that is done, by these scores, is not looked at again.
        self.strata = (" ".join([subset, *(f"{name}<{score:g}" for name, score in self.max_scores.items())]),)

    async def start(self) -> AsyncIterator[Found | Lost]:
        """The images, part by part; a disk that is full or cannot be read ends the crawl."""
        try:
            async for item in self._all_parts():
                yield item
        except OSError as error:
            logger.error("the files of DiffusionDB cannot be kept or read (%s): mend that, then run again", error)
            raise CloseSpider("cannot-read") from None

    async def _all_parts(self) -> AsyncIterator[Found | Lost]:
        table = await self._table()
        for number in self.parts:
            if self.quotas.reached or self.is_ending():
                return
            if not self.keeper.ledger.is_done(self.strata[0], part_name(number)):
                try:
                    async for item in self._part(number, Page(self.strata[0], part_name(number)), table):
                        yield item
                except UserError as error:  # the table's
                    logger.error(error)
                    raise CloseSpider("no-metadata") from None

    async def _part(self, number: int, page: Page, table: Path) -> AsyncIterator[Found | Lost]:
        try:
            part = await self._open(number)
        except DownloadError as error:
            yield Lost(self.source, self._address(number), error.reason, error.detail, page=page.hold())
            if is_undecided(error.reason):
                self.count("lists-cut-short")
            await self.settle(page, True)
            return
        except UserError as error:
            yield Lost(self.source, self._address(number), "unpack-failed", str(error), page=page.hold())
            self._forget(number)
            await self.settle(page, True)
            return
        try:
            rows = await asyncio.to_thread(read_rows, table, number)
            async for item in self.page_items(page, self._items(number, part, rows, page)):
                yield item
        finally:
            part.close()
        if not page.again:
            self._forget(number)

    def _items(self, number: int, part: "Part", rows: list[dict[str, Any]], page: Page) -> Iterator[Found | Lost]:
        there = set(part.names())
        for row in rows:
            name = clean_text(row["image_name"], 200)
            if name not in there:
                continue
            there.discard(name)
            address = f"{self._address(number)}#{name}"
            page.hold()
            problem = self._problem(row)
            if problem is None:
                read = partial(part.read, name, self.limits.max_bytes)
                yield Found(address, provenance_of(row, address, self.base), read, name, page)
            else:
                yield Lost(self.source, HOME, *problem, address=address, page=page)
        for name in sorted(there):
            if not name.endswith(".json"):
                detail = f"{name[:100]!r} is not in {self.table_name}"
                address = f"{self._address(number)}#{clean_text(name, 200)}"
                yield Lost(self.source, HOME, "no-metadata", detail, address=address, page=page.hold())

    def _problem(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        for name, limit in self.max_scores.items():
            score = clean_float(row[name], 0.0, 2.0)
            if score is None or score >= limit:
                return "nsfw", f"{name} {score} is not below {limit}: give -a max_{name}=… for more"
        if row["user_name"] is None:
            return "withdrawn", "its user had deleted it"
        return None

    async def _table(self) -> Path:
        if isinstance(self.base, Path):
            return self.base / self.table_name
        table = self.downloads / self.table_name
        if not table.exists():
            logger.info("fetching the table of all images, %s", self.table_name)
            try:
                await self._fetch(self.table_name, table, MAX_TABLE_BYTES)
            except DownloadError as error:
                logger.error("%s: give -a base=MIRROR_OR_FOLDER, or try again later", error)
                raise CloseSpider("no-metadata") from None
        return table

    async def _open(self, number: int) -> "Part":
        if isinstance(self.base, Path):
            return await asyncio.to_thread(_local_part, self.base, self.subset, number)
        path = self.downloads / f"{part_name(number)}.zip"
        if not path.exists():
            await self._fetch(part_path(self.subset, number), path, MAX_PART_BYTES)
        return await asyncio.to_thread(Archive, path)

    async def _fetch(self, name: str, path: Path, max_bytes: int) -> None:
        assert self.crawler.engine is not None
        await download_file(self.crawler.engine, f"{self.base}/{name}", path, max_bytes)

    def _forget(self, number: int) -> None:
        (self.downloads / f"{part_name(number)}.zip").unlink(missing_ok=True)

    def _address(self, number: int) -> str:
        return f"{ORIGIN}/{part_path(self.subset, number)}"


class Part(Protocol):
    """The images of a part, by name."""

    def names(self) -> list[str]:
        """Of all its files."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """A file's bytes. Raises Refused."""

    def close(self) -> None:
        """Give back what is open."""


class UnpackedPart:
    """A part that lies in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The names of its files."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())

    def read(self, name: str, max_bytes: int) -> bytes:
        """A file's bytes. Raises Refused with bad-name or too-many-bytes."""
        if not is_plain(name) or "/" in name:
            raise Refused("bad-name", f"{name[:100]!r} leads out of the folder")
        with (self.folder / name).open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise Refused("too-many-bytes", f"{name[:100]!r} has more than {max_bytes} bytes")
        return data

    def close(self) -> None:
        """Nothing is open."""


def part_name(number: int) -> str:
    """Such as part-000001."""
    return f"part-{number:06d}"


def part_path(subset: str, number: int) -> str:
    """Where a part lies below the base."""
    if subset == "2m":
        return f"images/{part_name(number)}.zip"
    return f"diffusiondb-large-part-{1 if number <= 10_000 else 2}/{part_name(number)}.zip"


def read_rows(table: Path, number: int) -> list[dict[str, Any]]:
    """The rows of one part; the table is scanned, never held. Raises UserError if it is not DiffusionDB's."""
    # Heavy, and needed by this spider alone.
    import pyarrow as pa
    from pyarrow import dataset

    try:
        rows = dataset.dataset(table, format="parquet")
        return rows.to_table([*COLUMNS, *SCORES], filter=dataset.field("part_id") == number).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, KeyError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"{table} is not DiffusionDB's table ({detail}): delete it, and fetch it again") from None


def provenance_of(row: Mapping[str, Any], address: str, base: str | Path) -> Provenance:
    """What the table says of an image."""
    user = clean_text(row["user_name"], 100)
    taken = row["timestamp"]
    parameters = {
        "created_at": taken.isoformat() if taken is not None else None,
        "mirror": base if isinstance(base, str) and base != ORIGIN else None,
        **{name: clean_float(row[name], 0.0, 2.0) for name in SCORES},
    }
    return Provenance(
        source="diffusiondb",
        source_id=clean_text(row["image_name"], 200),
        page_url=HOME,
        image_url=address,
        # Users who deleted their accounts are not one creator.
        creator=user if user != "deleted_account" else None,
        licence="CC0-1.0",
        terms=TERMS,
        prompt=clean_text(row["prompt"]) or None,
        generator="Stable Diffusion (Discord, 2022)",
        sampler=SAMPLERS.get(row["sampler"]),
        seed=clean_int(row["seed"], 0, 2**64 - 1),
        steps=clean_int(row["step"], 1, 10_000),
        guidance=clean_float(row["cfg"], 0.0, 1000.0),
        parameters={name: value for name, value in parameters.items() if value is not None},
    )


def _local_part(base: Path, subset: str, number: int) -> Part:
    zipped = base / part_path(subset, number)
    for path in (zipped, base / zipped.name):
        if path.is_file():
            return Archive(path)
        if path.with_suffix("").is_dir():
            return UnpackedPart(path.with_suffix(""))
    raise DownloadError("no-part", f"{zipped} is missing, as a zip file and unpacked: fetch it, or give -a parts=…")


def _base(base: str, table: str) -> str | Path:
    with suppress(ValueError):
        return web_address(base).rstrip("/")
    folder = Path(base)
    if not (folder / table).is_file():
        raise UserError(f"base {base!r} is neither a web address nor a folder with {table} in it: fetch that first")
    return folder


def _parts(text: str, last: int) -> list[int]:
    numbers: set[int] = set()
    for piece in text.split(","):
        bounds = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", piece)
        first, end = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (0, 0)
        if not 1 <= first <= end <= last:
            raise UserError(f"parts {text!r}: {piece!r} is not a range in [1, {last}]: give -a parts=1-20,35")
        numbers.update(range(first, end + 1))
    return sorted(numbers)


def _score(name: str, value: str | float) -> float:
    score = clean_float(value, 0.0, 3.0)
    if score is None:
        raise UserError(f"{name} {value!r} is not a number in [0, 3]: give -a {name}={MAX_NSFW}, or 3 for all")
    return score
