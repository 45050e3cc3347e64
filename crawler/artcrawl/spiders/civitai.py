"""Civitai, by its public API (https://developer.civitai.com/site/reference/images) with the operator's own key.

Civitai's terms allow no crawler but this API, for personal, non-commercial use. Its HTML pages are never read.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any
from urllib.parse import urlencode, urlsplit

from scrapy import Request
from scrapy.exceptions import CloseSpider
from scrapy.http import Response
from twisted.python.failure import Failure

from artgate.artworks.artwork import Provenance
from artgate.artworks.text import clean_float, clean_int, clean_text
from artgate.errors import UserError

from ..items import Found, Lost
from ..network.addresses import web_address
from ..pages import Page
from .collecting import AsyncResults, PagingSpider, Results, whole_number

logger = logging.getLogger(__name__)

KEY = "CIVITAI_API_KEY"
SORTS = ("Most Reactions", "Most Comments", "Most Collected", "Newest", "Oldest", "Random")
PERIODS = ("AllTime", "Year", "Month", "Week", "Day")
# From safe to explicit. Each level of the API's filter includes those before it.
LEVELS = ("None", "Soft", "Mature", "X")
TERMS = (
    "Civitai Terms of Service (https://civitai.com/content/tos): API with the operator's own key, personal and "
    "non-commercial use; rights stay with the creator; not for redistribution"
)
LICENCE = "not stated by the API"
# The API's own bounds for `limit` are 0 to 200.
MAX_PAGE = 200
# Two hundred descriptions with whole ComfyUI graphs in them.
MAX_PAGE_BYTES = 64 * 2**20
STATS = ("cryCount", "laughCount", "likeCount", "dislikeCount", "heartCount", "commentCount")
# What `meta` says beyond these goes to provenance.parameters["meta"].
TOLD = ("prompt", "negativePrompt", "seed", "steps", "cfgScale", "sampler", "Model")
MAX_META = 64


class CivitaiSpider(PagingSpider):
    """`GET /api/v1/images`, in strata of sort x period x base model that share the target evenly.

    Sorted by reactions alone, the images are nearly all good; a scorer needs poor ones to learn from as well.
    Arguments besides those of `CollectingSpider`: sorts, periods, base_models, comma-separated; nsfw, the most explicit
    level that is taken (None, Soft, Mature, X); limit, images a page; base_url. Environment: CIVITAI_API_KEY.
    Raises UserError for what is missing or wrong in them.

    The reaction counts go to provenance.parameters["stats"], apart from all else: they say how a site's users
    reacted, not how good an artwork is, and are never to be a feature.
    """

    name = "civitai"

    def __init__(
        self,
        collection: str = "",
        target: str | int = 20_000,
        sorts: str = "Most Reactions,Most Comments,Newest",
        periods: str = "AllTime,Month",
        base_models: str = "SD 1.5,SDXL 1.0,Pony,Illustrious,Flux.1 D",
        nsfw: str = "None",
        limit: str | int = 100,
        base_url: str = "https://civitai.com",
        **arguments: Any,
    ) -> None:
        if not collection:
            raise UserError("collection is needed: give -a collection=FOLDER")
        super().__init__(collection, "civitai", target, **arguments)
        self._authorization = f"Bearer {_key()}"
        self.is_key_refused = False
        self.levels = LEVELS[: LEVELS.index(_one_of("nsfw", nsfw, LEVELS)) + 1]
        self.limit = whole_number("limit", limit, 1, MAX_PAGE)
        self.base_url = _base_url(base_url)
        parts = (
            _listed("sorts", sorts, SORTS),
            _listed("periods", periods, PERIODS),
            _listed("base_models", base_models),
        )
        # By the name of a stratum, the parameters that make it.
        self.queries = {" / ".join([*query, nsfw]): query for query in product(*parts)}
        self.strata = tuple(self.queries)

    def page_request(self, stratum: str, cursor: str) -> Request:
        """A request to the API: the only one that carries the key."""
        sort, period, base_model = self.queries[stratum]
        query = {"limit": self.limit, "sort": sort, "period": period, "baseModels": base_model, "type": "image"}
        query |= {"nsfw": self.levels[-1], "withMeta": "true"} | ({"cursor": cursor} if cursor else {})
        return Request(
            f"{self.base_url}/api/v1/images?{urlencode(query)}",
            self.parse,
            errback=self.page_failed,
            cb_kwargs={"stratum": stratum, "cursor": cursor},
            headers={"Authorization": self._authorization, "Accept": "application/json"},
            meta={
                # Its robots.txt keeps crawlers from /api/, which it publishes for programs with a key: this is one,
                # used by its own rules. Images are asked for as robots.txt allows.
                "dont_obey_robotstxt": True,
                # The key goes to no other address, and not into the cache on the disk.
                "dont_redirect": True,
                "dont_cache": True,
                "download_maxsize": MAX_PAGE_BYTES,
            },
            dont_filter=True,
        )

    def read_page(self, response: Response, page: Page) -> Results:
        """The images of an answer of the API."""
        entries, page.following = read_answer(response.body)
        for entry in entries:
            yield self._item(entry, page)

    async def page_failed(self, failure: Failure) -> AsyncResults:
        """As for every list; but a key that is refused once is refused for all of them."""
        if self.lost(failure).reason == "http-401":
            if not self.is_key_refused:  # by the first of those on their way
                logger.error("%s refuses the key (status 401): put one that is valid into %s", self.base_url, KEY)
            self.is_key_refused = True
            raise CloseSpider("key-refused")
        async for result in super().page_failed(failure):
            yield result

    def _item(self, entry: Mapping[str, Any], page: Page) -> Found | Lost:
        number = clean_int(entry.get("id"), 0, 2**63 - 1)
        page_url = f"{self.base_url}/images/{number}"
        page.hold()
        try:
            image_url = web_address(clean_text(entry.get("url"), 2000))
        except ValueError as error:
            return Lost(self.source, page_url, "no-image", str(error), page=page)
        if entry.get("type", "image") != "image":
            return Lost(self.source, page_url, "video", f"type {str(entry['type'])[:50]!r}", image_url, page)
        level = entry.get("nsfwLevel")
        # What does not say how explicit it is, is not taken for safe.
        if level not in self.levels:
            detail = f"level {str(level)[:50]!r}, taken are {', '.join(self.levels)}: give -a nsfw=X for more"
            return Lost(self.source, page_url, "nsfw", detail, image_url, page)
        provenance = provenance_of(entry, page_url if number is not None else None, image_url, page.stratum)
        return Found(image_url, provenance, page=page)


def read_answer(body: bytes) -> tuple[list[dict[str, Any]], str | None]:
    """The items of an answer, and the cursor of the next page. Raises ValueError for what is not such an answer."""
    try:
        answer = json.loads(body)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ValueError("the answer has no list `items`")
    metadata = answer.get("metadata")
    cursor = metadata.get("nextCursor") if isinstance(metadata, dict) else None
    # Opaque; text or a number by the sort.
    cursor = str(cursor)[:1000] if isinstance(cursor, str | int) and not isinstance(cursor, bool) else None
    return [item for item in items[: 2 * MAX_PAGE] if isinstance(item, dict)], cursor or None


def provenance_of(entry: Mapping[str, Any], page_url: str | None, image_url: str, stratum: str) -> Provenance:
    """What an item of the API says of its image; every text in it is a stranger's."""
    meta = _meta(entry)
    base_model = clean_text(entry.get("baseModel"), 100)
    parameters = {
        "stats": _stats(entry.get("stats")),
        "stratum": stratum,
        "base_model": base_model,
        "nsfw_level": clean_text(entry.get("nsfwLevel"), 20),
        "created_at": clean_text(entry.get("createdAt"), 40),
        "meta": dict(islice(_rest(meta), MAX_META)),
    }
    number = clean_int(entry.get("id"), 0, 2**63 - 1)
    return Provenance(
        source="civitai",
        source_id=None if number is None else str(number),
        page_url=page_url,
        image_url=image_url,
        creator=clean_text(entry.get("username"), 200) or None,
        licence=LICENCE,
        terms=TERMS,
        prompt=clean_text(meta.get("prompt")) or None,
        negative_prompt=clean_text(meta.get("negativePrompt")) or None,
        generator=clean_text(meta.get("Model"), 200) or base_model or None,
        sampler=clean_text(meta.get("sampler"), 100) or None,
        seed=clean_int(meta.get("seed"), 0, 2**64 - 1),
        steps=clean_int(meta.get("steps"), 1, 10_000),
        guidance=clean_float(meta.get("cfgScale"), 0.0, 1000.0),
        parameters={name: value for name, value in parameters.items() if value},
    )


