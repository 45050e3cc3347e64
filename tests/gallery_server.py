"""A loopback gallery that misbehaves on request: the plain one of artgate.artworks.serve, with faults by path."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.serve import Gallery, Reply

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
