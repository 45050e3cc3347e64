"""A Collection as a small static gallery on loopback: something real to crawl where there is no network."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Reply:
    """An answer. declared_length: a Content-Length other than the body's own."""

    body: bytes
    media_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared_length: int | None = None


class Gallery:
    """The pages of the gallery: `/`, `/page/2` …, `/artwork/<image_id>`, `/images/<name>`, `/robots.txt`.

    A list page has `page_size` entries and a link to the next. An artwork's page tells its prompt, creator and
    licence. Images are served as the bytes that the Collection holds.
    """

    def __init__(self, collection: Collection, page_size: int = 12) -> None:
        self.collection = collection
        self.artworks = list(collection)
        self.page_size = page_size

    def reply(self, path: str, agent: str = "") -> Reply:
        """The answer to a GET of this path. agent: the client's User-Agent; all are answered alike here."""
        match path.strip("/").split("/"):
            case [""]:
                return self.list_page(1)
            case ["page", number] if number.isdecimal() and self.entries(int(number)):
                return self.list_page(int(number))
            case ["artwork", image_id] if image_id in self.collection:
                return self.artwork_page(self.collection[image_id])
            case ["images", name] if name.partition(".")[0] in self.collection:
                return self.image(self.collection[name.partition(".")[0]])
            case ["robots.txt"]:
                return Reply(b"User-agent: *\nDisallow: /private/\n", "text/plain")
        return Reply(b"<h1>Not found</h1>", status=404)

    def entries(self, number: int) -> list[Artwork]:
        """The artworks on a list page, counted from 1."""
        return self.artworks[(number - 1) * self.page_size : number * self.page_size]

    def list_page(self, number: int) -> Reply:
        """A list page: links to artworks, and to the next page."""
        links = "\n".join(
            f'<li class="artwork"><a href="/artwork/{artwork.image_id}">{escape(_title(artwork))}</a></li>'
            for artwork in self.entries(number)
        )
        following = f'<a rel="next" href="/page/{number + 1}">next</a>' if self.entries(number + 1) else ""
        return _page(f"Gallery, page {number}", f"<ul>\n{links}\n</ul>\n{following}")

    def artwork_page(self, artwork: Artwork) -> Reply:
        """The page of one artwork."""
        provenance = artwork.provenance
        texts = {"prompt": provenance.prompt, "creator": provenance.creator, "licence": provenance.licence}
        told = "\n".join(f'<p class="{name}">{escape(text)}</p>' for name, text in texts.items() if text)
        return _page(_title(artwork), f'<img class="artwork" src="/{artwork.file_name}" alt="">\n{told}')

    def image(self, artwork: Artwork) -> Reply:
        """The image file."""
        return Reply(self.collection.path(artwork).read_bytes(), MEDIA_TYPES[artwork.format])


class GalleryServer:
    """A running gallery. url: where, such as `http://127.0.0.1:40321/`."""

    def __init__(self, gallery: Gallery, port: int = 0) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(gallery))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    @property
    def site(self) -> str:
        """The description of the gallery that the crawler reads, as YAML."""
        # JSON strings are YAML strings.
        return "\n".join(f"{key}: {json.dumps(value)}" for key, value in _SITE.items() | {("start_urls", self.url)})

    def start(self) -> None:
        """Serve, in a thread of its own."""
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serve_collection(collection: Collection, page_size: int = 12, port: int = 0) -> Iterator[GalleryServer]:
    """Serve a Collection on loopback while the context lasts. port: 0 takes any that is free."""
    with serving(Gallery(collection, page_size), port) as server:
        yield server


@contextmanager
def serving(gallery: Gallery, port: int = 0) -> Iterator[GalleryServer]:
    """Serve any gallery on loopback while the context lasts."""
    server = GalleryServer(gallery, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


_SITE = {
    "name": "loopback-gallery",
    "items": "li.artwork",
    "link": "a::attr(href)",
    "next": "a[rel=next]::attr(href)",
    "image": "img.artwork::attr(src)",
    "prompt": ".prompt::text",
    "creator": ".creator::text",
    "licence": ".licence::text",
}


def _title(artwork: Artwork) -> str:
    return (artwork.provenance.prompt or artwork.image_id)[:80]


def _page(title: str, body: str) -> Reply:
    text = (
        f'<!doctype html>\n<html lang="en"><head><title>{escape(title)}</title></head>\n<body>\n{body}\n</body></html>'
    )
    return Reply(text.encode())


def _handler(gallery: Gallery) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = gallery.reply(urlsplit(self.path).path, self.headers.get("User-Agent", ""))
            length = len(reply.body) if reply.declared_length is None else reply.declared_length
            self.send_response(reply.status)
            for name, value in {"Content-Type": reply.media_type, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            if length != len(reply.body):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the crawler's log tells what was asked for."""

    return Handler
