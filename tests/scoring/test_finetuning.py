"""Encoders that learn: what moves and what does not, that it helps, repeats, resumes, and scores alike when loaded."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scoring.encoder_samples import picture, save_timm_checkpoint, timm_config, tiny_clip, tiny_siglip

from artgate.config import validated
from artgate.errors import UserError
from artgate.scoring import finetuning
from artgate.scoring.config import AugmentConfig, FinetuneConfig, HeadConfig, TrainerConfig
from artgate.scoring.encoders import build_encoder
from artgate.scoring.finetuning import FineTuning
from artgate.scoring.fitting import Examples, fit_on_all, fit_on_splits
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.layers import distances
from artgate.scoring.scorer import Scorer
from artgate.scoring.tuning_module import TuningModule

CONF = Path(__file__).parents[2] / "conf" / "finetune"
PLAIN = AugmentConfig(flip=0.5, least_crop=0.9, resize=0.0, compress=0.3, least_quality=60)
HEAD = HeadConfig(kind="mlp", components=16, hidden=8, dropout=0.1, members=1)
TRAINER = TrainerConfig(
    epochs=4, earliest=0, patience=4, minibatch=16, steps=4, learning_rate=1e-2, weight_decay=0.0, average_decay=0.8,
    class_balance=True,
)  # fmt: skip
MODES = ["last", "all", "lora"]


def finetune(_mode, **changes):
    values = yaml.safe_load((CONF / "_base.yaml").read_text()) | {
        "mode": _mode, "groups": 2 if _mode == "last" else 0, "epochs": 2, "minibatch": 8, "learning_rate": 3e-3,
        "augment": asdict(PLAIN), "average_decay": 0.5, "rank": 4,
    }  # fmt: skip
    return validated(FinetuneConfig, values | changes)


@pytest.fixture(scope="module", params=["timm", "clip", "siglip", "embedded"])
def config(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "timm":
        checkpoint = save_timm_checkpoint(folder / "weights.safetensors", "test_efficientnet", num_classes=1000)
        return timm_config(checkpoint, sizes=[64], features="last+stages") | {"model": "test_efficientnet"}
    if request.param == "embedded":
        return {"kind": "embedded", "sizes": [64], "device": "cpu"}
    return {"clip": tiny_clip, "siglip": tiny_siglip}[request.param](folder)


def pictures(count=24):
    """Grade 0, 1, 2 by how coarse the noise is: texture that any network can tell."""
    rng = np.random.default_rng(0)
    grades = np.arange(count) % 3
    images = []
    for grade in grades:
        side = (6, 16, 64)[grade]
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        images.append(noise.resize((72, 64), Image.Resampling.BICUBIC))
    return images, torch.eye(3)[grades][:, None]


def tuning(config, folder, mode="all", count=24, **changes):
    encoder = build_encoder(config)
    images, targets = pictures(count)
    examples = Examples(encoder.encode_images(images), targets, targets, [None] * count)
    return FineTuning(
        encoder=encoder,
        examples=examples,
        image_ids=[f"image-{row}" for row in range(count)],
        picture=lambda row: images[row],
        extract=lambda tuned, rows: tuned.encode_images([images[row] for row in rows]),
        head=HEAD,
        trainer=TRAINER,
        finetune=finetune(mode, **changes),
        seed=1,
        folder=folder,
    )


def rows(count=24):
    return {
        "train": list(range(count // 2)),
        "val": list(range(count // 2, count * 2 // 3)),
        "calibration": list(range(count * 2 // 3, count * 5 // 6)),
        "test": list(range(count * 5 // 6, count)),
    }


def on_splits(task):
    count = len(task.image_ids)
    frozen = fit_on_splits(task.examples, rows(count), HEAD, TRAINER, 1, None)
    return (*task.on_splits(rows(count), frozen), frozen)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.slow
def test_what_is_to_learn_moves_and_what_is_frozen_does_not(config, mode, tmp_path):
    task = tuning(config, tmp_path, mode)
    encoder, fit, frozen = on_splits(task)
    before, after = task.encoder.network.state_dict(), encoder.network.state_dict()
    assert before.keys() == after.keys(), "merged, under their own names"
    names = [name for name, _ in task.encoder.network.named_parameters()]
    # What did not move is as it was, or rounded to float16.
    still = {
        name for name in names if any(torch.equal(after[name], b) for b in (before[name], before[name].half().float()))
    }
    moved = set(names) - still
    apart = distances(task.encoder.network)
    if mode == "last":
        frozen_ones = {name for name in names if apart[name] >= 2}
        assert frozen_ones and moved and not moved & frozen_ones
        assert moved <= {name for name in names if apart[name] < 2}
    elif mode == "all":
        assert {apart[name] for name in moved} == set(apart.values()) and len(moved) > len(names) * 0.7
    else:
        assert len(moved) >= 4 and all("weight" in name and before[name].ndim > 1 for name in moved)
    for name in before.keys() - set(names):
        torch.testing.assert_close(after[name], before[name], msg=f"{name} is frozen", rtol=1e-3, atol=1e-3)
    assert encoder.fingerprint != task.encoder.fingerprint
    assert encoder.dim == task.encoder.dim and encoder.tuned and not task.encoder.tuned
    assert fit.probabilities.shape == (4, 1, 3)
    assert np.array_equal(fit.baselines["frozen_encoder"], frozen.probabilities[:, 0])


@pytest.mark.slow
def test_a_scorer_takes_its_encoder_along_and_scores_the_same(config, tmp_path):
    encoder, fit, _ = on_splits(tuning(config, tmp_path / "cache", "all"))
    images, _ = pictures(4)
    scorer = Scorer(encoder, fit.head, fit.calibration, ["quality"])
    folder = scorer.save(tmp_path / "scorer")
    if "checkpoint" in config:
        (moved := Path(config["checkpoint"])).rename(moved.with_suffix(".gone"))
    try:
        loaded = Scorer.load(folder)
    finally:
        if "checkpoint" in config:
            moved.with_suffix(".gone").rename(moved)
    assert [s.score for s in loaded(images)] == pytest.approx([s.score for s in scorer(images)], abs=1e-4)
    assert loaded.fingerprint == scorer.fingerprint
    assert loaded.encoder.fingerprint == encoder.fingerprint
    data = bytearray((folder / "encoder.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "encoder.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="encoder.safetensors is missing or is not what"):
        Scorer.load(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip-alone"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(clip, mode, tmp_path):
    once, again, other = (
        tuning(clip, tmp_path / str(number), mode, learning_rate=rate) for number, rate in enumerate((3e-3, 3e-3, 2e-3))
    )
    fingerprints = [on_splits(task)[0].fingerprint for task in (once, again, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.slow
def test_learning_helps_on_pictures_that_were_not_seen(clip, tmp_path):
    task = tuning(clip, tmp_path, "all", count=96, epochs=12, learning_rate=1e-3, patience=12)
    _, fit, frozen = on_splits(task)
    grades = task.examples.targets[rows(96)["test"], 0].argmax(1).numpy()
    tuned, untuned = (each.probabilities[np.arange(16), 0, grades].mean() for each in (fit, frozen))
    assert tuned > untuned + 0.05


@pytest.mark.parametrize("sizes", [[64], [64, 96]])
def test_what_is_frozen_and_kept_in_memory_gives_the_same_features_and_slopes(config, sizes):
    if config["kind"] == "open_clip" and len(sizes) > 1:
        pytest.skip("one size alone suits it")
    encoder = build_encoder(config | {"sizes": sizes})
    head = OrdinalHead(encoder.dim, aspects=1, grades=3, kind="mlp", hidden=8, dropout=0.0, members=1)
    whole, kept = (TuningModule(encoder, head, finetune("last", renditions=r), seed=0) for r in (0, 1))
    assert whole.front is None and kept.front is not None
    views = [encoder.preprocess(image) for image in pictures(3)[0]]
    seen = encoder.collate(views), kept.front.collate([kept.front.record(view) for view in views])
    found = [module.look(each, module.learner["network"]) for module, each in zip((whole, kept), seen, strict=True)]
    torch.testing.assert_close(found[1], found[0], rtol=5e-3, atol=5e-3 * found[0].abs().max().item())
    averaged = kept.look(seen[1], kept.average.module["network"])
    torch.testing.assert_close(averaged, found[1])  # the copy of the network is given the same
    direction = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(0))
    for each in found:
        (each * direction).sum().backward()
    slopes = [
        {name: p.grad for name, p in module.learner["network"].named_parameters() if p.grad is not None}
        for module in (whole, kept)
    ]
    assert slopes[0].keys() == slopes[1].keys() and slopes[0]
    for name, slope in slopes[0].items():
        apart = (slopes[1][name] - slope).norm() / slope.norm().clamp_min(1e-3)
        assert apart < 0.05, f"{name} apart by {apart:.3f}, more than float16 tells"


def test_renditions_that_do_not_fit_in_memory_are_made_anew(clip, tmp_path):
    """The same weights whether the front's results are kept or computed each time, as long as the pictures are."""
    once = on_splits(tuning(clip, tmp_path / "a", "last", epochs=1, renditions=9))[0]
    again = on_splits(tuning(clip, tmp_path / "b", "last", epochs=1, renditions=9, memory_gib=1e-6))[0]
    assert once.fingerprint == again.fingerprint


