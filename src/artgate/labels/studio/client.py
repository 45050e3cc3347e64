"""Speaking with Label Studio, with patience where the connection breaks.

Requests go through label-studio-sdk, which knows the kinds of tokens; answers are taken as plain JSON, because its
typed models cost several times what the server does. Lists are read in order of the tasks' numbers, so that a task that
is deleted meanwhile does not make another be passed over.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from artgate.artworks.text import one_line
from artgate.errors import UserError
from artgate.labels.studio.connection import KEY_VARIABLE, URL_VARIABLE, Connection, find_connection
from artgate.labels.studio.environment import Tell

PAGE = 1000
# Tasks asked for by their numbers at once, which stand in the address; and up to how many pages it is done that way.
CHOSEN, FEW = 400, 5
# Of one request: an import of a thousand tasks takes a second, of a slow shared server perhaps a minute.
TIMEOUT = 300.0
# How long to try again: a server that is restarted is back well before; one with a fault of its own stays faulty, and
# where nothing has answered yet the address may be wrong.
PATIENCE, PATIENCE_WITH_FAULTS, PATIENCE_AT_FIRST = 600.0, 30.0, 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
GONE_FOR_NOW = (429, 502, 503, 504)
# What is read of a project.
OF_A_PROJECT = ("id", "title", "created_at", "label_config", "maximum_annotations")

T = TypeVar("T")
Json = dict[str, Any]


class LostError(Exception):
    """The request may or may not have been carried out. patience: for how long to try again, in seconds."""

    def __init__(self, reason: str, patience: float):
        super().__init__(reason)
        self.patience = patience


class Studio:
    """A Label Studio server. Nothing here is printed or logged but addresses; the token goes into requests alone.

    find: called again after a connection broke, for a local server may come back at another port.
    """

    def __init__(self, find: Callable[[], Connection] = find_connection, tell: Tell = lambda _: None):
        self._find = find
        self._tell = tell
        self._answered = False
        self.connection = find()
        self._sdk = _sdk(self.connection)

    def get(self, path: str, **params: object) -> Any:
        """The JSON at a path, tried again while the connection is broken."""
        return self.patiently(lambda: self.send("GET", path, params=params))

    def send(self, method: str, path: str, body: object = None, params: Mapping[str, object] | None = None) -> Any:
        """One request, once. Raises LostError where it is unknown whether it was carried out; UserError if refused."""
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        client = self._sdk._client_wrapper.httpx_client  # the SDK's own way to send what it has no method for
        try:
            answer = client.request(path, method=method, json=body, params=dict(params or {}))
        except httpx.TransportError as error:
            raise LostError(f"{type(error).__name__}: {error}", PATIENCE) from None
        except httpx.InvalidURL:
            raise UserError(f"{self.connection.url} is no address: check {URL_VARIABLE}") from None
        except ApiError as error:  # the SDK asks by itself for what a personal token gives access with
            _check_status(error.status_code or 500, "", self.connection.url)
            raise
        except json.JSONDecodeError:
            raise LostError("no access for the token came", PATIENCE_WITH_FAULTS) from None
        self._answered = True
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
                if now - broken_at > (lost.patience if self._answered else PATIENCE_AT_FIRST):
                    check = "" if self._answered or self.connection.data else f"check {URL_VARIABLE}, or "
                    raise UserError(
                        f"{self.connection.url} has not answered for {now - broken_at:.0f} s ({one_line(str(lost))}): "
                        f"{check}look after the server, then run the same command again; it goes on where it was"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def project(self, title: str) -> Json | None:
        """The project of this name, or None. Raises UserError if there are several."""
        found = [each for each in self._projects() if each["title"] == title]
        if len(found) > 1:
            raise UserError(f"{len(found)} projects are called {title!r}: rename all but one in Label Studio")
        if not found:
            return None
        return _needed(self.get(f"api/projects/{found[0]['id']}"), OF_A_PROJECT, self.connection.url)

    def tasks(self, project: int, include: str, only: Sequence[int] | None = None) -> Iterator[Json]:
        """The tasks of a project in order of their numbers, a page at a time. include: their fields, by commas.

        only: the numbers of those that are wanted.
        """
        if only is not None and len(only) < FEW * PAGE:
            for start in range(0, len(only), CHOSEN):
                answer = self.get("api/tasks", **_chosen(project, include, only[start : start + CHOSEN]))
                yield from _rows(answer, "tasks", ["id"], self.connection.url)
            return
        wanted = None if only is None else set(only)
        for task in self._all_tasks(project, include):
            if wanted is None or task["id"] in wanted:
                yield task

    def _all_tasks(self, project: int, include: str) -> Iterator[Json]:
        last = 0
        while True:
            answer = self.get("api/tasks", **_page(project, include, last))
            page = _rows(answer, "tasks", ["id"], self.connection.url)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1]["id"]

    def _projects(self) -> Iterator[Json]:
        number = 1
        while True:
            page = self.get("api/projects", page=number, page_size=100, include="id,title")
            yield from _rows(page, "results", ["id", "title"], self.connection.url)
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
    from label_studio_sdk.core.api_error import ApiError

    try:
        # The SDK would repeat an import that may have been carried out: repeating is done here.
        return LabelStudio(base_url=connection.url, api_key=connection.token, timeout=TIMEOUT, max_retries=0)
    except ApiError:  # it looks at a personal token's time before anything is sent
        raise UserError(f"{KEY_VARIABLE} has expired: make a new token in Account & Settings in Label Studio") from None


def _content(answer: Any, url: str) -> Any:
    _check_status(answer.status_code, answer.text, url)
    if answer.status_code == 204:
        return None
    try:
        return answer.json()
    except ValueError:
        raise _another_program(url) from None


def _check_status(status: int, text: str, url: str) -> None:
    """Raise what a status of failure means."""
    if status in GONE_FOR_NOW:
        raise LostError(f"status {status}", PATIENCE)
    if status >= 500:
        raise LostError(f"status {status}", PATIENCE_WITH_FAULTS)
    if status in (401, 403):
        raise UserError(
            f"{url} refuses the token (status {status}): check {KEY_VARIABLE}, and that its user may "
            "change projects; a legacy token needs to be allowed in the organisation's settings"
        )
    if status >= 300:
        raise UserError(f"{url} answers {status}: {one_line(text, 400)}; check the server's version")


def _rows(answer: Any, key: str, keys: Iterable[str], url: str) -> list[Json]:
    """The objects, with these keys, that an answer lists under `key`. Raises UserError if it does not."""
    rows = _needed(answer, [key], url)[key]
    if not isinstance(rows, list):
        raise _another_program(url)
    return [_needed(row, keys, url) for row in rows]


def _needed(answer: Any, keys: Iterable[str], url: str) -> Json:
    """The answer, an object that has these keys. Raises UserError if it is not."""
    if not isinstance(answer, dict) or not all(key in answer for key in keys):
        raise _another_program(url)
    return answer


def _another_program(url: str) -> UserError:
    return UserError(f"{url} does not answer as Label Studio does: check {URL_VARIABLE}")


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
