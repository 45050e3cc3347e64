"""Speaking with Label Studio: where it is, who we are, and patience with a connection that breaks.

Requests go through label-studio-sdk, which knows the kinds of tokens; answers are taken as plain JSON, because its
typed models cost several times what the server does. Lists are read in order of the tasks' numbers, so that a task that
is deleted meanwhile does not make another be passed over.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from artgate.artworks.text import one_line
from artgate.errors import UserError
from artgate.labels.studio.environment import Tell
from artgate.labels.studio.server import credentials, data_folder, running

URL_VARIABLE, KEY_VARIABLE = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"
PAGE = 1000
# Tasks asked for by their numbers at once, which stand in the address; and up to how many pages it is done that way.
CHOSEN, FEW = 400, 5
# Of one request: an import of a thousand tasks takes a second, of a slow shared server perhaps a minute.
TIMEOUT = 300.0
# How long to try again: a server that is restarted is back well before; one with a fault of its own stays faulty.
PATIENCE, PATIENCE_WITH_FAULTS = 600.0, 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
GONE_FOR_NOW = (429, 502, 503, 504)

T = TypeVar("T")
Json = dict[str, Any]


class LostError(Exception):
    """The request may or may not have been carried out. patience: for how long to try again, in seconds."""

    def __init__(self, reason: str, patience: float):
        super().__init__(reason)
        self.patience = patience


@dataclass(frozen=True)
class Connection:
    """An address and a token. data: the data folder of the server, where it is the local one."""

    url: str
    token: str = field(repr=False)
    data: Path | None = None


def find_connection() -> Connection:
    """Of the environment, else of the local server. Raises UserError if there is neither."""
    url, key = os.environ.get(URL_VARIABLE, ""), os.environ.get(KEY_VARIABLE, "")
    if url and not url.startswith(("http://", "https://")):
        raise UserError(f"{URL_VARIABLE} {url!r} is no address: write it as https://labels.example.org")
    if url and not key:
        raise UserError(f"{URL_VARIABLE} is set and {KEY_VARIABLE} is not: set both, or neither for the local server")
    if url:
        return Connection(url.rstrip("/"), key)
    data = data_folder()
    address = running(data)
    if address is None:
        raise UserError(
            "no Label Studio is running here: start one in another terminal with `artgate label serve`, or set "
            f"{URL_VARIABLE} and {KEY_VARIABLE} to use your team's"
        )
    return Connection(address, credentials(data).token, data)


class Studio:
    """A Label Studio server. Nothing here is printed or logged but addresses; the token goes into requests alone.

    find: called again after a connection broke, for a local server may come back at another port.
    """

    def __init__(self, find: Callable[[], Connection] = find_connection, tell: Tell = lambda _: None):
        self._find = find
        self._tell = tell
        self.connection = find()
        self._sdk = _sdk(self.connection)

    def get(self, path: str, **params: object) -> Any:
        """The JSON at a path, tried again while the connection is broken."""
        return self.patiently(lambda: self.send("GET", path, params=params))

    def send(self, method: str, path: str, body: object = None, params: Mapping[str, object] | None = None) -> Any:
        """One request, once. Raises LostError where it is unknown whether it was carried out; UserError if refused."""
        import httpx

        client = self._sdk._client_wrapper.httpx_client  # the SDK's own way to send what it has no method for
        try:
            answer = client.request(path, method=method, json=body, params=dict(params or {}))
        except httpx.TransportError as error:
            raise LostError(f"{type(error).__name__}: {error}", PATIENCE) from None
        return _content(answer, self.connection.url)

    def patiently(self, action: Callable[[], T], before_again: Callable[[], object] = lambda: None) -> T:
        """What `action` returns, done again while the connection is broken; `before_again` is called before that.

        Raises UserError when the server has been away for longer than there is patience.
        """
        broken_at: float | None = None
        pause = FIRST_PAUSE
        while True:
            try:
                if broken_at is not None:
                    self._connect_again()
                    before_again()
                return action()
            except LostError as lost:
                now = time.monotonic()
                if broken_at is None:
                    broken_at = now
                    self._tell(f"{self.connection.url} does not answer ({one_line(str(lost), 120)}): trying again.")
                if now - broken_at > lost.patience:
                    raise UserError(
                        f"{self.connection.url} has not answered for {now - broken_at:.0f} s ({one_line(str(lost))}): "
                        "look after the server, then run the same command again; it goes on where it was"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def project(self, title: str) -> Json | None:
        """The project of this name, or None. Raises UserError if there are several."""
        found = [each for each in self._projects() if each["title"] == title]
        if len(found) > 1:
            raise UserError(f"{len(found)} projects are called {title!r}: rename all but one in Label Studio")
        return self.get(f"api/projects/{found[0]['id']}") if found else None

    def tasks(self, project: int, include: str, only: Sequence[int] | None = None) -> Iterator[Json]:
        """The tasks of a project in order of their numbers, a page at a time. include: their fields, by commas.

        only: the numbers of those that are wanted.
        """
        if only is not None and len(only) < FEW * PAGE:
            for start in range(0, len(only), CHOSEN):
                yield from self.get("api/tasks", **_chosen(project, include, only[start : start + CHOSEN]))["tasks"]
            return
        wanted = None if only is None else set(only)
        for task in self._all_tasks(project, include):
            if wanted is None or task["id"] in wanted:
                yield task

    def _all_tasks(self, project: int, include: str) -> Iterator[Json]:
        last = 0
        while page := self.get("api/tasks", **_page(project, include, last))["tasks"]:
            yield from page
            last = page[-1]["id"]
            if len(page) < PAGE:
                return

    def _projects(self) -> Iterator[Json]:
        number = 1
        while True:
            page = self.get("api/projects", page=number, page_size=100, include="id,title")
            yield from page["results"]
            if not page.get("next"):
                return
            number += 1

    def _connect_again(self) -> None:
        if self.connection.data is None:
            return
        try:
            self.connection = self._find()
        except UserError as error:
            raise LostError(str(error), PATIENCE) from None
        self._sdk = _sdk(self.connection)


def _sdk(connection: Connection) -> Any:
    from label_studio_sdk import LabelStudio

    # The SDK would repeat an import that may have been carried out: repeating is done here.
    return LabelStudio(base_url=connection.url, api_key=connection.token, timeout=TIMEOUT, max_retries=0)


def _content(answer: Any, url: str) -> Any:
    if answer.status_code in GONE_FOR_NOW:
        raise LostError(f"status {answer.status_code}", PATIENCE)
    if answer.status_code >= 500:
        raise LostError(f"status {answer.status_code}", PATIENCE_WITH_FAULTS)
    if answer.status_code in (401, 403):
        raise UserError(
            f"{url} refuses the token (status {answer.status_code}): check {KEY_VARIABLE}, and that its user may "
            "change projects; a legacy token needs to be allowed in the organisation's settings"
        )
    if answer.status_code >= 300:
        raise UserError(f"{url} answers {answer.status_code}: {one_line(answer.text, 400)}; check the server's version")
    if answer.status_code == 204:
        return None
    try:
        return answer.json()
    except ValueError:
        raise UserError(f"{url} does not answer as Label Studio does: check {URL_VARIABLE}") from None


def _page(project: int, include: str, after: int) -> Json:
    later = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
    return _query(project, include, PAGE, {"filters": {"conjunction": "and", "items": [later]}})


def _chosen(project: int, include: str, numbers: Sequence[int]) -> Json:
    return _query(project, include, CHOSEN, {"selectedItems": {"all": False, "included": list(numbers)}})


def _query(project: int, include: str, size: int, which: Json) -> Json:
    return {
        "project": project,
        "fields": "all",
        "include": include,
        "resolve_uri": "false",
        "page": 1,
        "page_size": size,
        "query": json.dumps({**which, "ordering": ["tasks:id"]}),
    }
