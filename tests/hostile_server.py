"""A loopback server that plays, by path, what a hostile or broken one would do: over the wire, byte by byte."""

import hashlib
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

CHUNK = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it. headers: names in lower case. before: how often the path was asked for."""

    path: str
    headers: dict[str, str]
    at: float
    before: int


# What is done with a connection after one request was read from it; then the connection is closed.
Play = Callable[[socket.socket, Asked], None]


class HostileServer:
    """plays: by path; other paths are 404. Serves from the start, on a port of its own, until `stop`.

    tls: with it, https.
    """

    def __init__(
        self,
        plays: Mapping[str, Play],
        host: str = "127.0.0.1",
        other: Play | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.plays, self.tls = dict(plays), tls
        self.other = other or answer(b"<h1>Not found</h1>", status=404)
        self.asked: list[Asked] = []
        self._times: Counter[str] = Counter()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=64)
        self.host, self.port = host, self._listening.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"
        Thread(target=self._serve, daemon=True).start()

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def times(self, path: str) -> list[float]:
        return [asked.at for asked in self.asked if asked.path == path]

    def stop(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        try:
            with self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as connection:
                asked = self._read(connection)
                if asked is not None:
                    self.plays.get(asked.path, self.other)(connection, asked)
        except OSError:
            pass  # the client went away

    def _read(self, connection: socket.socket) -> Asked | None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return None
            head += data
        first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = first.split()[1]
        asked = Asked(path, headers, time.monotonic(), self._times[path])
        self._times[path] += 1
        self.asked.append(asked)
        return asked


@contextmanager
def hostile(
    plays: Mapping[str, Play],
    host: str = "127.0.0.1",
    other: Play | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[HostileServer]:
    server = HostileServer(plays, host, other, tls)
    try:
        yield server
    finally:
        server.stop()


def answer(body: bytes, media_type: str = "text/html", status: int = 200, **headers: str) -> Play:
    """An ordinary answer. headers: with _ for -."""
    lines = {"Content-Type": media_type, "Content-Length": str(len(body)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda connection, asked: connection.sendall(_head(status, lines) + body)


def redirect(to: str, status: int = 302) -> Play:
    return answer(b"", status=status, Location=to)


def first(play: Play, then: Play, times: int = 1) -> Play:
    """One play the first so many times, another afterwards."""
    return lambda connection, asked: (play if asked.before < times else then)(connection, asked)


def unchanged(body: bytes, media_type: str = "text/html", validator: str = "ETag") -> Play:
    """200 with an ETag (or Last-Modified), and 304 for who has it."""
    value = f'"{hashlib.sha256(body).hexdigest()[:16]}"' if validator == "ETag" else "Sun, 01 Mar 2020 12:00:00 GMT"
    condition = {"ETag": "if-none-match", "Last-Modified": "if-modified-since"}[validator]
    whole = answer(body, media_type, **{validator: value})
    not_modified = answer(b"", media_type, status=304, **{validator: value})
    return lambda connection, asked: (not_modified if asked.headers.get(condition) == value else whole)(
        connection, asked
    )


def endless_body(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(_head(200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"}))
    while True:
        connection.sendall(CHUNK)


def endless_headers(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Flood: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 100)


def dripping_body(connection: socket.socket, asked: Asked) -> None:
    """A byte every 50 ms: never idle, never done."""
    connection.sendall(_head(200, {"Content-Type": "text/html", "Content-Length": "1000000"}))
    _drip(connection, b"a")


def dripping_headers(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    _drip(connection, b"a")


def silence(connection: socket.socket, asked: Asked) -> None:
    time.sleep(30)


def reset(connection: socket.socket, asked: Asked) -> None:
    """RST in place of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def declared_length(length: int) -> Play:
    """An answer that says how long it will be, and begins."""
    head = _head(200, {"Content-Type": "image/png", "Content-Length": str(length)})

    def play(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(head + b"\x89PNG")
        time.sleep(5)

    return play


def _drip(connection: socket.socket, byte: bytes) -> None:
    while True:
        connection.sendall(byte)
        time.sleep(0.05)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Played\r\n{lines}\r\n".encode("latin-1")
