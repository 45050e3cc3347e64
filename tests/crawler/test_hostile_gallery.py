"""The whole crawl, from the gallery spider to the Collection, against galleries that mean harm."""

import gzip
import io
import signal
import time
from html import escape
from pathlib import Path

import numpy as np
import pytest
from hostile_server import Play, answer, dripping_body, endless_body, first, hostile, redirect, unchanged
from PIL import Image

from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.artworks.serve import Gallery

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def site(url: str) -> str:
    """Everything is told on the list page."""
    return (
        f"name: hostile\nstart_urls: {url}\nitems: li\nimage: img::attr(src)\nprompt: p::text\n"
        "next: a::attr(href)\nlicence: .licence::text\n"
    )


def list_page(*entries: tuple[str, str], following: str | None = None) -> Play:
    rows = "".join(f'<li><img src="{escape(src)}"><p>{escape(prompt)}</p></li>' for src, prompt in entries)
    link = f'<a href="{following}">next</a>' if following else ""
    return answer(f"<ul>{rows}</ul>{link}".encode(), "text/html; charset=utf-8")


def files_of(collection: Collection) -> list[tuple[bytes, str]]:
    return [(collection.path(artwork).read_bytes(), MEDIA_TYPES[artwork.format]) for artwork in collection]


def noted(crawled: Path, url: str) -> dict[str, str]:
    drops = read_lines(crawled / "drops.jsonl")
    return {(drop.get("image_url") or drop["page_url"]).removeprefix(url): drop["reason"] for drop in drops}


@pytest.mark.slow
def test_each_hostile_image_costs_itself_only(gallery_collection, crawl, crawled, log, tmp_path) -> None:
    good = files_of(gallery_collection)
    disposed = {"Content_Disposition": 'attachment; filename="../../../evil.png"'}
    plays: dict[str, Play] = {
        "/etc/passwd": answer(*good[0]),
        "/..%2f..%2fevil.png": answer(*good[1], **disposed),
        "/as-text": answer(good[2][0], "text/html"),
        "/html.png": answer(b"<!doctype html><title>Log in</title>", "image/png"),
        "/script.svg": answer(b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "image/svg+xml"),
        "/endless.png": endless_body,
        "/bomb.png": answer(gzip.compress(bytes(80 * 2**20), 1), "image/png", Content_Encoding="gzip"),
        "/drip.png": dripping_body,
        "/inner.png": redirect("http://127.0.0.2:8000/a.png"),
        "/metadata.png": redirect("http://169.254.169.254/latest/meta-data/"),
        "/circle.png": redirect("/circle.png"),
    }
    entries = [(path.replace("/etc", "/images/../../../etc"), f"prompt of {path}") for path in plays]
    entries[0] = (entries[0][0], "a\x07 b\x1b[31m red\u202e boat\u0000")
    entries += [("javascript:alert(1)", ""), ("http://[bad/a.png", ""), ("file:///etc/passwd", "")]
    entries += [("http://example.invalid:99999/a.png", "")]
    with hostile(plays | {"/": list_page(*entries)}) as server:
        settings = ("DOWNLOAD_TIMEOUT=3", "RETRY_TIMES=0")
        assert crawl(site(f"{server.url}/"), *settings).returncode == 0
        reasons = noted(crawled, server.url)
    assert {path: reasons.pop(path) for path in list(plays)[3:]} == {
        "/html.png": "not-an-image",
        "/script.svg": "not-an-image",
        "/endless.png": "too-many-bytes",
        "/bomb.png": "too-many-bytes",
        "/drip.png": "timeout",
        "/inner.png": "host-private",
        "/metadata.png": "host-private",
        "/circle.png": "redirect-failed",
    }
    assert sum(drop["reason"] == "no-image" for drop in read_lines(crawled / "drops.jsonl")) == 4
    collection = Collection(crawled)
    assert {collection.path(artwork).read_bytes() for artwork in collection} == {data for data, _ in good[:3]}
    assert {artwork.provenance.prompt for artwork in collection} >= {"a b[31m red boat"}
    # Names come from the bytes alone: nothing was written anywhere else.
    assert {path.name for path in tmp_path.iterdir()} == {"crawled", "site.yaml", "crawl.log"}
    assert all(len(path.stem) == 64 for path in (crawled / "images").iterdir())
    assert log.stat("artgate/dropped/host-private") == 2
    assert "Traceback" not in log()
    assert "'finish_reason': 'finished'" in log()


