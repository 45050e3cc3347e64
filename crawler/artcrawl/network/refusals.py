"""What ends a download for good, told as a reason to count by: too large, too slow, redirected in circles."""

from scrapy import Request
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.exceptions import DownloadCancelledError, DownloadTimeoutError, IgnoreRequest
from scrapy.http import Response

from .withheld import Withheld


class NamedExceptionsMiddleware:
    """After the retry middleware has given up: the exceptions that this project's settings cause, by their reasons.

    `too-many-bytes`: DOWNLOAD_MAXSIZE (for images, decode's own limit), declared or received. `timeout`:
    DOWNLOAD_TIMEOUT, which Scrapy counts from the request to the end of the body, so that dripping bytes do not help.
    """

    def process_exception(self, request: Request, exception: Exception) -> None:
        """Raise Withheld for what has a name of its own; leave other failures as they are."""
        if isinstance(exception, DownloadTimeoutError):
            raise Withheld("timeout", str(exception)) from exception
        if isinstance(exception, DownloadCancelledError):
            limit = request.meta.get("download_maxsize", "DOWNLOAD_MAXSIZE")
            detail = str(exception) or f"the body has more bytes than the limit, {limit}"
            raise Withheld("too-many-bytes", detail) from exception


class BoundedCompressionMiddleware(HttpCompressionMiddleware):
    """Scrapy's own, which stops to decompress at DOWNLOAD_MAXSIZE; what it ignores then has a reason here."""

    def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        """The response, decompressed. Raises Withheld if that makes it too large, or if it is no such data."""
        try:
            return super().process_response(request, response)
        except IgnoreRequest as error:
            raise Withheld("too-many-bytes", f"decompressed, {error}") from error
        # Each of the four decompressors has its own errors for data that it cannot read.
        except Exception as error:
            coding = (response.headers.get("Content-Encoding") or b"").decode("latin-1")
            raise Withheld("encoding-failed", f"the body is not {coding!r}: {error}") from error


class BoundedRedirectMiddleware(RedirectMiddleware):
    """Scrapy's own; more redirects than REDIRECT_MAX_TIMES have a reason here."""

    def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        """The response, or the request that it leads to. Raises Withheld for the redirect that is one too many."""
        try:
            return super().process_response(request, response)
        except IgnoreRequest as error:
            raise Withheld(
                "redirect-failed", f"more than {self.max_redirect_times} redirects, the last to {request.url}"
            ) from error
        except ValueError as error:
            raise Withheld("bad-address", f"the redirect leads to no address: {error}") from error
