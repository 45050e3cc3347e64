"""What the spiders of files have in common: they give items faster than these can be kept, and wait for them."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from ..items import Found, Lost
from ..pages import Page
from .collecting import CollectingSpider

# Items on their way at once: enough for groups of writes, and few enough for memory.
ON_THEIR_WAY = 64


class LocalSpider(CollectingSpider):
    """A spider whose pages are lists of files."""

    async def page_items(self, page: Page, items: Iterable[Found | Lost]) -> AsyncIterator[Found | Lost]:
        """The items of a page, no more at once than ON_THEIR_WAY; when it ends, all of them are settled.

        Each item holds the page. It ends early when the target is reached or the crawl is ending, with what is left
        to be settled as not decided.
        """
        self._settled = asyncio.Event()
        for item in items:
            if self.quotas.reached or self.is_ending():
                page.again = True
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

    async def _wait(self) -> None:
        self._settled.clear()
        await self._settled.wait()
