"""No request, redirect or DNS answer leads into the operator's own network (server-side request forgery)."""

import ipaddress
import logging
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import CannotResolveHostError
from scrapy.resolver import CachingHostnameResolver
from scrapy.utils.httpobj import urlparse_cached
from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IHostResolution, IResolutionReceiver
from zope.interface import implementer  # type: ignore[import-untyped]

from .addresses import Allowed, allowed, literal
from .withheld import Withheld

logger = logging.getLogger(__name__)

# RFC 9110, 4.1: what everyone should take.
MAX_URL_LENGTH = 8000
CURE = "if you mean it, allow it: -s CRAWL_ALLOW_PRIVATE=HOST"


def refusal(url: str, rules: Allowed) -> Withheld | None:
    """Why the address of a request may not be asked, as far as the address itself tells; or None.

    No more than MAX_URL_LENGTH characters, only http and https, only ports 80, 443 and those from 1024 on (others
    belong to other services), no name and password, no host of a name that none can have (a label of more than 63
    characters), no address that is not public. What a name resolves to is for
    `GuardedResolver`.
    """
    if len(url) > MAX_URL_LENGTH:
        return Withheld("bad-address", f"the address has {len(url)} characters, the limit is {MAX_URL_LENGTH}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        return Withheld("bad-address", f"{url[:100]!r} is no address: {error}")
    if parts.scheme not in ("http", "https"):
        return Withheld("bad-address", f"scheme {parts.scheme!r} is not http or https")
    if parts.username is not None:
        return Withheld("bad-address", "the address holds a user name, and the crawler logs in nowhere")
    if port is not None and port not in (80, 443) and port < 1024:
        return Withheld("bad-address", f"port {port} is not 80, 443 or at least 1024")
    if not _is_name(host):
        return Withheld("bad-address", f"{host[:100]!r} is not a name that a host can have")
    private = _private_address(host, rules)
    return _private(host, private) if private else None


@lru_cache(1024)  # a crawl asks few hosts many times
def _is_name(host: str) -> bool:
    try:
        # As Twisted does in a thread, where an error is lost: such a request would wait for its whole time limit.
        host.encode("idna")
    except UnicodeError:
        return False
    return True


@lru_cache(1024)
def _private_address(host: str, rules: Allowed) -> str:
    """The address that a host names by itself, if it may not be asked; else ""."""
    address = literal(host)
    if rules.host(host) or (address is not None and rules.address(address)):
        return ""
    if address is not None or host.rstrip(".").endswith("localhost"):
        return str(address or "loopback")
    return ""


class AddressMiddleware:
    """Looks at the address of every request before anything else does: redirects and robots.txt come by here too."""

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.rules = allowed(crawler.settings.getlist("CRAWL_ALLOW_PRIVATE"))

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "AddressMiddleware":
        """Called by Scrapy."""
        return cls(crawler)

    def process_request(self, request: Request) -> None:
        """Raise Withheld for an address that may not be asked; note a redirect that gives up encryption."""
        withheld = refusal(request.url, self.rules)
        if withheld is not None:
            raise withheld
        previous = request.meta.get("redirect_urls", [""])[-1]
        if previous.startswith("https:") and request.url.startswith("http:") and self.crawler.stats is not None:
            logger.info("%s leads from https to http: %s", previous, request.url)
            self.crawler.stats.inc_value("artgate/https-to-http")


class GuardedResolver(CachingHostnameResolver):
    """Resolves names as the system does, to IPv4 and IPv6, and passes on the addresses that may be asked, no others.

    What passes here is what is connected to, so a name that resolves to something else the second time gains nothing
    (DNS rebinding). Scrapy's setting TWISTED_DNS_RESOLVER names this class.
    """

    # Twisted forgets why a name did not resolve. name -> an address that was refused, where all were.
    refused: dict[str, str] = {}
    rules = Allowed()

    @classmethod
    def from_crawler(cls, crawler: Crawler, reactor: ReactorBase) -> "GuardedResolver":
        """Called by Scrapy."""
        resolver = super().from_crawler(crawler, reactor)
        resolver.rules = allowed(crawler.settings.getlist("CRAWL_ALLOW_PRIVATE"))
        return resolver

    # The names are Twisted's.
    def resolveHostName(  # noqa: N802
        self,
        resolutionReceiver: Any,  # noqa: N803 - an IResolutionReceiver
        hostName: str,  # noqa: N803
        *further: Any,
        **more: Any,
    ) -> IHostResolution:
        """Give a host's addresses, those that may be asked, to the receiver."""
        receiver: Any = _GuardedReceiver(resolutionReceiver, hostName, self)
        return super().resolveHostName(receiver, hostName, *further, **more)


@implementer(IResolutionReceiver)
class _GuardedReceiver:
    def __init__(self, receiver: Any, name: str, resolver: GuardedResolver) -> None:
        self.receiver, self.name, self.resolver = receiver, name, resolver
        self.passed, self.refused = False, ""

    def resolutionBegan(self, resolution: IHostResolution) -> None:  # noqa: N802
        self.receiver.resolutionBegan(resolution)

    def addressResolved(self, address: Any) -> None:  # noqa: N802
        rules = self.resolver.rules
        if rules.host(self.name) or rules.address(ipaddress.ip_address(address.host)):
            self.passed = True
            self.receiver.addressResolved(address)
        else:
            self.refused = address.host

    def resolutionComplete(self) -> None:  # noqa: N802
        if self.refused and not self.passed:
            self.resolver.refused[self.name] = self.refused
        self.receiver.resolutionComplete()


class ResolvedAddressMiddleware:
    """Names the cause when `GuardedResolver` refused, before the retry middleware takes it for a failure."""

    def process_exception(self, request: Request, exception: Exception) -> None:
        """Raise Withheld for a name that leads to an address which may not be asked."""
        host = urlparse_cached(request).hostname or ""
        if isinstance(exception, CannotResolveHostError) and host in GuardedResolver.refused:
            raise _private(host, GuardedResolver.refused[host]) from exception


def _private(host: str, address: str) -> Withheld:
    detail = f"{host} is {address}, which is not an address of the public internet; {CURE}"
    return Withheld("host-private", detail)
