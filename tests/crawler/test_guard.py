"""What a name resolves to, judged address by address: no DNS server is asked, its answers are played."""

from types import SimpleNamespace
from typing import Any

import pytest
from scrapy.resolver import HostResolution, dnscache
from scrapy.settings import Settings
from twisted.internet.address import IPv4Address, IPv6Address

from artcrawl.network.guard import GuardedResolver

ANSWERS = ["93.184.215.14", "127.0.0.1", "::ffff:10.0.0.1", "2606:2800:21f:cb07::1", "fe80::1", "::1"]


class Names:
    """A resolver that gives the same addresses for every name, and counts how often it is asked."""

    def __init__(self, answers: list[str]) -> None:
        self.answers, self.asked = answers, 0

    def resolveHostName(self, receiver: Any, name: str, port: int = 0, *further: Any) -> Any:  # noqa: N802 - Twisted's
        self.asked += 1
        receiver.resolutionBegan(HostResolution(name))
        for answer in self.answers:
            kind = IPv6Address if ":" in answer else IPv4Address
            receiver.addressResolved(kind("TCP", answer, port))
        receiver.resolutionComplete()
        return receiver


class Receiver:
    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []
        self.is_complete = False

    def resolutionBegan(self, resolution: object) -> None:  # noqa: N802 - Twisted's
        pass

    def addressResolved(self, address: Any) -> None:  # noqa: N802 - Twisted's
        self.addresses.append((address.host, address.port))

    def resolutionComplete(self) -> None:  # noqa: N802 - Twisted's
        self.is_complete = True


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    dnscache.clear()
    monkeypatch.setattr(GuardedResolver, "refused", {})


def resolved(names: Names, ports: tuple[int, ...], allow: str = "") -> list[list[tuple[str, int]]]:
    settings = Settings({"CRAWL_ALLOW_PRIVATE": allow, "DNSCACHE_ENABLED": True, "DNSCACHE_SIZE": 10})
    resolver = GuardedResolver.from_crawler(SimpleNamespace(settings=settings), SimpleNamespace(nameResolver=names))
    receivers = [Receiver() for _ in ports]
    for receiver, port in zip(receivers, ports, strict=True):
        resolver.resolveHostName(receiver, "gallery.example", port)
        assert receiver.is_complete
    return [receiver.addresses for receiver in receivers]


def test_of_mixed_answers_the_public_ones_pass_and_so_from_the_cache_for_each_port() -> None:
    names = Names(ANSWERS)
    public = ["93.184.215.14", "2606:2800:21f:cb07::1"]
    assert resolved(names, (80, 443)) == [[(address, port) for address in public] for port in (80, 443)]
    assert names.asked == 1
    assert GuardedResolver.refused == {}


def test_answers_that_are_all_private_pass_nothing_and_are_named_from_the_cache_too() -> None:
    names = Names(ANSWERS[-2:])
    assert resolved(names, (80,)) == [[]]
    GuardedResolver.refused.clear()
    assert resolved(names, (80,)) == [[]]
    assert names.asked == 1
    assert GuardedResolver.refused == {"gallery.example": "::1"}


@pytest.mark.parametrize(
    ("allow", "expected"), [("gallery.example", ["10.0.0.7", "::1"]), ("10.0.0.0/8", ["10.0.0.7"])]
)
def test_what_the_operator_allows_passes(allow: str, expected: list[str]) -> None:
    assert resolved(Names(["10.0.0.7", "::1"]), (80,), allow) == [[(address, 80) for address in expected]]
