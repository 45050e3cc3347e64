"""From an image's address to an artwork in the Collection, its bytes as they were served."""

import logging
from dataclasses import replace
from typing import NoReturn

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem, IgnoreRequest
from scrapy.http import Response

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.decode import Refused
from artgate.artworks.files import read_lines
from artgate.artworks.parameters import with_parameters

from .items import Found, Lost
from .optout import response_opt_out
from .settings import BOT_NAME
from .spiders.collecting import CollectingSpider

logger = logging.getLogger(__name__)


class CollectionPipeline:
    """Fetches each image once, checks it, and adds it with its provenance; notes why for all that is not kept.

    The Collection is the ledger: an image whose address it knows is not fetched again, so that a crawl that was
    killed goes on when it is run again.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "CollectionPipeline":
        """Called by Scrapy."""
        return cls(crawler)

    def open_spider(self) -> None:
        """Open the spider's Collection, or make it."""
        engine, spider, stats = self.crawler.engine, self.crawler.spider, self.crawler.stats
        assert engine is not None and stats is not None and isinstance(spider, CollectingSpider)
        self.engine, self.stats = engine, stats
        self.collection = Collection(spider.collection_root, create=True)
        self.known = _known_addresses(self.collection)

    def close_spider(self) -> None:
        """Say in one line what came of it."""
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
        if isinstance(item, Lost):
            self._drop(item.reason, item.detail, source=item.source, page_url=item.page_url)
        if item.image_url in self.known:
            self._count("held")
            raise DropItem(f"held already: {item.image_url}", log_level="DEBUG")
        self.known.add(item.image_url)
        return self._add(await self._fetch(item), item)

    async def _fetch(self, item: Found) -> Response:
        request = Request(item.image_url, meta={"allow_offsite": True}, headers={"Referer": item.provenance.page_url})
        try:
            # Through all downloader middlewares: robots.txt, throttling, retries and redirects hold for images too.
            response = await self.engine.download_async(request)
        except IgnoreRequest as error:
            self._drop_image(item, "not-allowed", str(error))
        # Whatever else the network or the server does costs this image only.
        except Exception as error:
            self._drop_image(item, "download-failed", f"{type(error).__name__}: {error}")
        if response.status != 200:
            self._drop_image(item, f"http-{response.status}", "the image was answered with this status")
        return response

    def _add(self, response: Response, item: Found) -> Artwork:
        signal = response_opt_out(response, BOT_NAME)
        if signal is not None:
            self._drop_image(item, "opt-out", signal)
        provenance = replace(with_parameters(item.provenance, response.body), http_status=response.status)
        try:
            artwork = self.collection.add(response.body, provenance)
        except Refused as refused:  # the Collection has noted it
            self._count(f"dropped/{refused.reason}")
            raise DropItem(f"{refused}: {item.image_url}") from None
        if artwork.provenance.image_url != item.image_url:
            self._count("dropped/same-bytes")
            raise DropItem(f"same bytes as {artwork.provenance.image_url or artwork.image_id}: {item.image_url}")
        self._count("kept")
        return artwork

    def _drop_image(self, item: Found, reason: str, detail: str) -> NoReturn:
        where = item.provenance
        self._drop(reason, detail, source=where.source, page_url=where.page_url, image_url=where.image_url)

    def _drop(self, reason: str, detail: str, **where: str | None) -> NoReturn:
        self.collection.drop(reason, detail, **where)
        self._count(f"dropped/{reason}")
        raise DropItem(f"{reason}: {detail}: {where.get('image_url') or where.get('page_url')}")

    def _count(self, name: str) -> None:
        self.stats.inc_value(f"artgate/{name}")


def _known_addresses(collection: Collection) -> set[str]:
    held = {artwork.provenance.image_url for artwork in collection}
    drops = read_lines(collection.root / "drops.jsonl")
    # Two addresses of the same bytes: the Collection keeps the first one's, and notes the other.
    copies = {drop.get("image_url") for drop in drops if drop["reason"] == "same-bytes"}
    return {address for address in held | copies if address is not None}
