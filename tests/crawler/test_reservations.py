import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from hostile_server import Play, answer, hostile, reset
from network_probe import probe

from artcrawl.network.reservations import is_reserved, parse_tdmrep
from artcrawl.network.robots import parse_robots


def rules(*entries: tuple[object, object]) -> bytes:
    return json.dumps([{"location": location, "tdm-reservation": value} for location, value in entries]).encode()


@pytest.mark.parametrize(
    ("body", "path", "expected"),
    [
        (rules(("/", 1)), "/a.png", True),
        (rules(("/", 0)), "/a.png", False),
        (rules(("/art/", 1)), "/art/a.png", True),
        (rules(("/art/", 1)), "/a.png", False),
        (rules(("/images/*.jpg", 0), ("/", 1)), "/images/x/a.jpg", False),
        (rules(("/images/*.jpg", 0), ("/", 1)), "/images/a.png", True),
        # The first that matches, not the longest.
        (rules(("/", 1), ("/images/*.jpg", 0)), "/images/a.jpg", True),
        (rules(("/a.png$", 1)), "/a.png", True),
        (rules(("/a.png$", 1)), "/a.pngx", False),
        (rules(("/", "1")), "/a.png", True),
        (rules(("/", None)), "/a.png", False),
        (rules((5, 1), ("/\nAllow: /", 1), ("/art", 1)), "/a.png", False),
        (b'{"location": "/", "tdm-reservation": 1}', "/a.png", False),
        (b"<!doctype html><h1>Not found</h1>", "/a.png", False),
        (b"[" * 100_000, "/a.png", False),
        (b"\xff\xfe\x00", "/a.png", False),
        (b"", "/a.png", False),
    ],
)
def test_what_a_tdmrep_json_reserves(body: bytes, path: str, expected: bool) -> None:
    assert is_reserved(parse_tdmrep(body), f"https://example.org{path}") == expected


@pytest.mark.parametrize(
    ("body", "path", "allowed"),
    [
        (b"User-Agent: *\nDisallow: *.jpg\nDisallow: *.png", "/art/a.png", False),
        (b"User-Agent: *\nDisallow: *.jpg", "/art/a.png", True),
        (b"User-Agent: *\nDisallow: *.jpg", "/a.jpg?w=100", False),
        (b"# Spawning AI\nUser-Agent: *\nDisallow: /\nAllow: *.png", "/a.png", True),
        (b"User-Agent: artgate-crawler\nDisallow: /", "/a.png", False),
        (b"<!doctype html><p>User-Agent: *", "/a.png", True),
    ],
)
def test_what_an_ai_txt_allows(body: bytes, path: str, allowed: bool) -> None:
    assert parse_robots(body).can_fetch(f"https://example.org{path}", "artgate-crawler") == allowed


CASES: dict[str, tuple[dict[str, Play], list[object]]] = {
    "no files": ({}, [200, 200]),
    "tdmrep": ({"/.well-known/tdmrep.json": answer(rules(("/a.png", 1)), "application/json")}, ["opt-out", 200]),
    "ai.txt": ({"/ai.txt": answer(b"User-Agent: *\nDisallow: *.jpg", "text/plain")}, [200, "opt-out"]),
    "tdmrep fails": ({"/.well-known/tdmrep.json": answer(b"", status=500)}, ["opt-out-failed"] * 2),
    "ai.txt fails": ({"/ai.txt": reset}, ["opt-out-failed"] * 2),
    "a page for all": ({"/ai.txt": answer(b"<h1>Welcome</h1>")}, [200, 200]),
}


@pytest.mark.slow
def test_images_are_asked_for_only_where_their_host_does_not_reserve_them(tmp_path: Path) -> None:
    image = answer(b"\x89PNG", "image/png")
    common = {"/a.png": image, "/b.jpg": image, "/page": answer(b"page")}
    with ExitStack() as stack:
        servers = [stack.enter_context(hostile(common | files)) for files, _ in CASES.values()]
        images = [{"url": server.url + path, "image": True} for server in servers for path in ("/a.png", "/b.jpg")]
        reasons = probe(tmp_path, [*images, *(f"{server.url}/page" for server in servers)]).reasons()
    told = dict(zip(CASES, zip(reasons[:12:2], reasons[1:12:2], strict=True), strict=True))
    assert told == {case: tuple(expected) for case, (_, expected) in CASES.items()}
    assert reasons[12:] == [200] * 6
    for server, (_, expected) in zip(servers, CASES.values(), strict=True):
        asked = server.paths()
        assert [path in asked for path in ("/a.png", "/b.jpg")] == [reason == 200 for reason in expected]
        assert asked.count("/.well-known/tdmrep.json") == 1
        assert asked.count("/ai.txt") <= 1


def test_pages_alone_need_neither_file(tmp_path: Path) -> None:
    with hostile({"/page": answer(b"page")}) as server:
        assert probe(tmp_path, [f"{server.url}/page"]).reasons() == [200]
    assert server.paths() == ["/robots.txt", "/page"]
