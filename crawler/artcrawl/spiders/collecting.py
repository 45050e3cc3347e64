"""What every spider of the project shares: the Collection it crawls into, the operator's contact, its losses."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scrapy import Spider
from scrapy.exceptions import IgnoreRequest
from scrapy.settings import BaseSettings
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure

from artgate.errors import UserError

from ..items import Lost

CONTACT = re.compile(r"https?://\S+|(mailto:)?[^@\s]+@[^@\s]+")


class CollectingSpider(Spider):
    """A spider that fills a Collection.

    collection: its folder, new or of an earlier crawl. source: the name of the site in every artwork's provenance.
    Raises UserError if the folder is a file, or if the settings name no contact.
    """

    def __init__(self, collection: str, source: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.source = source
        self.collection_root = Path(collection)
        if self.collection_root.exists() and not self.collection_root.is_dir():
            raise UserError(f"collection {collection} is a file: name a folder, new or of an earlier crawl")

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Put the operator's contact into the user agent."""
        super().update_settings(settings)
        contact = settings.get("CRAWL_CONTACT") or ""
        if not CONTACT.fullmatch(contact):
            raise UserError(
                f"contact {contact!r} is neither a web nor a mail address, and sites must be able to reach you: "
                "set ARTGATE_CRAWL_CONTACT, or give -s CRAWL_CONTACT=you@example.org"
            )
        settings.set("USER_AGENT", f"{settings['USER_AGENT']} (+{contact})", priority="spider")

    def lose(self, failure: Failure) -> Iterator[Lost]:
        """Errback of every page request: a page that could not be fetched, after all retries."""
        url = failure.request.url  # type: ignore[attr-defined]  # set by Scrapy
        error = failure.value
        if isinstance(error, HttpError):
            yield Lost(self.source, url, f"http-{error.response.status}", "the page was answered with this status")
        elif isinstance(error, IgnoreRequest):
            yield Lost(self.source, url, "not-allowed", str(error))
        else:
            yield Lost(self.source, url, "download-failed", failure.getErrorMessage())
