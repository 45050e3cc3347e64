"""A circuit breaker a host: one that only fails is left alone for a while (Nygard, "Release It!")."""

import logging
import time
from dataclasses import dataclass

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.httpobj import urlparse_cached
from scrapy.utils.misc import load_object

from .patience import NOT_NOW, nap
from .withheld import Withheld

logger = logging.getLogger(__name__)


@dataclass
class Breaker:
    """Closed: all may pass. Open, after `limit` failures in a row: none for `rest` seconds. Half open: one, as a probe.

    The probe's answer closes it; its failure opens it anew. down_since: when it opened first, None while it is closed.
    All times are seconds of one clock.
    """

    limit: int
    rest: float
    failures: int = 0
    opened_at: float | None = None
    probe_at: float | None = None
    down_since: float | None = None

    def admit(self, now: float) -> bool:
        """Whether a request may pass. If so, `answered`, `failed` or `undecided` is to be told what became of it."""
        if self.opened_at is None:
            return True
        # A probe of which nothing is heard does not keep the host closed for ever.
        since = self.opened_at if self.probe_at is None else self.probe_at
        if now - since < self.rest:
            return False
        self.probe_at = now
        return True

    def answered(self) -> None:
        """The host answered."""
        self.failures, self.opened_at, self.probe_at, self.down_since = 0, None, None, None

    def failed(self, now: float) -> bool:
        """The host failed. Returns whether this opened the breaker, for the first time or anew."""
        self.failures += 1
        # Of requests that were under way when it opened, the failure tells nothing new.
        if self.failures < self.limit or (self.opened_at is not None and self.probe_at is None):
            return False
        self.opened_at, self.probe_at = now, None
        self.down_since = now if self.down_since is None else self.down_since
        return True

    def undecided(self) -> None:
        """The request says nothing about the host; another may be the probe."""
        self.probe_at = None


class BreakerMiddleware:
    """Next to the network, so that it sees what the network did before anything else makes something of it.

    A failure is a broken or refused connection, a time limit, a name that does not resolve, a 5xx or a 408. A 429, or
    a 503 with Retry-After, is an answer: the host is up and says when. Settings: BREAKER_FAILURES (in a row),
    BREAKER_REST (seconds), BREAKER_HOLD (seconds since the breaker opened, for which requests wait for the host before
    they fail; other hosts may have to wait with them, as each takes one of CONCURRENT_REQUESTS).
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.limit = crawler.settings.getint("BREAKER_FAILURES")
        self.rest = crawler.settings.getfloat("BREAKER_REST")
        self.hold = crawler.settings.getfloat("BREAKER_HOLD")
        # Classes, or their names: what Scrapy itself retries.
        self.network_errors = tuple(load_object(error) for error in crawler.settings.getlist("RETRY_EXCEPTIONS"))
        self.breakers: dict[str, Breaker] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "BreakerMiddleware":
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Raise Withheld while the host is left alone, if that lasts."""
        host = urlparse_cached(request).netloc
        breaker = self.breakers.setdefault(host, Breaker(self.limit, self.rest))
        while not breaker.admit(now := time.monotonic()):
            left = self._left(breaker, now)
            if left <= 0:
                raise Withheld(
                    "host-down",
                    f"{host} failed {breaker.failures} times in a row, the limit is {self.limit}: run again later",
                )
            await nap(left, self.crawler)
        request.meta["artgate_admitted"] = True

    def process_response(self, request: Request, response: Response) -> Response:
        """Note whether the host answered."""
        breaker = self._asked(request)
        if breaker is None:  # a page from the cache
            return response
        if response.status == 429 or (response.status in NOT_NOW and "Retry-After" in response.headers):
            breaker.undecided()
        elif response.status >= 500 or response.status == 408:
            self._failed(request, breaker, f"status {response.status}")
        else:
            breaker.answered()
        return response

    def process_exception(self, request: Request, exception: Exception) -> None:
        """Note that the host failed, if it was the host."""
        breaker = self._asked(request)
        if breaker is None:
            return
        if isinstance(exception, self.network_errors):
            self._failed(request, breaker, f"{type(exception).__name__}: {exception}")
        else:
            breaker.undecided()

    def _asked(self, request: Request) -> Breaker | None:
        admitted = request.meta.pop("artgate_admitted", False)
        return self.breakers[urlparse_cached(request).netloc] if admitted else None

    def _left(self, breaker: Breaker, now: float) -> float:
        """Seconds for which requests still wait for the host."""
        return self.hold - (now - breaker.down_since) if breaker.down_since is not None else self.hold

    def _failed(self, request: Request, breaker: Breaker, cause: str) -> None:
        if breaker.probe_at is not None:
            # Whichever was sent to see whether the host is back, it has not used up one of its own tries.
            request.meta["retry_times"] = request.meta.get("retry_times", 0) - 1
        if breaker.failed(now := time.monotonic()):
            host, left = urlparse_cached(request).netloc, max(0.0, self._left(breaker, now))
            message = "%s failed %d times in a row (%s): left alone for %.0f s, waited for up to %.0f s more"
            logger.error(message, host, breaker.failures, cause, self.rest, left)
            if self.crawler.stats is not None:
                self.crawler.stats.inc_value("artgate/host-down")
