"""W&B's record of a batch, with the real client, offline; and batches that go on whatever it does."""

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from wandb_files import artifacts, history, runs

from artgate.errors import UserError
from artgate.generation import tracking
from artgate.generation.batch import Batch
from artgate.generation.tracking import open_tracker
from artgate.scoring.config import LoggerConfig
from artgate.scoring.tracking import REFERENCE, _artifact, _files, _refer, logged_scorer

OFFLINE = LoggerConfig("wandb", "offline", "artgate", None, None, ["a tag"])
ONLINE = LoggerConfig("wandb", "online", "artgate", None, None, [])
SECRET = "c0ffee" * 7


def decided(index: int, status: str, score: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "prompt": f"prompt {index}",
        "status": status,
        "score": score,
        "reason": "score 0.10 < threshold 0.40",
        "image_id": None,
        "file": None,
        "evaluations": 10,
        "seconds": {"denoise": 2.0},
    } | more


def observed(batch: Batch, tracker: tracking.Tracker, *lines: dict[str, Any]) -> None:
    for line in lines:
        batch.append(line)
        tracker.observe(line)


@pytest.fixture
def batch(tmp_path: Path):
    opened = Batch(tmp_path / "batch", {})
    yield opened
    opened.close()


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    folder = tmp_path / "scorer"
    folder.mkdir()
    (folder / "scorer.json").write_text("{}")
    (folder / "head.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.slow
def test_yield_cost_verdicts_and_pictures_are_recorded_as_they_come(batch: Batch, scorer: Path):
    (batch.root / "rejected").mkdir()
    Image.new("RGB", (64, 64), "red").save(batch.root / "rejected" / "0.webp")
    settings = {"seed": 5, "nested": {"api_key": SECRET}}
    with open_tracker(OFFLINE, batch, settings, scorer) as tracker:
        observed(
            batch,
            tracker,
            decided(0, "rejected", 0.1, file="rejected/0.webp"),
            decided(1, "accepted", 0.9),
            decided(2, "rejected", None, reason="preview 0.1 < threshold 0.2 at step 3 of 10", evaluations=3),
            decided(3, "failed", None, reason="denoise: ValueError: no", file="rejected/missing.webp"),
        )
    (run,) = runs(batch.root)
    rows = history(run)
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert [row["yield"] for row in rows] == [0, 1 / 2, 1 / 3, 1 / 4]
    assert rows[3]["yield_low"] < 1 / 4 < rows[3]["yield_high"]
    assert "cost/evaluations_per_accepted" not in rows[0]
    assert (rows[3]["cost/evaluations_per_accepted"], rows[3]["cost/seconds_per_accepted"]) == (33, 8)
    verdicts = {key.removeprefix("verdicts/"): count for key, count in rows[3].items() if key.startswith("verdicts/")}
    assert {verdict: count for verdict, count in verdicts.items() if count} == {
        "accepted": 1,
        "gate": 1,
        "preview": 1,
        "failed: denoise": 1,
    }
    assert rows[3]["seconds/denoise"] == 8
    assert {key for row in rows for key in row if key.startswith("pictures/") and key.endswith("/path")} == {
        "pictures/gate/path"
    }
    (picture,) = batch.root.rglob("wandb/offline-run-*/files/media/images/pictures/*.jpg")
    assert Image.open(picture).size == (64, 64)
    assert Path(tracker.where or "").parent == batch.root / "wandb"
    (told,) = [record.run for record in run if record.WhichOneof("record_type") == "run"]
    assert (told.project, told.job_type, told.run_group, list(told.tags)) == ("artgate", "generate", "batch", ["a tag"])
    config = {item.key: json.loads(item.value_json) for item in told.config.update}
    assert (config["seed"], config["nested"]) == (5, {"api_key": "(not written down)"})
    (ended,) = [record.exit.exit_code for record in run if record.WhichOneof("record_type") == "exit"]
    assert ended == 0


@pytest.mark.slow
def test_a_batch_that_goes_on_tells_its_whole_figures_and_an_error_ends_it_as_failed(batch: Batch, scorer: Path):
    batch.append(decided(0, "accepted"))
    with pytest.raises(UserError), open_tracker(OFFLINE, batch, {}, scorer) as tracker:
        observed(batch, tracker, decided(1, "rejected"))
        raise UserError("the disk is full")
    (run,) = runs(batch.root)
    assert [(row["_step"], row["candidates"], row["accepted"]) for row in history(run)] == [(1, 2, 1)]
    assert [record.exit.exit_code for record in run if record.WhichOneof("record_type") == "exit"] == [1]


def logged_by_training(scorer: Path, folder: Path) -> None:
    """As `train.py` logs it."""
    import wandb

    folder.mkdir()
    with wandb.init(mode="offline", dir=folder, project="artgate", settings=wandb.Settings(silent=True)) as run:
        artifact = _artifact(scorer, _files(scorer), {"qwk": 0.7})
        run.log_artifact(artifact)
        _refer(scorer, artifact, run)


def test_the_record_links_to_the_artifact_that_training_logged(batch: Batch, scorer: Path, tmp_path: Path):
    logged_by_training(scorer, tmp_path / "train")
    copied = scorer.rename(tmp_path / "chosen")
    (copied / "notes.txt").write_text("of another hand")  # nothing of the scorer
    with open_tracker(OFFLINE, batch, {}, copied):
        pass
    (training,), (using,) = runs(tmp_path / "train"), runs(batch.root)
    (logged,), (used,) = artifacts(training), artifacts(using)
    assert (used.name, used.type, used.digest) == (logged.name, logged.type, logged.digest)
    assert used.use_after_commit and not logged.use_after_commit
    assert sorted(item.path for item in used.manifest.contents) == ["head.safetensors", "scorer.json"]


@pytest.mark.parametrize("change", ["none", "weights", "gone", "damaged", "hostile"])
def test_a_scorer_that_was_not_logged_or_changed_since_is_not_linked(
    batch: Batch, scorer: Path, tmp_path: Path, change: str
):
    if change != "none":
        logged_by_training(scorer, tmp_path / "train")
        told = json.loads((scorer / REFERENCE).read_text())
        assert logged_scorer(scorer) is not None
    if change == "weights":
        (scorer / "head.safetensors").write_bytes(b"others!")
    elif change == "gone":
        (scorer / "head.safetensors").unlink()
    elif change == "damaged":
        (scorer / REFERENCE).write_text('{"files": 5}')
    elif change == "hostile":
        (tmp_path / "secret").write_text(SECRET)
        for name in ("../secret", str(tmp_path / "secret"), "./../secret"):  # would lay open what is not the scorer's
            with pytest.raises(ValueError):
                _artifact(scorer, [scorer / name], {})
        (scorer / REFERENCE).write_text(json.dumps(told | {"files": ["../secret"]}))
    assert logged_scorer(scorer) is None


def test_no_logger_leaves_nothing(batch: Batch, scorer: Path):
    for mode in ("none", "wandb"):
        with open_tracker(LoggerConfig(mode, "disabled", "artgate", None, None, []), batch, {}, scorer) as tracker:
            observed(batch, tracker, decided(len(batch.lines), "accepted"))
        assert tracker.where is None
    assert not (batch.root / "wandb").exists()


def test_a_key_in_the_environment_is_written_nowhere(batch: Batch, scorer: Path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", SECRET[:40])
    with open_tracker(OFFLINE, batch, {}, scorer) as tracker:
        observed(batch, tracker, decided(0, "accepted"))
    written = [path for path in batch.root.rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if SECRET[:40].encode() in path.read_bytes()]
    assert SECRET[:40] not in "".join(capfd.readouterr())


def test_a_server_that_never_answers_holds_a_batch_up_for_a_while_and_is_told_of(
    batch: Batch, scorer: Path, monkeypatch, capfd
):
    monkeypatch.setattr(tracking, "START_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", SECRET[:40])
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        with open_tracker(ONLINE, batch, {}, scorer) as tracker:
            observed(batch, tracker, decided(0, "accepted"), decided(1, "accepted"))
    assert batch.accepted == 2
    told = capfd.readouterr().err
    assert told.count("the batch goes on without it") == 1 and SECRET[:40] not in told


def test_a_client_that_dies_midway_does_not_end_the_batch(batch: Batch, scorer: Path, capfd):
    import wandb

    with open_tracker(OFFLINE, batch, {}, scorer) as tracker:
        observed(batch, tracker, decided(0, "accepted"))
        os.kill(service_pid(), signal.SIGKILL)
        for index in range(1, 20):
            observed(batch, tracker, decided(index, "accepted"))
            threading.Event().wait(0.05)
    assert batch.accepted == 20
    assert capfd.readouterr().err.count("the batch goes on without it") == 1
    with contextlib.suppress(ConnectionError):
        wandb.teardown()
    with open_tracker(OFFLINE, batch, {}, scorer) as tracker:  # nor what comes after it in this process
        observed(batch, tracker, decided(20, "accepted"))
    assert tracker.where


def service_pid() -> int:
    """The process that W&B's client talks to: the child of this process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, parent = path.read_text().partition("(")[2].rpartition(")")[0], path.read_text().rsplit(")", 1)[1]
        except OSError:
            continue
        if "wandb" in name and int(parent.split()[1]) == os.getpid():
            return int(path.parent.name)
    raise AssertionError("there is no such process")
