"""Any static gallery that a small YAML file describes."""

from typing import Any
from urllib.parse import urlsplit

from parsel import Selector
from scrapy import Request
from scrapy.http import Response, TextResponse
from twisted.python.failure import Failure

from artgate.artworks.artwork import Provenance
from artgate.errors import UserError

from ..items import Found, Lost
from ..keeping import Keeper
from ..network.addresses import web_address
from ..optout import page_opt_out
from ..pages import Page
from ..settings import BOT_NAME
from ..site import load_site
from .collecting import PagingSpider, Results


class GallerySpider(PagingSpider):
    """List pages, from each to the next; their entries; the artwork on each entry's page.

    Arguments: site, the YAML file (`artcrawl.site.Site` names its keys); collection, the folder to crawl into; and
    those of `CollectingSpider`. Raises UserError for what is missing or wrong in them.
    """

    name = "gallery"

    def __init__(self, site: str = "", collection: str = "", **arguments: Any) -> None:
        if not site or not collection:
            raise UserError("site and collection are needed: give -a site=FILE.yaml -a collection=FOLDER")
        self.site = load_site(site)
        super().__init__(collection, self.site.name, **arguments)
        self.strata = self.site.start_urls
        # Pages are followed on the site's own hosts; its images may lie elsewhere.
        self.hosts = {urlsplit(url).hostname or "" for url in self.site.start_urls}
        self.linked: set[str] = set()

    def open(self, keeper: Keeper, known: set[str]) -> None:
        """Called by the pipeline before the crawl begins."""
        super().open(keeper, known)
        pages = {artwork.provenance.page_url for artwork in keeper.collection if artwork.provenance.image_url}
        self.known_pages = {url for url in pages if url}

    def page_request(self, stratum: str, cursor: str) -> Request:
        """A list page; its address is the cursor."""
        return Request(
            cursor or stratum,
            self.parse,
            errback=self.page_failed,
            cb_kwargs={"stratum": stratum, "cursor": cursor},
            dont_filter=True,  # the spider itself knows which pages it has read
        )

    def read_page(self, response: Response, page: Page) -> Results:
        """A list page: its entries, and the address of the next page."""
        node = self._page(response)
        if node is None:
            raise ValueError(self._not_a_page(response))
        for entry in self.site.nodes(node, "items"):
            if self.site.link is None:
                yield self._artwork(entry, response, page.hold())
            else:
                yield from self._follow(entry, response, page)
        following = self.site.url(node, "next")
        if following is not None:
            try:
                page.following = self._own(response.urljoin(following))
            except ValueError as error:
                yield Lost(self.source, response.url, "bad-link", f"next: {error}", page=page.hold())

    def parse_artwork(self, response: Response, page: Page) -> Results:
        """The page of one artwork."""
        node = self._page(response)
        if node is None:
            yield Lost(self.source, response.url, "not-a-page", self._not_a_page(response), page=page)
        elif signal := page_opt_out(node, response, BOT_NAME):
            yield Lost(self.source, response.url, "opt-out", signal, page=page)
        else:
            yield self._artwork(node, response, page)

    def artwork_failed(self, failure: Failure) -> Results:
        """Errback of an artwork's page."""
        yield self.lost(failure, failure.request.cb_kwargs["page"])  # type: ignore[attr-defined]  # set by Scrapy

    def _artwork(self, node: Selector, response: Response, page: Page) -> Found | Lost:
        address = self.site.url(node, "image")
        if address is None:
            detail = f"image: {self.site.image!r} finds nothing on the page"
            return Lost(self.source, response.url, "no-image", detail, page=page)
        try:
            image_url = web_address(response.urljoin(address))
        except ValueError as error:
            return Lost(self.source, response.url, "no-image", str(error), page=page)
        return Found(image_url, self._provenance(node, response.url, image_url), page=page)

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

    def _follow(self, entry: Selector, response: Response, page: Page) -> Results:
        address = self.site.url(entry, "link")
        if address is None:
            detail = f"link: {self.site.link!r} finds nothing in an entry"
            yield Lost(self.source, response.url, "no-link", detail, page=page.hold())
            return
        try:
            url = self._own(response.urljoin(address))
        except ValueError as error:
            yield Lost(self.source, response.url, "bad-link", f"link: {error}", page=page.hold())
            return
        if url in self.known or url in self.known_pages:
            self.count("held")
            page.barren = False
        elif url not in self.linked:
            self.linked.add(url)
            yield Request(
                url,
                self.parse_artwork,
                errback=self.artwork_failed,
                cb_kwargs={"page": page.hold()},
                priority=1,  # before the next list page, or those of a large gallery would all be waiting
                dont_filter=True,
            )

    def _own(self, url: str) -> str:
        """An address on the site's own hosts. Raises ValueError for others."""
        if urlsplit(web_address(url)).hostname not in self.hosts:
            raise ValueError(f"{url[:100]!r} is not on {', '.join(sorted(self.hosts))}")
        return url

    def _page(self, response: Response) -> Selector | None:
        if not isinstance(response, TextResponse):
            return None
        try:
            return Selector(response.text, type="json" if self.site.selectors == "jmespath" else "html")
        except (ValueError, RecursionError):  # the latter of JSON nested too deep
            return None

    def _not_a_page(self, response: Response) -> str:
        kind = (response.headers.get("Content-Type") or b"an unnamed type").decode("latin-1")
        return f"selectors: {self.site.selectors} cannot read {kind}"
