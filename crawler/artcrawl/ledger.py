"""What a crawl has done, so that it can be killed at any moment and go on: one append-only file a source.

Lines of `<collection>/crawl/<source>.jsonl` (signs that file names do not take are percent-encoded):
- {"address": …, "kept": image_id, "stratum": …} or {"address": …, "dropped": reason}: decided for good, and never
  fetched again (if dropped by "limits", then under these), even after the artwork was purged. Delete a line to have
  its address tried again.
- {"stratum": …, "done": cursor, "next": cursor or null}: all on that page is decided.
- {"round": n}: all pages were done, and are looked at anew.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from artgate.artworks.collection import Collection
from artgate.artworks.decode import LIMITS, Limits
from artgate.artworks.files import append_lines, as_lines, parse_lines, repair_lines, replacing
from artgate.errors import UserError

# Lines are read in pieces of so many bytes: a ledger of a million addresses is never held as lines.
READ_BYTES = 4 * 2**20
# File systems take 255, of which the suffix, and the lock's name, need some.
MAX_NAME_BYTES = 200
# What is dropped for these reasons, or because decoding refused it, is never fetched again.
FOR_GOOD = {
    "http-404",
    "http-410",
    "http-451",
    "opt-out",
    "purged",
    "same-bytes",
    "too-many-bytes",
    "video",
    "withdrawn",
}
# Judged by the operator's limits, and so only as lasting as these.
BY_LIMITS = {"too-many-bytes", "too-many-pixels", "too-small", "aspect", "excluded-format"}
# The network or the host failed, not the image. All other drops cost no fetch, and another crawl may judge anew.
UNDECIDED = re.compile(r"http-.*|.*-failed|host-.*|timeout|cannot-read")


def is_undecided(reason: str) -> bool:
    """Whether a drop is to be tried again at the next crawl."""
    return reason not in FOR_GOOD and UNDECIDED.fullmatch(reason) is not None


class Ledger:
    """The file of one source. known: addresses decided for good. kept: how many artworks each stratum gave."""

    def __init__(self, path: Path, held: Container[str], limits: Limits = LIMITS) -> None:
        """Read the file, if there is one. held: the image_ids that the Collection has; others do not count as kept.

        limits: what this crawl takes; addresses dropped under others are to be tried again.
        """
        self.path = path
        self._held = held
        self._limits = " ".join(map(str, astuple(limits)))
        self.known: set[str] = set()
        self.kept: Counter[str] = Counter()
        self.rounds = 0
        self._following: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        path.parent.mkdir(exist_ok=True)
        repair_lines(path)
        for line in _lines(path):
            self._take_in(line)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines; on the disk when this returns."""
        if lines:
            lines = [{**line, "limits": self._limits} if line.get("dropped") in BY_LIMITS else line for line in lines]
            repair_lines(self.path)  # of a write that a full disk cut short
            append_lines(self.path, lines)
            for line in lines:
                self._take_in(line)

    def begin(self, strata: Iterable[str]) -> None:
        """Look at all pages anew if those of every stratum are done."""
        if all(self.frontier(stratum) is None for stratum in strata):
            self.append([{"round": self.rounds + 1}])

    def frontier(self, stratum: str) -> str | None:
        """The cursor of the first page that is not done, None if all are."""
        following, cursor, seen = self._following[stratum], "", set()
        while cursor in following:
            seen.add(cursor)
            after = following[cursor]
            if after is None or after in seen:
                return None
            cursor = after
        return cursor

    def is_done(self, stratum: str, cursor: str) -> bool:
        """Whether all on a page is decided."""
        return cursor in self._following[stratum]

    def forget(self, stratum: str) -> None:
        """Its cursors are no longer good: begin it anew. (The lines stay; later ones of the same cursor win.)"""
        self._following[stratum] = {}

    def _take_in(self, line: Mapping[str, Any]) -> None:
        if "address" in line:
            if line.get("limits", self._limits) == self._limits:
                self.known.add(line["address"])
            if line.get("kept") in self._held:
                self.kept[line.get("stratum", "")] += 1
        elif "done" in line:
            self._following[line["stratum"]][line["done"]] = line["next"]
        elif "round" in line:
            self.rounds = line["round"]
            self._following.clear()


def ledger_path(collection: Collection, source: str) -> Path:
    """Where the ledger of a source lies in a Collection; one of an earlier release is taken over under its new name.

    Those shared the names of sources such as `a/b` and `a_b`: what was kept of another source is left out.
    """
    path = collection.root / "crawl" / ledger_name(source)
    old = path.with_name(_old_name(source))
    if old != path and old.exists() and not path.exists():
        ids = {artwork.image_id for artwork in collection if artwork.provenance.source != source}
        with replacing(path) as file:
            for line in _lines(old):
                if line.get("kept") not in ids:
                    file.write(as_lines([line]).encode())
    return path


def ledger_name(source: str) -> str:
    """The file name of a source's ledger, another one for each source."""
    name = re.sub(r"[^\w.-]|^\.", _encoded, source)
    if len(name.encode()) > MAX_NAME_BYTES:
        # No name that is short enough has this sign in it.
        name = f"{name[:40]}%-{hashlib.sha256(name.encode()).hexdigest()}"
    return f"{name}.jsonl"


def _encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _old_name(source: str) -> str:
    return re.sub(r"[^\w.-]", "_", source)[:100].lstrip(".") + ".jsonl"


def hold(ledger: Path) -> FileLock:
    """The right to crawl this ledger's source, until it is released or the process ends.

    Two crawls at once would each fetch all images, twice as fast as the site allows, and each to the target.
    Raises UserError if another process has it.
    """
    ledger.parent.mkdir(exist_ok=True)
    lock = FileLock(ledger.with_name(f".{ledger.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{ledger} is being written by another crawl of this source: wait for it, or end it") from None
    return lock


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    number = 1
    with path.open("rb") as file:
        while lines := file.readlines(READ_BYTES):
            yield from parse_lines(b"".join(lines), path, number)
            number += len(lines)
