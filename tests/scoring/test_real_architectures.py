"""CLIP ViT-B/32 and SigLIP 2 ViT-B/16 as they are, at random weights in a local checkpoint: every path runs.

Nothing here says how good they are: only real weights can.
"""

import gc
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import save_file
from scoring.encoder_samples import picture, save_tokenizer
from scoring.test_finetuning import HEAD, TRAINER, finetune

from artgate.scoring.calibration import no_calibration
from artgate.scoring.encoders import Encoder, build_encoder
from artgate.scoring.finetuning import FineTuning
from artgate.scoring.fitting import Examples, fit_head
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.layers import distances
from artgate.scoring.scorer import PromptedHead, Scorer
from artgate.scoring.text_encoders import build_text_encoder, joint_dim

pytestmark = pytest.mark.slow

CONF = Path(__file__).parents[2] / "conf" / "encoder"
IMAGES = [picture(seed, 300, 240) for seed in range(6)]
FEATURES = {"clip_vit_b32": (512, 224), "siglip2_b16_256": (768, 256)}
# Each mode on small networks of both kinds is in test_finetuning.py. All of SigLIP would take four times the memory.
TUNED = {"clip_vit_b32": "all", "siglip2_b16_256": "lora"}


@pytest.fixture(autouse=True)
def tidy():
    """Trainers refer to themselves in circles: what they hold, 2 GB each, would stay until the collector happens by."""
    yield
    gc.collect()


@pytest.fixture(scope="module", params=FEATURES)
def real(request, tmp_path_factory) -> tuple[str, dict[str, Any]]:
    """The configuration of conf/encoder, with random weights of the whole model where a download would be."""
    folder = tmp_path_factory.mktemp(request.param)
    config = yaml.safe_load((CONF / f"{request.param}.yaml").read_text())
    torch.manual_seed(0)
    save_file(open_clip.create_model(config["model"]).state_dict(), folder / "weights.safetensors")
    config |= {"checkpoint": str(folder / "weights.safetensors"), "device": "cpu"}
    if "SigLIP" in config["model"]:
        config["tokenizer"] = str(save_tokenizer(folder / "tokenizer"))
    return request.param, config


@pytest.fixture(scope="module")
def encoder(real) -> Encoder:
    return build_encoder(real[1])


def test_frozen_shape_fingerprint_and_determinism(real, encoder):
    name, config = real
    dim, size = FEATURES[name]
    features = encoder.encode_images(IMAGES)
    assert features.shape == (6, dim) == (6, encoder.dim)
    assert encoder.preprocessing.sizes == (size,)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    assert torch.equal(encoder.encode_images(IMAGES), features)
    torch.testing.assert_close(encoder.encode_images(IMAGES[2:3])[0], features[2], rtol=0, atol=1e-5)
    again = build_encoder(config)
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(again.encode_images(IMAGES), features)


def test_prompts_are_read_and_a_scorer_with_them_is_kept_whole(real, encoder, tmp_path):
    text = build_text_encoder(real[1])
    assert text is not None and text.dim == encoder.dim
    prompts = ["a red cat", "a painting of a blue house"]
    features = text.encode(prompts)
    assert torch.equal(text.encode(prompts), features)
    assert (features[0] - features[1]).norm() > 1e-3
    head, joint = (OrdinalHead(dim, 1, 3, "mlp", 8, 0.0, 1) for dim in (encoder.dim, joint_dim(encoder.dim, text.dim)))
    for each in (head, joint):
        torch.nn.init.normal_(each.members[0][-1].weight)
    prompted = PromptedHead(text, joint, no_calibration(1, 3))
    scorer = Scorer(encoder, head, no_calibration(1, 3), ["quality"], prompted=prompted)
    loaded = Scorer.load(scorer.save(tmp_path / "scorer"))
    once, again = scorer(IMAGES[:2], prompts), loaded(IMAGES[:2], prompts)
    assert loaded.fingerprint == scorer.fingerprint
    for one, other in zip(once, again, strict=True):
        assert one.aspects["alignment"] == pytest.approx(other.aspects["alignment"], abs=1e-4)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_tuned_what_is_to_learn_moves_and_the_scorer_takes_it_along(real, encoder, tmp_path):
    mode = TUNED[real[0]]
    targets = torch.eye(3)[torch.arange(6) % 3][:, None]
    examples = Examples(encoder.encode_images(IMAGES), targets, targets, [None] * 6)
    task = FineTuning(
        encoder=encoder, examples=examples, image_ids=[str(row) for row in range(6)], picture=IMAGES.__getitem__,
        extract=lambda tuned, rows: tuned.encode_images([IMAGES[row] for row in rows]), head=HEAD, trainer=TRAINER,
        finetune=finetune(mode, epochs=1, minibatch=3, learning_rate=1e-3, layer_decay=1.0), seed=1,
        folder=tmp_path / "tuning",
    )  # fmt: skip
    head, _ = fit_head(examples, range(6), None, HEAD, TRAINER, 1, last_epoch=1)
    tuned = task.tune(range(6), [], head, last_epoch=0)
    before, after = encoder.network.state_dict(), tuned.encoder.network.state_dict()
    assert before.keys() == after.keys()
    moved = {
        name
        for name in before
        if not any(torch.equal(after[name], as_it_was) for as_it_was in (before[name], before[name].half().float()))
    }
    apart = distances(encoder.network)
    assert moved
    if mode == "all":
        assert {apart[name] for name in moved} == set(apart.values())
    assert tuned.encoder.fingerprint != encoder.fingerprint
    scorer = Scorer(tuned.encoder, tuned.head, no_calibration(1, 3), ["quality"])
    loaded = Scorer.load(scorer.save(tmp_path / "scorer"))
    assert loaded.fingerprint == scorer.fingerprint
    for one, other in zip(scorer(IMAGES), loaded(IMAGES), strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
