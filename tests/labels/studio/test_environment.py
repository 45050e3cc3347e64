import subprocess
from pathlib import Path

import pytest

from artgate.errors import UserError
from artgate.labels.studio.environment import CONSTRAINTS, VERSION, home, installed


def test_all_that_the_server_needs_is_pinned():
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    assert len(pins) > 100 and pins["label-studio-sdk"] == "2.1.2" and "label-studio" not in pins


def test_where_it_lies_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_HOME", str(tmp_path / "home"))
    assert home() == tmp_path / "home"
    monkeypatch.delenv("ARTGATE_LABEL_STUDIO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "artgate" / f"label-studio-{VERSION}"


@pytest.mark.labelstudio
@pytest.mark.slow
def test_the_installed_environment_has_the_server_and_is_made_once(label_studio_installed):
    told: list[str] = []
    assert installed(told.append) == label_studio_installed and told == []
    asked = [str(label_studio_installed), "-c", "import importlib.metadata as m; print(m.version('label-studio'))"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == VERSION


@pytest.mark.slow
def test_what_cannot_be_installed_is_told_and_tried_anew(tmp_path: Path, monkeypatch):
    """An index on a port where nothing listens stands for a machine without network."""
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for _ in range(2):
        told: list[str] = []
        with pytest.raises(UserError, match=r"cannot be installed(.|\n)*set LABEL_STUDIO_URL") as raised:
            installed(told.append)
        assert f"No matching distribution found for label-studio=={VERSION}" in str(raised.value)
        assert len(told) == 1 and "Installing Label Studio" in told[0]
    assert not list((tmp_path / "home").rglob("ready.txt"))
