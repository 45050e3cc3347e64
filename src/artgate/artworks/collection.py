"""A folder of artworks in the Hugging Face imagefolder convention, safe against kills and power cuts."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from PIL import Image

from artgate.artworks.artwork import EXTENSIONS, IMAGE_ID, Artwork, Provenance, file_name_of, image_id_of
from artgate.artworks.decode import LIMITS, Limits, Refused, decode, sniff
from artgate.artworks.duplicates import hash_and_quality
from artgate.artworks.files import (
    TEMPORARY_SUFFIX,
    append_lines,
    as_lines,
    parse_lines,
    read_lines,
    repair_lines,
    sync_folder,
    torn_bytes,
    write_atomic,
    write_temporary,
)
from artgate.errors import UserError

LOCK_SECONDS = 60.0

T = TypeVar("T")
R = TypeVar("R")


class NewArtwork(NamedTuple):
    """What `Collection.add_many` takes: the file's bytes, its provenance, and its name (whose suffix is checked)."""

    data: bytes
    provenance: Provenance = Provenance()
    name: str | None = None


class Collection:
    """A folder with `images/<image_id>.<suffix>` and `metadata.jsonl`, one line an artwork, in the order of adding.

    Beside them: `drops.jsonl` (all that was not kept, with the reason) and `purged.jsonl` (ids that may not return).
    Any number of processes may add at once: each operation takes the folder's lock. Opening mends what a killed
    process left. An artwork whose image file is gone is not in the Collection until the file is back.
    """

    def __init__(self, root: Path | str, create: bool = False, limits: Limits = LIMITS):
        """Open the Collection in `root`; with `create`, make it where it is missing; else UserError."""
        self.root = Path(root)
        self.limits = limits
        self._metadata = self.root / "metadata.jsonl"
        self._drops = self.root / "drops.jsonl"
        self._purged = self.root / "purged.jsonl"
        self._pending = self.root / ".pending.jsonl"
        self._images = self.root / "images"
        if create:
            self._images.mkdir(parents=True, exist_ok=True)
            self._metadata.touch()
        if not self._metadata.is_file() or not self._images.is_dir():
            raise UserError(
                f"{self.root} is not a Collection (a folder with images/ and metadata.jsonl): "
                "check the path, or make one with `artgate import`"
            )
        self._lock = FileLock(self.root / ".lock", timeout=LOCK_SECONDS)
        self._artworks: dict[str, Artwork] = {}
        self._gone: dict[str, Artwork] = {}
        self._purged_ids: set[str] = set()
        self._seen = _Seen(0, 0)
        if os.access(self.root, os.W_OK):
            with self._locked():
                self._mend()
        else:
            self._read_new_lines()

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
        prepared = _map_in_threads(self._prepare, items)
        with self._locked():
            self._catch_up()
            results = [self._settle(item, result) for item, result in zip(items, prepared, strict=True)]
            new = {
                result.image_id: (result, item.data)
                for result, item in zip(results, items, strict=True)
                if isinstance(result, Artwork) and result.image_id not in self._artworks
            }
            self._write(list(new.values()))
            self._log_drops(items, results)
        return [r if isinstance(r, Refused) else self._artworks[r.image_id] for r in results]

    def __len__(self) -> int:
        return len(self._artworks)

    def __iter__(self) -> Iterator[Artwork]:
        return iter(list(self._artworks.values()))

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._artworks

    def __getitem__(self, image_id: str) -> Artwork:
        return self._artworks[image_id]

    def path(self, artwork: Artwork) -> Path:
        """The image file."""
        return self.root / artwork.file_name

    def image(self, artwork: Artwork) -> Image.Image:
        """The image, 8-bit RGB, upright. Raises UserError if the file is gone or damaged since it was added."""
        path = self.path(artwork)
        try:
            return decode(path.read_bytes(), limits=self.limits)
        except FileNotFoundError:
            raise UserError(f"{path} is gone: put it back, or open the Collection anew to go on without it") from None
        except Refused as refused:
            raise UserError(f"{path} cannot be read ({refused}): put the file back, or purge the artwork") from None

    def drop(self, reason: str, detail: str, **where: Any) -> None:
        """Note in drops.jsonl that something was not kept. where: what it was, as `page_url=…`."""
        with self._locked():
            self._append(self._drops, [_drop_line(reason, detail, where)])

    def purge(self, image_ids: Iterable[str]) -> int:
        """Delete artworks for good: the images, their lines, and the way back (adding them again is refused).

        Returns how many were there. To let one return, delete its line in purged.jsonl.
        """
        with self._locked():
            self._catch_up()
            wanted = dict.fromkeys(image_ids)
            unknown = [i for i in wanted if i not in self._artworks and i not in self._gone]
            if unknown:
                raise UserError(
                    f"image_id {unknown[0]!r} is not in {self.root} ({len(unknown)} such): nothing was purged"
                )
            # The list of the purged goes first: whatever is killed after it, opening finishes the work.
            self._append(self._purged, [{"image_id": i, "purged_at": _now()} for i in wanted])
            self._finish_purges()
        return len(wanted)

    def _prepare(self, item: NewArtwork) -> Artwork | Refused:
        image_id = image_id_of(item.data)
        if image_id in self._artworks:
            return self._artworks[image_id]
        try:
            return _describe(image_id, item, self.limits)
        except Refused as refused:
            return refused

    def _settle(self, item: NewArtwork, result: Artwork | Refused) -> Artwork | Refused:
        if isinstance(result, Artwork) and result.image_id in self._purged_ids:
            return Refused("purged", f"{result.image_id} was purged from this Collection and may not return")
        return result

    def _write(self, new: Sequence[tuple[Artwork, bytes]]) -> None:
        if not new:
            return
        lines = [artwork.to_json() for artwork, _ in new]
        # The lines to come are noted first, so that an image without a line gets its own provenance back.
        write_atomic(self._pending, as_lines(lines))
        temporaries = _map_in_threads(lambda pair: write_temporary(self.path(pair[0]), pair[1]), new)
        for temporary, (artwork, _) in zip(temporaries, new, strict=True):
            temporary.replace(self.path(artwork))
        sync_folder(self._images)
        self._append(self._metadata, [line for line in lines if line["image_id"] not in self._gone])
        self._pending.unlink()
        for artwork, _ in new:
            self._artworks[artwork.image_id] = self._gone.pop(artwork.image_id, artwork)
        self._seen = _Seen.of(self._metadata)

    def _log_drops(self, items: Sequence[NewArtwork], results: Sequence[Artwork | Refused]) -> None:
        lines = []
        for item, result in zip(items, results, strict=True):
            where = _where(item)
            if isinstance(result, Refused):
                lines.append(_drop_line(result.reason, result.detail, where))
            elif _differs(item.provenance, self._artworks[result.image_id].provenance):
                lines.append(_drop_line("same-bytes", f"held already as {result.image_id}", where))
        self._append(self._drops, lines)

    def _append(self, path: Path, lines: Sequence[dict[str, Any]]) -> None:
        if lines:
            repair_lines(path)  # another process may have been killed while it wrote here
            append_lines(path, lines)

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

    def _catch_up(self) -> None:
        """Learn what other processes added or purged since; mend what a killed one left."""
        if self._pending.exists():
            self._mend()
        elif _Seen.of(self._metadata) != self._seen:
            repair_lines(self._metadata)
            self._read_new_lines()

    def _read_new_lines(self) -> None:
        seen = _Seen.of(self._metadata)
        grown = seen.inode == self._seen.inode and seen.size >= self._seen.size
        if not grown:
            self._artworks, self._gone, self._seen = {}, {}, _Seen(seen.inode, 0)
        with self._metadata.open("rb") as file:
            file.seek(self._seen.size)
            data = file.read()
        for line in parse_lines(data, self._metadata):
            artwork = Artwork.from_json(line)
            there = self._artworks if self.path(artwork).exists() else self._gone
            there.setdefault(artwork.image_id, artwork)
        self._purged_ids = {line["image_id"] for line in read_lines(self._purged)}
        self._seen = _Seen(seen.inode, self._seen.size + len(data) - torn_bytes(data))

    def _mend(self) -> None:
        """Finish or undo what a killed process began: no temporary file, torn line or image without a line stays."""
        for temporary in [*self.root.glob(f".*{TEMPORARY_SUFFIX}"), *self._images.glob(f".*{TEMPORARY_SUFFIX}")]:
            temporary.unlink()
        for path in (self._metadata, self._drops, self._purged):
            repair_lines(path)
        self._read_new_lines()
        self._finish_purges()
        files = _listing(self._images)
        pending = {line["image_id"]: line for line in read_lines(self._pending)}
        without_line = [name for name in files if _is_ours(name) and name.split(".")[0] not in self._artworks]
        self._append(self._metadata, [line for name in without_line if (line := self._adopt(name, pending))])
        self._pending.unlink(missing_ok=True)
        self._read_new_lines()

    def _adopt(self, name: str, pending: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The line for an image that has none, or None after deleting an image that is not what its name says."""
        path = self._images / name
        image_id = name.split(".")[0]
        if image_id in pending:
            return pending[image_id]
        data = path.read_bytes()
        try:
            if image_id_of(data) != image_id:
                raise Refused("damaged", "its bytes are not those of its name")
            return _describe(image_id, NewArtwork(data, Provenance(source="adopted")), self.limits).to_json()
        except Refused as refused:
            self._append(self._drops, [_drop_line(refused.reason, refused.detail, {"file_name": f"images/{name}"})])
            path.unlink()
            return None

    def _finish_purges(self) -> None:
        """Take out of metadata.jsonl, and off the disk, whatever purged.jsonl names."""
        self._purged_ids = {line["image_id"] for line in read_lines(self._purged)}
        if any(i in self._artworks or i in self._gone for i in self._purged_ids):
            kept = [line for line in read_lines(self._metadata) if line["image_id"] not in self._purged_ids]
            write_atomic(self._metadata, as_lines(kept))
            self._read_new_lines()
        for name in _listing(self._images):
            if name.split(".")[0] in self._purged_ids:
                (self._images / name).unlink()


class _Seen(NamedTuple):
    """How much of metadata.jsonl has been read: a file replaced by another (purge) has another inode."""

    inode: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "_Seen":
        status = path.stat()
        return cls(status.st_ino, status.st_size)


def _describe(image_id: str, item: NewArtwork, limits: Limits) -> Artwork:
    image = decode(item.data, item.name, limits)
    pdq, quality = hash_and_quality(image)
    format = sniff(item.data) or ""
    return Artwork(
        image_id=image_id,
        file_name=file_name_of(image_id, format),
        width=image.width,
        height=image.height,
        format=format,
        pdq=pdq.tobytes().hex(),
        pdq_quality=quality,
        provenance=replace(item.provenance, collected_at=item.provenance.collected_at or _now()),
    )


def _map_in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    if len(items) == 1:
        return [function(items[0])]
    # Decoding and hashing leave the interpreter lock, and syncs of several files share a journal commit.
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) * 2)) as pool:
        return list(pool.map(function, items))


def _where(item: NewArtwork) -> dict[str, Any]:
    provenance = item.provenance
    where = {name: getattr(provenance, name) for name in ("source", "source_id", "page_url", "image_url")}
    return {"name": item.name, **where}


def _drop_line(reason: str, detail: str, where: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in where.items() if value not in (None, "")}
    return {"reason": reason, "detail": detail, "at": _now(), **kept}


def _differs(offered: Provenance, held: Provenance) -> bool:
    return replace(offered, collected_at=None) != replace(held, collected_at=None)


def _is_ours(name: str) -> bool:
    stem, _, suffix = name.partition(".")
    return IMAGE_ID.fullmatch(stem) is not None and suffix in EXTENSIONS.values()


def _listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
