"""Alignment to prompts: trained, saved, loaded, told; and never guessed without a prompt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from graded_sample import graded_copy
from hydra import compose, initialize_config_dir
from scoring.encoder_samples import picture, tiny_clip

from artgate.errors import UserError
from artgate.labels.grades import Grades
from artgate.scoring.calibration import no_calibration
from artgate.scoring.encoders import build_encoder
from artgate.scoring.files import score_files
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.scorer import PromptedHead, Scorer
from artgate.scoring.text_encoders import build_text_encoder, joint_dim
from artgate.scoring.training import train

CONF = str(Path(__file__).parents[2] / "conf")
IMAGES = [picture(0), picture(3), picture(5)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def random_head(dim, seed=0):
    torch.manual_seed(seed)
    head = OrdinalHead(dim, aspects=1, grades=3, kind="mlp", hidden=8, dropout=0.1, members=1)
    for member in head.members:
        torch.nn.init.normal_(member[-1].weight)
    return head


@pytest.fixture(scope="module")
def scorer(clip):
    encoder, text = build_encoder(clip), build_text_encoder(clip)
    prompted = PromptedHead(text, random_head(joint_dim(encoder.dim, text.dim), 1), no_calibration(1, 3))
    return Scorer(encoder, random_head(encoder.dim), no_calibration(1, 3), ["quality"], prompted=prompted)


def test_alignment_follows_the_prompt_and_quality_does_not(scorer):
    cats, houses = scorer(IMAGES, ["a cat"] * 3), scorer(IMAGES, ["a house of blue"] * 3)
    for cat, house in zip(cats, houses, strict=True):
        assert (cat.score, cat.grade, cat.probabilities) == (house.score, house.grade, house.probabilities)
        assert cat.aspects["quality"] == house.aspects["quality"]
        assert abs(cat.aspects["alignment"]["good"] - house.aspects["alignment"]["good"]) > 1e-4
        assert sum(cat.aspects["alignment"].values()) == pytest.approx(1)
        assert cat.prompt_read


def test_without_a_prompt_there_is_no_alignment(scorer):
    for prompts in (None, [None] * 3, [""] * 3):
        for score in scorer(IMAGES, prompts):
            assert list(score.aspects) == ["quality"]
            assert not score.prompt_read
    mixed = scorer(IMAGES, [None, "a cat", None])
    assert ["alignment" in score.aspects for score in mixed] == [False, True, False]
    (alone,) = scorer(IMAGES[1:2], ["a cat"])
    assert mixed[1].aspects["alignment"] == pytest.approx(alone.aspects["alignment"], abs=1e-5)
    assert scorer.score_features(scorer.encoder.encode_images(IMAGES)) == scorer(IMAGES)
    with pytest.raises(ValueError, match="2 prompts are not one for each of 3 images"):
        scorer(IMAGES, ["a", "b"])


def test_saved_and_loaded_it_reads_prompts_alike_and_another_tower_is_refused(scorer, clip, tmp_path):
    folder = scorer.save(tmp_path / "scorer")
    loaded = Scorer.load(folder)
    assert loaded(IMAGES, ["a cat"] * 3) == scorer(IMAGES, ["a cat"] * 3)
    assert loaded.fingerprint == scorer.fingerprint == json.loads((folder / "scorer.json").read_text())["fingerprint"]
    blind = Scorer(scorer.encoder, scorer.head, scorer.calibration, scorer.aspects)
    assert blind.fingerprint != scorer.fingerprint

    from safetensors.torch import load_file, save_file

    weights = Path(clip["checkpoint"])
    kept = load_file(weights)
    save_file(kept | {"ln_final.bias": kept["ln_final.bias"] + 0.1}, weights)
    try:
        with pytest.raises(UserError, match="other weights or tokenizer"):
            Scorer.load(folder)
    finally:
        save_file(kept, weights)
    (folder / "alignment.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"alignment.safetensors is missing or is not what"):
        Scorer.load(folder)


def test_files_of_a_collection_are_scored_with_their_prompts(scorer, sample, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(sample.root, folder)
    shutil.copy(next((folder / "images").iterdir()), tmp_path / "loose.png")
    lines = list(score_files(scorer, [folder, tmp_path / "loose.png"]))
    assert len(lines) == 49
    by_id = {line["image_id"]: line for line in lines[:-1]}
    for artwork in list(sample)[:4]:
        prompt = artwork.provenance.prompt
        (expected,) = scorer([sample.image(artwork)], [prompt])
        told = by_id[artwork.image_id]
        assert told.get("prompt_read", False) == bool(prompt)
        assert told.get("aspects", {}).get("alignment") == (
            pytest.approx(expected.aspects["alignment"], abs=1e-4) if prompt else None
        )
    assert any("prompt_read" in line for line in lines)
    assert "aspects" not in lines[-1], "whose prompt nobody knows"


@pytest.fixture(scope="module")
def aligned(sample, tmp_path_factory):
    """The sample's planted grades as quality, and as alignment whether the prompt is long, of two artworks in three."""
    own = graded_copy(sample, tmp_path_factory.mktemp("aligned") / "own")
    quality = Grades.load(own.root)
    grades = {}
    for index, artwork in enumerate(own):
        fits = np.eye(3)[0 if len(artwork.provenance.prompt or "") % 2 else 2]
        grades[artwork.image_id] = dict(quality[artwork.image_id]) | ({"alignment": fits} if index % 3 else {})
    Grades(grades).save(own.root)
    return own.root


