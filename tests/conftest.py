"""What all tests share: bounded threads, no network, the real data where it is, and the painted sample."""

import os
import sys
from pathlib import Path

import pytest

# Before anything imports torch: tests run on two cores beside other work, and reach no hub and no W&B server.
# Workers share the cores, and inherit what the process that starts them has set here for itself.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads that wait must not spin: where other work holds a core, each wait would cost its whole time slice.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

ROOT = Path(__file__).parents[1]
# The files that take longest, each after one of another kind, so that those that wait leave the cores to those that
# compute. A long file that came last would keep one core busy while the others have nothing left to do.
LONGEST_FIRST = (
    "scoring/test_real_architectures.py",
    "labels/studio/test_loop.py",
    "test_train.py",
    "scoring/test_export.py",
    "crawler/test_faults.py",
    "scoring/test_prompted.py",
    "generation/test_production.py",
    "labels/studio/test_restarts.py",
    "test_demo.py",
    "test_generate.py",
    "crawler/test_diffusiondb.py",
    "generation/test_sampler.py",
    "labels/studio/test_watch.py",
    "scoring/test_finetuning.py",
    "generation/test_calibrating.py",
    "crawler/test_crawl.py",
    "test_conf.py",
    "generation/test_remaking.py",
    "crawler/test_hostile_gallery.py",
    "scoring/test_score_log.py",
    "generation/test_upscale.py",
    "crawler/test_robots.py",
    "generation/test_pretraining.py",
    "test_choosing.py",
    "crawler/test_ledger.py",
    "test_line.py",
    "scoring/test_features.py",
    "labels/studio/test_browser.py",
    "artworks/test_duplicates.py",
    "crawler/test_hostile.py",
    "generation/test_predicted.py",
    "labels/studio/test_server.py",
    "test_cli.py",
    "crawler/test_folder.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` hands the files to its workers in this order; within a file nothing moves."""
    place = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def agiqa3k() -> Path:
    """The AGIQA-3K folder (data.csv, images/), or a skip that says where it was looked for."""
    folder = Path(os.environ.get("ARTGATE_AGIQA3K", ROOT.parent / "shared" / "agiqa3k"))
    if not (folder / "data.csv").is_file():
        pytest.skip(f"AGIQA-3K is not at {folder}: set ARTGATE_AGIQA3K to its folder")
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The painted sample of 48 artworks with planted defects; read only, painted once for all workers."""
    from filelock import FileLock

    from artgate.artworks.collection import Collection
    from artgate.artworks.sample import make_sample

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sample"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make_sample(folder.with_name("sample-begun"), n=48).root.rename(folder)
    return Collection(folder)


@pytest.fixture(scope="session")
def label_studio_installed():
    """Label Studio's own environment, installed at first; a skip with the reason where it cannot be."""
    from artgate.errors import UserError
    from artgate.labels.studio.environment import installed

    try:
        return installed()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_label_studio(label_studio_installed, tmp_path_factory):
    """One running Label Studio for all tests of a process; mark them `labelstudio` and `slow`."""
    from label_studio import LabelStudio

    server = LabelStudio(tmp_path_factory.mktemp("label-studio") / "data").start()
    yield server
    server.stop()


@pytest.fixture
def label_studio(shared_label_studio, monkeypatch):
    """The running Label Studio, as the local server that `artgate label push` and `pull` find."""
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_DATA", str(shared_label_studio.data))
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return shared_label_studio


@pytest.fixture
def artgate(monkeypatch, capsys):
    """Run a command of the CLI in this process: its exit status, stdout and stderr."""
    from artgate import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["artgate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run
