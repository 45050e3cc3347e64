"""A loopback gallery that misbehaves on request, and the other sources: an API like Civitai's, a dump like DiffusionDB.

FaultyGallery is the plain gallery of artgate.artworks.serve, with faults by path; Source serves pictures by number.
"""

import argparse
import json
import random
import re
import signal
import socket
import struct
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.decode import sniff
from artgate.artworks.serve import MEDIA_TYPES, Gallery, Reply

# A fault makes, of the right answer and of how often the path was asked for before, the answer that is given.
Fault = Callable[[Reply, int], Reply]


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it."""

    path: str
    agent: str
    at: float


class FaultyGallery(Gallery):
    """The plain gallery plus faults.

    faults: by path. copies: image_ids that are listed a second time, with the same bytes at another address.
    elsewhere: image_ids whose page shows an image below /private/, which robots.txt disallows.
    delay: seconds that each image takes. `/api/artworks/1` ... tells each list page as JSON.
    """

    def __init__(
        self,
        collection: Collection,
        faults: Mapping[str, Fault] | None = None,
        copies: frozenset[str] = frozenset(),
        elsewhere: frozenset[str] = frozenset(),
        page_size: int = 5,
        delay: float = 0.0,
    ) -> None:
        super().__init__(collection, page_size)
        self.faults = dict(faults or {})
        self.copies, self.elsewhere, self.delay = copies, elsewhere, delay
        self.asked: list[Asked] = []
        self._times: Counter[str] = Counter()

    def reply(self, path: str, agent: str = "") -> Reply:
        self.asked.append(Asked(path, agent, time.monotonic()))
        before = self._times[path]
        self._times[path] += 1
        if path.startswith("/images/"):
            time.sleep(self.delay)
        answer = self._answer(path, agent)
        return self.faults[path](answer, before) if path in self.faults else answer

    def images_asked(self) -> list[str]:
        return [asked.path for asked in self.asked if asked.path.startswith("/images/")]

    def list_page(self, number: int) -> Reply:
        plain = super().list_page(number)
        copies = [artwork for artwork in self.entries(number) if artwork.image_id in self.copies]
        links = "".join(f'<li class="artwork"><a href="/copy/{artwork.image_id}">again</a></li>' for artwork in copies)
        return replace(plain, body=plain.body.replace(b"</ul>", f"{links}</ul>".encode()))

    def artwork_page(self, artwork: Artwork) -> Reply:
        plain = super().artwork_page(artwork)
        if artwork.image_id in self.elsewhere:
            return replace(plain, body=plain.body.replace(b'src="/images/', b'src="/private/'))
        return plain

    def _answer(self, path: str, agent: str) -> Reply:
        match path.strip("/").split("/"):
            case ["copy", image_id]:
                page = super().artwork_page(self.collection[image_id])
                return replace(page, body=page.body.replace(b'src="/images/', b'src="/copies/'))
            case ["copies" | "private", name]:
                return self.image(self.collection[name.partition(".")[0]])
            case ["api", "artworks", number]:
                return self._api(int(number))
        return super().reply(path, agent)

    def _api(self, number: int) -> Reply:
        entries = [
            {"url": f"/{artwork.file_name}", "meta": {"prompt": artwork.provenance.prompt}, "user": {"id": 7}}
            for artwork in self.entries(number)
        ]
        following = f"/api/artworks/{number + 1}" if self.entries(number + 1) else None
        return Reply(json.dumps({"items": entries, "next": following}).encode(), "application/json")


def unavailable(times: int, retry_after: str) -> Fault:
    """503 with Retry-After the first so many times."""
    busy = Reply(b"<h1>Busy</h1>", status=503, headers={"Retry-After": retry_after})
    return lambda right, before: busy if before < times else right


def broken_off(right: Reply, before: int) -> Reply:
    """Half the body of an answer whose length was declared whole; then the connection closes."""
    return replace(right, body=right.body[: len(right.body) // 2], declared_length=len(right.body))


def cut(right: Reply, before: int) -> Reply:
    """A damaged file: half of it, delivered as if it were all."""
    return replace(right, body=right.body[: len(right.body) // 2])


def page_instead(right: Reply, before: int) -> Reply:
    """HTML in place of an image, under the image's media type."""
    return replace(right, body=b"<!doctype html><title>Please log in</title>")


