"""Downloader middlewares: what a polite client does that Scrapy does not."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.httpobj import urlparse_cached

logger = logging.getLogger(__name__)

# With a Retry-After header, these say "not now" (RFC 9110, RFC 6585).
NOT_NOW = (429, 503)


class RetryAfterMiddleware:
    """Hold back all requests to a host until the time that its Retry-After header asks for.

    Scrapy's retry middleware, which comes after this one, asks again at once. Waiting here does not block: other
    hosts are crawled on.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.limit = crawler.settings.getfloat("RETRY_AFTER_LIMIT")
        self.resume_at: dict[str, float] = {}  # host -> time.monotonic()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "RetryAfterMiddleware":
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Wait until the host may be asked again; more waiting may be asked for meanwhile."""
        host = urlparse_cached(request).netloc
        while (wait := self.resume_at.get(host, 0) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def process_response(self, request: Request, response: Response) -> Response:
        """Note when the host may be asked again; end the crawl if that is too far off."""
        seconds = retry_after(response, datetime.now(UTC))
        if response.status not in NOT_NOW or seconds is None:
            return response
        host = urlparse_cached(request).netloc
        if seconds > self.limit:
            logger.error("%s asks to wait %.0f s, the limit is %.0f s: run again later", host, seconds, self.limit)
            request.meta["dont_retry"] = True
            self._end_crawl()
        else:
            logger.info("%s asks to wait %.0f s", host, seconds)
            self._count("artgate/retry-after")
            self.resume_at[host] = max(self.resume_at.get(host, 0), time.monotonic() + seconds)
        return response

    def _end_crawl(self) -> None:
        engine = self.crawler.engine
        if engine is not None and not getattr(self, "ending", None):
            # Kept, because asyncio holds its tasks only weakly. Not awaited: closing waits for this very response.
            self.ending = asyncio.ensure_future(engine.close_spider_async(reason="host-asks-to-wait"))

    def _count(self, name: str) -> None:
        if self.crawler.stats is not None:
            self.crawler.stats.inc_value(name)


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
