"""Crawls as forks of one process that has Scrapy loaded already: twenty of them start in the time of two."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CRAWLER = Path(__file__).parents[1] / "crawler"
# Not what installs Twisted's reactor: that is to be each crawl's own.
PRELOAD = ["scrapy", "scrapy.cmdline", "scrapy.crawler", "artgate.artworks.collection", "pdqhash", "PIL.Image"]


def start_crawl(arguments: Sequence[str], log: Path) -> ForkServerProcess:
    """Start `scrapy crawl` with these arguments; the process may be killed like any other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_crawl, args=(list(arguments), log))
    process.start()
    return process


def _crawl(arguments: list[str], log: Path) -> None:
    os.chdir(CRAWLER)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.path.insert(0, str(CRAWLER))
    from scrapy.cmdline import execute

    execute(["scrapy", "crawl", *arguments])
