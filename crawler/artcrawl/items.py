"""What spiders hand to the pipeline: an artwork found on a page, or something that was lost on the way."""

from dataclasses import dataclass

from artgate.artworks.artwork import Provenance


@dataclass(frozen=True)
class Found:
    """An image to fetch, with all that its page says about it."""

    image_url: str
    provenance: Provenance


@dataclass(frozen=True)
class Lost:
    """A page that gave no artwork. source: the site's name; reason: a code to count by; detail: what happened."""

    source: str
    page_url: str
    reason: str
    detail: str
