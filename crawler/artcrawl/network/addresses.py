"""Which addresses may be asked: those of the public internet, and what the operator allows besides."""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from w3lib.url import safe_url_string

from artgate.errors import UserError

Address = IPv4Address | IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
# Special purpose by the IANA registries, which the `ipaddress` of some releases of Python holds global; and site-local
# addresses, deprecated (RFC 3879) but private wherever they are still in use.
SPECIAL = [
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20", "fec0::/10")
]


@dataclass(frozen=True)
class Allowed:
    """What may be asked though it is not public: host names, and networks (an address is a network of one)."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def host(self, name: str) -> bool:
        """Whether the host of this name may have any address."""
        return _plain(name) in self.hosts

    def address(self, address: Address) -> bool:
        """Whether this address may be asked: it is public, or allowed."""
        inner = _carried(address)
        return is_public(address) or any(a in network for network in self.networks for a in (address, inner))


def allowed(entries: Iterable[str]) -> Allowed:
    """The setting CRAWL_ALLOW_PRIVATE: addresses, networks as 10.0.0.0/8, host names. Raises UserError for others."""
    hosts, networks = set(), []
    for entry in (entry.strip() for entry in entries):
        try:
            networks.append(ipaddress.ip_network(entry))
            continue
        except ValueError as error:
            name = _plain(entry)
            if not name or not all(part.replace("-", "").replace("_", "").isalnum() for part in name.split(".")):
                raise UserError(
                    f"CRAWL_ALLOW_PRIVATE: {entry!r} is no host name, address or network ({error}): "
                    "give e.g. CRAWL_ALLOW_PRIVATE=127.0.0.1,10.0.0.0/8,gallery.lan"
                ) from None
        hosts.add(name)
    return Allowed(frozenset(hosts), tuple(networks))


def is_public(address: Address) -> bool:
    """Whether an address belongs to a host on the public internet (the IANA special-purpose registries, RFC 6890).

    An IPv6 address that carries an IPv4 one (mapped, 6to4, NAT64) is as public as that one.
    """
    inner = _carried(address)
    if inner is not address:
        return is_public(inner)
    # `is_global` alone holds for multicast.
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not any(address in network for network in SPECIAL)


def web_address(url: str) -> str:
    """An address as it is. Raises ValueError if it is not one of http or https, with a host, that can be asked."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url[:100]!r} is not an address on the web")
    url.encode()  # UnicodeEncodeError, a ValueError, for the lone surrogates that JSON may hold
    safe_url_string(url)  # as every Request does: what it refuses, a port of 99999 for one, must not end a page
    return url


def literal(host: str) -> Address | None:
    """The address that a URL's host is, in any form that resolvers take (2130706433, 0x7f.1); None for a name."""
    name = _plain(host)
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    # inet_aton also reads what stands before a blank; a host that has one is no literal.
    if any(character.isspace() for character in name):
        return None
    try:
        return IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


def _carried(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")
