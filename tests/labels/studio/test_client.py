"""Against a server on loopback that answers as bad ones do."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest

from artgate.errors import UserError
from artgate.labels.studio import client
from artgate.labels.studio.client import Studio
from artgate.labels.studio.connection import Connection

TOKEN = "0123456789abcdef0123456789abcdef01234567"
DROP = (0, "")


class Answers(BaseHTTPRequestHandler):
    """Gives the next of `answers`, (status, body), to each request; the last again and again."""

    answers: list[tuple[int, str]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers['Authorization']}")
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Own", (Answers,), {"answers": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def studio_of(server: ThreadingHTTPServer, answers: list[tuple[int, str]], told: list[str]) -> Studio:
    server.RequestHandlerClass.answers = answers
    return Studio(lambda: Connection(f"http://127.0.0.1:{server.server_port}", TOKEN), told.append)


def test_a_broken_connection_is_tried_again_and_told_once(server, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    told: list[str] = []
    studio = studio_of(server, [DROP, DROP, (503, ""), (500, "oops"), (200, '{"a": 1}')], told)
    assert studio.get("api/x", page=2) == {"a": 1}
    assert len(told) == 1 and "does not answer" in told[0]
    assert server.RequestHandlerClass.asked == [f"/api/x?page=2 Token {TOKEN}"] * 5


def test_patience_ends_with_what_to_do(server, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "PATIENCE_WITH_FAULTS", 0.05)
    with pytest.raises(UserError, match=r"status 500.*look after the server, then run the same command again"):
        studio_of(server, [(500, "oops")], []).get("api/x")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, "{}"), r"refuses the token \(status 401\): check LABEL_STUDIO_API_KEY"),
        ((403, "{}"), r"refuses the token \(status 403\)"),
        ((200, "<html>"), "does not answer as Label Studio does: check LABEL_STUDIO_URL"),
        ((404, json.dumps({"detail": "no\x1b[31m such\nthing"})), "answers 404: "),
        ((301, ""), "answers 301"),
    ],
)
def test_other_answers_are_told_at_once_on_one_line_without_the_token(server, answer, message):
    with pytest.raises(UserError, match=message) as raised:
        studio_of(server, [answer], []).get("api/x")
    assert TOKEN not in str(raised.value) and "\x1b" not in str(raised.value) and "\n" not in str(raised.value)
    assert len(server.RequestHandlerClass.asked) == 1


def test_a_request_that_may_have_been_carried_out_is_not_sent_again(server):
    for answer in (DROP, (502, "")):
        server.RequestHandlerClass.asked.clear()
        with pytest.raises(client.LostError):
            studio_of(server, [answer], []).send("GET", "api/x")
        assert len(server.RequestHandlerClass.asked) == 1


def test_two_projects_of_one_name_are_refused(server):
    page = {"next": None, "results": [{"id": 1, "title": "taste"}, {"id": 2, "title": "taste"}]}
    with pytest.raises(UserError, match="2 projects are called 'taste': rename all but one"):
        studio_of(server, [(200, json.dumps(page))], []).project("taste")


def test_where_nothing_has_answered_yet_patience_is_short(monkeypatch):
    """A wrong address must not cost ten minutes."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "PATIENCE_AT_FIRST", 0.05)
    with socket.socket() as taken:  # bound, and nothing listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"has not answered for 0 s .*: check LABEL_STUDIO_URL, or look after"):
            Studio(lambda: Connection(address, TOKEN)).get("api/x")


@pytest.mark.parametrize(
    "bodies",
    [
        ["{}"],
        ["[]"],
        ["null"],
        ['"results"'],
        ['{"results": 5}'],
        ['{"results": [5]}'],
        ['{"results": [{"id": 1}]}'],
        ['{"results": [{"id": 1, "title": "taste"}]}', '{"id": 1, "title": "taste"}'],
        ['{"results": [{"id": 1, "title": "taste"}]}', "[]"],
    ],
)
def test_json_of_another_program_is_no_project(server, bodies):
    with pytest.raises(UserError, match="does not answer as Label Studio does: check LABEL_STUDIO_URL"):
        studio_of(server, [(200, body) for body in bodies], []).project("taste")


@pytest.mark.parametrize("body", ["{}", "[]", '{"tasks": [{}]}', '{"tasks": {}}'])
@pytest.mark.parametrize("only", [None, [1, 2]])
def test_json_of_another_program_is_no_tasks(server, body, only):
    with pytest.raises(UserError, match="does not answer as Label Studio does"):
        list(studio_of(server, [(200, body)], []).tasks(1, "id", only))


def personal_token(seconds: float) -> str:
    """A token as Label Studio makes them for people, which ends so many seconds from now."""
    claims = {"token_type": "refresh", "exp": int(time.time() + seconds), "jti": "secret"}
    return jwt.encode(claims, "k" * 32)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, '{"detail": "Token is invalid"}'), r"refuses the token \(status 401\): check LABEL_STUDIO_API_KEY"),
        ((500, "{}"), "has not answered for .*status 500"),
        ((502, "<html>"), "has not answered for .*no access for the token came"),
    ],
)
def test_a_personal_token_that_is_not_taken_is_told_and_not_shown(server, monkeypatch, answer, message):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "PATIENCE_AT_FIRST", 0.05)
    server.RequestHandlerClass.answers = [answer]
    token = personal_token(3600)
    with pytest.raises(UserError, match=message) as raised:
        Studio(lambda: Connection(f"http://127.0.0.1:{server.server_port}", token)).get("api/x")
    assert token not in str(raised.value)


def test_a_personal_token_that_has_expired_is_told_before_anything_is_sent(server):
    token = personal_token(-3600)
    with pytest.raises(UserError, match="LABEL_STUDIO_API_KEY has expired: make a new token") as raised:
        Studio(lambda: Connection(f"http://127.0.0.1:{server.server_port}", token))
    assert token not in str(raised.value) and not server.RequestHandlerClass.asked
