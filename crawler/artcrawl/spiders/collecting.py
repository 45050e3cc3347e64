"""What every spider shares: the Collection, the ledger, the target, the operator's contact, its losses."""

import inspect
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from scrapy import Request, Spider
from scrapy.exceptions import IgnoreRequest
from scrapy.settings import BaseSettings
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure

from artgate.artworks.decode import LIMITS, Limits
from artgate.errors import UserError

from ..items import Found, Lost
from ..keeping import Keeper
from ..network.withheld import Withheld
from ..pages import Page, Quotas

CONTACT = re.compile(r"https?://\S+|(mailto:)?[^@\s]+@[^@\s]+")
LIMIT_ARGUMENTS = {"min_side": int, "max_aspect": float, "max_bytes": int, "max_pixels": int}
# A list that goes on and on with nothing on its pages is a mistake or a trap.
EMPTY_PAGES = 20
# What a crawl that was killed at its very start may have left of a Collection to be.
BEGUN = {"images", "crawl"}

Results = Iterator[Request | Found | Lost]
AsyncResults = AsyncIterator[Request | Found | Lost]


class CollectingSpider(Spider):
    """A spider that fills a Collection.

    collection: its folder, new or of an earlier crawl. source: the name of the site in every artwork's provenance.
    target: stop when the Collection holds so many artworks of this source; those on their way count, so it is never
    exceeded. min_side, max_aspect, max_bytes, max_pixels, formats (as `PNG,WEBP`): what is taken, as in `Limits`.
    Raises UserError if an argument is wrong, or if the settings name no contact.
    """

    # Lists of pages that follow each other by cursors, each with its share of the target.
    strata: tuple[str, ...] = ("",)
    needs_contact: ClassVar[bool] = True
    # Arguments that a spider takes besides those that its `__init__` names.
    further: ClassVar[tuple[str, ...]] = ("target", "formats", *LIMIT_ARGUMENTS)

    def __init__(self, collection: str, source: str, target: str | int = "", **arguments: Any) -> None:
        self.limits = _limits(arguments)
        super().__init__(**arguments)
        if not source:
            raise UserError("source '' is no name: give -a source=NAME, it stands in every artwork's provenance")
        self.source = source
        self.target = whole_number("target", target, 1, 10**9) if target != "" else None
        self.collection_root = Path(collection)
        _check_folder(self.collection_root)

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Raise UserError for an argument that the spider does not take: Scrapy's own would pass over it."""
        known = [name for name in inspect.signature(cls).parameters if name != "arguments"]
        known = list(dict.fromkeys([*known, *cls.further]))
        for name in names:
            if name not in known:
                raise UserError(f"argument {name!r} is unknown: {cls.name} takes {', '.join(known)}")

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Put the operator's contact into the user agent."""
        super().update_settings(settings)
        contact = settings.get("CRAWL_CONTACT") or ""
        if not cls.needs_contact:
            return
        if not CONTACT.fullmatch(contact):
            raise UserError(
                f"contact {contact!r} is neither a web nor a mail address, and sites must be able to reach you: "
                "set ARTGATE_CRAWL_CONTACT, or give -s CRAWL_CONTACT=you@example.org"
            )
        settings.set("USER_AGENT", f"{settings['USER_AGENT']} (+{contact})", priority="spider")

    def open(self, keeper: Keeper, known: set[str]) -> None:
        """Called by the pipeline before the crawl begins. known: addresses that need not be fetched."""
        self.keeper, self.known = keeper, known
        keeper.ledger.begin(self.strata)
        # An artwork is on the disk before its line in the ledger: a killed crawl may lack a few lines.
        held = sum(artwork.provenance.source == self.source for artwork in keeper.collection)
        kept = keeper.ledger.kept
        self.quotas = Quotas(self.target, self.strata, {**kept, "unknown": max(0, held - kept.total())})
        whole = "all there is" if self.target is None else f"up to {self.target}"
        message = "crawling %s, %s, into %s, which holds %d of it; as %r"
        self.logger.info(message, self.source, whole, self.collection_root, held, self.settings["USER_AGENT"])

    async def settle(self, page: Page, decided: bool) -> None:
        """One item of a page less to wait for; with the last, the page is written to the ledger as done."""
        if not page.settle(decided):
            return
        if not page.again:
            await self.keeper.note({"stratum": page.stratum, "done": page.cursor, "next": page.following})
        await self.after(page)

    async def after(self, page: Page) -> None:
        """All of a page is settled: what a spider does then."""

    def count(self, name: str) -> None:
        """Add one to a counter of the log's last lines."""
        if self.crawler.stats is not None:
            self.crawler.stats.inc_value(f"artgate/{name}")

    def lost(self, failure: Failure, page: Page | None = None) -> Lost:
        """What a request that failed, after all retries, cost."""
        url = failure.request.url  # type: ignore[attr-defined]  # set by Scrapy
        error = failure.value
        if isinstance(error, HttpError):
            reason, detail = f"http-{error.response.status}", "the page was answered with this status"
        elif isinstance(error, Withheld):
            reason, detail = error.reason, error.detail
        elif isinstance(error, IgnoreRequest):
            reason, detail = "not-allowed", str(error)
        else:
            reason, detail = "download-failed", failure.getErrorMessage()
        return Lost(self.source, url, reason, detail, page=page)


