"""A bound on an answer's headers: Scrapy has none, and endless ones fill the memory until DOWNLOAD_TIMEOUT."""

from scrapy import Request
from scrapy.core.downloader.handlers.http11 import (
    HTTP11DownloadHandler,
    _LenientHTTP11ClientFactory,
    _LenientHTTP11ClientProtocol,
)
from scrapy.crawler import Crawler
from scrapy.exceptions import DownloadCancelledError, DownloadFailedError
from scrapy.http import Response
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web._newclient import BODY, DONE, HTTP11ClientProtocol
from twisted.web.client import ResponseFailed
from twisted.web.iweb import IResponse

# As Chrome's: net/http/http_stream_parser.h, kMaxHeaderBufSize.
MAX_HEADER_BYTES = 256 * 1024


class HeaderFlood(Exception):  # noqa: N818 - what it is
    """More bytes before an answer's body than MAX_HEADER_BYTES."""


class BoundedHeadersHandler(HTTP11DownloadHandler):
    """Scrapy's own handler of http and https, which gives up on headers without end as on bodies without end."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._pool._factory = _Factory

    async def download_request(self, request: Request) -> Response:
        """The answer. Raises DownloadCancelledError for headers without end, which is not retried."""
        try:
            return await super().download_request(request)
        except DownloadFailedError as error:
            cause = error.__cause__
            if isinstance(cause, ResponseFailed) and any(reason.check(HeaderFlood) for reason in cause.reasons):
                raise DownloadCancelledError(f"the headers have more than {MAX_HEADER_BYTES} bytes") from error
            raise


class _Protocol(_LenientHTTP11ClientProtocol):
    _before_body = 0

    def request(self, request: object) -> "Deferred[IResponse]":
        self._before_body = 0
        return super().request(request)  # type: ignore[arg-type]  # Twisted's, not Scrapy's

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if self._parser is not None and self._parser.state not in (BODY, DONE):
            self._before_body += len(data)
            if self._before_body > MAX_HEADER_BYTES:
                self._giveUp(Failure(HeaderFlood()))
                return
        super().dataReceived(data)


class _Factory(_LenientHTTP11ClientFactory):
    def buildProtocol(self, addr: IAddress | None) -> HTTP11ClientProtocol:  # noqa: N802 - Twisted's name
        return _Protocol(self._quiescentCallback)
