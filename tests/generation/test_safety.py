"""A checkpoint's safety checker: on unless one says off, its rejections counted as such, never silently missing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import configured, ledger
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import add_safety_checker, build_tiny

from artgate.artworks.collection import Collection
from artgate.errors import UserError
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.production import generate
from artgate.generation.safety import REASON, SafetyChecker, load_safety_checker

BAD = 2  # the candidate whose picture the checker rejects


@pytest.fixture(scope="module")
def plain(scorer: Path, tmp_path_factory) -> tuple[Path, Path]:
    """(checkpoint without a checker, its first candidates as a batch that accepts all)."""
    model = build_tiny("sd1", tmp_path_factory.mktemp("model") / "sd1")
    batch = tmp_path_factory.mktemp("plain") / "batch"
    generate(configured(model, scorer, batch, "target=5", "gate.threshold=0", "near_duplicates.radius=null"))
    return model, batch


@pytest.fixture(scope="module")
def pictures(plain: tuple[Path, Path]) -> list[Image.Image]:
    collection = Collection(plain[1] / "accepted")
    return [collection.image(collection[line["image_id"]]) for line in ledger(plain[1])]


@pytest.fixture(scope="module")
def checked(plain: tuple[Path, Path], pictures: list[Image.Image], tmp_path_factory) -> Path:
    folder = shutil.copytree(plain[0], tmp_path_factory.mktemp("checked") / "sd1")
    return add_safety_checker(folder, pictures, pictures[BAD])


def config(model: Path, **settings: Any) -> DiffusionConfig:
    return DiffusionConfig(name="tiny", model=str(model), licence="none", device="cpu", **settings)


def test_it_sees_each_picture_alone_and_rejects_those_near_its_concepts(checked: Path, pictures: list[Image.Image]):
    checker = load_safety_checker(config(checked))
    assert [checker(picture) for picture in pictures] == [None, None, REASON, None, None]
    assert checker(pictures[BAD].resize((96, 96))) == REASON


def test_its_rejections_are_told_counted_and_never_kept(plain, checked: Path, scorer: Path, tmp_path: Path):
    summary = generate(configured(checked, scorer, tmp_path, "target=4", "gate.threshold=0"))
    lines, unchecked = ledger(tmp_path), ledger(plain[1])
    assert [line["status"] for line in lines] == ["accepted", "accepted", "rejected", "accepted", "accepted"]
    bad = lines[BAD]
    assert (bad["reason"], bad["score"], bad["file"]) == (REASON, None, None)
    assert bad["evaluations"] == unchecked[BAD]["evaluations"]
    assert not list((tmp_path / "rejected").iterdir())
    # all others are what they are without it
    ours, theirs = ([line["image_id"] for line in found if line["index"] != BAD] for found in (lines, unchecked))
    assert ours == theirs
    assert summary["verdicts"]["safety"] == summary["rejected"] == 1
    assert summary["seconds"]["safety"] > 0
    assert len(summary["models"]["safety_checker"]["fingerprint"]) == 64
    assert (tmp_path / "gallery.html").exists()


def test_it_has_no_place_in_a_group_of_which_the_best_is_kept(checked: Path, scorer: Path, tmp_path: Path):
    options = ["gate=best_of", "gate.keep=1", "gate.of=5", "target=1"]
    generate(configured(checked, scorer, tmp_path, *options, "prompts.prompts=[a frog]"))
    bad = [line for line in ledger(tmp_path) if line["reason"] == REASON]
    others = [line["reason"] for line in ledger(tmp_path) if line["reason"] != REASON]
    assert all(f"of {5 - len(bad)}, best 1" in reason for reason in others)


def test_what_it_rejects_at_the_end_did_not_leave_early(checked: Path, scorer: Path, tmp_path: Path):
    previews = ["preview=thresholds", "preview.steps=[1]", "preview.thresholds=[0]"]
    summary = generate(configured(checked, scorer, tmp_path, "target=4", "gate.threshold=0", *previews))
    bad = ledger(tmp_path)[BAD]
    assert bad["reason"] == REASON and len(bad["previews"]) == 1 and "preview" not in bad
    assert summary["preview"]["left"] == summary["verdicts"]["preview"] == 0


def test_where_it_fails_on_a_preview_the_candidate_is_recorded_and_skipped(
    checked: Path, scorer: Path, tmp_path: Path, monkeypatch
):
    def broken(self, picture):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(SafetyChecker, "__call__", broken)
    previews = ["preview=thresholds", "preview.steps=[1]", "preview.thresholds=[1]"]
    summary = generate(configured(checked, scorer, tmp_path, "target=1", "max_candidates=2", *previews))
    assert [line["reason"] for line in ledger(tmp_path)] == ["safety: RuntimeError: no such operator"] * 2
    assert summary["failed"] == 2


def test_off_has_to_be_said(plain, checked: Path, scorer: Path, tmp_path: Path):
    options = ["target=5", "gate.threshold=0", "near_duplicates.radius=null"]
    summary = generate(configured(checked, scorer, tmp_path, *options, "diffusion.safety_checker=off"))
    assert "safety_checker" not in summary["models"]
    assert [line["image_id"] for line in ledger(tmp_path)] == [line["image_id"] for line in ledger(plain[1])]
    with pytest.raises(UserError, match="diffusion.safety_checker is 'off' there and True here"):
        generate(configured(checked, scorer, tmp_path, *options, "target=6"))


@pytest.mark.slow
def test_a_batch_does_not_go_on_with_another_checker_or_none(checked: Path, scorer: Path, pictures, tmp_path: Path):
    own = shutil.copytree(checked, tmp_path / "sd1")
    options = ["gate.threshold=0", "near_duplicates.radius=null"]
    generate(configured(own, scorer, tmp_path / "batch", "target=1", *options))
    add_safety_checker(own, pictures, pictures[BAD], seed=1)
    with pytest.raises(UserError, match="was made with safety_checker safety checker"):
        generate(configured(own, scorer, tmp_path / "batch", "target=2", *options))
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps(index | {"safety_checker": [None, None]}))
    with pytest.raises(UserError, match="was made with safety_checker .* is none: bring the former one back"):
        generate(configured(own, scorer, tmp_path / "batch", "target=2", *options))


def test_its_fingerprint_is_that_of_weights_preprocessing_and_precision(checked: Path, tmp_path: Path):
    def fingerprint(folder: Path, **settings: Any) -> str:
        return load_safety_checker(config(folder, **settings)).fingerprint

    own = shutil.copytree(checked, tmp_path / "sd1")
    assert fingerprint(own) == fingerprint(checked) != fingerprint(checked, dtype="bfloat16")
    processor = own / "feature_extractor" / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    assert fingerprint(own) != fingerprint(checked)


def test_weights_as_published_in_2022_are_read_whole(checked: Path, pictures: list[Image.Image], tmp_path: Path):
    own = shutil.copytree(checked, tmp_path / "sd1")
    weights = own / "safety_checker" / "model.safetensors"
    tensors = load_file(weights)
    renamed = {key.replace("vision_model.", "vision_model.vision_model.", 1): value for key, value in tensors.items()}
    renamed["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(renamed, weights, {"format": "pt"})
    old, new = load_safety_checker(config(own)), load_safety_checker(config(checked))
    assert old.fingerprint == new.fingerprint
    assert [old(picture) for picture in pictures] == [new(picture) for picture in pictures]


def test_an_old_name_of_the_preprocessing_is_no_hindrance(checked: Path, pictures: list[Image.Image], tmp_path: Path):
    own = shutil.copytree(checked, tmp_path / "sd1")
    processor = own / "feature_extractor" / "preprocessor_config.json"
    told = json.loads(processor.read_text())
    told.pop("image_processor_type")
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32}
    processor.write_text(json.dumps(told | old))
    assert load_safety_checker(config(own))(pictures[BAD]) == REASON


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("safety_checker", "names a safety checker and lacks safety_checker/config.json: bring it there, or say"),
        ("safety_checker/model.safetensors", "lacks safety_checker/model.safetensors: .*diffusion.safety_checker=off"),
        ("feature_extractor", "lacks feature_extractor/preprocessor_config.json"),
    ],
)
def test_a_checker_that_is_named_and_not_there_is_an_error(checked: Path, tmp_path: Path, missing: str, message: str):
    own = shutil.copytree(checked, tmp_path / "sd1")
    shutil.rmtree(own / missing) if (own / missing).is_dir() else (own / missing).unlink()
    with pytest.raises(UserError, match=message):
        load_safety_checker(config(own))
    assert load_safety_checker(config(own, safety_checker=False)) is None


def test_weights_that_lack_a_part_are_refused_and_not_made_up(checked: Path, tmp_path: Path):
    own = shutil.copytree(checked, tmp_path / "sd1")
    weights = own / "safety_checker" / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("concept_embeds")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match="safety_checker has no weights concept_embeds that fit: download or save"):
        load_safety_checker(config(own))


def test_a_checkpoint_without_one_is_what_it_is(plain):
    assert load_safety_checker(config(plain[0])) is None
