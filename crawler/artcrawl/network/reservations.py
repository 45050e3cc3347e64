"""Hosts that reserve their images from being mined: /.well-known/tdmrep.json and /ai.txt."""

import json
from typing import Any

from protego import Protego
from scrapy import Request
from scrapy.crawler import Crawler

from .hostfiles import HostFiles, is_host_file
from .images import is_image
from .robots import parse_robots
from .withheld import Withheld

# One rule of tdmrep.json: the pattern as robots rules, and whether what matches it is reserved.
Rule = tuple[Protego, bool]
MOST_RULES = 10_000


class ReservationMiddleware:
    """Before an image is asked for: does its host reserve it? Each file is fetched once a host.

    tdmrep.json is W3C's TDM Reservation Protocol (final report of 10 May 2024, "TDM File on the Origin Server"); ai.txt
    is Spawning's: written like robots.txt, mostly by suffix, as `Disallow: *.jpg`. A reservation in a file holds even
    where the image's own header would lift it.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.agent: str = crawler.settings["ROBOTSTXT_USER_AGENT"]
        self.tdmrep = HostFiles(crawler, "/.well-known/tdmrep.json", parse_tdmrep, "opt-out-failed")
        self.ai_txt = HostFiles(crawler, "/ai.txt", parse_robots, "opt-out-failed")

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "ReservationMiddleware":
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Raise Withheld for an image that is reserved."""
        if is_host_file(request) or not is_image(request):
            return
        if is_reserved(await self.tdmrep.of(request), request.url):
            raise Withheld("opt-out", "tdm-reservation: 1 in /.well-known/tdmrep.json")
        if not (await self.ai_txt.of(request)).can_fetch(request.url, self.agent):
            raise Withheld("opt-out", "disallowed in /ai.txt")


def parse_tdmrep(body: bytes) -> list[Rule]:
    """The rules of a tdmrep.json in their order; none where it is not such a file, as the page some hosts serve."""
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        return []
    entries = entries if isinstance(entries, list) else []
    return [rule for rule in map(_rule, entries[:MOST_RULES]) if rule is not None]


def is_reserved(rules: list[Rule], url: str) -> bool:
    """Whether the first rule that matches a URL reserves it."""
    return next((reserved for pattern, reserved in rules if not pattern.can_fetch(url, "any")), False)


def _rule(entry: Any) -> Rule | None:
    location = entry.get("location") if isinstance(entry, dict) else None
    if not isinstance(location, str) or not location.isprintable():
        return None
    reserved = str(entry.get("tdm-reservation")).strip() in ("1", "True")
    # The protocol's patterns are those of robots.txt, but the first match counts, not the longest.
    return Protego.parse(f"User-agent: *\nDisallow: {location}"), reserved