def _meta(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """`meta` is null, or the parameters, or `{id, meta: parameters}`."""
    meta = entry.get("meta")
    if isinstance(meta, dict) and "meta" in meta and "prompt" not in meta:
        meta = meta["meta"]
    return meta if isinstance(meta, dict) else {}


def _stats(stats: object) -> dict[str, int]:
    given = stats if isinstance(stats, dict) else {}
    counts = {name: clean_int(given.get(name), 0, 2**53) for name in STATS}
    return {name: count for name, count in counts.items() if count is not None}


def _rest(meta: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float]]:
    for name, value in meta.items():
        if name in TOLD or isinstance(value, bool):
            continue
        kept = clean_text(value, 1000) if isinstance(value, str) else clean_float(value, -1e15, 1e15)
        if kept not in ("", None):
            yield clean_text(name, 60), kept


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    # The value is named in no message: messages are logged.
    if not re.fullmatch(r"[!-~]{8,500}", key):
        state = "not set" if not key else "no API key (8 to 500 characters without blanks)"
        raise UserError(
            f"{KEY} is {state}: make a key of your own in your account's settings at civitai.com, and put it into the "
            f"environment, as in {KEY}=… scrapy crawl civitai …"
        )
    return key


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(web_address(url))
    except ValueError:
        raise UserError(f"base_url {url!r} is not a web address: leave it out, or write it in full") from None
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme == "http" and not local:
        raise UserError(f"base_url {url!r} is not an https address: the key must not go out unencrypted")
    return f"{parts.scheme}://{parts.netloc}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{name} {value!r} is not one of {', '.join(known)}")
    return value


def _listed(name: str, text: str, known: tuple[str, ...] = ()) -> list[str]:
    values = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not values:
        raise UserError(f"{name} {text!r} names none: give one or more, separated by commas")
    return [_one_of(name, value, known) if known else value for value in values]
