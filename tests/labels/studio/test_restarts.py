"""Kills of the server, and of the client, in the middle of a push and of a pull: everything is there once."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from label_studio import Annotator, LabelStudio

from artgate.artworks.collection import Collection
from artgate.labels.studio import client, push
from artgate.labels.studio.client import Studio
from artgate.labels.studio.overlap import Overlap
from artgate.labels.votes import read_votes

pytestmark = [pytest.mark.labelstudio, pytest.mark.slow]

MANY = 48


@pytest.fixture
def own_server(label_studio_installed, tmp_path, monkeypatch):
    """A server of the test's own, that it may kill."""
    server = LabelStudio(tmp_path / "data").start()
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_DATA", str(server.data))
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.stop()


@pytest.fixture
def collection(sample, tmp_path):
    return Collection(shutil.copytree(sample.root, tmp_path / "artworks"))


class KilledAt:
    """Kills the server at the n-th request to a path, `delay` seconds after it was sent, and starts it elsewhere."""

    def __init__(self, monkeypatch, server: LabelStudio, path: str, n: int, delay: float):
        self.requests = 0
        self.kills = 0
        self._server, self._path, self._n, self._delay = server, path, n, delay
        self._send = Studio.send
        self.restart = threading.Thread(target=self._restart)
        monkeypatch.setattr(
            Studio, "send", lambda studio, *arguments, **more: self._counted(studio, *arguments, **more)
        )

    def wait(self) -> int:
        """How often the server was killed, once it is up again."""
        if self.restart.is_alive():
            self.restart.join()
        return self.kills

    def _counted(self, studio: Studio, method: str, path: str, *arguments, **more):
        if path.endswith(self._path):
            self.requests += 1
            if self.requests == self._n:
                self.restart.start()
        return self._send(studio, method, path, *arguments, **more)

    def _restart(self) -> None:
        time.sleep(self._delay)
        self._server.kill()
        self.kills += 1
        self._server.start()


def tasks_by_image(server: LabelStudio, project: int) -> Counter:
    tasks = Studio(lambda: server.connection).tasks(project, "id,data")
    return Counter(task["data"]["image_id"] for task in tasks)


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.2])
def test_a_server_killed_in_the_middle_of_a_push(own_server, artgate, collection, monkeypatch, delay):
    monkeypatch.setattr(push, "BATCH", 8)
    kill = KilledAt(monkeypatch, own_server, "/import", 3, delay)
    status, out, err = artgate("label", "push", collection.root, "--project", "killed", "--overlap", 2, "--share", 0.3)
    assert (status, kill.wait()) == (0, 1), err
    assert "does not answer" in err and "trying again" in err
    project = int(out.strip().rpartition("/")[2])
    assert tasks_by_image(own_server, project) == Counter(artwork.image_id for artwork in collection)
    planned = Overlap(2, 0.3)
    for task in Studio(lambda: own_server.connection).tasks(project, "id,data,overlap"):
        assert task["overlap"] == planned.of(task["data"]["image_id"])


def test_a_server_killed_in_the_middle_of_a_pull(own_server, artgate, collection, monkeypatch):
    _, out, _ = artgate("label", "push", collection.root, "--project", "killed", "--overlap", 2)
    project = int(out.strip().rpartition("/")[2])
    people = [own_server.annotator(name) for name in ("ann", "bob")]
    given = grade_all(people, own_server, project)
    monkeypatch.setattr(client, "PAGE", 10)
    kill = KilledAt(monkeypatch, own_server, "api/tasks", 3, 0.0)
    status, _, err = artgate("label", "pull", collection.root, "--project", "killed")
    assert (status, kill.wait()) == (0, 1), err
    assert "trying again" in err
    votes = read_votes(collection.root)
    assert Counter((vote.image_id, vote.annotator, vote.grade) for vote in votes) == given


def test_a_client_killed_in_the_middle_is_run_again(own_server, artgate, collection):
    """SIGKILL at ever later moments of a push, then of a pull: the next run makes it whole."""
    environment = {**os.environ, "ARTGATE_BATCH": "4"}
    run = [sys.executable, "-c", CHILD, str(collection.root)]
    kills = 0
    for seconds in (0.1, 0.2, 0.3, 0.5, 0.8):
        kills += killed_after("import", seconds, [*run, "push"], environment)
    assert kills >= 3
    status, out, err = artgate("label", "push", collection.root, "--project", "killed")
    assert status == 0, err
    project = int(out.strip().rpartition("/")[2])
    assert tasks_by_image(own_server, project) == Counter(artwork.image_id for artwork in collection)
    given = grade_all([own_server.annotator("ann")], own_server, project)
    for seconds in (0.0, 0.05, 0.1, 0.2, 0.4):
        killed_after("pull", seconds, [*run, "pull"], environment)
    assert artgate("label", "pull", collection.root, "--project", "killed")[0] == 0
    votes = read_votes(collection.root)
    assert Counter((vote.image_id, vote.annotator, vote.grade) for vote in votes) == given


# Says when it begins to send, so that the kill comes in the middle and not while Python starts.
CHILD = """
import os, sys
from artgate.artworks.collection import Collection
from artgate.labels.studio import client, push
from artgate.labels.studio.config import label_config, read_labelling
from artgate.labels.studio.pull import pull

push.BATCH = int(os.environ["ARTGATE_BATCH"])
client.PAGE = 10
collection = Collection(sys.argv[1])
studio = client.Studio()
studio.get("api/projects")
labelling = read_labelling("default")
label_config(labelling)
print("ready", flush=True)
if sys.argv[2] == "push":
    push.push(studio, collection, "killed", [artwork.image_id for artwork in collection], labelling)
else:
    pull(studio, collection, "killed")
"""


def killed_after(what: str, seconds: float, command: list[str], environment: dict[str, str]) -> bool:
    """Whether the process was killed; it may have ended first."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n", what
    time.sleep(seconds)
    child.kill()
    return child.wait() == -signal.SIGKILL


def grade_all(people: list[Annotator], server: LabelStudio, project: int) -> Counter:
    """Everyone grades everything: (image_id, annotator, grade)."""
    given: Counter = Counter()
    for number, task in enumerate(Studio(lambda: server.connection).tasks(project, "id,data")):
        for turn, person in enumerate(people):
            grade = ("poor", "average", "good")[(number + turn) % 3]
            person.grade(task["id"], grade)
            given[task["data"]["image_id"], person.id, grade] += 1
    return given