def gone(right: Reply, before: int) -> Reply:
    """404."""
    return Reply(b"<h1>Gone</h1>", status=404)


def with_header(name: str, value: str) -> Fault:
    """The right answer with one header more."""
    return lambda right, before: replace(right, headers={**right.headers, name: value})


# --- The other sources: a Civitai-like API, a static gallery of one page kind, a DiffusionDB-like dump ---------------


class Pictures(Protocol):
    """What a server serves, by number."""

    def __len__(self) -> int: ...

    def data(self, number: int) -> bytes:
        """The file."""

    def prompt(self, number: int) -> str:
        """What it was made by."""


class Synthetic:
    """`count` tiny PNG files, each made of its number when it is asked for; all differ."""

    def __init__(self, count: int, side: int = 64) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def data(self, number: int) -> bytes:
        cells = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        pixels = cells.repeat(self.side // 8, 0).repeat(self.side // 8, 1)  # (side, side, 3)
        rows = np.pad(pixels.reshape(self.side, -1), ((0, 0), (1, 0)))  # each begins with its filter, 0
        header = struct.pack(">IIBBBBB", self.side, self.side, 8, 2, 0, 0, 0)
        chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows.tobytes(), 1), b"IEND": b""}
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks.items())

    def prompt(self, number: int) -> str:
        return f"picture {number}, in oil"


class Held:
    """The artworks of a Collection (the painted sample, or AGIQA-3K imported)."""

    def __init__(self, collection: Collection) -> None:
        self.collection, self.artworks = collection, list(collection)

    def __len__(self) -> int:
        return len(self.artworks)

    def data(self, number: int) -> bytes:
        return self.collection.path(self.artworks[number]).read_bytes()

    def prompt(self, number: int) -> str:
        return self.artworks[number].provenance.prompt or ""


class Files:
    """Image files and the prompt of each, such as those of AGIQA-3K."""

    def __init__(self, prompts: Mapping[Path, str]) -> None:
        self.paths, self.prompts = list(prompts), list(prompts.values())

    def __len__(self) -> int:
        return len(self.paths)

    def data(self, number: int) -> bytes:
        return self.paths[number].read_bytes()

    def prompt(self, number: int) -> str:
        return self.prompts[number]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


TRANSIENT = ("429", "503", "reset", "truncated")
# Of a dump: what is wrong with an image in a part, or with its row; and with a part, besides TRANSIENT.
IN_PARTS = ("cut", "page", "damaged", "no-row", "nsfw-image", "nsfw-prompt", "withdrawn", "duplicate")
OF_PARTS = (*TRANSIENT, "missing", "no-archive")
BASE_MODELS = ("SD 1.5", "SDXL 1.0", "Pony")


@dataclass(frozen=True)
class Faults:
    """Which pictures have which fault (or parts, by the number in their name), by a seed: the expected set is known.

    rate: the share of pictures that each kind takes, in [0, 1 / number of kinds]. The transient ones spoil the first
    answer only. opt-out: the image says noai. duplicate: it is there again at another address. For the others see
    `write_dump`; a missing part is a 404.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: tuple[str, ...] = (*TRANSIENT, "opt-out", "duplicate")

    def of(self, number: int) -> str | None:
        place = random.Random(f"{self.seed} {number}").random()
        return self.kinds[int(place / self.rate)] if place < self.rate * len(self.kinds) else None


@dataclass(frozen=True)
class Call:
    """One request as the server saw it."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    at: float


