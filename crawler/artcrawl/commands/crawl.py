"""`scrapy crawl`, with arguments checked before the engine starts, and a status that tells how it ended."""

import argparse
import gc
import logging
import math

from scrapy import Spider
from scrapy.commands import crawl
from scrapy.crawler import Crawler
from scrapy.exceptions import UsageError
from scrapy.settings import BaseSettings
from scrapy.statscollectors import StatsCollector

from artgate.errors import UserError

from .. import settings
from ..network.addresses import allowed
from ..spiders.collecting import CollectingSpider

logger = logging.getLogger(__name__)

# These list, over a hundred lines, what is the same in each crawl; LOG_LEVEL=DEBUG shows them.
LISTS = ("scrapy.addons", "scrapy.crawler", "scrapy.middleware", "scrapy.utils.log")
# New objects between two searches for garbage, some dozens of images; Python's 700 are less than one image makes.
GARBAGE = 20_000
# Reasons to end that need the operator: the status is 1.
FAILED = {"cannot-open", "cannot-read", "cannot-write", "key-refused", "no-metadata", "start_error"}
# Settings that Scrapy, or we, count with; all other numbers may be fractions.
WHOLE = {
    "BREAKER_FAILURES",
    "CONCURRENT_ITEMS",
    "CONCURRENT_REQUESTS",
    "CONCURRENT_REQUESTS_PER_DOMAIN",
    "CRAWL_CACHE_MAX_BYTES",
    "CRAWL_MAX_PAGES",
    "DOWNLOAD_MAXSIZE",
    "DOWNLOAD_WARNSIZE",
    "HTTPCACHE_EXPIRATION_SECS",
    "REDIRECT_MAX_TIMES",
    "RETRY_TIMES",
    "URLLENGTH_LIMIT",
}
# What is left needs nothing but another time: sysexits.h's EX_TEMPFAIL, so that whatever runs the crawl can tell.
AGAIN = 75


class Command(crawl.Command):
    """Scrapy's own command; but a wrong argument ends it with one message and status 2, not with a traceback."""

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """As Scrapy's; by the time of `run` it has begun to log."""
        super().process_options(args, opts)
        assert self.settings is not None
        if self.settings.get("LOG_LEVEL") != "DEBUG":
            for name in LISTS:
                logging.getLogger(name).addFilter(_tells_more_than_lists)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Build the spider once to have its arguments and settings checked, then run it as Scrapy does."""
        if len(args) == 1 and self.crawler_process is not None:
            try:
                spider_class = self.crawler_process.spider_loader.load(args[0])
                if issubclass(spider_class, CollectingSpider):
                    spider_class.check_names(opts.spargs)
                spider_class(**opts.spargs)
                # A copy, because the crawler that is made of them later puts the contact in itself.
                spider_class.update_settings(self.crawler_process.settings.copy())
                allowed(self.crawler_process.settings.getlist("CRAWL_ALLOW_PRIVATE"))
                check_settings(self.crawler_process.settings)
            except UserError as error:
                raise UsageError(str(error), print_help=False) from None
            except KeyError:
                names = ", ".join(self.crawler_process.spider_loader.list())
                message = f"spider {args[0]!r} is not one of {names}"
                raise UsageError(message, print_help=False) from None
        # What is loaded by now stays; looking through it again and again is a twentieth of a crawl's CPU time.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        super().run(args, opts)
        assert self.crawler.stats is not None
        self.exitcode, message = ending(self.crawler.stats) if self.exitcode == 0 else (self.exitcode, "")
        if message:
            logger.warning("%s (status %d)", message, self.exitcode)

    def _create_crawler(self, spidercls: str | type[Spider]) -> Crawler:
        self.crawler = super()._create_crawler(spidercls)
        return self.crawler


def check_settings(given: BaseSettings) -> None:
    """Raise UserError for a number or a switch of settings.py that was given as something else."""
    for name, ours in vars(settings).items():
        if isinstance(ours, bool):
            _check_switch(name, given)
        elif isinstance(ours, int | float):
            _check_number(name, given, 1 if name.startswith("CONCURRENT_") else 0, name in WHOLE)


def _check_switch(name: str, given: BaseSettings) -> None:
    try:
        given.getbool(name)
    except ValueError:
        raise UserError(f"setting {name} {given[name]!r} is neither 0 nor 1: give -s {name}=1, or 0") from None


def _check_number(name: str, given: BaseSettings, lowest: int, is_whole: bool) -> None:
    try:
        number = given.getint(name) if is_whole else given.getfloat(name)
    except (TypeError, ValueError):
        number = -1
    if not lowest <= number < math.inf:
        kind = "whole number" if is_whole else "number"
        default = getattr(settings, name)
        raise UserError(
            f"setting {name} {given[name]!r} is not a {kind} of {lowest} or more: give -s {name}={default}, for example"
        )


def _tells_more_than_lists(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO


def ending(stats: StatsCollector) -> tuple[int, str]:
    """The exit status of a crawl that has ended, and the last line of its log ("" where all is well)."""
    reason = stats.get_value("finish_reason")
    if reason in FAILED:
        return 1, f"ended by {reason}: the error above says what to mend, then run the same command again"
    if reason == "host-asks-to-wait":
        return AGAIN, f"{stats.get_value('artgate/asks-to-wait')}: run the same command again after that, it goes on"
    if reason == "finished" and (cut_short := stats.get_value("artgate/lists-cut-short", 0)):
        return AGAIN, (
            f"{cut_short} lists were not followed to their end (drops.jsonl says why): run the same command again, "
            "it goes on"
        )
    return 0, ""
