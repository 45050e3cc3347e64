"""When a host does not answer, or not now: how long to wait before asking it again."""

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.httpobj import urlparse_cached

from .withheld import Withheld

logger = logging.getLogger(__name__)

# With a Retry-After header, these say "not now" (RFC 9110, RFC 6585).
NOT_NOW = (429, 503)
# The longest nap, so that a crawl that is to end ends.
NAP_SECONDS = 1.0


class PatienceMiddleware:
    """Hold back all requests to a host until the time its Retry-After asks for, and a retried one for longer each time.

    Scrapy's retry middleware asks again at once. Waiting here does not block: other hosts are crawled on.
    Settings, in seconds: RETRY_AFTER_LIMIT, RETRY_BACKOFF_BASE, RETRY_BACKOFF_LIMIT.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.limit = crawler.settings.getfloat("RETRY_AFTER_LIMIT")
        self.backoff_base = crawler.settings.getfloat("RETRY_BACKOFF_BASE")
        self.backoff_limit = crawler.settings.getfloat("RETRY_BACKOFF_LIMIT")
        self.resume_at: dict[str, float] = {}  # host -> time.monotonic()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "PatienceMiddleware":
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Wait until this may be asked; a Retry-After that comes meanwhile counts too. Raises Withheld at the end."""
        host = urlparse_cached(request).netloc
        own = time.monotonic() + self._backoff(request)
        while (wait := max(own, self.resume_at.get(host, 0)) - time.monotonic()) > 0:
            await nap(wait, self.crawler)

    async def process_response(self, request: Request, response: Response) -> Response:
        """Note when the host may be asked again; end the crawl if that is too far off."""
        seconds = retry_after(response, datetime.now(UTC))
        if response.status not in NOT_NOW or seconds is None:
            return response
        host = urlparse_cached(request).netloc
        if seconds > self.limit:
            said = f"{host} asks to wait {seconds:.0f} s, the limit is {self.limit:.0f} s"
            logger.error("%s: the crawl ends", said)
            request.meta["dont_retry"] = True
            self._end_crawl(said)
        else:
            logger.info("%s asks to wait %.0f s", host, seconds)
            self._count("artgate/retry-after")
            self.resume_at[host] = max(self.resume_at.get(host, 0), time.monotonic() + seconds)
        return response

    def _backoff(self, request: Request) -> float:
        retry = request.meta.get("retry_times", 0)
        if retry == request.meta.get("artgate_waited_for", 0):  # none, or a redirect of one that waited
            return 0.0
        request.meta["artgate_waited_for"] = retry
        return random.uniform(0, backoff_ceiling(retry, self.backoff_base, self.backoff_limit))

    def _end_crawl(self, said: str) -> None:
        engine = self.crawler.engine
        if engine is not None and not getattr(self, "ending", None):
            if self.crawler.stats is not None:
                self.crawler.stats.set_value("artgate/asks-to-wait", said)
            # Kept, because asyncio holds its tasks only weakly. Not awaited: closing waits for this very response.
            self.ending = asyncio.ensure_future(engine.close_spider_async(reason="host-asks-to-wait"))

    def _count(self, name: str) -> None:
        if self.crawler.stats is not None:
            self.crawler.stats.inc_value(name)


async def nap(seconds: float, crawler: Crawler) -> None:
    """Wait for so long, or for NAP_SECONDS if that is shorter. Raises Withheld if the crawl is to end."""
    slot = crawler.engine._slot if crawler.engine is not None else None
    if not crawler.crawling or slot is None or slot.closing is not None:
        raise Withheld("host-wait", "the crawl ended while this waited for its turn")
    await asyncio.sleep(min(seconds, NAP_SECONDS))


def backoff_ceiling(retry: int, base: float, limit: float) -> float:
    """The longest wait in seconds before the retry of this number (from 1): base, twice that, ... up to limit.

    The wait itself is drawn evenly from [0, ceiling] ("full jitter", Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog 2015), so that requests which failed together do not come back together.
    """
    return min(limit, base * 2.0 ** min(retry - 1, 60))


def retry_after(response: Response, now: datetime) -> float | None:
    """Seconds (>= 0) that the Retry-After header asks to wait, in either of its forms (RFC 9110, 10.2.3); else None."""
    value = (response.headers.get("Retry-After") or b"").decode("ascii", "replace").strip()
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
