import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from batches import build_scorer, ledger, overrides_of
from tiny_models import build_tiny

ROOT = Path(__file__).parents[1]


def generate_py(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "generate.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_help_lists_groups_and_keys_without_heavy_imports():
    generate_py("--help")  # warm
    before = cpu_seconds()
    done = generate_py("--help")
    # CPU time, which for this is the wall time of a machine that does nothing else
    assert cpu_seconds() - before < 3
    assert done.returncode == 0
    for told in (
        "gate: best_of, certified, demo, good, score",
        "application: desktop_wallpaper, desktop_wallpaper_4k, none, phone_wallpaper",
        "max_candidates",
    ):
        assert told in done.stdout


# Each is a process of its own: what stands for a kind goes into every run, the others into the whole one.
BAD_INPUT = [
    (["gate.threshold=1.2"], "gate.threshold 1.2 is outside [0, 1]"),
    (["gate.treshold=0.2"], "Could not override 'gate.treshold'"),
    (
        ["gate=strict"],
        "Could not find 'gate/strict' Available options in 'gate': best_of certified demo",
    ),
    (["experiment=dmeo"], "Could not find 'experiment/dmeo'"),
    (["preview=null"], "a group takes the name of a choice, and not null"),
    (["target=many"], "target: Value 'many' of type 'str' could not be converted to Integer"),
    (["target=0"], "target 0 is below 1"),
    (["progress_seconds=-1"], "progress_seconds -1.0 is outside [0, inf)"),
    (["basemap=tone", "basemap.colours=[red,foo]"], "basemap colour 'foo' is not known"),
    (["basemap=background", "basemap.files=[/no/such/file]"], "basemap.files '/no/such/file': no picture there"),
    (["target=[1"], "no viable alternative at input '[1'"),
    (["scorer=no/such/folder"], "scorer no/such/folder is not the folder of a scorer"),
    (["diffusion.scheduler=dimm"], "diffusion.scheduler 'dimm' is not one of"),
    (["prompts.prompts=[]"], "prompts.prompts is empty"),
    (['prompts.prompts=["a frog at (16:9)"]'], "weight 9 of '16' in prompt 'a frog at (16:9), "),
    (['prompts.prompts=["a {frog|owl|(cat:8)}"]'], "weight 8 of 'cat' in prompt "),
    (["diffusion=local", "diffusion.model=/no/such/folder", "diffusion.licence=MIT"], "'/no/such/folder' is not"),
    (["image.format=gif"], "image.format 'gif' is not one of png, jpeg, webp"),
    (["image.quality=0"], "image.quality 0 is outside [1, 100]"),
    (["application.width=100", "application.height=96"], "application.width 100 is not a multiple of 8"),
]
QUICK = ("gate.threshold=1.2", "gate=strict", "preview=null", "basemap=tone", "prompts.prompts=[]")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [pytest.param(*case, marks=[] if case[0][0] in QUICK else pytest.mark.slow) for case in BAD_INPUT],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_ends_at_once_with_one_message(arguments: list[str], told: str, tmp_path: Path):
    before = cpu_seconds()
    done = generate_py(*arguments, cwd=tmp_path)
    assert cpu_seconds() - before < 5
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and told in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.slow
def test_a_batch_from_the_command_line_and_again(tmp_path: Path):
    model, scorer = build_tiny("sd1", tmp_path / "sd1"), build_scorer(tmp_path / "scorer")
    command = [*overrides_of(model, scorer, tmp_path / "batch"), "target=2", "gate.threshold=0"]
    done = generate_py(*command)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 accepted out of 2 candidates" in done.stdout
    assert str(tmp_path / "batch" / "gallery.html") in done.stdout
    progress = [line for line in done.stderr.splitlines() if "accepted ·" in line]
    assert progress[-1].startswith("2/2 accepted · 2 candidates · yield 100%")
    before = ledger(tmp_path / "batch")
    again = generate_py(*command)
    assert again.returncode == 0 and "nothing is left to do" in again.stdout
    assert ledger(tmp_path / "batch") == before
    other = generate_py(*command, "seed=6")
    assert other.returncode == 2 and "seed is 5 there and 6 here" in other.stderr


@pytest.mark.slow
def test_a_sweep_gives_each_job_its_own_folder(tmp_path: Path):
    model, scorer = build_tiny("sd1", tmp_path / "sd1"), build_scorer(tmp_path / "scorer")
    command = [word for word in overrides_of(model, scorer, tmp_path) if not word.startswith(("batch_dir", "seed"))]
    done = generate_py("-m", *command, "seed=1,2", "target=1", "gate.threshold=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "generate").glob("*/summary.json")]
    assert sorted(summary["config"]["seed"] for summary in summaries) == [1, 2]
