import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hostile_server import Asked, Play, answer, first, hostile, reset, unchanged
from network_probe import probe

NO_RULES = {"/robots.txt": answer(b"", status=404)}


def conditional(asked: list[Asked], path: str) -> list[bool]:
    """Of each request for a path, whether it was conditional."""
    wanted = ("if-none-match", "if-modified-since")
    return [any(name in one.headers for name in wanted) for one in asked if one.path == path]


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
@pytest.mark.slow
def test_a_page_that_has_not_changed_is_not_sent_again(tmp_path: Path, validator: str) -> None:
    with hostile(NO_RULES | {"/page": unchanged(b"<p>page</p>", validator=validator)}) as server:
        runs = [probe(tmp_path, [f"{server.url}/page"]) for _ in range(2)]
    assert [run.reasons() for run in runs] == [[200], [200]]
    assert [run.outcomes[0]["body"] for run in runs] == ["<p>page</p>"] * 2
    assert conditional(server.asked, "/page") == [False, True]
    assert runs[1].stats["httpcache/revalidate"] == 1


@pytest.mark.slow
def test_what_has_changed_failed_or_is_an_image_is_asked_for_as_ever(tmp_path: Path) -> None:
    plays: dict[str, Play] = {
        "/changing": first(unchanged(b"old"), unchanged(b"new")),
        "/failing": first(unchanged(b"old"), answer(b"down", status=500)),
        "/broken": first(unchanged(b"old"), reset),
        "/plain": answer(b"no validator"),
        "/private": answer(b"page", ETag='"1"', Cache_Control="no-store"),
        "/image": unchanged(b"\x89PNG", "image/png"),
        "/fresh": answer(b"page", Cache_Control="max-age=3600"),
    }
    with hostile(NO_RULES | plays) as server:
        asks = [{"url": server.url + path, "image": path == "/image"} for path in plays]
        probe(tmp_path, asks)
        again = probe(tmp_path, asks)
    assert again.reasons() == [200, 500, "DownloadFailedError", 200, 200, 200, 200]
    assert again.outcomes[0]["body"] == "new"
    assert {path: conditional(server.asked, path) for path in plays} == {
        "/changing": [False, True],
        "/failing": [False, True],
        "/broken": [False, True],
        "/plain": [False, False],
        "/private": [False, False],
        "/image": [False, False],
        "/fresh": [False],  # the server itself says that it need not be asked
    }


def test_failures_are_never_kept(tmp_path: Path) -> None:
    down = answer(b"", status=503, Cache_Control="max-age=3600")
    with hostile(
        NO_RULES | {"/page": first(down, answer(b"page")), "/gone": answer(b"", status=404, ETag='"1"')}
    ) as server:
        told = probe(tmp_path, [f"{server.url}/page", f"{server.url}/gone"], RETRY_TIMES=1, RETRY_BACKOFF_BASE=0)
    assert told.reasons() == [200, 404]
    assert pages(tmp_path) == []


def pages(root: Path) -> list[tuple]:
    with sqlite3.connect(root / "crawl" / "pages.sqlite") as connection:
        return connection.execute("SELECT status, headers, length(body), at FROM pages ORDER BY at").fetchall()


@pytest.mark.slow
def test_the_cache_is_bounded_and_forgets(tmp_path: Path) -> None:
    paths = [f"/page{number}" for number in range(5)]
    plays = {path: unchanged(b"x" * 1000) for path in paths}
    with hostile(NO_RULES | plays) as server:
        probe(tmp_path, [server.url + path for path in paths], one_by_one=True, CRAWL_CACHE_MAX_BYTES=2500)
        assert [length for _, _, length, _ in pages(tmp_path)] == [1000, 1000]
        again = probe(tmp_path, [server.url + path for path in paths], HTTPCACHE_EXPIRATION_SECS=0)
        assert again.stats["httpcache/revalidate"] == 2
        assert [conditional(server.asked, path)[1] for path in paths] == [False, False, False, True, True]
    with sqlite3.connect(tmp_path / "crawl" / "pages.sqlite") as connection:
        connection.execute("UPDATE pages SET at = at - 1000")
    probe(tmp_path, [], HTTPCACHE_EXPIRATION_SECS=500)
    assert pages(tmp_path) == []


@pytest.mark.slow
def test_a_damaged_cache_costs_nothing_but_itself(tmp_path: Path) -> None:
    file = tmp_path / "crawl" / "pages.sqlite"
    with hostile(NO_RULES | {"/page": unchanged(b"page")}) as server:
        probe(tmp_path, [f"{server.url}/page"])
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE pages SET headers = 'no json', status = 'x'")
        assert probe(tmp_path, [f"{server.url}/page"]).reasons() == [200]
        file.write_bytes(b"no database at all" * 1000)
        assert probe(tmp_path, [f"{server.url}/page"]).reasons() == [200]
    assert len(pages(tmp_path)) == 1


@pytest.mark.slow
def test_a_cache_that_another_crawl_holds_is_left_alone(tmp_path: Path) -> None:
    with hostile(NO_RULES | {"/page": unchanged(b"page")}) as server:
        probe(tmp_path, [f"{server.url}/page"])
        with closing(sqlite3.connect(tmp_path / "crawl" / "pages.sqlite", isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            told = probe(tmp_path, [f"{server.url}/page"])
    assert told.reasons() == [200]
    assert "this crawl goes without" in told.log
    assert len(pages(tmp_path)) == 1


def test_headers_come_back_byte_for_byte(tmp_path: Path) -> None:
    odd = unchanged(b"page")
    with hostile(NO_RULES | {"/page": odd}) as server:
        probe(tmp_path, [f"{server.url}/page"])
    ((status, headers, _, _),) = pages(tmp_path)
    assert status == 200
    assert dict(json.loads(headers))["Content-Type"] == "text/html"
