import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from batches import build_scorer, configured, ledger
from PIL import Image
from safetensors.torch import load_file, save_file

from artgate.artworks.collection import Collection
from artgate.artworks.parameters import embed_png, read_parameters
from artgate.errors import UserError
from artgate.generation.interrupts import Interrupts
from artgate.generation.production import generate
from artgate.generation.remaking import remake
from artgate.generation.summary import VERDICTS
from artgate.scoring.scorer import Scorer
from benchmarks import kills

Run = Callable[..., dict[str, Any]]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(model: Path, scorer: Path) -> Run:
    def run(batch_dir: Path, *overrides: str) -> dict[str, Any]:
        return generate(configured(model, scorer, batch_dir, *overrides))

    return run


@pytest.fixture(scope="module")
def everything(run: Run, tmp_path_factory) -> Path:
    """A batch whose gate lets the first 12 candidates pass."""
    root = tmp_path_factory.mktemp("everything") / "batch"
    run(root, "target=12", "gate.threshold=0")
    return root


@pytest.fixture(scope="module")
def threshold(everything: Path) -> str:
    """A gate that about half of the candidates pass."""
    return f"gate.threshold={median(line['score'] for line in ledger(everything))}"


@pytest.fixture(scope="module")
def batch(run: Run, threshold: str, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gated") / "batch"
    run(root, "target=4", threshold)
    return root


def accepted_ids(root: Path) -> list[str]:
    return [line["image_id"] for line in ledger(root) if line["status"] == "accepted"]


def test_a_batch_accepts_exactly_what_reaches_the_threshold_until_its_target(batch: Path, everything: Path):
    lines, all_lines = ledger(batch), ledger(everything)
    level = json.loads((batch / "config.json").read_text())["gate"]["threshold"]
    assert [line["score"] for line in lines] == [line["score"] for line in all_lines[: len(lines)]]
    assert {line["status"] for line in lines} == {"accepted", "rejected"}
    assert all((line["status"] == "accepted") == (line["score"] >= level) for line in lines)
    assert len(accepted_ids(batch)) == 4 and lines[-1]["status"] == "accepted"
    # what is accepted by a low threshold and by a high one is the same file
    assert set(accepted_ids(batch)) < set(accepted_ids(everything))


def test_accepted_artworks_are_a_collection_with_their_provenance(batch: Path):
    collection = Collection(batch / "accepted")
    lines = [line for line in ledger(batch) if line["status"] == "accepted"]
    assert [artwork.image_id for artwork in collection] == [line["image_id"] for line in lines]
    for artwork, line in zip(collection, lines, strict=True):
        assert (batch / line["file"]).read_bytes() == collection.path(artwork).read_bytes()
        assert artwork.provenance.source == "artgate"
        assert (artwork.provenance.prompt, artwork.provenance.seed) == (line["prompt"], line["seed"])
        told = read_parameters(collection.path(artwork).read_bytes())
        assert told is not None
        assert (told.prompt, told.seed, told.steps, told.size) == (line["prompt"], line["seed"], 2, (64, 64))
        assert told.sampler == "Euler a" and told.negative_prompt == line["negative_prompt"]


def test_the_ledger_tells_the_scorers_own_judgement_of_the_picture(batch: Path, scorer: Path):
    collection, judge = Collection(batch / "accepted"), Scorer.load(scorer)
    for line in ledger(batch):
        if line["status"] == "accepted":
            score = judge([collection.image(collection[line["image_id"]])])[0]
            assert (line["score"], line["grade"]) == (score.score, score.grade)
            assert line["probabilities"] == score.probabilities


def test_the_rejected_leave_a_small_picture_and_a_reason(batch: Path):
    rejected = [line for line in ledger(batch) if line["status"] == "rejected"]
    assert rejected
    for line in rejected:
        assert "< threshold" in line["reason"] and line["image_id"] is None
        with Image.open(batch / line["file"]) as picture:
            assert picture.format == "WEBP" and max(picture.size) <= 256


def test_every_accepted_artwork_can_be_remade_from_its_sidecar(batch: Path):
    for image_id in accepted_ids(batch)[-2:]:
        remade = remake(batch / "accepted" / "sidecars" / f"{image_id}.json").data
        assert remade == (batch / "accepted" / "images" / f"{image_id}.png").read_bytes()


def test_the_summary_tells_what_the_batch_cost(batch: Path):
    summary = json.loads((batch / "summary.json").read_text())
    lines = [json.loads(line) for line in (batch / "candidates.jsonl").read_text().splitlines()]
    n = len(lines)
    assert (summary["candidates"], summary["accepted"], summary["rejected"]) == (n, 4, n - 4)
    assert summary["complete"] and summary["failed"] == 0 and summary["yield"] == 4 / n
    rows = 2 * (2 if summary["config"]["diffusion"]["guidance"] > 1 else 1)
    assert all(line["evaluations"] == rows for line in lines)
    # up to two of three slots were on their way when the fourth was accepted
    assert rows * n <= summary["evaluations"] <= rows * (n + 2)
    assert all(summary["seconds"][stage] > 0 for stage in ("load", "denoise", "decode", "score", "save"))
    assert summary["seconds"]["denoise"] == pytest.approx(sum(line["seconds"]["denoise"] for line in lines), abs=2e-3)
    assert len(summary["models"]["diffusion"]["fingerprint"]) == len(summary["models"]["scorer"]["fingerprint"]) == 64
    assert (batch / "gallery.html").stat().st_size > 1000


@pytest.mark.slow
def test_a_batch_may_grow_and_is_the_same_as_one_made_at_once(run: Run, batch: Path, threshold: str, tmp_path: Path):
    run(tmp_path, "target=1", threshold)
    assert len(accepted_ids(tmp_path)) == 1
    run(tmp_path, "target=2", threshold)
    summary = run(tmp_path, "target=4", threshold)
    assert ledger(tmp_path) == ledger(batch)
    assert summary["sessions"] == 3


def test_best_of_keeps_the_best_of_every_prompt(run: Run, tmp_path: Path):
    run(tmp_path, "gate=best_of", "gate.keep=1", "gate.of=4", "target=3")
    lines = ledger(tmp_path)
    groups = [lines[first : first + 4] for first in (0, 4, 8)]
    best = [max(group, key=lambda line: line["score"])["index"] for group in groups]
    assert [line["index"] for line in lines if line["status"] == "accepted"] == best
    assert lines[0]["reason"].endswith("of 4, best 1 are kept")
    assert [len({line["prompt"] for line in group}) for group in groups] == [1] * len(groups)
    assert len({line["prompt"] for line in lines}) == len(groups) and len({line["seed"] for line in lines}) == len(
        lines
    )


@pytest.mark.slow
def test_a_batch_by_the_bandit_is_the_same_whatever_the_slots_and_stops(run: Run, threshold: str, tmp_path: Path):
    bandit = ["allocation=bandit", "allocation.round=2", threshold]  # slots wait for verdicts
    run(tmp_path / "three", "target=4", *bandit)
    run(tmp_path / "one", "target=1", "diffusion.slots=1", *bandit)
    run(tmp_path / "one", "target=4", "diffusion.slots=1", *bandit)
    one, three = (
        [(line["template"], line["prompt"], line["status"]) for line in ledger(tmp_path / name)]
        for name in ("one", "three")
    )
    assert one == three and len({template for template, _, _ in one}) > 1
    yields = json.loads((tmp_path / "three" / "summary.json").read_text())["yields"]
    assert sum(found["accepted"] for found in yields) == 4
    assert sum(found["candidates"] for found in yields) == len(three)


@pytest.mark.slow
def test_near_duplicates_of_the_accepted_are_rejected_and_resuming_knows_them(run: Run, tmp_path: Path):
    alike = ["gate.threshold=0", "near_duplicates.distance=0.9", "near_duplicates.radius=31", "max_candidates=30"]
    whole = run(tmp_path / "whole", "target=30", *alike)
    for target in ("2", "4", "30"):
        run(tmp_path / "pieces", f"target={target}", *alike)
    lines = ledger(tmp_path / "whole")
    assert ledger(tmp_path / "pieces") == lines
    rejected = [line for line in lines if line["status"] == "rejected"]
    assert rejected and all(line["reason"].startswith("near-duplicate of candidate ") for line in rejected)
    assert whole["verdicts"]["near-duplicate"] == len(rejected) == 30 - whole["accepted"]
    assert whole["diversity"]["ratio"] > 0


def test_a_picture_without_any_variation_is_a_failure(run: Run, model: Path, tmp_path: Path):
    """A codec whose last layer is zero makes every picture grey."""
    flat = shutil.copytree(model, tmp_path / "flat")
    (weights,) = (flat / "vae").glob("*.safetensors")
    save_file(
        {key: value * 0 if key.startswith("decoder.conv_out") else value for key, value in load_file(weights).items()},
        weights,
    )
    with pytest.raises(
        UserError, match=r"3 candidates in a row failed .* decode: ValueError: the picture has no variation"
    ):
        run(tmp_path / "batch", f"diffusion.model={flat}", "max_failures=3")
    summary = json.loads((tmp_path / "batch" / "summary.json").read_text())
    assert summary["verdicts"] == {**dict.fromkeys(VERDICTS, 0), "failed: decode": 3}


@pytest.mark.slow
def test_slots_lowered_for_lack_of_memory_are_told_and_kept_in_later_sessions(
    run: Run, tmp_path: Path, monkeypatch, capsys
):
    from artgate.generation.models import DiffusionModel

    denoise = DiffusionModel.denoise

    def full(self, latents, *arguments):
        if len(latents) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return denoise(self, latents, *arguments)

    monkeypatch.setattr(DiffusionModel, "denoise", full)
    summary = run(tmp_path, "target=3", "gate.threshold=0", "diffusion.slots=5")
    assert summary["slots"] == [2] and summary["accepted"] == 3 and summary["failed"] == 0
    assert "going on with" not in capsys.readouterr().out
    monkeypatch.setattr(DiffusionModel, "denoise", denoise)  # there would be room again
    assert run(tmp_path, "target=4", "gate.threshold=0", "diffusion.slots=5")["slots"] == [2]
    assert "for 5 slots in an earlier session: going on with 2. " in capsys.readouterr().out
    sessions = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    told = [(session["event"], session.get("slots")) for session in sessions]
    assert told == [("begun", 5), ("shrunk", 2), ("ended", None), ("begun", 2), ("ended", None)]
    sidecars = list((tmp_path / "accepted" / "sidecars").iterdir())
    assert [json.loads(path.read_text())["sampler"]["slots"] for path in sidecars] == [2] * 4
    shapes: list[int] = []
    monkeypatch.setattr(DiffusionModel, "denoise", lambda *all: shapes.append(len(all[1])) or denoise(*all))
    remake(sidecars[0])  # with the slots of then, whatever the configuration has
    assert set(shapes) == {2}


def test_slots_are_those_configured_while_nothing_is_decided(run: Run, tmp_path: Path, capsys):
    run(tmp_path, "target=1", "gate.threshold=0")
    (tmp_path / "candidates.jsonl").unlink()
    with (tmp_path / "sessions.jsonl").open("a") as sessions:
        sessions.write('{"event": "shrunk", "slots": 1, "seconds": {}, "evaluations": 0}\n')
    run(tmp_path, "target=1", "gate.threshold=0", "diffusion.slots=2")
    (path,) = (tmp_path / "accepted" / "sidecars").iterdir()
    assert json.loads(path.read_text())["sampler"]["slots"] == 2 and "going on" not in capsys.readouterr().out


def test_max_candidates_ends_a_batch_that_is_not_complete(run: Run, tmp_path: Path):
    summary = run(tmp_path, "target=2", "max_candidates=3", "gate.threshold=1")
    assert (summary["candidates"], summary["accepted"], summary["complete"]) == (3, 0, False)
    assert summary["evaluations_per_accepted"] is None


def test_only_the_accepted_are_enlarged(run: Run, threshold: str, batch: Path, tmp_path: Path):
    made = ["application.width=64", "application.height=64"]
    delivered = [*made, "application.final_width=100", "application.final_height=90"]
    run(tmp_path, "target=4", threshold, "upscaler=embedded_animevideov3", *delivered)
    assert {(artwork.width, artwork.height) for artwork in Collection(tmp_path / "accepted")} == {(100, 90)}
    lines = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [line["score"] for line in ledger(batch)]  # of the small pictures
    assert all(("upscale" in line["seconds"]) == (line["status"] == "accepted") for line in lines)
    rejected = next(line for line in lines if line["status"] == "rejected")
    with Image.open(tmp_path / rejected["file"]) as picture:
        assert picture.size == (64, 64)


def test_a_final_size_that_the_upscaler_does_not_reach_is_refused(run: Run, tmp_path: Path):
    with pytest.raises(UserError, match="wants 65x64 pixels, and 64x64 enlarged 1x are only 64x64"):
        made = ["application.width=64", "application.height=64"]
        run(tmp_path / "new", *made, "application.final_width=65", "application.final_height=64")
    assert not (tmp_path / "new").exists()


def test_a_failing_candidate_is_recorded_and_skipped(run: Run, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    prompts = f"prompts.prompts=[a frog,{{prompt: a cat, basemap: {broken}}},a painting]"
    summary = run(tmp_path / "batch", "target=4", "gate.threshold=0", prompts)
    lines = ledger(tmp_path / "batch")
    assert [line["status"] for line in lines] == ["accepted", "failed", "accepted"] * 2
    assert "broken.png" in lines[1]["reason"] and lines[1]["score"] is None
    assert summary["failed"] == 2 and summary["accepted"] == 4


def test_a_batch_in_which_all_fails_stops_with_the_first_cause(run: Run, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"20 candidates in a row failed .*the first, candidate 0, .*broken\.png"):
        run(tmp_path / "batch", f"prompts.prompts=[{{prompt: a cat, basemap: {broken}}}]")
    summary = json.loads((tmp_path / "batch" / "summary.json").read_text())
    assert summary["failed"] == summary["candidates"] == 20


@pytest.mark.slow
def test_a_changed_setting_changed_weights_or_changed_words_are_refused(
    run: Run, model: Path, scorer: Path, tmp_path: Path
):
    words = tmp_path / "words.txt"
    words.write_text("frog\ncat\n")
    settings = ["gate.threshold=0", "prompts.prompts=[a __animal__]", f"+prompts.words.animal={words}"]
    own = build_scorer(tmp_path / "scorer")
    root = tmp_path / "batch"
    run(root, "target=2", *settings, f"scorer={own}")
    before = (root / "candidates.jsonl").read_bytes()
    with pytest.raises(UserError, match="diffusion.steps is 2 there and 3 here"):
        run(root, "target=3", *settings, f"scorer={own}", "diffusion.steps=3")
    build_scorer(own, seed=1)
    with pytest.raises(UserError, match="was made with scorer"):
        run(root, "target=3", *settings, f"scorer={own}")
    build_scorer(own)
    words.write_text("dog\n")
    with pytest.raises(UserError, match=r"candidate 0 .* has prompt .* would have 'a dog"):
        run(root, "target=3", *settings, f"scorer={own}")
    assert (root / "candidates.jsonl").read_bytes() == before
    words.write_text("frog\ncat\n")
    assert run(root, "target=3", *settings, f"scorer={own}")["accepted"] == 3


def test_a_batch_that_lost_the_record_of_its_models_is_refused(run: Run, batch: Path, threshold: str, tmp_path: Path):
    copy = shutil.copytree(batch, tmp_path / "batch")
    (copy / "models.json").unlink()
    with pytest.raises(UserError, match=r"models.json is missing: restore it, or give another batch_dir"):
        run(copy, "target=6", threshold)
    assert (copy / "candidates.jsonl").read_bytes() == (batch / "candidates.jsonl").read_bytes()


def test_a_complete_batch_is_told_of_at_once_without_loading_models(batch: Path):
    before = (batch / "candidates.jsonl").read_bytes()
    code = (
        "import json, sys; from omegaconf import OmegaConf; from artgate.generation.production import generate\n"
        f"generate(OmegaConf.create(json.load(open({str(batch / 'config.json')!r}))))\n"
        "assert not {'torch', 'diffusers', 'timm'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing is left to do" in done.stdout and "4 of 4 accepted" in done.stdout
    assert (batch / "candidates.jsonl").read_bytes() == before


def in_a_fork(work: Callable[[], object], meanwhile: Callable[[int], None] = lambda child: None) -> int:
    """Run `work` in a child process, and `meanwhile` beside it; the child's exit status, or minus its signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except UserError as error:
            os.write(2, f"error: {error}\n".encode())
            status = 2
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)  # no teardown of pytest's in the child
    meanwhile(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def when_decided(root: Path, lines: int, signal_number: int, delay: float) -> Callable[[int], None]:
    """Signal the child some seconds after its ledger has got that many more lines."""

    def size() -> int:
        path = root / "candidates.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    end = size() + lines

    def wait_and_signal(child: int) -> None:
        deadline = time.monotonic() + 120
        while size() < end and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        os.kill(child, signal_number)

    return wait_and_signal


def assert_whole(root: Path) -> None:
    """Nothing that the ledger tells of is missing or damaged."""
    for line in ledger(root):
        if line["status"] == "accepted":
            data = (root / line["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == line["image_id"]
            assert (root / "accepted" / "sidecars" / f"{line['image_id']}.json").exists()
        else:
            assert (root / line["file"]).exists()


def assert_same_batch(root: Path, other: Path) -> None:
    assert ledger(root) == ledger(other)
    assert_whole(root)
    collections = [Collection(folder / "accepted") for folder in (root, other)]
    ids = [[artwork.image_id for artwork in collection] for collection in collections]
    assert sorted(ids[0]) == sorted(ids[1])
    sidecars = [sorted(path.name for path in (folder / "accepted" / "sidecars").iterdir()) for folder in (root, other)]
    assert sidecars[0] == sidecars[1]
    assert not list(root.rglob("*.tmp"))


@pytest.mark.slow
def test_a_batch_killed_at_random_and_resumed_is_the_same_batch(run: Run, everything: Path, tmp_path: Path):
    chance = random.Random(3)
    kills = 0
    for _ in range(5):
        kill = when_decided(tmp_path, 1, signal.SIGKILL, delay=chance.uniform(0, 0.03))
        status = in_a_fork(lambda: run(tmp_path, "target=12", "gate.threshold=0"), kill)
        kills += status == -signal.SIGKILL
        assert_whole(tmp_path)
    assert kills >= 3
    summary = run(tmp_path, "target=12", "gate.threshold=0")
    assert_same_batch(tmp_path, everything)
    assert summary["complete"] and summary["sessions"] >= kills
    assert summary["seconds"]["load"] > 0


def test_an_interrupt_saves_what_was_decided_and_tells_of_it(run: Run, everything: Path, tmp_path: Path):
    interrupt = when_decided(tmp_path, 2, signal.SIGINT, delay=0.01)
    assert in_a_fork(lambda: run(tmp_path, "target=12", "gate.threshold=0"), interrupt) == 130
    decided = len(ledger(tmp_path))
    assert 2 <= decided < 12
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["candidates"] == decided and not summary["complete"]
    assert (tmp_path / "gallery.html").exists()
    run(tmp_path, "target=12", "gate.threshold=0")
    assert_same_batch(tmp_path, everything)


@pytest.mark.slow
def test_a_disk_that_is_full_stops_the_run_with_what_is_saved(run: Run, everything: Path, tmp_path: Path, capfd):
    run(tmp_path, "target=2", "gate.threshold=0")

    def on_a_full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # an artwork's PNG takes about 12 KB
        run(tmp_path, "target=12", "gate.threshold=0")

    assert in_a_fork(on_a_full_disk) == 2
    told = r"candidate 2 could not be saved \(\[Errno 27\] File too large: '.*\.png'\): 2 accepted artworks are kept"
    assert re.search(told, capfd.readouterr().err)
    assert len(ledger(tmp_path)) == 2
    run(tmp_path, "target=12", "gate.threshold=0")
    assert_same_batch(tmp_path, everything)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_and_cost_no_more_than_the_slots(
    model: Path, scorer: Path, tmp_path: Path
):
    settings = (*kills.SETTINGS, f"diffusion.model={model}", f"scorer={scorer}")
    found = kills.killed(tmp_path, kills=4, target=4, seed=1, settings=settings, preloaded=True)
    assert found["kills"] == 4 and found["same_ledger"] and found["same_images"]
    assert max(found["made_again_after_a_kill"]) <= kills.SLOTS


@pytest.fixture
def small_disk(tmp_path: Path):
    """Mounts a file system of some MB; a skip where this user may not."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(megabytes: int, *options: str) -> Path:
        told = ",".join([f"size={megabytes}m", *options])
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", told, "tmpfs", disk], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return disk

    yield mount
    subprocess.run(["umount", "-l", disk], capture_output=True, check=False)


@pytest.mark.slow
def test_a_small_disk_that_fills_up_stops_the_run_and_tears_nothing(
    run: Run, everything: Path, small_disk: Callable[..., Path]
):
    root = small_disk(1) / "batch"
    with (root.parent / "others").open("wb") as other:
        other.write(bytes(2**20 - 120 * 1024))  # room for a few artworks
    with pytest.raises(
        UserError, match=r"No space left on device: .*; make room or mend the access|could not be saved"
    ):
        run(root, "target=12", "gate.threshold=0")
    decided = len(ledger(root))
    assert 0 < decided < 12
    assert_whole(root)
    assert not list(root.rglob("*.tmp"))
    small_disk(1, "remount", "ro")
    with pytest.raises(
        UserError, match=r"Read-only file system.* (give another batch_dir|make room or mend the access)"
    ):
        run(root, "target=12", "gate.threshold=0")
    assert len(ledger(root)) == decided
    small_disk(8, "remount", "rw")
    run(root, "target=12", "gate.threshold=0")
    assert_same_batch(root, everything)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_batch(tmp_path: Path):
    from benchmarks.long_batch import resident_sizes

    sizes = dict(resident_sizes(tmp_path, candidates=300, every=50))
    assert (
        sizes[300] - sizes[150] < 6
    )  # MiB; one 64 px picture kept of each candidate would be 2, its latents and slot more


@pytest.mark.slow
def test_an_artwork_that_was_accepted_in_vain_is_taken_out(run: Run, tmp_path: Path):
    run(tmp_path, "target=1", "gate.threshold=0")
    collection = Collection(tmp_path / "accepted")
    (artwork,) = collection
    data = embed_png(Image.new("RGB", (64, 64)), "a stray")
    stray = collection.add(data, artwork.provenance)
    own = collection.add(embed_png(Image.new("RGB", (64, 64)), "put in by hand"))
    killed = tmp_path / "accepted" / "sidecars" / f"{stray.image_id}.json"
    killed.write_text("{}")
    run(tmp_path, "target=2", "gate.threshold=0")
    assert not killed.exists()
    left = {artwork.image_id for artwork in Collection(tmp_path / "accepted")}
    assert stray.image_id not in left and own.image_id in left and set(accepted_ids(tmp_path)) < left


def test_an_interrupt_waits_for_the_end_of_saving_and_a_second_one_does_not():
    saved = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.put_off():
            os.kill(os.getpid(), signal.SIGINT)
            saved.append("whole")
        with pytest.raises(KeyboardInterrupt), interrupts.put_off():
            os.kill(os.getpid(), signal.SIGINT)
            saved.append("torn")
    assert saved == ["whole"]


def test_an_interrupt_outside_of_saving_is_at_once():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def test_batches_run_outside_the_main_thread_too():
    entered = []

    def work() -> None:
        with Interrupts():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]
