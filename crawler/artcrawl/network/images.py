"""Requests for images: they differ from those for pages in how much they may weigh, and in not being cached."""

from scrapy import Request

from artgate.artworks.decode import LIMITS


def image_request(url: str, page_url: str | None, max_bytes: int = LIMITS.max_bytes) -> Request:
    """A request for an image of at most `max_bytes` that was found on a page; it may lie on another host."""
    meta = {"artgate_image": True, "allow_offsite": True, "dont_cache": True, "download_maxsize": max_bytes}
    return Request(url, meta=meta, headers={"Referer": page_url} if page_url else None)


def is_image(request: Request) -> bool:
    """Whether `image_request` made it, or it is a redirect or a retry of such a one."""
    return bool(request.meta.get("artgate_image"))
