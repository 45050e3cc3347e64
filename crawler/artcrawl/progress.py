"""How the crawl is doing, for a person to read in the log every few seconds."""

import logging
import time

from scrapy import Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.statscollectors import StatsCollector
from scrapy.utils.asyncio import create_looping_call

from .spiders.collecting import CollectingSpider

logger = logging.getLogger(__name__)

# The pace is that of the last so many reports: a site's pace changes, and old ones say little of the time left.
WINDOW = 12


class Progress:
    """One line every PROGRESS_SECONDS: kept, held, dropped by reason, images a second, time left to the target."""

    def __init__(self, stats: StatsCollector, seconds: float) -> None:
        self.stats, self.seconds = stats, seconds
        self.reports: list[tuple[float, int]] = []  # time.monotonic(), kept

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "Progress":
        """Called by Scrapy."""
        seconds = crawler.settings.getfloat("PROGRESS_SECONDS")
        if not seconds:
            raise NotConfigured
        assert crawler.stats is not None
        progress = cls(crawler.stats, seconds)
        crawler.signals.connect(progress.opened, signal=signals.spider_opened)
        crawler.signals.connect(progress.closed, signal=signals.spider_closed)
        return progress

    def opened(self, spider: Spider) -> None:
        """Begin."""
        self.task = create_looping_call(self.report, spider)
        self.task.start(self.seconds, now=False)
        self.reports = [(time.monotonic(), 0)]

    def closed(self) -> None:
        """End."""
        if self.task.running:
            self.task.stop()

    def report(self, spider: Spider) -> None:
        """Log the line."""
        kept = self._counted("kept")
        self.reports = [*self.reports[-WINDOW:], (time.monotonic(), kept)]
        (then, before), (now, _) = self.reports[0], self.reports[-1]
        left = spider.quotas.target - spider.quotas.kept.total() if isinstance(spider, CollectingSpider) else 0
        logger.info(line(self.stats.get_stats(), (kept - before) / max(now - then, 1e-9), left))

    def _counted(self, name: str) -> int:
        return self.stats.get_value(f"artgate/{name}", 0)


def line(stats: dict[str, object], pace: float, left: float) -> str:
    """The report. stats: Scrapy's; pace: images kept a second; left: images to the target, infinite without one."""
    drops = {name.rpartition("/")[2]: n for name, n in sorted(stats.items()) if name.startswith("artgate/dropped/")}
    dropped = sum(count for count in drops.values() if isinstance(count, int))
    reasons = f" ({', '.join(f'{reason} {count}' for reason, count in drops.items())})" if drops else ""
    kept, held = stats.get("artgate/kept", 0), stats.get("artgate/held", 0)
    text = f"progress: kept {kept}, held already {held}, dropped {dropped}{reasons}; {pace:.1f} images/s"
    if left == float("inf"):
        return text
    return f"{text}; {left:.0f} to go{f', about {duration(left / pace)}' if pace else ''}"


def duration(seconds: float) -> str:
    """Such as `2 h 05 min`, `4 min 09 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