class Source:
    """Pictures as a Civitai-like API (`/api/v1/images`, key required), as a gallery (`/list/1`), and files (`/dump/`).

    part_faults: of the dump's parts. levels, kinds: nsfwLevel and type of a picture by number, None and image where
    they are missing. cursors that `forgotten` names are answered with 400. extra: further answers by path. delay:
    seconds that each image takes.
    """

    key = "loopback-key-1234567890"

    def __init__(
        self,
        pictures: Pictures,
        faults: Faults = Faults(),
        dump: Path | None = None,
        levels: Mapping[int, str] | None = None,
        kinds: Mapping[int, str] | None = None,
        delay: float = 0.0,
        part_faults: Faults = Faults(),
    ) -> None:
        self.pictures, self.faults, self.dump, self.delay = pictures, faults, dump, delay
        self.part_faults = part_faults
        self.levels, self.kinds = dict(levels or {}), dict(kinds or {})
        self.calls: list[Call] = []
        self.connected: set[int] = set()  # a number for each connection that is open
        self.forgotten: set[str] = set()
        self.extra: dict[str, Reply | Callable[[Call], Reply]] = {}
        self._times: Counter[str] = Counter()

    def expected(self) -> set[int]:
        """The numbers of the pictures that a crawl is to end with."""
        return {n for n in range(len(self.pictures)) if self.faults.of(n) != "opt-out"}

    def images_asked(self, since: int = 0) -> Counter[str]:
        """How often each image was, in the calls from the one of this number on."""
        calls = self.calls[since:]
        return Counter(call.path for call in calls if call.path.startswith(("/images/", "/copies/")))

    def answer(self, call: Call) -> Reply | None:
        """The answer; None resets the connection."""
        self.calls.append(call)
        match call.path.strip("/").split("/"):
            case _ if call.path in self.extra:
                reply = self.extra[call.path]
                return reply if isinstance(reply, Reply) else reply(call)
            case ["robots.txt"]:
                return Reply(b"User-agent: *\nDisallow: /api/\n", "text/plain")
            case ["api", "v1", "images"]:
                return self._api(call)
            case ["images" | "copies" as folder, name]:
                time.sleep(self.delay)
                return self._image(call.path, folder, int(name.partition(".")[0]))
            case ["list", page]:
                return self._list(int(page))
            case ["dump", *parts] if self.dump is not None:
                return self._dumped(call, self.dump.joinpath(*parts))
        return Reply(b"<h1>Not found</h1>", status=404)

    def stratum(self, sort: str, period: str, base_model: str) -> list[int]:
        """The numbers of a stratum, in its order."""
        numbers = [n for n in range(len(self.pictures)) if BASE_MODELS[n % len(BASE_MODELS)] == base_model]
        if period != "AllTime":
            numbers = [n for n in numbers if n % 4 == 0]
        if sort == "Newest":
            return numbers[::-1]
        return sorted(numbers, key=lambda n: random.Random(f"{sort} {n}").random())

    def _api(self, call: Call) -> Reply:
        if call.headers.get("Authorization") != f"Bearer {self.key}":
            return _json({"error": "Unauthorized"}, 401)
        if call.query.get("cursor") in self.forgotten:
            return _json({"error": "Invalid cursor"}, 400)
        numbers = self.stratum(call.query["sort"], call.query["period"], call.query["baseModels"])
        # As opaque as Civitai's own.
        start = int(call.query["cursor"].split("|")[1], 16) if "cursor" in call.query else 0
        end = start + int(call.query["limit"])
        items = [entry for n in numbers[start:end] for entry in self._entries(n, call)]
        following = {"nextCursor": f"1711|{end:x}"} if end < len(numbers) else {}
        return _json({"items": items, "metadata": {**following, "pageSize": len(items)}})

    def _entries(self, number: int, call: Call) -> Iterator[dict[str, Any]]:
        level = self.levels.get(number, "None")
        here = f"http://{call.headers['Host']}"
        parameters = {"prompt": self.pictures.prompt(number), "negativePrompt": "blurry", "seed": number}
        parameters |= {"steps": 20, "cfgScale": 7.5, "sampler": "Euler a", "Model": "tiny", "Clip skip": 2}
        shapes = (parameters, {"id": number, "meta": parameters}, None)
        folders = ("images", "copies") if self.faults.of(number) == "duplicate" else ("images",)
        for folder in folders:
            yield {
                "id": number + (10**6 if folder == "copies" else 0),
                "url": f"{here}/{folder}/{number}.png",
                "type": self.kinds.get(number, "image"),
                "nsfw": level != "None",
                "nsfwLevel": level,
                "createdAt": "2026-01-01T00:00:00Z",
                "stats": {"likeCount": number % 7, "heartCount": 1, "cryCount": 0, "other": 5},
                "meta": shapes[number % 3] if call.query.get("withMeta") == "true" else None,
                "username": f"painter {number % 10}",
                "baseModel": BASE_MODELS[number % len(BASE_MODELS)],
            }

    def _image(self, path: str, folder: str, number: int) -> Reply | None:
        data, fault = self.pictures.data(number), self.faults.of(number)
        right = Reply(data, MEDIA_TYPES[sniff(data) or "PNG"])
        if fault == "opt-out":
            right = replace(right, headers={"X-Robots-Tag": "noai"})
        return self._spoilt(right, path, fault)

    def _dumped(self, call: Call, path: Path) -> Reply | None:
        part = re.fullmatch(r"part-(\d{6})\.zip", path.name)
        fault = self.part_faults.of(int(part[1])) if part else None
        if fault == "missing":
            return Reply(b"<h1>Not found</h1>", status=404)
        return self._spoilt(ranged(path, call.headers), call.path, fault)

    def _spoilt(self, right: Reply, path: str, fault: str | None) -> Reply | None:
        """The right answer, but the first time what a transient fault makes of it."""
        before = self._times[path]
        self._times[path] += 1
        if before or fault not in TRANSIENT:
            return right
        if fault == "truncated":
            return broken_off(right, before)
        return None if fault == "reset" else Reply(b"busy", status=int(fault), headers={"Retry-After": "0"})

    def _list(self, page: int, size: int = 50) -> Reply:
        first, end = (page - 1) * size, min(page * size, len(self.pictures))
        rows = [
            f'<li><img src="/{folder}/{n}.png"><p>{escape(self.pictures.prompt(n))}</p></li>'
            for n in range(first, end)
            for folder in (("images", "copies") if self.faults.of(n) == "duplicate" else ("images",))
        ]
        link = f'<a rel="next" href="/list/{page + 1}">next</a>' if end < len(self.pictures) else ""
        return Reply(f"<!doctype html><ul>{''.join(rows)}</ul>{link}".encode())


