"""robots.txt (RFC 9309) and its Crawl-delay, with nothing asked of a host whose robots.txt is unknown."""

from protego import Protego
from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.utils.httpobj import urlparse_cached

from .hostfiles import HostFiles, is_host_file
from .withheld import Withheld


def parse_robots(body: bytes) -> Protego:
    """The rules in a robots.txt, or in anything written like it."""
    return Protego.parse(body.decode("utf-8-sig", "ignore"))


class RobotsMiddleware:
    """Instead of Scrapy's own, which takes a robots.txt that fails to load for one that allows all.

    Settings: ROBOTSTXT_OBEY, ROBOTSTXT_USER_AGENT, CRAWL_DELAY_LIMIT (seconds; a host that asks for more is given up).
    `dont_obey_robotstxt` in a request's meta is for an API whose terms invite its users; it ends at the first redirect
    to another host.
    """

    def __init__(self, crawler: Crawler) -> None:
        if not crawler.settings.getbool("ROBOTSTXT_OBEY"):
            raise NotConfigured
        self.crawler = crawler
        self.agent: str = crawler.settings["ROBOTSTXT_USER_AGENT"]
        self.delay_limit = crawler.settings.getfloat("CRAWL_DELAY_LIMIT")
        self.files = HostFiles(crawler, "/robots.txt", parse_robots, "robots-failed")
        self.delays = SlotDelays(crawler)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "RobotsMiddleware":
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Raise Withheld for what robots.txt forbids; see that its Crawl-delay is kept."""
        if is_host_file(request) or _is_exempt(request):
            return
        rules = await self.files.of(request)
        self._keep_delay(request, rules.crawl_delay(self.agent) or 0.0)
        if not rules.can_fetch(request.url, self.agent):
            if self.crawler.stats is not None:
                self.crawler.stats.inc_value("robotstxt/forbidden")
            raise Withheld("not-allowed", "forbidden by robots.txt")

    def _keep_delay(self, request: Request, seconds: float) -> None:
        if seconds > self.delay_limit:
            raise Withheld(
                "host-crawl-delay",
                f"robots.txt asks for {seconds:.0f} s between requests, the limit is {self.delay_limit:.0f} s: "
                "leave the host out, or raise CRAWL_DELAY_LIMIT",
            )
        if seconds > 0:
            self.delays.at_least(request, seconds)


class SlotDelays:
    """Least delays of the downloader's slots (one a host), which neither AutoThrottle nor jitter goes below."""

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.least: dict[str, float] = {}  # slot -> seconds
        # When a slot may be new, and after AutoThrottle, which was connected before, has set it anew.
        crawler.signals.connect(self._apply, signals.request_reached_downloader)
        crawler.signals.connect(self._apply, signals.response_downloaded)

    def at_least(self, request: Request, seconds: float) -> None:
        """From now on, start requests to this one's slot no closer than `seconds`."""
        assert self.crawler.engine is not None
        self.least[self.crawler.engine.downloader.get_slot_key(request)] = seconds

    def _apply(self, request: Request) -> None:
        key = request.meta.get("download_slot", "")
        engine = self.crawler.engine
        slot = engine.downloader.slots.get(key) if engine is not None and key in self.least else None
        if slot is not None:
            slot.delay, slot.jitter = max(slot.delay, self.least[key]), 0.0


def _is_exempt(request: Request) -> bool:
    if not request.meta.get("dont_obey_robotstxt"):
        return False
    first = Request(request.meta.get("redirect_urls", [request.url])[0])
    return urlparse_cached(first).netloc == urlparse_cached(request).netloc
