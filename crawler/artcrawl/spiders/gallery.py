"""Any static gallery that a small YAML file describes."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from parsel import Selector
from scrapy import Request
from scrapy.http import Response, TextResponse

from artgate.artworks.artwork import Provenance
from artgate.errors import UserError

from ..items import Found, Lost
from ..optout import response_opt_out
from ..settings import BOT_NAME
from ..site import load_site
from .collecting import CollectingSpider

Results = Iterator[Request | Found | Lost]


class GallerySpider(CollectingSpider):
    """List pages, from each to the next; their entries; the artwork on each entry's page.

    Arguments: site, the YAML file (`artcrawl.site.Site` names its keys); collection, the folder to crawl into.
    Raises UserError for what is missing or wrong in them.
    """

    name = "gallery"

    def __init__(self, site: str = "", collection: str = "", **arguments: Any) -> None:
        if not site or not collection:
            raise UserError("site and collection are needed: give -a site=FILE.yaml -a collection=FOLDER")
        self.site = load_site(site)
        super().__init__(collection, self.site.name, **arguments)
        # Pages are followed on the site's own hosts; its images may lie elsewhere.
        self.allowed_domains = [urlsplit(url).hostname or "" for url in self.site.start_urls]

    async def start(self) -> AsyncIterator[Request]:
        """The first list pages."""
        for url in self.site.start_urls:
            yield Request(url, self.parse, errback=self.lose)

    def parse(self, response: Response) -> Results:
        """A list page: its entries, then the next page."""
        page = self._page(response)
        if page is None:
            yield self._not_a_page(response)
            return
        for entry in self.site.nodes(page, "items"):
            if self.site.link is None:
                yield self._artwork(entry, response)
            else:
                yield from self._follow(entry, "link", response, self.parse_artwork)
        yield from self._follow(page, "next", response, self.parse)

    def parse_artwork(self, response: Response) -> Results:
        """The page of one artwork."""
        page = self._page(response)
        if page is None:
            yield self._not_a_page(response)
        elif signal := self._opt_out(page, response):
            yield Lost(self.source, response.url, "opt-out", signal)
        else:
            yield self._artwork(page, response)

    def _artwork(self, node: Selector, response: Response) -> Found | Lost:
        address = self.site.url(node, "image")
        if address is None:
            return Lost(self.source, response.url, "no-image", f"image: {self.site.image!r} finds nothing on the page")
        image_url = response.urljoin(address)
        if urlsplit(image_url).scheme not in ("http", "https"):
            return Lost(self.source, response.url, "no-image", f"{image_url[:100]!r} is not an address on the web")
        return Found(image_url, self._provenance(node, response.url, image_url))

    def _provenance(self, node: Selector, page_url: str, image_url: str) -> Provenance:
        def told(key: str) -> str | None:
            return self.site.text(node, key) or self.site.defaults.get(key)

        return Provenance(
            source=self.source,
            source_id=told("source_id"),
            page_url=page_url,
            image_url=image_url,
            creator=told("creator"),
            licence=told("licence"),
            terms=self.site.terms,
            prompt=told("prompt"),
            negative_prompt=told("negative_prompt"),
            generator=told("generator"),
        )

    def _follow(self, node: Selector, key: str, response: Response, callback: Callable[..., Results]) -> Results:
        address = self.site.url(node, key)
        if address is None:
            if key == "link":
                yield Lost(self.source, response.url, "no-link", f"link: {self.site.link!r} finds nothing in an entry")
            return
        try:
            yield response.follow(address, callback, errback=self.lose)
        except ValueError as error:
            yield Lost(self.source, response.url, "bad-link", f"{key}: {error}")

    def _page(self, response: Response) -> Selector | None:
        if not isinstance(response, TextResponse):
            return None
        try:
            return Selector(response.text, type="json" if self.site.selectors == "jmespath" else "html")
        except ValueError:
            return None

    def _not_a_page(self, response: Response) -> Lost:
        kind = (response.headers.get("Content-Type") or b"an unnamed type").decode("latin-1")
        return Lost(self.source, response.url, "not-a-page", f"selectors: {self.site.selectors} cannot read {kind}")

    def _opt_out(self, page: Selector, response: Response) -> str | None:
        tags = f"meta[name=robots]::attr(content), meta[name={BOT_NAME}]::attr(content)"
        return response_opt_out(response, BOT_NAME, page.css(tags).getall() if page.type == "html" else [])
