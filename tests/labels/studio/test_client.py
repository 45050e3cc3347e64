"""Against a server on loopback that answers as bad ones do."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from artgate.errors import UserError
from artgate.labels.studio import client
from artgate.labels.studio.client import Connection, Studio, find_connection

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

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Own", (Answers,), {"answers": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
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


def test_where_the_server_is_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    with pytest.raises(UserError, match=r"no Label Studio is running here: start one .*`artgate label serve`"):
        find_connection()
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://labels.example.org/")
    assert find_connection() == Connection("https://labels.example.org", TOKEN)
    assert TOKEN not in repr(find_connection())
    monkeypatch.setenv("LABEL_STUDIO_URL", "labels.example.org")
    with pytest.raises(UserError, match="is no address"):
        find_connection()
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://labels.example.org")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(UserError, match="LABEL_STUDIO_URL is set and LABEL_STUDIO_API_KEY is not"):
        find_connection()