class SourceServer:
    """A running Source. url: such as `http://127.0.0.1:40321`; site: its gallery's description, as YAML."""

    def __init__(self, source: Source, port: int = 0) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), _source_handler(source))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.site = (
            f"name: list\nstart_urls: {self.url}/list/1\nitems: li\nimage: img::attr(src)\nprompt: p::text\n"
            "next: a[rel=next]::attr(href)\n"
        )


@contextmanager
def serving_source(source: Source, port: int = 0) -> Iterator[SourceServer]:
    """Serve on loopback while the context lasts."""
    running = SourceServer(source, port)
    Thread(target=running.server.serve_forever, daemon=True).start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()


def write_dump(
    folder: Path,
    pictures: Pictures,
    part_size: int,
    columns: Mapping[str, list[Any]] | None = None,
    faults: Faults = Faults(),
    part_faults: Faults = Faults(),
) -> Path:
    """Pictures as DiffusionDB 2M lays them out: `metadata.parquet`, `images/part-000001.zip` … with their JSON.

    columns: others than the usual ones, by name. faults: kinds of IN_PARTS; a duplicate is in the same part under
    another name. part_faults: a part that is no-archive holds something else.
    """
    (folder / "images").mkdir(parents=True)
    numbers = [n for n in range(len(pictures)) for _ in range(2 if faults.of(n) == "duplicate" else 1)]
    parts = [1 + n // part_size for n in numbers]
    names = [f"{UUID(int=place, version=4)}.png" for place in range(len(numbers))]
    for part in range(1, 1 + -(-len(pictures) // part_size)):
        path = folder / f"images/part-{part:06d}.zip"
        own = [(name, n) for name, n, where in zip(names, numbers, parts, strict=True) if where == part]
        with zipfile.ZipFile(path, "w") as archive:
            for name, n in own:
                archive.writestr(name, _as_dumped(pictures.data(n), faults.of(n)))
            facts = {name: {"p": pictures.prompt(n), "se": n, "c": 7.0, "st": 50, "sa": "k_lms"} for name, n in own}
            archive.writestr(f"part-{part:06d}.json", json.dumps(facts))
        data = path.read_bytes()
        for name, n in own:
            if faults.of(n) == "damaged":  # its last byte, so that the checksum is another's
                end = data.index(name.encode()) + len(name) + len(pictures.data(n))
                data = data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]
        path.write_bytes(b"<h1>Sorry</h1>" if part_faults.of(part) == "no-archive" else data)
    kinds = [faults.of(n) for n in numbers]
    table: dict[str, Any] = {
        "image_name": names,
        "prompt": [pictures.prompt(n) for n in numbers],
        "part_id": pa.array(parts, pa.uint16()),
        "seed": pa.array(numbers, pa.uint32()),
        "step": pa.array([50] * len(numbers), pa.uint16()),
        "cfg": pa.array([7.0] * len(numbers), pa.float32()),
        "sampler": pa.array([1 + n % 9 for n in numbers], pa.uint8()),
        "width": pa.array([64] * len(numbers), pa.uint16()),
        "height": pa.array([64] * len(numbers), pa.uint16()),
        "user_name": [None if kind == "withdrawn" else f"{n % 5:064x}" for n, kind in zip(numbers, kinds, strict=True)],
        "timestamp": pa.array([datetime(2022, 8, 11, 9, 5, tzinfo=UTC)] * len(numbers)),
        "image_nsfw": pa.array([0.9 if kind == "nsfw-image" else 0.05 for kind in kinds], pa.float32()),
        "prompt_nsfw": pa.array([0.9 if kind == "nsfw-prompt" else 0.01 for kind in kinds], pa.float32()),
    }
    rows = pa.table(table | dict(columns or {}))
    parquet.write_table(rows.filter(pa.array([kind != "no-row" for kind in kinds])), folder / "metadata.parquet")
    return folder


def _as_dumped(data: bytes, fault: str | None) -> bytes:
    if fault == "page":
        return b"<!doctype html><title>Please log in</title>"
    return data[: len(data) // 2] if fault == "cut" else data


def _json(value: object, status: int = 200) -> Reply:
    return Reply(json.dumps(value).encode(), "application/json", status)


def ranged(path: Path, headers: Mapping[str, str]) -> Reply:
    """A file, or the part of it that a Range header of the form `bytes=first-last` asks for, if If-Range holds."""
    if not path.is_file():
        return Reply(b"<h1>Not found</h1>", status=404)
    data, kind, wanted = path.read_bytes(), "application/octet-stream", headers.get("Range")
    tag = {"ETag": f'"{zlib.crc32(data):08x}"'}
    if wanted is None or headers.get("If-Range", tag["ETag"]) != tag["ETag"]:
        return Reply(data, kind, headers=tag)
    first, last = (int(bound) for bound in wanted.removeprefix("bytes=").split("-"))
    if first >= len(data):
        return Reply(b"", kind, 416, {"Content-Range": f"bytes */{len(data)}"})
    piece = data[first : last + 1]
    bounds = f"bytes {first}-{first + len(piece) - 1}/{len(data)}"
    return Reply(piece, kind, 206, {"Content-Range": bounds} | tag)


def _source_handler(source: Source) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body in one piece: two would wait for each other's acknowledgement.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            call = Call(parts.path, dict(parse_qsl(parts.query)), dict(self.headers.items()), time.monotonic())
            reply = source.answer(call)
            if reply is None:
                # Closing with unread data, or with this, sends RST in place of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            length = len(reply.body) if reply.declared_length is None else reply.declared_length
            self.send_response(reply.status)
            for name, value in {
                "Content-Type": reply.media_type,
                "Content-Length": str(length),
                **reply.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()
            if length != len(reply.body):
                self.close_connection = True

        def handle(self) -> None:
            source.connected.add(id(self))
            with suppress(ConnectionError):  # of clients that were killed
                super().handle()
            source.connected.discard(id(self))

        def finish(self) -> None:
            with suppress(ConnectionError, ValueError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the crawler's log tells what was asked for."""

    return Handler


def main() -> None:
    """Serve synthetic pictures until interrupted: `python tests/gallery_server.py --count 20000 --rate 0.05`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.0, help="share of pictures with each kind of fault")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    source = Source(Synthetic(arguments.count), Faults(rate=arguments.rate))
    with serving_source(source, arguments.port) as server:
        print(f"{server.url}/list/1 and, with {Source.key} as CIVITAI_API_KEY, base_url={server.url}")
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
