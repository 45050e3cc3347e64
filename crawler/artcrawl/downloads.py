"""Files of gigabytes, in pieces, to the disk: never the whole in memory, and a killed download goes on."""

import asyncio
import os
import re
from pathlib import Path

from scrapy import Request
from scrapy.core.engine import ExecutionEngine
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response

from .network.withheld import Withheld

PIECE = 8 * 2**20
CONTENT_RANGE = re.compile(rb"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


class DownloadError(Exception):
    """A file that could not be had. reason: a code to count by, as for images; detail: what happened."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


async def download_file(engine: ExecutionEngine, url: str, path: Path, max_bytes: int, piece: int = PIECE) -> None:
    """Fetch `url` to `path` by range requests of `piece` bytes (RFC 9110, 14), beginning where an earlier try ended.

    Each piece takes the way of every request: robots.txt, pace, retries. Until it is whole the file is beside `path`,
    with the suffix .partial. Raises DownloadError; what there is by then stays for the next try.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    total = None
    while total is None or partial.stat().st_size < total:
        size = partial.stat().st_size if partial.exists() else 0
        response = await _ask(engine, url, size, piece)
        if response.status == 200 and len(response.body) <= piece:
            await asyncio.to_thread(partial.write_bytes, response.body)
            break
        total = _total(response, size, total, url)
        if total is None:
            # Another file by now, or shorter than what is here.
            partial.unlink(missing_ok=True)
        elif total > max_bytes:
            raise DownloadError("too-many-bytes", f"{url} has {total} bytes, the limit is {max_bytes}")
        else:
            await asyncio.to_thread(_append, partial, response.body)
    await asyncio.to_thread(_finish, partial, path)


async def _ask(engine: ExecutionEngine, url: str, first: int, piece: int) -> Response:
    headers = {"Range": f"bytes={first}-{first + piece - 1}", "Accept-Encoding": "identity"}
    meta = {"allow_offsite": True, "dont_cache": True, "download_maxsize": piece}
    try:
        return await engine.download_async(Request(url, headers=headers, meta=meta, dont_filter=True))
    except Withheld as withheld:
        raise DownloadError(withheld.reason, withheld.detail) from None
    except IgnoreRequest as error:
        raise DownloadError("not-allowed", str(error)) from None
    except Exception as error:
        raise DownloadError("download-failed", f"{type(error).__name__}: {error}") from None


def _total(response: Response, first: int, expected: int | None, url: str) -> int | None:
    """The size of the whole file; None if the download is to begin anew."""
    if response.status == 416 and first:
        return None
    if response.status == 200:
        raise DownloadError("no-ranges", f"{url} is sent only as a whole, of {len(response.body)} bytes")
    if response.status != 206:
        raise DownloadError(f"http-{response.status}", f"{url} was answered with this status")
    bounds = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range") or b"")
    start, end, total = (int(number) for number in bounds.groups()) if bounds else (-1, -1, -1)
    if start != first or end - start + 1 != len(response.body) or end >= total:
        raise DownloadError("download-failed", f"{url} was answered with another range than {first} onwards")
    return total if expected in (None, total) else None


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _finish(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
