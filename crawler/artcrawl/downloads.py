"""Files of gigabytes, in pieces, to the disk: never the whole in memory, and a killed download goes on."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from scrapy import Request
from scrapy.core.engine import ExecutionEngine
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response

from artgate.artworks.files import write_atomic

from .network.images import image_request
from .network.withheld import Withheld
from .optout import response_opt_out
from .settings import BOT_NAME

PIECE = 8 * 2**20
CONTENT_RANGE = re.compile(rb"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
# A file that is another one each time is given up.
BEGINNINGS = 3


class DownloadError(Exception):
    """A file that could not be had. reason: a code to count by, as for images; detail: what happened."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Version(NamedTuple):
    """Which file the pieces are of. tag: a strong ETag, else Last-Modified, "" for neither; total: its bytes."""

    tag: str
    total: int


class _Changed(Exception):  # noqa: N818 - what it is
    """The server has another file by now than the one that the pieces here are of."""


async def download_file(engine: ExecutionEngine, url: str, path: Path, max_bytes: int, piece: int = PIECE) -> None:
    """Fetch `url` to `path` by range requests of `piece` bytes (RFC 9110, 14), beginning where an earlier try ended.

    Each piece takes the way of every image: robots.txt, tdmrep.json and ai.txt, pace, retries, opt-out headers. Until
    it is whole the file is beside `path`, with the suffix .partial, and its version beside that, so that pieces of two
    versions are never put together: one that changed is begun anew. Raises DownloadError; what there is by then stays
    for the next try.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(BEGINNINGS):
        try:
            await _fetch(engine, url, partial, max_bytes, piece)
        except _Changed:
            partial.unlink(missing_ok=True)
            _noted(partial).unlink(missing_ok=True)
        else:
            await asyncio.to_thread(_finish, partial, path)
            return
    raise DownloadError("download-failed", f"{url} was another file each of {BEGINNINGS} times: try again later")


async def _fetch(engine: ExecutionEngine, url: str, partial: Path, max_bytes: int, piece: int) -> None:
    version = await asyncio.to_thread(_read_version, partial)
    while version is None or _size(partial) < version.total:
        size = _size(partial)
        response = await _ask(engine, url, size, piece, version)
        if response.status == 200:  # not larger than a piece
            await asyncio.to_thread(partial.write_bytes, response.body)
            return
        found = _version(response, size, url)
        if found.total > max_bytes:
            raise DownloadError("too-many-bytes", f"{url} has {found.total} bytes, the limit is {max_bytes}")
        if version is None:
            await asyncio.to_thread(write_atomic, _noted(partial), json.dumps(found._asdict()))
        elif found != version:  # of servers that pass over If-Range
            raise _Changed
        version = found
        await asyncio.to_thread(_append, partial, response.body)


async def _ask(engine: ExecutionEngine, url: str, first: int, piece: int, version: Version | None) -> Response:
    request = _range_request(url, first, piece, version)
    try:
        response = await engine.download_async(request)
    except Withheld as withheld:
        if withheld.reason != "too-many-bytes":
            raise DownloadError(withheld.reason, withheld.detail) from None
        if first:
            raise _Changed from None  # the whole of the new one
        raise DownloadError("ranges-failed", f"{url} is sent only as a whole, of more than {piece} bytes") from None
    except IgnoreRequest as error:
        raise DownloadError("not-allowed", str(error)) from None
    except Exception as error:
        raise DownloadError("download-failed", f"{type(error).__name__}: {error}") from None
    if signal := response_opt_out(response, BOT_NAME):
        raise DownloadError("opt-out", f"{url}: {signal}")
    return response


def _range_request(url: str, first: int, piece: int, version: Version | None) -> Request:
    headers = {"Range": f"bytes={first}-{first + piece - 1}", "Accept-Encoding": "identity"}
    if first and version is not None and version.tag:
        headers["If-Range"] = version.tag
    return image_request(url, None, piece).replace(headers=headers, dont_filter=True)


def _version(response: Response, first: int, url: str) -> Version:
    """What a piece that begins at `first` is a piece of. Raises _Changed, and DownloadError if it is no such piece."""
    if response.status == 416 and first:
        raise _Changed  # shorter than what is here
    if response.status != 206:
        raise DownloadError(f"http-{response.status}", f"{url} was answered with this status")
    bounds = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range") or b"")
    start, end, total = (int(number) for number in bounds.groups()) if bounds else (-1, -1, -1)
    if start != first or end - start + 1 != len(response.body) or end >= total:
        raise DownloadError("download-failed", f"{url} was answered with another range than {first} onwards")
    etag, modified = (response.headers.get(name) or b"" for name in ("ETag", "Last-Modified"))
    # A weak ETag says nothing about bytes (RFC 9110, 13.1.5).
    return Version((etag if etag.startswith(b'"') else modified).decode("latin-1"), total)


def _noted(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.version")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_version(partial: Path) -> Version | None:
    """The version that the pieces here are of, None without pieces; pieces of an unknown version are deleted."""
    if not partial.exists():
        return None
    try:
        noted = json.loads(_noted(partial).read_bytes())
        return Version(str(noted["tag"]), int(noted["total"]))
    except (OSError, ValueError, KeyError, TypeError):
        partial.unlink()
        return None


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _finish(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    _noted(partial).unlink(missing_ok=True)
