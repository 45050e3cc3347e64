"""A real Label Studio server for tests, and people who grade in it through its API."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock

from artgate.labels.studio.connection import Connection
from artgate.labels.studio.environment import CONSTRAINTS, home
from artgate.labels.studio.server import Server, credentials, serving

PASSWORD = "one-Of-the-annotators"


class LabelStudio:
    """A server on a data folder of its own, which can be killed and started again.

    Its database is a copy of one made once and kept beside the server's environment: so it is up in seconds.
    """

    def __init__(self, data: Path):
        self.data = data
        self._running = ExitStack()
        shutil.copytree(_prepared_data(), data)

    def start(self, port: int | None = None) -> "LabelStudio":
        self.server: Server = self._running.enter_context(serving(self.data, port or _free_port()))
        return self

    def stop(self) -> None:
        self._running.close()

    def kill(self) -> int:
        """SIGKILL the server; the port it was at."""
        port = int(self.url.rpartition(":")[2])
        self.server.process.kill()
        self.server.process.wait()
        self.stop()
        return port

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def connection(self) -> Connection:
        return Connection(self.url, credentials(self.data).token, self.data)

    def administrator(self) -> "Annotator":
        return Annotator(self.url, credentials(self.data).token)

    def annotator(self, name: str) -> "Annotator":
        """A new user, signed up by the invitation that the administrator can give to people."""
        invitation = self.administrator().call("GET", "/api/invite")["invite_url"]
        with httpx.Client(base_url=self.url, timeout=60) as browser:
            page = browser.get(invitation)
            form = {
                "email": f"{name}@example.org",
                "password": PASSWORD,
                "csrfmiddlewaretoken": re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[0],
                "allow_newsletters": "false",
            }
            assert browser.post(invitation, data=form).status_code == 302
            return Annotator(self.url, browser.get("/api/current-user/token").json()["token"])


class Annotator:
    """Someone who grades through the API. id: what `pull` calls them."""

    def __init__(self, url: str, token: str):
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=120)
        self.token = token
        self.id = str(self.call("GET", "/api/current-user/whoami")["id"])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._client.request(method, path, json=body)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content else None

    def get(self, address: str) -> httpx.Response:
        return self._client.get(address)

    def next_task(self, project: int) -> dict[str, Any] | None:
        """The task that the server hands to this person, None when it has no more."""
        answer = self._client.get(f"/api/projects/{project}/next")
        return answer.json() if answer.status_code == 200 else None

    def grade(self, task: int, quality: str = "", lead_time: float = 4.5, **more: Any) -> int:
        """Annotate a task; the annotation's number. more: other aspects, `defects`, `comment`, `skip`."""
        return int(self.call("POST", f"/api/tasks/{task}/annotations/", annotation(quality, lead_time, **more))["id"])


def annotation(
    quality: str = "",
    lead_time: float = 4.5,
    defects: Sequence[str] = (),
    comment: str = "",
    skip: bool = False,
    **aspects: str,
) -> dict[str, Any]:
    """The body of an annotation, as the labelling page sends it."""
    grades = ({"quality": quality} if quality else {}) | aspects
    result = [_result(aspect, "choices", {"choices": [grade]}) for aspect, grade in grades.items()]
    if defects:
        result.append(_result("defects", "choices", {"choices": list(defects)}))
    if comment:
        result.append(_result("comment", "textarea", {"text": [comment]}))
    return {"result": result, "lead_time": lead_time, "was_cancelled": skip}


def _result(control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"{control[:4]}1", "from_name": control, "to_name": "image", "type": kind, "value": value}


def _prepared_data() -> Path:
    """A data folder with the database of a server that has been up once."""
    folder = home() / f"test-data-{hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:12]}"
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / ".test-data.lock"):
        if not folder.exists():
            begun = folder.with_suffix(".begun")
            shutil.rmtree(begun, ignore_errors=True)
            with serving(begun, _free_port()):
                pass
            begun.rename(folder)
    return folder


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
