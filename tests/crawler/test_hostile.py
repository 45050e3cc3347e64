import gzip
import zlib
from pathlib import Path

import brotli
import pytest
from backports import zstd
from hostile_server import (
    HostileServer,
    answer,
    declared_length,
    dripping_body,
    dripping_headers,
    endless_body,
    endless_headers,
    hostile,
    redirect,
    reset,
    silence,
)
from network_probe import Told, probe

MIB = 2**20
ZEROS = bytes(48 * MIB)
SECONDS = 2.0  # DOWNLOAD_TIMEOUT

PLAYS = {
    "/robots.txt": answer(b"", status=404),
    "/good": answer(b"<p>good</p>"),
    "/endless-body": endless_body,
    "/endless-headers": endless_headers,
    "/declared-huge": declared_length(10**12),
    "/gzip-bomb": answer(gzip.compress(ZEROS, 1), Content_Encoding="gzip"),
    "/deflate-bomb": answer(zlib.compress(ZEROS, 1), Content_Encoding="deflate"),
    "/br-bomb": answer(brotli.compress(ZEROS, quality=1), Content_Encoding="br"),
    "/zstd-bomb": answer(zstd.compress(ZEROS, 1), Content_Encoding="zstd"),
    "/gzip-in-gzip-bomb": answer(gzip.compress(gzip.compress(ZEROS, 1)), Content_Encoding="gzip, gzip"),
    "/not-gzip": answer(b"<p>not compressed at all</p>", Content_Encoding="gzip"),
    "/not-zstd": answer(b"<p>not compressed at all</p>", Content_Encoding="zstd"),
    "/dripping-body": dripping_body,
    "/dripping-headers": dripping_headers,
    "/silence": silence,
    "/reset": reset,
    "/loop": redirect("/loop"),
    "/ping": redirect("/pong"),
    "/pong": redirect("/ping"),
    "/to-a-file": redirect("file:///etc/passwd"),
    "/to-nowhere": redirect("http://[bad/"),
    "/to-a-port": redirect("http://127.0.0.1:22/"),
    "/to-a-mile-long": redirect("/" + "a" * 9000),
    "/reloading": answer(b'<meta http-equiv="refresh" content="0;url=/reloading">'),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[HostileServer, Told]:
    """One crawl that meets all of it at once."""
    with hostile(PLAYS) as server:
        asks = [server.url + path for path in PLAYS if path != "/robots.txt"]
        return server, probe(tmp_path_factory.mktemp("hostile"), asks, DOWNLOAD_TIMEOUT=SECONDS)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/good", 200),
        ("/endless-body", "too-many-bytes"),
        ("/endless-headers", "too-many-bytes"),
        ("/declared-huge", "too-many-bytes"),
        ("/gzip-bomb", "too-many-bytes"),
        ("/deflate-bomb", "too-many-bytes"),
        ("/br-bomb", "too-many-bytes"),
        ("/zstd-bomb", "too-many-bytes"),
        ("/gzip-in-gzip-bomb", "too-many-bytes"),
        ("/not-gzip", "encoding-failed"),
        ("/not-zstd", "encoding-failed"),
        ("/dripping-body", "timeout"),
        ("/dripping-headers", "timeout"),
        ("/silence", "timeout"),
        ("/reset", "DownloadFailedError"),
        ("/loop", "redirect-failed"),
        ("/ping", "redirect-failed"),
        ("/to-a-file", 302),
        ("/to-nowhere", "bad-address"),
        ("/to-a-port", "bad-address"),
        ("/to-a-mile-long", "bad-address"),
        ("/reloading", 200),
    ],
)
def test_each_ends_with_its_reason(played: tuple[HostileServer, Told], path: str, expected: object) -> None:
    server, told = played
    outcomes = {outcome["url"].removeprefix(server.url): outcome for outcome in told.outcomes}
    assert outcomes[path].get("reason", outcomes[path].get("status")) == expected
    # DOWNLOAD_TIMEOUT is for the whole answer, however it drips.
    assert outcomes[path]["seconds"] < SECONDS + 3


def test_they_cost_neither_the_crawl_nor_its_memory(played: tuple[HostileServer, Told]) -> None:
    server, told = played
    assert told.stats["finish_reason"] == "finished"
    assert "Traceback" not in told.log
    assert told.grown_mib < 120  # several at once, each bounded at 8 MiB; unbounded they take gigabytes
    assert len(server.times("/loop")) == 11  # REDIRECT_MAX_TIMES, and the first
    assert server.paths().count("/robots.txt") == 1


