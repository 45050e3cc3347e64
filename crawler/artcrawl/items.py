"""What spiders hand to the pipeline: an artwork found on a page, or something that was lost on the way."""

from collections.abc import Callable
from dataclasses import dataclass

from artgate.artworks.artwork import Provenance

from .pages import Page


@dataclass(frozen=True)
class Found:
    """An image to fetch, with all that its page says about it.

    address: what it is known by in the ledger, its URL where it is on the web. read: gets its bytes where no request
    is needed (a file, a member of an archive); run in a thread; may raise Refused. name: its file name, whose suffix
    must be that of the format, or None. page: the page that is done when this, and all else on it, is decided.
    """

    address: str
    provenance: Provenance
    read: Callable[[], bytes] | None = None
    name: str | None = None
    page: Page | None = None

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True)
class Lost:
    """Something that gave no artwork. source: the site's name; reason: a code to count by; detail: what happened.

    address: what it is known by in the ledger, where that is not page_url.
    """

    source: str
    page_url: str | None
    reason: str
    detail: str
    address: str | None = None
    page: Page | None = None

    def __str__(self) -> str:
        return self.address or self.page_url or self.source
