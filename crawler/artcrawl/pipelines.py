"""From an image's address to an artwork in the Collection, its bytes as they were served."""

import asyncio
import logging
from contextlib import nullcontext
from dataclasses import replace
from typing import NoReturn

from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, DropItem, IgnoreRequest
from scrapy.http import Response

from artgate.artworks.artwork import Artwork, Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.decode import Refused
from artgate.errors import UserError

from .items import Found, Lost
from .keeping import Keeper
from .ledger import FOR_GOOD, Ledger, hold, is_undecided, ledger_path
from .network.images import image_request
from .network.withheld import Withheld
from .optout import response_opt_out
from .settings import BOT_NAME
from .spiders.collecting import CollectingSpider

logger = logging.getLogger(__name__)


class Undecided(DropItem):
    """Dropped for now: the next crawl tries it again."""


class CollectionPipeline:
    """Fetches each image once, checks it, and adds it with its provenance; notes why for all that is not kept.

    What the Collection holds, or the ledger has decided for good, is not fetched again, so that a crawl that was
    killed goes on when it is run again. What it can have fetched in vain is bounded: no more than twice
    CONCURRENT_REQUESTS images are asked for, or wait to be written, at once (nor lie in memory, when a disk is slow).
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.is_open = False
        self.in_hand = asyncio.Semaphore(2 * crawler.settings.getint("CONCURRENT_REQUESTS"))
        self.closing: asyncio.Future[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "CollectionPipeline":
        """Called by Scrapy."""
        return cls(crawler)

    def open_spider(self) -> None:
        """Open the spider's Collection, or make it, and the ledger in it; end the crawl if that cannot be done."""
        try:
            self._open()
        except UserError as error:
            logger.error("the collection cannot be opened: %s", error)
            raise CloseSpider("cannot-open") from None
        except OSError as error:
            logger.error("the collection cannot be opened (%s): name a folder that can be written", error)
            raise CloseSpider("cannot-open") from None
        self.is_open = True

    def _open(self) -> None:
        engine, spider, stats = self.crawler.engine, self.crawler.spider, self.crawler.stats
        assert engine is not None and stats is not None and isinstance(spider, CollectingSpider)
        self.engine, self.spider, self.stats = engine, spider, stats
        self.collection = Collection(spider.collection_root, create=True, limits=spider.limits)
        path = ledger_path(self.collection, spider.source)
        self.lock = hold(path)
        self.ledger = Ledger(path, self.collection, spider.limits)
        self.keeper = Keeper(self.collection, self.ledger)
        held = {artwork.provenance.image_url for artwork in self.collection}
        # One set, of a million addresses maybe.
        self.known = self.ledger.known
        self.known.update(self.collection.purged_addresses, (url for url in held if url))
        spider.open(self.keeper, self.known)

    def close_spider(self) -> None:
        """Say in one line what came of it."""
        if not self.is_open:
            return
        self.lock.release()
        counts = {key: n for key, n in self.stats.get_stats().items() if key.startswith("artgate/")}
        dropped = {key.rpartition("/")[2]: n for key, n in sorted(counts.items()) if "/dropped/" in key}
        logger.info(
            "kept %d, held already %d, dropped %d (%s); the collection has %d",
            counts.get("artgate/kept", 0),
            counts.get("artgate/held", 0),
            sum(dropped.values()),
            ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "nothing",
            len(self.collection),
        )

    async def process_item(self, item: Found | Lost) -> Artwork:
        """The artwork that an item became. Raises DropItem for what is held already, or cannot be kept."""
        decided = False
        try:
            artwork = await self._lose(item) if isinstance(item, Lost) else await self._find(item)
            decided = True
            return artwork
        except DropItem as drop:
            decided = not isinstance(drop, Undecided)
            raise
        except UserError as error:  # locked for too long, or a file in it was damaged meanwhile
            self._end("cannot-write", f"the collection cannot be written: {error}")
            raise Undecided(str(error)) from None
        except OSError as error:
            self._end("cannot-write", f"the collection cannot be written ({error}): make room, then run again")
            raise Undecided(str(error)) from None
        finally:
            if item.page is not None:
                await self.spider.settle(item.page, decided)

    async def _lose(self, item: Lost) -> NoReturn:
        address = item.address or item.page_url
        if address in self.known:
            self._count("held")
            raise DropItem(f"dropped before: {address}", log_level="DEBUG")
        where = Provenance(source=item.source, page_url=item.page_url, image_url=item.address)
        await self._drop(item.reason, item.detail, where, address)

    async def _find(self, item: Found) -> Artwork:
        self._pass_over_known(item)
        stratum = item.page.stratum if item.page else ""
        if self._is_ending() or not await self.spider.quotas.take(stratum):
            self._leave(item)
        kept = False
        try:
            self._pass_over_known(item)  # by now
            # Two places on the site for one address: only the first to have a place in its stratum is to fetch it. One
            # that still waits for a place may be left, and must not keep another stratum from it.
            self.known.add(item.address)
            try:
                # The spiders of files bound themselves how many they give.
                async with self.in_hand if item.read is None else nullcontext():
                    artwork = await self._keep(item, stratum)
                kept = True
            except Undecided:
                self.known.discard(item.address)
                raise
        finally:
            self.spider.quotas.give_back(stratum, kept)
        if self.spider.quotas.reached:
            self._end("target-reached", f"the target of {self.spider.target} artworks is reached")
        return artwork

    def _pass_over_known(self, item: Found) -> None:
        if item.address in self.known:
            self._count("held")
            raise DropItem(f"held already: {item.address}", log_level="DEBUG")

    async def _keep(self, item: Found, stratum: str) -> Artwork:
        if self._is_ending():  # by now
            self._leave(item)
        data, provenance = await self._fetch(item)
        outcome = await self.keeper.keep(NewArtwork(data, provenance, item.name), item.address, stratum)
        if outcome.artwork is None or outcome.reason:
            self._count("held" if outcome.reason == "held" else f"dropped/{outcome.reason}")
            raise DropItem(f"{outcome.reason}: {outcome.detail}: {item.address}")
        self._count("kept")
        if outcome.artwork.near_duplicate_of:
            self._count("near-duplicates")
        return outcome.artwork

    def _leave(self, item: Found) -> NoReturn:
        self._count("left")
        raise Undecided(f"left for another crawl: {item.address}", log_level="DEBUG")

    async def _fetch(self, item: Found) -> tuple[bytes, Provenance]:
        refusal = self.collection.refusal(item.provenance)
        if refusal:
            await self._drop("purged", refusal, item.provenance, item.address)
        if item.read is None:
            response = await self._download(item)
            return response.body, replace(item.provenance, http_status=response.status)
        try:
            return await asyncio.to_thread(item.read), item.provenance
        except Refused as refused:
            await self._drop(refused.reason, refused.detail, item.provenance, item.address, refused=True)
        except OSError as error:
            await self._drop("cannot-read", str(error), item.provenance, item.address)

    async def _download(self, item: Found) -> Response:
        where = item.provenance
        request = image_request(item.address, where.page_url, self.spider.limits.max_bytes)
        try:
            # Through all downloader middlewares: robots.txt, throttling, retries and redirects hold for images too.
            response = await self.engine.download_async(request)
        except Withheld as withheld:
            await self._drop(withheld.reason, withheld.detail, where, item.address)
        except IgnoreRequest as error:
            await self._drop("not-allowed", str(error), where, item.address)
        # Whatever else the network or the server does costs this image only.
        except Exception as error:
            await self._drop("download-failed", f"{type(error).__name__}: {error}", where, item.address)
        if response.status != 200:
            await self._drop(f"http-{response.status}", "the image was answered with this status", where, item.address)
        signal = response_opt_out(response, BOT_NAME)
        if signal is not None:
            await self._drop("opt-out", signal, where, item.address)
        return response

    async def _drop(
        self, reason: str, detail: str, where: Provenance, address: str | None, refused: bool = False
    ) -> NoReturn:
        names = ("source", "source_id", "page_url", "image_url")
        for_good = refused or reason in FOR_GOOD
        named = {name: getattr(where, name) for name in names}
        await self.keeper.drop(reason, detail, named, address if for_good else None)
        self._count(f"dropped/{reason}")
        kind = Undecided if is_undecided(reason) else DropItem
        raise kind(f"{reason}: {detail}: {address}")

    def _is_ending(self) -> bool:
        # Closing, Scrapy waits for the items of the pages that it has read; they are left where they are.
        slot = self.engine._slot
        return self.closing is not None or slot is None or slot.closing is not None

    def _end(self, reason: str, message: str) -> None:
        if self.closing is None:
            (logger.info if reason == "target-reached" else logger.error)(message)
            # Kept, because asyncio holds its tasks only weakly. Not awaited: closing waits for this very item.
            self.closing = asyncio.ensure_future(self.engine.close_spider_async(reason=reason))

    def _count(self, name: str) -> None:
        self.stats.inc_value(f"artgate/{name}")