INNER = [
    "http://127.0.0.2:{port}/",
    "http://2130706434:{port}/",
    "http://0x7f.2:{port}/",
    "http://0177.0.0.2:{port}/",
    "http://127.2:{port}/",
    "http://127.0.0.2.:{port}/",
    "http://[::ffff:127.0.0.2]:{port}/",
    "http://[::1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://localhost:{port}/",
    "http://a.localhost:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://[fd00::1]/",
    "http://[64:ff9b::7f00:2]:{port}/",
    "http://inner.example:{port}/",
]


@pytest.mark.parametrize("way", ["asked", "redirected"])
def test_no_way_leads_into_the_own_network(tmp_path: Path, way: str) -> None:
    with hostile({"/robots.txt": answer(b"", status=404)}, "127.0.0.2", other=answer(b"secret")) as inner:
        targets = [target.format(port=inner.port) for target in INNER]
        plays = {f"/to/{number}": redirect(target) for number, target in enumerate(targets)}
        with hostile(plays) as outer:
            asks = targets if way == "asked" else [outer.url + path for path in plays]
            images = [{"url": url, "image": True} for url in asks]
            told = probe(tmp_path, [*asks, *images], names={"inner.example": ["127.0.0.2"] * 9}, RETRY_TIMES=2)
    assert dict(zip(asks, told.reasons(), strict=False)) == dict.fromkeys(asks, "host-private")
    assert set(told.reasons()) == {"host-private"}
    assert inner.asked == []
    assert "allow it: -s CRAWL_ALLOW_PRIVATE=HOST" in told.outcomes[0]["detail"]
    assert "retry/count" not in told.stats


def test_a_name_that_resolves_to_something_else_the_second_time_is_not_followed(tmp_path: Path) -> None:
    plays = {"/robots.txt": answer(b"", status=404), "/page": answer(b"page")}
    with hostile(plays) as outer, hostile(plays, "127.0.0.2") as inner:
        urls = [f"http://both.example:{port}/page" for port in (outer.port, inner.port)]
        # Twice for the allowed one: its robots.txt, and the page.
        names = {"both.example": ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.2"]}
        told = probe(tmp_path, urls, one_by_one=True, names=names, DNSCACHE_ENABLED=False)
    assert told.reasons() == [200, "host-private"]
    assert outer.paths() == ["/robots.txt", "/page"]
    assert inner.asked == []


@pytest.mark.slow
def test_hosts_and_networks_can_be_allowed(tmp_path: Path) -> None:
    plays = {"/robots.txt": answer(b"", status=404), "/page": answer(b"page")}
    with hostile(plays, "127.0.0.2") as inner:
        urls = [f"http://{host}:{inner.port}/page" for host in ("127.0.0.2", "0x7f.2", "gallery.lan", "other.lan")]
        names = {"gallery.lan": ["127.0.0.2"] * 3, "other.lan": ["127.0.0.2"] * 3}
        by_host = probe(tmp_path, urls, names=names, CRAWL_ALLOW_PRIVATE="gallery.lan")
        by_network = probe(tmp_path, urls, names=names, CRAWL_ALLOW_PRIVATE="10.0.0.0/8,127.0.0.0/30")
    assert by_host.reasons() == ["host-private", "host-private", 200, "host-private"]
    assert by_network.reasons() == [200, 200, 200, 200]


@pytest.mark.slow
def test_hosts_of_ipv6_alone_are_reached_where_they_may_be(tmp_path: Path) -> None:
    """By address, by name, and by a name of which the other address may not be asked."""
    names = {"six.example": ["::1"] * 3, "both.example": ["10.0.0.1 ::1"] * 3}
    with hostile({"/robots.txt": answer(b"", status=404), "/page": answer(b"page")}, "::1") as server:
        urls = [f"http://{host}:{server.port}/page" for host in ("[::1]", "six.example", "both.example")]
        refused = probe(tmp_path, urls, names=names, CRAWL_ALLOW_PRIVATE="127.0.0.1")
        assert server.asked == []
        allowed = probe(tmp_path, urls, names=names, CRAWL_ALLOW_PRIVATE="::1")
    assert refused.reasons() == ["host-private"] * 3
    assert allowed.reasons() == [200] * 3


def test_only_the_web_is_asked(tmp_path: Path) -> None:
    urls = [
        "file:///etc/passwd",
        "ftp://example.org/a",
        "data:,a",
        "http://127.0.0.1:25/",
        "http://u:p@127.0.0.1:8080/",
    ]
    assert probe(tmp_path, urls).reasons() == ["bad-address"] * 5
