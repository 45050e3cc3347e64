"""`artgate label serve` as a newcomer runs it, and the folder where it keeps its secrets."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from label_studio import Annotator, LabelStudio

from artgate.artworks.collection import Collection
from artgate.errors import UserError
from artgate.labels.studio.served import serve_images, served_images
from artgate.labels.studio.server import credentials, running, serving

SECONDS = 120


@pytest.fixture
def prepared(label_studio_installed, tmp_path, monkeypatch) -> Path:
    """The data folder of a server that has been up before."""
    data = LabelStudio(tmp_path / "data").data
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_DATA", str(data))
    return data


def serve(*arguments: object) -> "subprocess.Popen[str]":
    """The command in a process of its own, up."""
    command = [sys.executable, "-m", "artgate.cli", "label", "serve", *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    child.first_lines = [child.stdout.readline() for _ in range(2)]  # type: ignore[attr-defined]
    return child


def is_up(url: str) -> bool:
    try:
        return bool(urlopen(f"{url}/health", timeout=5).status == 200)
    except (URLError, OSError):
        return False


def down_within(url: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while is_up(url):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.labelstudio
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_is_up_until_its_starter_ends(prepared, sample, tmp_path, how):
    collection = Collection(shutil.copytree(sample.root, tmp_path / "artworks"))
    child = serve(collection.root)
    try:
        url = child.first_lines[0].split()[-1]
        assert url.startswith("http://127.0.0.1:") and is_up(url) and running(prepared) == url
        account = credentials(prepared)
        assert account.email in child.first_lines[1]
        assert str(prepared / "credentials.json") in child.first_lines[1], "a pipe is told where the password is"
        assert Annotator(url, account.token).id == "1"
        child.send_signal(how)
        child.wait(SECONDS)
        rest = child.stdout.read()
    finally:
        child.kill()
    assert down_within(url, 10) and running(prepared) is None
    assert account.password not in "".join(child.first_lines) + rest
    assert account.token not in "".join(child.first_lines) + rest
    assert f"it may show {collection.root / 'images'}" in rest
    if how != signal.SIGKILL:
        assert child.returncode == 0 and "Label Studio has ended; its data stays" in rest


@pytest.mark.labelstudio
@pytest.mark.slow
def test_a_server_that_ends_by_itself_and_one_too_many_are_told(prepared, artgate):
    child = serve()
    try:
        port = child.first_lines[0].split()[-1].rpartition(":")[2]
        status, _, err = artgate("label", "serve", "--port", port)
        assert status == 2 and f"a server already uses {prepared}" in err and f"127.0.0.1:{port}" in err
        os.kill(json.loads((prepared / "server.json").read_text())["pid"], signal.SIGKILL)
        assert child.wait(SECONDS) == 1
        assert f"see {prepared / 'server.log'}" in child.stdout.read()
    finally:
        child.kill()


@pytest.mark.labelstudio
@pytest.mark.slow
def test_a_port_that_is_taken_or_none_is_refused(prepared, artgate):
    with serving(prepared) as server:
        port = int(server.url.rpartition(":")[2])
        with (
            pytest.raises(UserError, match=f"port {port} is taken by another program"),
            serving(prepared.parent / "another", port),
        ):
            pass
    for wrong in (80, 70000):
        status, _, err = artgate("label", "serve", "--port", wrong)
        assert status == 2 and f"port {wrong} is outside [1024, 65535]" in err


@pytest.mark.labelstudio
@pytest.mark.slow
def test_a_server_that_cannot_come_up_is_told_with_its_last_words(prepared):
    (prepared / "label_studio.sqlite3").write_bytes(b"no database" * 100)
    with (
        pytest.raises(UserError, match=r"did not come up \(see .*server.log\):(.|\n)*not a database"),
        serving(prepared),
    ):
        pass


def test_secrets_are_made_once_and_are_for_the_user_alone(tmp_path):
    data = tmp_path / "data"
    account = credentials(data)
    assert credentials(data) == account
    assert len(account.token) == 40 and len(account.password) >= 16
    assert account.token not in repr(account) and account.password not in repr(account)
    assert stat.S_IMODE((data / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert credentials(tmp_path / "other") != account
    (data / "credentials.json").write_text("{")
    with pytest.raises(UserError, match="credentials.json is damaged, and .*: restore it"):
        credentials(data)
    (data / "credentials.json").unlink()
    (data / "label_studio.sqlite3").touch()
    with pytest.raises(UserError, match="credentials.json is missing, and .* move the folder away"):
        credentials(data)


def test_a_collection_keeps_its_name_where_it_moves(sample, tmp_path):
    data, one, two = tmp_path / "data", tmp_path / "one", tmp_path / "two"
    collection = Collection(shutil.copytree(sample.root, one))
    link = serve_images(data, collection)
    assert link.resolve() == one / "images" and served_images(data) == [one / "images"]
    assert serve_images(data, collection) == link
    one.rename(two)
    assert served_images(data) == []
    assert serve_images(data, Collection(two)) == link and link.resolve() == two / "images"
    (two / ".served-as").write_text("../../etc\n")
    assert serve_images(data, Collection(two)).parent == data / "served"
