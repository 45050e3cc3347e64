"""What the gallery offers to copy: the shell and Hydra make of it the path that was meant."""

import os
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from artgate.generation.remake_command import remake_command

FOLDERS = ["plain", "a b", "it's", "a,b=c", "[x]", "{k: v}", 'dq"x', "back\\slash", "q\\'z", "end\\", "$(touch hi)"]


@pytest.mark.parametrize("folder", [*FOLDERS, "`x`", "${x}", "\\${x}", "glob(*)", "-rf", "&& true #", "émigré 🎨"])
def test_the_path_arrives_whatever_its_name(folder):
    sidecar = Path("outputs") / folder / "accepted" / "sidecars" / "ab.json"
    program, script, mode, override = shlex.split(remake_command(sidecar))
    assert (program, script, mode) == ("python", "generate.py", "mode=remake")
    parsed = OverridesParser.create().parse_override(override)
    assert OmegaConf.create({parsed.key_or_group: parsed.value()}).sidecar == str(sidecar)


def test_the_path_is_relative_to_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert remake_command(tmp_path / "b" / "s.json") == "python generate.py mode=remake sidecar=b/s.json"
    monkeypatch.chdir(os.sep)
    assert remake_command(Path("s.json")).endswith("sidecar=s.json")
