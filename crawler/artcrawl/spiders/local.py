"""What the spiders of files have in common: they give items faster than these can be kept, and wait for them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from ..items import Found, Lost
from ..keeping import Keeper
from ..pages import Page
from .collecting import CollectingSpider

# Items on their way at once: enough for groups of writes, and few enough for memory.
ON_THEIR_WAY = 64
CLOSING_SECONDS = 0.2


class LocalSpider(CollectingSpider):
    """A spider whose pages are lists of files."""

    def __init__(self, *values: Any, **arguments: Any) -> None:
        super().__init__(*values, **arguments)
        self._settled = asyncio.Event()

    def open(self, keeper: Keeper, known: set[str]) -> None:
        """Called by the pipeline before the crawl begins."""
        super().open(keeper, known)
        self._closer = asyncio.ensure_future(self._let_close())

    async def page_items(self, page: Page, items: Iterable[Found | Lost]) -> AsyncIterator[Found | Lost]:
        """The items of a page, no more at once than ON_THEIR_WAY; when it ends, all of them are settled.

        Each item holds the page. It ends early when the target is reached or the crawl is ending, with what is left
        to be settled as not decided.
        """
        for item in items:
            if self.quotas.reached or self.is_ending():
                await self.settle(page, False)  # this item's hold on it
                break
            yield item
            while page.open > ON_THEIR_WAY:
                await self._wait()
        await self.settle(page, True)
        while page.open > 0:
            await self._wait()

    async def settle(self, page: Page, decided: bool) -> None:
        """As in every spider; then let the next items come."""
        await super().settle(page, decided)
        self._settled.set()

    def is_ending(self) -> bool:
        """Whether the crawl is closing."""
        slot = self.crawler.engine._slot if self.crawler.engine is not None else None
        return slot is None or slot.closing is not None

    async def _let_close(self) -> None:
        """Scrapy (2.19), when closing, waits for the items that `start` gave, but is not told when these are done."""
        engine = self.crawler.engine
        assert engine is not None
        while (slot := engine.scraper.slot) is not None and (slot.itemproc_size or slot.closing is None):
            await asyncio.sleep(CLOSING_SECONDS)
        if slot is not None and slot.closing is not None and not slot.closing.called:
            engine.scraper._check_if_closing()

    async def _wait(self) -> None:
        self._settled.clear()
        await self._settled.wait()