class PagingSpider(CollectingSpider):
    """A spider of list pages that follow each other; its `read_page` says what is on one.

    A page is asked for when the one before is read and its items are nearly all on their way, as far as the stratum's
    share of the target goes.
    """

    def page_request(self, stratum: str, cursor: str) -> Request:
        """The request for a page, "" for a stratum's first."""
        raise NotImplementedError

    def read_page(self, response: Any, page: Page) -> Results:
        """What is on a page. Sets page.following; each item holds the page. Raises ValueError if it cannot be read."""
        raise NotImplementedError

    async def start(self) -> AsyncIterator[Request]:
        """The first page of each stratum that is not done."""
        self.seen: dict[str, set[str]] = {stratum: set() for stratum in self.strata}
        self.paused: set[str] = set()
        self.empty: dict[str, int] = dict.fromkeys(self.strata, 0)
        frontiers = {stratum: self.keeper.ledger.frontier(stratum) for stratum in self.strata}
        for stratum, cursor in frontiers.items():
            if cursor is None:
                self.quotas.exhaust(stratum)
        for stratum, cursor in frontiers.items():
            if cursor is not None:
                for request in self._ask(stratum, cursor):
                    yield request

    async def parse(self, response: Any, stratum: str, cursor: str) -> AsyncResults:
        """A list page: what is on it, then the next one."""
        page = Page(stratum, cursor)
        try:
            results = list(self.read_page(response, page))
        except ValueError as error:
            yield Lost(self.source, response.url, "not-a-page", str(error))
            self.count("lists-cut-short")
            await self.ended(stratum)
            return
        self.empty[stratum] = self.empty[stratum] + 1 if page.barren else 0
        following = page.following
        if following is not None and (problem := self._problem(stratum, following)):
            yield Lost(self.source, response.url, "paging", problem)
            page.following = following = None
        for result in results:
            yield result
        if following is not None:
            for request in self._ask(stratum, following):
                yield request
        await self.settle(page, True)

    async def page_failed(self, failure: Failure) -> AsyncResults:
        """Errback of a list page."""
        request = failure.request  # type: ignore[attr-defined]  # set by Scrapy
        stratum, cursor = request.cb_kwargs["stratum"], request.cb_kwargs["cursor"]
        lost = self.lost(failure)
        yield lost
        if cursor and re.fullmatch("http-4(?!29|08).*", lost.reason) and self.seen[stratum] == {cursor}:
            # Kept by the ledger from an earlier crawl, and no longer understood by the site: begin the list anew.
            self.keeper.ledger.forget(stratum)
            for request in self._ask(stratum, ""):
                yield request
        else:
            self.count("lists-cut-short")
            await self.ended(stratum)

    async def after(self, page: Page) -> None:
        """Of the last page of a stratum."""
        if page.following is not None:
            return
        if self.quotas.full(page.stratum):
            self.paused.add(page.stratum)
        else:
            await self.ended(page.stratum)

    async def ended(self, stratum: str) -> None:
        """A stratum gives no more in this crawl: those that had given their share may give more."""
        self.quotas.exhaust(stratum)
        engine = self.crawler.engine
        for other in sorted(self.paused):
            cursor = self.keeper.ledger.frontier(other)
            if not self.quotas.full(other) and cursor is not None and engine is not None:
                self.paused.discard(other)
                self.seen[other] = {cursor}  # pages that were read, and left, are read again
                engine.crawl(self.page_request(other, cursor))

    def _ask(self, stratum: str, cursor: str) -> Iterator[Request]:
        if self.quotas.full(stratum):
            self.paused.add(stratum)
            return
        self.seen[stratum].add(cursor)
        yield self.page_request(stratum, cursor)

    def _problem(self, stratum: str, following: str) -> str:
        if following in self.seen[stratum]:
            return f"the next page {following[:100]!r} is one that was read before"
        if self.empty[stratum] >= EMPTY_PAGES:
            return f"{EMPTY_PAGES} pages after each other had nothing on them"
        limit = self.settings.getint("CRAWL_MAX_PAGES")
        if 0 < limit <= len(self.seen[stratum]):
            return f"{limit} pages were read and there are more: if the list is that long, raise CRAWL_MAX_PAGES"
        return ""


def whole_number(name: str, value: str | int, low: int, high: int) -> int:
    """An argument as a number. Raises UserError outside [low, high]."""
    if re.fullmatch(r"\d{1,12}", str(value)) and low <= int(value) <= high:
        return int(value)
    raise UserError(f"{name} {value!r} is not a whole number in [{low}, {high}]: give -a {name}={low}, for example")


def _check_folder(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"collection {root} is a file: name a folder, new or of an earlier crawl")
    if root.is_dir() and not (root / "metadata.jsonl").exists():
        if any((root / "images").glob("*")):
            raise UserError(
                f"collection {root} has images, but metadata.jsonl, which says where they came from, is gone: put a "
                "copy of it back, or delete images/ and crawl/*.jsonl to have them crawled again"
            )
        others = sorted(path.name for path in root.iterdir() if path.name not in BEGUN and path.name[0] != ".")
        if others:
            raise UserError(
                f"collection {root} is no Collection and holds other things ({len(others)}, the first {others[0]!r}): "
                "name a folder that is new or empty, or of an earlier crawl"
            )


def _limits(arguments: dict[str, Any]) -> Limits:
    """Takes the arguments that are limits out of `arguments`."""
    given: dict[str, Any] = {}
    for name, kind in LIMIT_ARGUMENTS.items():
        if name in arguments:
            value = arguments.pop(name)
            try:
                given[name] = kind(value)
            except ValueError:
                raise UserError(f"{name} {value!r} is not a number: give -a {name}={getattr(LIMITS, name)}") from None
    if "formats" in arguments:
        given["formats"] = tuple(part.strip().upper() for part in arguments.pop("formats").split(","))
    return Limits(**given)
