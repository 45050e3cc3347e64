"""How a Collection lies on the disk, and what makes it survive kills, power cuts and several processes at once.

An add writes, in this order: the lines to come (`.pending.jsonl`), the images under temporary names, their renames,
the lines, and the emptying of what was pending. A purge first names the ids (`purged.jsonl`, replaced as a whole), then
rewrites the lines, then deletes the images. Each step is synced before the next, so that whatever was killed, opening
can finish it.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from artgate.artworks.artwork import EXTENSIONS, IMAGE_ID, Artwork, Provenance, image_id_of
from artgate.artworks.decode import Refused
from artgate.artworks.files import (
    TEMPORARY_SUFFIX,
    append_lines,
    as_lines,
    parse_lines,
    read_lines,
    repair_lines,
    torn_bytes,
    write_all,
    write_atomic,
    write_in_place,
)
from artgate.artworks.near import NearIndex
from artgate.artworks.purges import Purges, Rule, purge_lines
from artgate.errors import UserError

logger = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
# A temporary file that another part of the program left in the folder is litter when it has not grown for so long.
STALE_SECONDS = 3600.0

T = TypeVar("T")
R = TypeVar("R")


class Storage:
    """The folder of one Collection: `artworks` by image_id in the order of adding, and `purges`.

    `artworks` only grows; where lines went, it is another dict.
    describe: makes the record of an image that is found without one; raises Refused.
    """

    def __init__(self, root: Path, describe: Callable[[bytes, Provenance], Artwork]):
        self.root = root
        self.images = root / "images"
        self.artworks: dict[str, Artwork] = {}
        self.gone: dict[str, Artwork] = {}
        self.purges = Purges()
        self._describe = describe
        self._metadata = root / "metadata.jsonl"
        self._drops = root / "drops.jsonl"
        self._purged = root / "purged.jsonl"
        self._pending = root / ".pending.jsonl"
        self._lock = FileLock(root / ".lock", timeout=LOCK_SECONDS)
        self._seen = self._purged_seen = _Seen(0, 0)

    @property
    def exists(self) -> bool:
        """Whether the folder is a Collection."""
        return self._metadata.is_file() and self.images.is_dir()

    def create(self) -> None:
        """Make an empty Collection where there is none."""
        self.images.mkdir(parents=True, exist_ok=True)
        if not self._metadata.exists():
            self._metadata.touch()

    def open(self, read_only: bool = False) -> None:
        """Read the lines; mend what a killed process left, unless the folder is read-only or to be taken as such."""
        if not read_only and os.access(self.root, os.W_OK):
            with self._locked():
                self._mend()
        else:
            self._read_new_lines()
            # A purge that was killed is finished by whoever may write; what it names is not shown until then.
            self.artworks = {i: a for i, a in self.artworks.items() if i not in self.purges.image_ids}

    @contextmanager
    def up_to_date(self) -> Iterator[None]:
        """Hold the folder's lock, knowing all that other processes have added and purged."""
        with self._locked():
            if _Seen.of(self._pending).size:
                self._mend()
            elif (_Seen.of(self._metadata), _Seen.of(self._purged)) != (self._seen, self._purged_seen):
                repair_lines(self._metadata)
                self._read_new_lines()
            yield

    def write(self, new: Sequence[tuple[Artwork, bytes]]) -> None:
        """Add artworks that are not held yet; call inside `up_to_date`."""
        if not new:
            return
        lines = [artwork.to_json() for artwork, _ in new]
        write_in_place(self._pending, as_lines(lines))
        write_all({self.root / artwork.file_name: data for artwork, data in new}, map_in_threads)
        self._append(self._metadata, [line for line in lines if line["image_id"] not in self.gone])
        os.truncate(self._pending, 0)
        for artwork, _ in new:
            self.artworks[artwork.image_id] = self.gone.pop(artwork.image_id, artwork)
        self._seen = _Seen.of(self._metadata)

    def write_drops(self, lines: Sequence[dict[str, Any]]) -> None:
        """Note what was not kept; call inside `up_to_date`."""
        self._append(self._drops, lines)

    def purge(self, artworks: Iterable[Artwork], rule: Rule | None = None) -> None:
        """Delete artworks and their way back, and that of all that a rule fits; call inside `up_to_date`."""
        lines = [*read_lines(self._purged), *purge_lines(artworks, rule, now())]
        write_atomic(self._purged, as_lines(lines))
        self._finish_purges()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.root} has been locked by another process for {LOCK_SECONDS:.0f} s: wait for it, or end it"
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def _append(self, path: Path, lines: Sequence[dict[str, Any]]) -> None:
        if lines:
            repair_lines(path)  # another process may have been killed while it wrote here
            append_lines(path, lines)

    def _read_new_lines(self) -> None:
        seen = _Seen.of(self._metadata)
        # After two purges the file may have its old inode again: a new purged.jsonl, which only grows, tells.
        is_another = seen.inode != self._seen.inode or _Seen.of(self._purged) != self._purged_seen
        if is_another or seen.size < self._seen.size:
            self.artworks, self.gone, self._seen = {}, {}, _Seen(seen.inode, 0)
        with self._metadata.open("rb") as file:
            file.seek(self._seen.size)
            data = file.read()
        for line in parse_lines(data, self._metadata):
            try:
                artwork = Artwork.from_json(line)
            except UserError as error:
                raise UserError(f"{self._metadata}: {error}") from None
            there = self.artworks if (self.root / artwork.file_name).exists() else self.gone
            there.setdefault(artwork.image_id, artwork)
        self._read_purges()
        self._seen = _Seen(seen.inode, self._seen.size + len(data) - torn_bytes(data))

    def _read_purges(self) -> None:
        seen = _Seen.of(self._purged)
        if seen != self._purged_seen:
            self.purges, self._purged_seen = Purges.read(self._purged), seen

    def _mend(self) -> None:
        """Finish or undo what a killed process began: no temporary file, torn line or image without a line stays."""
        for temporary in self._litter():
            temporary.unlink(missing_ok=True)
        for path in (self._metadata, self._drops, self._purged):
            repair_lines(path)
        self._read_new_lines()
        self._finish_purges()
        pending = {line["image_id"]: line for line in self._read_pending()}
        without_line = [path for path in self._own_images() if path.stem not in self.artworks]
        # In the order of adding: a near-duplicate comes after what it looks like.
        places = {image_id: place for place, image_id in enumerate(pending)}
        without_line.sort(key=lambda path: places.get(path.stem, len(places)))
        lines = [line for path in without_line if (line := self._line_for(path, pending))]
        self._append(self._metadata, lines)
        if adopted := sum(line["image_id"] not in pending for line in lines):
            logger.warning("%s", _adoption(self.root, adopted))
        if _Seen.of(self._pending).size:
            os.truncate(self._pending, 0)
        self._read_new_lines()

    def _read_pending(self) -> list[dict[str, Any]]:
        try:
            return read_lines(self._pending)
        # Torn, by a power cut before it was synced: nothing that it names was written.
        except UserError:
            return []

    def _litter(self) -> Iterator[Path]:
        yield from self.images.glob(f".*{TEMPORARY_SUFFIX}")
        ours = tuple(f".{path.name}." for path in (self._metadata, self._pending, self._purged))
        for path in self.root.glob(f".*{TEMPORARY_SUFFIX}"):
            if path.name.startswith(ours) or time.time() - path.stat().st_mtime > STALE_SECONDS:
                yield path

    def _line_for(self, path: Path, pending: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The line for an image that has none, or None after deleting an image that is not what its name says."""
        if path.stem in pending:
            return pending[path.stem]
        data = path.read_bytes()
        try:
            if image_id_of(data) != path.stem:
                raise Refused("damaged", "its bytes are not those of its name")
            return self._describe(data, Provenance(source="adopted")).to_json()
        except Refused as refused:
            self._append(self._drops, [drop_line(refused.reason, refused.detail, {"file_name": f"images/{path.name}"})])
            path.unlink()
            return None

    def _finish_purges(self) -> None:
        """Take out of metadata.jsonl, and off the disk, whatever purged.jsonl names."""
        self._read_purges()
        purged = self.purges.image_ids
        if purged & (self.artworks.keys() | self.gone.keys()):
            kept = [line for line in read_lines(self._metadata) if line["image_id"] not in purged]
            write_atomic(self._metadata, as_lines(_marked_anew(kept, purged)))
            self._read_new_lines()
        if purged:
            for path in self._own_images():
                if path.stem in purged:
                    path.unlink()

    def _own_images(self) -> list[Path]:
        """The image files named by an image_id; whatever else a user keeps there is left alone."""
        paths = [path for path in self.images.iterdir() if path.suffix[1:] in EXTENSIONS.values()]
        return sorted(path for path in paths if IMAGE_ID.fullmatch(path.stem))


def _adoption(root: Path, count: int) -> str:
    """What to do about images that had no line: no kill leaves such, a lost metadata.jsonl does."""
    crawled = any((root / "crawl").glob("*.jsonl"))
    return (
        f"{root}: {count} images had no line in metadata.jsonl; they are kept, but where they came from is not known "
        '(source "adopted"). If the file was lost, put a copy of it back'
        + (", or delete images/, metadata.jsonl and crawl/*.jsonl and crawl them again" if crawled else "")
    )


class _Seen(NamedTuple):
    """How much of a file has been read: one replaced by another (purge) has another inode, a missing one (0, 0)."""

    inode: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "_Seen":
        try:
            status = path.stat()
        except FileNotFoundError:
            return cls(0, 0)
        return cls(status.st_ino, status.st_size)


def _marked_anew(lines: list[dict[str, Any]], purged: frozenset[str]) -> list[dict[str, Any]]:
    """The lines, those that named a purged artwork as their original naming the earliest one that is left."""
    orphans = [line for line in lines if line.get("near_duplicate_of") in purged]
    if orphans:
        index = NearIndex(map(Artwork.from_json, lines))
        for line in orphans:
            earliest = index.earliest(Artwork.from_json(line))
            line["near_duplicate_of"] = "" if earliest == line["image_id"] else earliest
    return lines


def map_in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of each item, in order; decoding leaves the interpreter lock, and syncs share a journal commit."""
    if len(items) == 1:
        return [function(items[0])]
    return list(_threads().map(function, items))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2), "collection")


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_threads.cache_clear)


def drop_line(reason: str, detail: str, where: Mapping[str, Any]) -> dict[str, Any]:
    """A line of drops.jsonl; what is not known of `where` is left out."""
    known = {name: value for name, value in where.items() if value not in (None, "")}
    return {"reason": reason, "detail": detail, "at": now(), **known}


def now() -> str:
    """The time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
