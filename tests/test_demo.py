import json
import subprocess
import sys
from pathlib import Path

import pytest

from artgate.demo import comparison, demo_folder

ROOT = Path(__file__).parents[1]


def test_an_interrupted_demo_goes_on_and_a_finished_one_starts_afresh(tmp_path):
    first, resumed = demo_folder(tmp_path)
    assert not resumed
    assert demo_folder(tmp_path) == (first, True)
    (first / "demo.json").write_text("{}")
    (tmp_path / first.name).rename(tmp_path / "2001-01-01_00-00-00")
    second, resumed = demo_folder(tmp_path)
    assert not resumed
    assert second.name > "2001-01-01_00-00-00"


def test_the_table_compares_a_batch_with_and_without_its_gate():
    summary = {"evaluations": 800, "seconds": {"denoise": 30.0, "upscale": 10.0}}
    rows = {
        name: (without, with_)
        for name, without, with_ in comparison(summary, {"all": [0.25] * 15 + [0.75] * 5, "accepted": [0.75] * 5})
    }
    assert rows == {
        "delivered": ("20", "5"),
        "of these acceptable (yield)": ("25%", "100%"),
        "mean score": ("0.38", "0.75"),
        "denoiser evaluations per acceptable": ("160", "160"),
        "pictures enlarged per acceptable": ("4.0", "1.0"),
        "seconds per acceptable": ("14.0", "8.0"),  # 15 more pictures to enlarge, 2 s each
    }
    small = comparison(summary, {"all": [3e-6, 3.3e-5], "accepted": [3.3e-5]})
    assert ("mean score", "1.8e-05", "3.3e-05") in small  # never "0.000" for both
    nothing = comparison(summary, {"all": [0.25], "accepted": []})
    assert ("denoiser evaluations per acceptable", "none accepted", "none accepted") in nothing


@pytest.mark.slow
def test_the_demo_runs_offline_to_its_gallery(tmp_path):
    demo = subprocess.run(
        [sys.executable, "-m", "artgate.demo", "--outputs", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=850,
        cwd=tmp_path,
    )
    assert demo.returncode == 0, demo.stderr[-3000:]
    for told in ("== sample", "== crawl", "== label", "== train", "== generate", "without the gate", "gallery.html"):
        assert told in demo.stdout
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "demo.json").read_text())["summary"]
    assert summary["accepted"] == 8
    assert 0.1 <= summary["yield"] <= 0.9
    page = (folder / "batch" / "gallery.html").read_text()
    assert page.count("data:image") >= 8