def settings(root, encoder, folder, *more):
    own = [f"++encoder.{key}={value}" for key, value in encoder.items() if key != "device"]
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose(
            "train",
            overrides=[
                "experiment=sample", "encoder=clip_vit_b32", *own, "encoder.pretrained=null", f"data.root={root}",
                "data.aspects=[quality,alignment]", "trainer.epochs=4", "head.members=1", "logger=none",
                "report.resamples=100",
                f"paths.run={folder}/run", f"paths.cache={folder}/cache", f"paths.collections={folder}/c", *more,
            ],
        )  # fmt: skip


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.slow
def test_a_run_with_a_text_tower_reads_the_prompts(aligned, clip, tmp_path, final):
    metrics = train(settings(aligned, clip, tmp_path, f"final={final}"))
    assert metrics["inputs"] == {"quality": "image alone", "alignment": "image and prompt"}
    assert metrics["text"]["fingerprint"] == build_text_encoder(clip).fingerprint
    measured = metrics["other_aspects"]["alignment"]["n"]
    assert 0 < measured < metrics["scorer"]["n"], "only those that were graded in it"
    scorer = Scorer.load(tmp_path / "run" / "scorer")
    assert scorer.aspects == ("quality",)
    assert "alignment" in scorer(IMAGES[:1], ["a cat"])[0].aspects
    assert "to the prompt, which it reads" in (tmp_path / "run/scorer/README.md").read_text()


TUNED = ["finetune.epochs=1", "finetune.minibatch=8"]
# What takes as long as all else; one run with an encoder that learns is with it.
NO_DAMAGE = ["data.damaged=0", "data.harmless=0"]


@pytest.mark.parametrize("mode", ["last", "lora"])
@pytest.mark.slow
def test_an_encoder_that_learnt_reads_prompts_too(aligned, clip, tmp_path, mode):
    more = NO_DAMAGE if mode == "lora" else []
    metrics = train(settings(aligned, clip, tmp_path, f"finetune={mode}", *TUNED, *more))
    assert metrics["finetune"]["mode"] == mode
    assert "frozen_encoder" in metrics["baselines"]
    assert metrics["encoder"]["fingerprint"] != build_encoder(clip).fingerprint
    scorer = Scorer.load(tmp_path / "run" / "scorer")
    assert scorer.encoder.fingerprint == metrics["encoder"]["fingerprint"]
    assert "alignment" in scorer(IMAGES[:1], ["a cat"])[0].aspects
    assert "| fine-tuned |" in (tmp_path / "run/scorer/README.md").read_text()


@pytest.mark.slow
def test_final_has_an_encoder_for_each_fold_and_cannot_read_prompts_across_them(aligned, clip, tmp_path):
    final = ["final=true", "data.folds=3", "finetune=last", *TUNED, *NO_DAMAGE]
    with pytest.raises(UserError, match="leave alignment out of data.aspects"):
        train(settings(aligned, clip, tmp_path, *final))
    metrics = train(settings(aligned, clip, tmp_path, *final, "data.aspects=[quality]"))
    assert metrics["measured_on"] == "held-out folds"
    assert len(list((tmp_path / "cache/finetuning").glob("*/tuned.safetensors"))) == 4
    again = train(settings(aligned, clip, tmp_path, *final, "data.aspects=[quality]"))
    assert again == metrics


@pytest.mark.slow
def test_a_run_without_a_text_tower_says_that_it_did_not(aligned, tmp_path):
    embedded = {"kind": "embedded", "sizes": "[64]", "features": "stages", "model": "null"}
    metrics = train(settings(aligned, embedded, tmp_path))
    assert metrics["inputs"] == {"quality": "image alone", "alignment": "image alone"}
    assert "reads no prompts" in (tmp_path / "run/scorer/README.md").read_text()
    (score,) = Scorer.load(tmp_path / "run" / "scorer")(IMAGES[:1], ["a cat"])
    assert "alignment" in score.aspects and not score.prompt_read
