"""Files that speak for a whole host (robots.txt and its like), each fetched once and read for every request."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http.request import NO_CALLBACK
from scrapy.utils.datatypes import LocalCache
from scrapy.utils.httpobj import urlparse_cached

from .withheld import Withheld

logger = logging.getLogger(__name__)

T = TypeVar("T")

# RFC 9309, 2.4: no copy is used for longer than a day. 2.5: at least 500 KiB are read, and we read no more.
LIFETIME_SECONDS = 24 * 3600
AGAIN_SECONDS = 600  # what could not be had is asked for again
READ_BYTES = 500 * 1024
# The first to come is forgotten first, so that images on ever more hosts do not fill the memory with their files.
MOST_HOSTS = 500
# Causes that the request itself would meet as well: told as they are.
ITS_OWN = ("host-private", "bad-address", "host-down", "host-wait")


def is_host_file(request: Request) -> bool:
    """Whether this asks for a file that says what may be asked: it is subject to none of them."""
    return bool(request.meta.get("artgate_host_file"))


class HostFiles(Generic[T]):
    """One such file of every host that is asked.

    path: where it lies. parse: what its bytes mean; b"" is a host without the file. reason: the code of the Withheld
    that is raised where the file cannot be had. All as RFC 9309, 2.3.1 has it for robots.txt: 4xx is a host without the
    file; 5xx, 429, time limits and broken connections leave open what it would say, so nothing is asked.
    """

    def __init__(self, crawler: Crawler, path: str, parse: Callable[[bytes], T], reason: str) -> None:
        self.crawler = crawler
        self.path, self.parse, self.reason = path, parse, reason
        self._known: LocalCache[str, tuple[float, asyncio.Future[T | Withheld]]] = LocalCache(MOST_HOSTS)

    async def of(self, request: Request) -> T:
        """What the file of the request's host says. Raises Withheld if it cannot be had."""
        parts = urlparse_cached(request)
        origin = f"{parts.scheme}://{parts.netloc}"
        since, known = self._known.get(origin, (0.0, None))
        if known is None or time.monotonic() - since >= _lifetime(known):
            self._known[origin] = (time.monotonic(), asyncio.ensure_future(self._fetch(origin + self.path)))
        # One request that is given up must not take the file from all others.
        said = await asyncio.shield(self._known[origin][1])
        if isinstance(said, Withheld):
            raise said
        return said

    async def _fetch(self, url: str) -> T | Withheld:
        meta = {"artgate_host_file": True, "allow_offsite": True, "dont_cache": True}
        request = Request(url, callback=NO_CALLBACK, priority=1000, meta=meta)
        assert self.crawler.engine is not None
        try:
            response = await self.crawler.engine.download_async(request)
        except Withheld as withheld:
            return withheld if withheld.reason in ITS_OWN else self._unknown(url, f"{withheld.reason}: {withheld}")
        except Exception as error:  # whatever the network does
            return self._unknown(url, f"{type(error).__name__}: {error}")
        if 200 <= response.status < 300:
            return self.parse(response.body[:READ_BYTES])
        if 400 <= response.status < 500 and response.status != 429:
            return self.parse(b"")
        return self._unknown(url, f"status {response.status}")

    def _unknown(self, url: str, cause: str) -> Withheld:
        detail = f"{url} cannot be had ({cause}), so what it forbids is unknown: run again later"
        logger.warning("%s", detail)
        return Withheld(self.reason, detail)


def _lifetime(known: "asyncio.Future[Any]") -> float:
    failed = known.done() and isinstance(known.result(), Withheld)
    return AGAIN_SECONDS if failed else LIFETIME_SECONDS
