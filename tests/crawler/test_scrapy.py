"""What the crawler takes of Scrapy and Twisted that they do not promise: a release without it fails here, by name.

No public interface gives these: a bound on headers (network/headers.py), whether the crawl is closing (pipelines.py,
network/patience.py, spiders/local.py), the end of items that `start` gave (spiders/local.py), the crawler that a
command runs (commands/crawl.py). That they still do what is needed of them is tested where they are used:
`/endless-headers` in test_hostile.py, targets in test_diffusiondb.py and test_folder.py.
"""

import inspect

import pytest
import scrapy
from scrapy.commands.crawl import Command
from scrapy.core import engine, scraper
from scrapy.core.downloader.handlers import http11
from twisted.web import _newclient
from twisted.web.client import HTTPConnectionPool

BELOW = f"scrapy {scrapy.__version__}: see the docstring of this file for who needs it"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (http11, "_LenientHTTP11ClientFactory"),
        (http11, "_LenientHTTP11ClientProtocol"),
        (HTTPConnectionPool, "_factory"),
        (_newclient.HTTP11ClientProtocol, "_giveUp"),
        (_newclient, "BODY"),
        (_newclient, "DONE"),
        (scraper.Scraper, "_check_if_closing"),
        (scraper.Slot, "is_idle"),
        (Command, "_create_crawler"),
    ],
)
def test_it_is_there(owner: object, name: str) -> None:
    assert hasattr(owner, name), f"{owner!r} has no {name} in {BELOW}"


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (http11.HTTP11DownloadHandler.__init__, "self._pool._factory = _LenientHTTP11ClientFactory"),
        (http11._LenientHTTP11ClientFactory.buildProtocol, "_LenientHTTP11ClientProtocol(self._quiescentCallback)"),
        (engine.ExecutionEngine.__init__, "self._slot: _Slot | None = None"),
        (engine._Slot.__init__, "self.closing: Deferred[None] | None = None"),
        (scraper.Slot.__init__, "self.itemproc_size: int = 0"),
        (scraper.Scraper._check_if_closing, "self.slot.closing and self.slot.is_idle()"),
    ],
)
def test_it_works_as_it_did(function: object, line: str) -> None:
    assert line in inspect.getsource(function), f"{function!r} has no {line!r} any more in {BELOW}"
