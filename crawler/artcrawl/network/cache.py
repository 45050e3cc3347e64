"""Pages of earlier crawls, so that a page which has not changed need not be sent again. Images are never cached."""

import json
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from scrapy import Request, Spider
from scrapy.downloadermiddlewares.httpcache import HttpCacheMiddleware
from scrapy.extensions.httpcache import RFC2616Policy, parse_cachecontrol
from scrapy.http import Headers, Response
from scrapy.responsetypes import responsetypes
from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

# RFC 9110, 13.1.
CONDITIONS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
SCHEMA = """
CREATE TABLE IF NOT EXISTS pages (
    fingerprint TEXT PRIMARY KEY, status INTEGER NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, at REAL NOT NULL
)
"""


class PageCacheMiddleware(HttpCacheMiddleware):
    """Scrapy's own, but an old page does not stand in for a failure: retries and the circuit breaker must see it."""

    def process_exception(self, request: Request, exception: Exception) -> None:  # type: ignore[override]
        """Forget the cached page that the request was about to confirm."""
        request.meta.pop("cached_response", None)


class AskAgainPolicy(RFC2616Policy):
    """RFC 9111 without guesses: without a lifetime that the server states, a page is asked for again, conditionally.

    (Scrapy's policy takes a page that was last changed a year ago as fresh for a month: new artworks would be missed.)
    """

    def should_cache_response(self, response: Response, request: Request) -> bool:
        """Whole answers of status 200 only: a 503 that may be kept for a minute would be retried against the cache."""
        return response.status == 200 and not response.flags and super().should_cache_response(response, request)

    def is_cached_response_fresh(self, cachedresponse: Response, request: Request) -> bool:
        """Whether the page may be taken unasked; if not, the request is made conditional."""
        stated = b"max-age" in parse_cachecontrol(cachedresponse.headers.get("Cache-Control") or b"")
        if stated or "Expires" in cachedresponse.headers:
            return super().is_cached_response_fresh(cachedresponse, request)
        for validator, condition in CONDITIONS.items():
            if validator in cachedresponse.headers:
                request.headers[condition] = cachedresponse.headers[validator]
        return False

    def is_cached_response_valid(self, cachedresponse: Response, response: Response, request: Request) -> bool:
        """Only where the server says that nothing has changed."""
        return response.status == 304


class SqlitePageStorage:
    """One SQLite file in the Collection's folder: `crawl/pages.sqlite`. Headers are JSON; nothing is ever unpickled.

    Settings: HTTPCACHE_EXPIRATION_SECS (0: never), CRAWL_CACHE_MAX_BYTES (bodies as received; the oldest go first). A
    file that is damaged is begun anew, and one that another crawl is writing to is gone without: this is only a cache.
    """

    def __init__(self, settings: BaseSettings) -> None:
        self.lifetime = settings.getint("HTTPCACHE_EXPIRATION_SECS")
        self.max_bytes = settings.getint("CRAWL_CACHE_MAX_BYTES")

    def open_spider(self, spider: Spider) -> None:
        """Open the spider's cache."""
        self.fingerprinter = spider.crawler.request_fingerprinter
        path = Path(getattr(spider, "collection_root")) / "crawl" / "pages.sqlite"  # noqa: B009 - not a Spider's own
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.pages = _open_or_renew(path)
        except (OSError, sqlite3.OperationalError) as error:  # read-only, or another crawl's at the moment
            logger.warning("%s cannot be used (%s): this crawl goes without", path, error)
            self.pages = _open(":memory:")

    def close_spider(self, spider: Spider) -> None:
        """Drop what is too old or too much, and close."""
        with closing(self.pages):
            self._try("DELETE FROM pages WHERE at < ?", time.time() - (self.lifetime or float("inf")))
            newest_first = (
                "SELECT fingerprint, sum(length(body)) OVER (ORDER BY at DESC, fingerprint) AS so_far FROM pages"
            )
            too_much = f"SELECT fingerprint FROM ({newest_first}) WHERE so_far > ?"
            self._try(f"DELETE FROM pages WHERE fingerprint IN ({too_much})", self.max_bytes)

    def retrieve_response(self, spider: Spider, request: Request) -> Response | None:
        """The page as it was received, or None."""
        oldest = time.time() - (self.lifetime or float("inf"))
        query = "SELECT status, headers, body FROM pages WHERE fingerprint = ? AND at >= ?"
        row = self._try(query, self._fingerprint(request), oldest)
        if row is None:
            return None
        status, header_text, body = row
        headers = Headers()
        for name, value in json.loads(header_text):
            headers.appendlist(name.encode("latin-1"), value.encode("latin-1"))
        kind = responsetypes.from_args(headers=headers, url=request.url, body=body)
        return kind(request.url, status=status, headers=headers, body=body)

    def store_response(self, spider: Spider, request: Request, response: Response) -> None:
        """Keep a page."""
        lines = [(name, value) for name, values in response.headers.items() for value in values]
        headers = json.dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in lines])
        row = (self._fingerprint(request), response.status, headers, response.body, time.time())
        self._try("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?)", *row)

    def _fingerprint(self, request: Request) -> str:
        return self.fingerprinter.fingerprint(request).hex()

    def _try(self, statement: str, *values: Any) -> Any:
        try:
            return self.pages.execute(statement, values).fetchone()
        except sqlite3.DatabaseError as error:
            logger.warning("the cache of pages is gone without (%s)", error)
            return None


def _open_or_renew(path: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        logger.warning("%s is damaged (%s) and begun anew", path, error)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _open(path)


def _open(path: Path | str) -> sqlite3.Connection:
    pages = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    try:
        # What a power cut takes from a cache is no loss.
        pages.execute("PRAGMA journal_mode = WAL")
        pages.execute("PRAGMA synchronous = OFF")
        pages.execute(SCHEMA)
        pages.execute("SELECT count(*) FROM pages").fetchone()
    except sqlite3.DatabaseError:
        pages.close()
        raise
    return pages
