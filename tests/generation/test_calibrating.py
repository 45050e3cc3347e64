"""Early rejection in whole batches: calibrate, use, refuse for others, resume."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from batches import build_scorer, composed, configured, ledger
from PIL import Image
from tiny_models import build_tiny

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.calibrating import (
    calibration_settings,
    default_grid,
    prices,
    seed_beside,
    trajectories,
)
from artgate.generation.config import GenerateConfig
from artgate.generation.preview_calibration import (
    load_calibration,
    made_for_settings,
    refuse_other,
    resolved_preview,
    save_calibration,
)
from artgate.generation.production import generate
from artgate.generation.progress import Progress

QUICK = ("diffusion.steps=4", "near_duplicates.radius=null", "near_duplicates.distance=null")
CALIBRATE = ("mode=calibrate", "n=12", "max_loss=0.6", "confidence=0.5", "preview.steps=[1,2]")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(model: Path, scorer: Path):
    def run(batch_dir: Path, *overrides: str) -> dict[str, Any]:
        return generate(configured(model, scorer, batch_dir, *QUICK, *overrides))

    return run


@pytest.fixture(scope="module")
def unpruned(run, tmp_path_factory) -> Path:
    """Ten candidates that nothing ends early, and that all are accepted."""
    root = tmp_path_factory.mktemp("unpruned") / "batch"
    run(root, "target=10", "gate.threshold=0")
    return root


@pytest.fixture(scope="module")
def gate(unpruned: Path) -> str:
    """A gate that about half pass."""
    return f"gate.threshold={median(line['score'] for line in ledger(unpruned))}"


@pytest.fixture(scope="module")
def calibrated(run, gate: str, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("calibrated") / "batch"
    run(root, gate, *CALIBRATE)
    return root


def write(path: Path, calibrated: Path, **changes: Any) -> Path:
    """The calibration with some of it changed, as if it had been found so."""
    return save_calibration(path, replace(load_calibration(calibrated / "calibration.json"), reason=None, **changes))


def test_a_calibration_is_an_unpruned_batch_with_its_previews_and_a_choice(calibrated: Path, run, gate: str, tmp_path):
    lines = ledger(calibrated)
    assert len(lines) == 12
    for line in lines:
        assert [(seen["step"], seen["evaluations"]) for seen in line["previews"]] == [(1, 2), (2, 4)]
        assert all(0 <= seen["score"] <= 1 for seen in line["previews"])
        assert line["evaluations"] == 8 and "preview" not in line
    plain = tmp_path / "plain"
    run(plain, gate, f"seed={seed_beside(5)}", "target=12", "max_candidates=12")
    for line, watched in zip(ledger(plain), lines, strict=True):
        # Looking changes nothing, not even a byte of what is accepted
        told = watched.keys() - {"previews"}
        assert {key: line[key] for key in told} == {key: watched[key] for key in told}
    made = json.loads((calibrated / "calibration.json").read_text())
    assert made["candidates"] == 12 and made["accepted"] == sum(line["status"] == "accepted" for line in lines)
    assert [row["step"] for row in made["grid"]] == [1, 2]
    assert set(made["made_for"]) == {"schedule", "prompts", "gate", "model", "size", "scorer", "decoder"}
    assert made["unpruned"]["evaluations"] == 8
    assert json.loads((calibrated / "summary.json").read_text())["complete"]


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_ends_in_the_same(calibrated: Path, run, gate: str, tmp_path: Path):
    resumed = tmp_path / "batch"
    run(resumed, gate, *CALIBRATE, "n=5")
    run(resumed, gate, *CALIBRATE, "diffusion.slots=3")
    assert ledger(resumed) == ledger(calibrated)
    both = [asdict(load_calibration(root / "calibration.json")) for root in (resumed, calibrated)]
    for made in both:
        for measured in ("made_at", "prices"):
            del made[measured]
        del made["saving"]["seconds"]
    assert both[0] == both[1]
    run(resumed, gate, *CALIBRATE)  # nothing is left to do
    assert ledger(resumed) == ledger(calibrated)


@pytest.fixture(scope="module")
def cut(calibrated: Path, unpruned: Path, run, gate: str, tmp_path_factory) -> tuple[Path, float]:
    """A batch whose previews at step 2 end about half of its ten candidates, and their threshold."""
    folder = tmp_path_factory.mktemp("cut")
    threshold = median(line["previews"][1]["score"] for line in ledger(calibrated))
    file = write(folder / "calibration.json", calibrated, steps=[2], thresholds=[threshold])
    run(folder / "batch", gate, "target=10", "max_candidates=10", "preview=calibrated", f"preview.file={file}")
    return folder / "batch", threshold


def test_what_previews_reject_leaves_early_and_all_else_is_as_it_was(cut, unpruned: Path, gate: str):
    root, threshold = cut
    lines, before = ledger(root), ledger(unpruned)
    left = [line for line in lines if "preview" in line]
    assert 0 < len(left) < len(lines) == 10
    for line in left:
        assert line["status"] == "rejected" and line["score"] is None and line["evaluations"] == 4
        assert line["preview"]["step"] == 2 and line["preview"]["score"] < threshold
        assert line["reason"].startswith("preview ") and line["reason"].endswith("at step 2 of 4")
        assert line["preview"]["picture"] == line["file"]
        with Image.open(root / line["file"]) as picture:
            assert picture.size == (64, 64)
    for line, plain in zip(lines, before, strict=True):
        if "preview" not in line:
            assert line["previews"][0]["score"] >= threshold
            assert (line["score"], line["evaluations"]) == (plain["score"], 8)
            if line["status"] == "accepted":
                assert line["image_id"] == plain["image_id"]


def test_the_summary_tells_the_saving_got_beside_the_predicted(cut, calibrated: Path, capsys):
    root, _ = cut
    summary, lines = json.loads((root / "summary.json").read_text()), ledger(root)
    told, made = summary["preview"], load_calibration(calibrated / "calibration.json")
    left = sum("preview" in line for line in lines)
    assert (told["left"], told["by_step"]) == (left, {"2": left})
    assert summary["evaluations"] >= left * 4 + (10 - left) * 8
    per_accepted = made.unpruned["evaluations_per_accepted"]
    assert told["saving"] == pytest.approx(per_accepted / summary["evaluations_per_accepted"])
    assert told["saving_95"][0] < told["saving"] < told["saving_95"][1]
    assert told["same_candidates"] == pytest.approx(80 / summary["evaluations"] * (1 - made.loss))
    assert summary["seconds"]["preview"] > 0


@pytest.mark.slow
def test_the_ledger_of_early_rejection_does_not_depend_on_slots_or_kills(cut, run, gate: str, tmp_path: Path):
    root, threshold = cut
    previews = (gate, "preview=thresholds", "preview.steps=[2]", f"preview.thresholds=[{threshold}]")
    few, many = tmp_path / "few", tmp_path / "many"
    run(few, *previews, "target=10", "max_candidates=4", "diffusion.slots=3", "target=4")
    run(few, *previews, "target=10", "max_candidates=10", "diffusion.slots=3")
    run(many, *previews, "target=10", "max_candidates=10", "diffusion.slots=5")
    assert ledger(few) == ledger(root)
    assert [line["status"] for line in ledger(many)] == [line["status"] for line in ledger(root)]
    told = json.loads((few / "summary.json").read_text())["preview"]
    assert set(told) == {"left", "by_step"}  # no prediction where thresholds are one's own


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("diffusion.steps=5", r"schedule steps is 4 there and 5 here"),
        ("diffusion.guidance=5", r"schedule guidance is 3\.0 there and 5\.0 here"),
        ("diffusion.scheduler=ddim", r"schedule scheduler is euler_ancestral there and ddim here"),
        ("gate.threshold=0.9", r"gate threshold is 0\.\d+ there and 0\.9 here"),
        ("prompts.suffix=' at night'", r"prompts is [0-9a-f]{12} there and [0-9a-f]{12} here"),
    ],
)
def test_a_calibration_for_other_settings_is_refused_at_once(calibrated, run, gate, tmp_path, override, named):
    file = write(tmp_path / "calibration.json", calibrated, steps=[2], thresholds=[0.1])
    with pytest.raises(UserError, match=named):
        run(tmp_path / "batch", gate, "preview=calibrated", f"preview.file={file}", override)
    assert not (tmp_path / "batch").exists()


@pytest.mark.slow
def test_a_calibration_for_other_models_or_sizes_is_refused(calibrated, run, gate, scorer, tmp_path):
    file = write(tmp_path / "calibration.json", calibrated, steps=[2], thresholds=[0.1])
    other = build_tiny("sd1", tmp_path / "other", seed=9)
    use = (gate, "preview=calibrated", f"preview.file={file}")
    with pytest.raises(UserError, match=r"model is [0-9a-f]{12} there and [0-9a-f]{12} here"):
        run(tmp_path / "batch", *use, f"diffusion.model={other}")
    with pytest.raises(UserError, match=r"size width is 64 there and 96 here"):
        run(tmp_path / "batch", *use, "application.width=96", "application.height=64")
    build_scorer(tmp_path / "scorer", seed=4)
    with pytest.raises(UserError, match=r"scorer is [0-9a-f]{12} there and [0-9a-f]{12} here"):
        run(tmp_path / "batch", *use, f"scorer={tmp_path / 'scorer'}")
    # another folder of the same weights is no other model
    shutil.copytree(scorer, tmp_path / "same")
    run(tmp_path / "batch", *use, f"scorer={tmp_path / 'same'}", "target=1", "max_candidates=1")


def test_a_file_that_is_no_calibration_or_was_changed_is_refused(calibrated, model, scorer, tmp_path):
    def settings(file: Path) -> GenerateConfig:
        cfg = configured(model, scorer, tmp_path / "b", *QUICK, "preview=calibrated", f"preview.file={file}")
        return validated(GenerateConfig, cfg)

    with pytest.raises(UserError, match="cannot be read"):
        resolved_preview(settings(tmp_path / "none.json"))
    for text in ("[]", "{", '{"format": 1, "fingerprint": ""}'):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(UserError, match=r"is no calibration\.json"):
            resolved_preview(settings(tmp_path / "odd.json"))
    changed = json.loads((calibrated / "calibration.json").read_text()) | {"thresholds": [0.99], "steps": [1]}
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="was changed"):
        resolved_preview(settings(tmp_path / "changed.json"))
    (tmp_path / "future.json").write_text(json.dumps(changed | {"format": 2}))
    with pytest.raises(UserError, match="has format 2"):
        resolved_preview(settings(tmp_path / "future.json"))


def test_a_calibration_that_rejects_nothing_says_so_when_it_is_used(calibrated, model, scorer, gate, tmp_path):
    made = replace(load_calibration(calibrated / "calibration.json"), steps=[], thresholds=[], reason="too few")
    file = save_calibration(tmp_path / "calibration.json", made)
    cfg = configured(model, scorer, tmp_path / "b", *QUICK, gate, "preview=calibrated", f"preview.file={file}")
    with pytest.raises(UserError, match="rejects nothing: too few; take preview=none"):
        resolved_preview(validated(GenerateConfig, cfg))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gate=best_of"], "previews are not for gate=best_of"),
        (["gate=certified", "gate.certificate=x"], "previews are not for gate=certified"),
        (["allocation=bandit"], "allocation=bandit is not for mode=calibrate"),
        (["preview=thresholds", "preview.steps=[1]", "preview.thresholds=[0.1]"], "preview=thresholds is not for"),
        (["diffusion.steps=1"], "steps 1 leaves no step"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(overrides, message, model, scorer, tmp_path):
    cfg = configured(model, scorer, tmp_path / "b", "mode=calibrate", *overrides)
    with pytest.raises(UserError, match=message):
        calibration_settings(validated(GenerateConfig, cfg))


@pytest.mark.parametrize("gate_name", ["best_of", "certified"])
def test_gates_under_which_no_loss_can_be_stated_take_no_previews(gate_name, model, scorer, tmp_path):
    extra = ["gate.certificate=x"] if gate_name == "certified" else []
    previews = ["preview=thresholds", "preview.steps=[1]", "preview.thresholds=[0.1]"]
    cfg = configured(model, scorer, tmp_path / "b", f"gate={gate_name}", *extra, *previews)
    with pytest.raises(UserError, match=f"previews are not for gate={gate_name}"):
        resolved_preview(validated(GenerateConfig, cfg))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preview=calibrated"], "preview.file"),
        (["preview=thresholds", "preview.steps=[2,1]", "preview.thresholds=[0.1,0.1]"], "not a rising list"),
        (["preview=thresholds", "preview.steps=[0]", "preview.thresholds=[0.1]"], "below 1"),
        (["preview=thresholds", "preview.steps=[1]", "preview.thresholds=[1.1]"], r"outside \[0, 1\]"),
        (["preview=thresholds", "preview.steps=[1,2]", "preview.thresholds=[0.1]"], "one threshold a step"),
        (["preview.decoder=crayon"], "'crayon' is not one of codec, tiny, linear"),
        (["preview.decoder=tiny"], "preview.tiny has no value"),
        (["preview.shrink=3"], "preview.shrink 3"),
        (["n=1"], "n 1 is below 2"),
        (["max_loss=0"], r"max_loss 0\.0 is outside"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_cure(overrides, message):
    with pytest.raises(UserError, match=message):
        resolved_preview(validated(GenerateConfig, composed("generate", "experiment=demo", *overrides)))


def test_a_calibration_that_goes_while_it_is_used_does_not_cost_the_summary(
    calibrated, run, gate, tmp_path, monkeypatch
):
    file = write(tmp_path / "calibration.json", calibrated, steps=[2], thresholds=[0.0])
    advance = Progress.advance

    def lose_it(progress: Progress) -> None:
        file.unlink(missing_ok=True)
        advance(progress)

    monkeypatch.setattr(Progress, "advance", lose_it)
    told = run(tmp_path / "batch", gate, "preview=calibrated", f"preview.file={file}", "target=2", "max_candidates=2")
    assert not file.exists() and "predicted" in told["preview"]
    assert (tmp_path / "batch" / "gallery.html").exists()


@pytest.mark.slow
def test_a_batch_goes_on_with_the_calibration_it_was_begun_with(cut, calibrated, run, gate, tmp_path, capsys):
    """Whatever mode=calibrate writes meanwhile; until something is decided the newest counts."""
    root, threshold = cut
    newer = write(tmp_path / "newer.json", calibrated, steps=[1], thresholds=[0.0])
    file, copy = tmp_path / "calibration.json", tmp_path / "batch" / "calibration.json"
    copy.parent.mkdir()
    shutil.copy(newer, copy)  # of a start that was killed before anything was decided
    (copy.parent / "config.json").write_text((root / "config.json").read_text())
    write(file, calibrated, steps=[2], thresholds=[threshold])
    use = (gate, "preview=calibrated", f"preview.file={file}")
    run(copy.parent, *use, "target=3", "max_candidates=3")
    assert copy.read_bytes() == file.read_bytes() and "not as it was" not in capsys.readouterr().out
    newer.rename(file)
    run(copy.parent, *use, "target=5", "max_candidates=5")
    assert f"begun with, {copy}" in capsys.readouterr().out
    file.unlink()
    run(copy.parent, *use, "target=6", "max_candidates=6")
    assert ledger(copy.parent) == ledger(root)[:6]


def test_a_look_that_would_never_come_is_refused(run, tmp_path):
    previews = ("preview=thresholds", "preview.steps=[2,4]", "preview.thresholds=[0,0]")
    with pytest.raises(UserError, match=r"preview.steps 4 is not before the end: .* takes 4 denoiser calls; .* 1 to 3"):
        run(tmp_path / "batch", *previews)
    assert not (tmp_path / "batch").exists()


@pytest.mark.slow
def test_the_linear_map_is_fitted_once_and_goes_with_the_calibration(run, gate, tmp_path, monkeypatch):
    linear = (gate, *CALIBRATE, "n=2", "preview.decoder=linear", "preview.steps=[2]")
    run(tmp_path / "a", *linear)
    kept = (tmp_path / "a" / "linear.safetensors").read_bytes()
    run(tmp_path / "a", *linear, "n=3")
    assert (tmp_path / "a" / "linear.safetensors").read_bytes() == kept
    file = write(tmp_path / "a" / "calibration.json", tmp_path / "a", steps=[2], thresholds=[0.0])
    use = (gate, "preview=calibrated", "target=2", "max_candidates=2")
    run(tmp_path / "b", *use, f"preview.file={file}")
    assert all(line["previews"] for line in ledger(tmp_path / "b"))
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    run(tmp_path / "b", *use, f"preview.file={file}", "target=3", "max_candidates=3")  # the batch has both, too
    (tmp_path / "elsewhere").rename(tmp_path / "a")
    shutil.copy(file, tmp_path / "calibration.json")  # without the map
    with pytest.raises(UserError, match=r"linear\.safetensors cannot be read"):
        run(tmp_path / "c", *use, f"preview.file={tmp_path / 'calibration.json'}")


def test_the_default_grid_has_no_last_step_and_no_step_twice():
    assert default_grid(20) == [2, 4, 6, 8, 10, 13, 16]
    assert default_grid(4) == [1, 2, 3]
    assert default_grid(2) == [1]


def test_what_a_ledger_shows():
    def line(status: str, reason: str, score: float | None, seen: list[tuple[int, float]]) -> dict[str, Any]:
        return {
            "status": status,
            "reason": reason,
            "score": score,
            "probabilities": None if score is None else {"good": score / 2},
            "previews": [{"step": step, "score": at, "evaluations": 2 * step} for step, at in seen],
            "evaluations": 20,
            "seconds": {"denoise": 4.0, "preview": 1.0, "decode": 0.5, "score": 1.5},
        }

    lines = [
        line("accepted", "", 0.9, [(2, 0.3), (4, 0.5)]),
        line("rejected", "score 0.1 < threshold 0.5", 0.1, [(2, 0.2), (4, 0.1)]),
        line("rejected", "near-duplicate of candidate 0", 0.8, [(2, 0.3)]),
        line("failed", "denoise: not finite", None, []),
    ]
    seen = trajectories(lines, [2, 4])
    assert seen.accepted.tolist() == [True, False, True, False]
    assert seen.previews.tolist() == [[0.3, 0.5], [0.2, 0.1], [0.3, np.inf], [np.inf, np.inf]]
    assert seen.spent[0].tolist() == [4, 8] and seen.whole.tolist() == [20] * 4
    assert seen.final.tolist() == [0.9, 0.1, 0.8, -np.inf]
    assert trajectories(lines, [2], "good").final.tolist() == [0.45, 0.05, 0.4, -np.inf]
    found = prices(lines)
    assert (found.evaluation, found.look, found.finish) == pytest.approx((16 / 80, 4 / 5, 8 / 3))


def test_names_may_differ_and_everything_else_is_named():
    kept = {"model": {"name": "a", "fingerprint": "1" * 64}, "schedule": {"steps": 4}}
    refuse_other(kept, {"model": {"name": "b", "fingerprint": "1" * 64}, "schedule": {"steps": 4}}, Path("f"))
    with pytest.raises(
        UserError, match=r"model is 111111111111 there and 222222222222 here; schedule steps is 4 there"
    ):
        refuse_other(kept, {"model": {"name": "a", "fingerprint": "2" * 64}, "schedule": {"steps": 5}}, Path("f"))


def test_word_lists_in_files_are_part_of_the_prompts(tmp_path: Path):
    words = tmp_path / "words.txt"
    words.write_text("red\nblue\n")
    overrides = ["experiment=demo", "prompts.prompts=[a __colour__ house]", f"+prompts.words.colour={words}"]
    before = made_for_settings(validated(GenerateConfig, composed("generate", *overrides)))
    assert made_for_settings(validated(GenerateConfig, composed("generate", *overrides))) == before
    words.write_text("red\ngreen\n")
    after = made_for_settings(validated(GenerateConfig, composed("generate", *overrides)))
    assert after["prompts"] != before["prompts"] and after["schedule"] == before["schedule"]