@pytest.mark.slow
def test_a_head_may_be_fitted_anew_on_what_the_encoder_has_become(clip, tmp_path):
    along, anew = (tuning(clip, tmp_path, "last", refit=refit) for refit in (False, True))
    (encoder, fit, _), (same, refitted, _) = on_splits(along), on_splits(anew)
    assert same.fingerprint == encoder.fingerprint
    assert len(list(tmp_path.iterdir())) == 1, "the encoder is tuned once for both"
    features = same.encode_images(pictures(12)[0])
    assert not torch.equal(fit.head(features), refitted.head(features))
    folds = [row // 3 % 4 for row in range(24)]
    _, out_of_fold = anew.on_all(folds, fit_on_all(anew.examples, folds, HEAD, TRAINER, 1, None))
    assert out_of_fold.probabilities.sum(2) == pytest.approx(np.ones((24, 1)))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("mode", ["all", "lora"])
@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_epoch_and_ends_the_same(clip, mode, tmp_path, monkeypatch):
    whole = on_splits(tuning(clip, tmp_path / "whole", mode, epochs=4, patience=4))[0]

    module = finetuning.TuningModule
    epochs = []
    start = module.on_train_epoch_start

    def dies(self):
        if self.current_epoch == 2 and len(epochs) == 2:
            raise KilledError
        epochs.append(self.current_epoch)
        start(self)

    monkeypatch.setattr(module, "on_train_epoch_start", dies)
    with pytest.raises(KilledError):
        on_splits(tuning(clip, tmp_path / "cut", mode, epochs=4, patience=4))
    assert list((tmp_path / "cut").glob("*/last.ckpt"))
    epochs.append(None)
    resumed = on_splits(tuning(clip, tmp_path / "cut", mode, epochs=4, patience=4))[0]
    assert epochs == [0, 1, None, 2, 3]
    assert resumed.fingerprint == whole.fingerprint
    assert not list((tmp_path / "cut").glob("*/last.ckpt")), "the result is kept instead"
    on_splits(tuning(clip, tmp_path / "cut", mode, epochs=4, patience=4))
    assert len(epochs) == 5, "what is done is not done again"


@pytest.mark.slow
def test_out_of_fold_every_fold_has_its_own_encoder(clip, tmp_path, monkeypatch):
    task = tuning(clip, tmp_path, "last", epochs=2)
    folds = [row // 3 % 4 for row in range(24)]
    seen = []
    tune = FineTuning.tune

    def noted(self, train, val, head, last_epoch=None):
        tuned = tune(self, train, val, head, last_epoch)
        seen.append((set(train), set(val), last_epoch, tuned.encoder.fingerprint))
        return tuned

    monkeypatch.setattr(FineTuning, "tune", noted)
    encoder, fit = task.on_all(folds, fit_on_all(task.examples, folds, HEAD, TRAINER, 1, None))
    assert len(seen) == 5 and len({fingerprint for *_, fingerprint in seen}) == 5
    for fold, (train, val, last, _) in enumerate(seen[:4]):
        held_out = {row for row in range(24) if folds[row] == fold}
        assert not held_out & (train | val) and len(train | val) == 18 and last is None
    train, val, last, fingerprint = seen[4]
    assert len(train) == 24 and not val and last == fit.epoch and fingerprint == encoder.fingerprint
    assert fit.probabilities.shape == (24, 1, 3)
    assert fit.probabilities.sum(2) == pytest.approx(np.ones((24, 1)))


def test_a_loss_beyond_all_numbers_is_told_of(clip, tmp_path):
    task = tuning(clip, tmp_path)
    frozen = fit_on_splits(task.examples, rows(), HEAD, TRAINER, 1, None)
    task = replace(
        task,
        examples=replace(task.examples, lessons=task.examples.lessons.where(task.examples.lessons == 0, torch.inf)),
    )
    with pytest.raises(UserError, match="not finite with finetune.learning_rate=0.003"):
        task.on_splits(rows(), frozen)


@pytest.mark.slow
def test_checkpointing_and_accumulation_change_memory_and_not_what_is_learnt(clip, tmp_path):
    plain, saving = (
        on_splits(tuning(clip, tmp_path / str(on), "all", epochs=1, checkpointing=on))[0] for on in (False, True)
    )
    image = [picture(3)]
    torch.testing.assert_close(plain.encode_images(image), saving.encode_images(image), rtol=1e-4, atol=1e-5)
    accumulated = on_splits(tuning(clip, tmp_path / "a", "all", epochs=1, minibatch=4, accumulate=2))[0]
    assert accumulated.fingerprint != plain.fingerprint
    whole = on_splits(tuning(clip, tmp_path / "b", "all", epochs=1, minibatch=4, accumulate=99))[0]
    assert whole.fingerprint != plain.fingerprint, "an epoch's last step is taken, and counts in the average"
    assert not torch.equal(whole.encode_images(image), build_encoder(clip).encode_images(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "some"}, "finetune.mode 'some' is not one of none, last, all, lora"),
        ({"mode": "last", "groups": 0}, r"finetune.groups 0 is outside \[1"),
        ({"learning_rate": 0.0}, "finetune.learning_rate 0 is outside"),
        ({"augment": asdict(PLAIN) | {"least_crop": 0.1}}, "finetune.augment.least_crop 0.1 is outside"),
        ({"precision": "float16"}, "'float16' is not one of auto, float32, bfloat16"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        finetune("all", **changes)