@pytest.mark.slow
@pytest.mark.parametrize("list_", ["circle", "calendar", "deserts"])
def test_lists_without_end_end(gallery_collection, crawl, crawled, log, list_: str) -> None:
    image = answer(*files_of(gallery_collection)[0])

    def page(connection, asked) -> None:
        number = int(asked.path.rpartition("/")[2])
        following = {"circle": (number + 1) % 3, "calendar": number + 1, "deserts": number + 1}[list_]
        entries = [(f"/image/{number}", "")] if list_ == "calendar" else [("/image/0", "")] if number == 0 else []
        list_page(*entries, following=f"/list/{following}")(connection, asked)

    plays = {f"/image/{number}": image for number in range(50)} | {f"/list/{number}": page for number in range(500)}
    with hostile(plays) as server:
        assert crawl(site(f"{server.url}/list/0"), "CRAWL_MAX_PAGES=30").returncode == 0
        pages = [path for path in server.paths() if path.startswith("/list/")]
    # Of the circle, the first page is met under its own address once more.
    assert len(pages) == {"circle": 4, "calendar": 30, "deserts": 21}[list_]
    assert log.stat("artgate/dropped/paging") == 1
    assert len(Collection(crawled)) == 1
    assert "'finish_reason': 'finished'" in log()


@pytest.mark.parametrize(
    ("start", "selectors"),
    [
        (answer(b"[" * 1_000_000, "application/json"), "jmespath"),
        (answer(b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png"), "css"),
        (answer(b"\xff\xfe" + bytes(range(256)) * 100, "application/octet-stream"), "css"),
    ],
)
@pytest.mark.slow
def test_a_start_page_that_is_none_ends_it_with_a_count(crawl, crawled, log, start: Play, selectors: str) -> None:
    with hostile({"/": start}) as server:
        description = f"name: g\nitems: a\nimage: {'a' if selectors == 'jmespath' else 'a::attr(href)'}\n"
        assert crawl(f"{description}selectors: {selectors}\nstart_urls: {server.url}/\n").returncode == 75
    assert log.stat("artgate/dropped/not-a-page") == 1
    assert "Traceback" not in log()


@pytest.mark.slow
def test_a_long_list_of_what_is_held_is_no_desert(crawl, crawled, log) -> None:
    """Re-crawled, all of its pages are read, so that what is new on the last is found."""
    plays: dict[str, Play] = {}
    for number in range(26):
        entry = f'<ul><li><a class="artwork" href="/artwork/{number}">x</a></li></ul>'
        body = f'{entry}<a class="n" href="/list/{number + 1}">'
        plays[f"/list/{number}"] = answer(body.encode())
        plays[f"/artwork/{number}"] = answer(f'<img src="/image/{number}">'.encode())
        plays[f"/image/{number}"] = answer(png(number), "image/png")
    plays["/list/25"] = first(answer(b"<ul></ul>"), plays["/list/25"])
    description = "name: g\nitems: li\nlink: .artwork::attr(href)\nnext: .n::attr(href)\nimage: img::attr(src)\n"
    with hostile(plays) as server:
        for expected in (25, 26):
            crawl(f"{description}start_urls: {server.url}/list/0\n")
            assert len(Collection(crawled)) == expected


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_crawling_again_confirms_pages_and_asks_for_no_image(gallery_collection, crawl, crawled, log) -> None:
    gallery = Gallery(gallery_collection, page_size=4)

    def page(connection, asked) -> None:
        reply = gallery.reply(asked.path)
        play = unchanged if reply.status == 200 else lambda body, media_type: answer(body, media_type, reply.status)
        play(reply.body, reply.media_type)(connection, asked)

    description = (
        "name: g\nitems: li.artwork\nlink: a::attr(href)\nnext: a[rel=next]::attr(href)\nimage: img::attr(src)\n"
    )
    with hostile({}, other=page) as server:
        for _ in range(2):
            server.asked.clear()
            crawl(f"{description}start_urls: {server.url}/\n")
        asked = server.asked
    pages = {one.path: "if-none-match" in one.headers for one in asked if one.path != "/robots.txt"}
    assert pages == {"/": True, "/page/2": True, "/page/3": True}
    assert len(Collection(crawled)) == 12
    assert log.stat("httpcache/revalidate") == 3


@pytest.mark.slow
def test_a_waiting_crawl_can_be_ended(gallery_collection, crawl, crawled, log) -> None:
    busy = answer(b"", status=503, Retry_After="500")
    image = answer(*files_of(gallery_collection)[0])
    plays = {"/": list_page(("/a.png", ""), ("/b.png", "")), "/a.png": first(busy, image), "/b.png": first(busy, image)}
    with hostile(plays) as server:
        process = crawl(site(f"{server.url}/"), wait=False)
        while "asks to wait 500 s" not in log():
            time.sleep(0.1)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        crawl(site(f"{server.url}/"))
    assert len(Collection(crawled)) == 1


@pytest.mark.slow
def test_addresses_in_json_that_are_no_text_cost_themselves_only(crawl, crawled, log) -> None:
    body = b'{"items": [{"u": "/\\ud800.png"}, {"u": "/1.png"}], "next": "/\\ud800"}'
    with hostile({"/": answer(body, "application/json"), "/1.png": answer(png(1), "image/png")}) as server:
        description = "name: g\nselectors: jmespath\nitems: items\nimage: u\nnext: next\n"
        crawl(f"{description}start_urls: {server.url}/\n")
    assert len(Collection(crawled)) == 1
    assert (log.stat("artgate/dropped/no-image"), log.stat("artgate/dropped/bad-link")) == (1, 1)
    assert "Traceback" not in log()
