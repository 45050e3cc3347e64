"""Prompts as features, what tells how an image fits one, and a head that learns it."""

import numpy as np
import open_clip
import pytest
import torch
from scipy.stats import spearmanr
from scoring.encoder_samples import TINY_CLIP, picture, save_tokenizer, tiny_clip, tiny_siglip

from artgate.errors import UserError
from artgate.scoring.config import HeadConfig, TrainerConfig
from artgate.scoring.encoders import build_encoder
from artgate.scoring.fitting import Examples, fit_head
from artgate.scoring.heads import grade_probabilities
from artgate.scoring.text_encoders import COSINE_COPIES, build_text_encoder, joint_dim, joint_features, text_features

PROMPTS = ["a red cat", "a painting of a house, blue", "a red cat", ""]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return tiny_siglip(tmp_path_factory.mktemp("siglip"))


def test_text_features_are_open_clips(clip):
    model = open_clip.create_model(TINY_CLIP, pretrained=clip["checkpoint"]).eval()
    with torch.inference_mode():
        expected = model.encode_text(open_clip.get_tokenizer(TINY_CLIP)(PROMPTS), normalize=True)
    torch.testing.assert_close(build_text_encoder(clip).encode(PROMPTS), expected)


@pytest.mark.parametrize("config", ["clip", "siglip"])
def test_a_prompt_has_one_feature_of_unit_length_in_the_space_of_images(config, request):
    config = request.getfixturevalue(config)
    text = build_text_encoder(config)
    features = text.encode(PROMPTS)
    assert features.shape == (4, text.dim) == (4, build_encoder(config).dim)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    assert torch.equal(features[0], features[2])
    assert (features[0] - features[1]).norm() > 0.01
    assert text.encode([]).shape == (0, text.dim)
    assert build_text_encoder(config).fingerprint == text.fingerprint


def test_encoders_without_a_text_tower_have_none():
    assert build_text_encoder({"kind": "embedded", "device": "cpu"}) is None


def test_the_fingerprint_covers_tower_and_tokenizer_and_leaves_that_of_images_alone(siglip, tmp_path):
    folder = save_tokenizer(tmp_path / "other")
    saved = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(saved.replace('"cat": 3', '"cat": 4').replace('"dog": 4', '"dog": 3'))
    other = siglip | {"tokenizer": str(folder)}
    assert build_text_encoder(other).fingerprint != build_text_encoder(siglip).fingerprint
    assert build_encoder(other).fingerprint == build_encoder(siglip).fingerprint
    another = tiny_siglip(tmp_path / "weights") | {"tokenizer": siglip["tokenizer"]}
    state = open_clip.factory.load_state_dict(another["checkpoint"])
    state["text.ln_final.bias"] += 0.1
    from safetensors.torch import save_file

    save_file(state, another["checkpoint"])
    assert build_text_encoder(another).fingerprint != build_text_encoder(siglip).fingerprint
    assert build_encoder(another).fingerprint == build_encoder(siglip).fingerprint


def test_a_tokenizer_that_is_not_there_is_named(siglip, tmp_path):
    with pytest.raises(UserError, match="is not a folder: give the one with tokenizer.json"):
        build_text_encoder(siglip | {"tokenizer": str(tmp_path / "none")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the tokenizer of 'tiny-siglip2' cannot be made"):
        build_text_encoder(siglip | {"tokenizer": str(tmp_path / "empty")})


def test_features_of_prompts_are_kept_by_the_hash_of_the_prompt(clip, tmp_path, monkeypatch):
    text = build_text_encoder(clip)
    first = text_features(text, PROMPTS, tmp_path)
    monkeypatch.setattr(text, "encode", lambda prompts: pytest.fail(f"{prompts} were computed before"))
    assert torch.equal(text_features(text, PROMPTS[::-1], tmp_path), first.flip(0))
    assert not any(
        prompt in path.read_bytes().decode("latin1") for path in tmp_path.rglob("*.s*") for prompt in PROMPTS[:2]
    )


def test_joint_features_hold_both_their_product_and_the_cosine_of_each_view():
    images = torch.tensor([[0.6, 0.8, 1.0, 0.0]])  # two views of two values
    prompts = torch.tensor([[0.0, 1.0]])
    joint = joint_features(images, prompts)
    assert joint.shape == (1, joint_dim(4, 2)) == (1, 4 + 2 + 4 + 2 * COSINE_COPIES)
    assert joint[0, :10].tolist() == pytest.approx([0.6, 0.8, 1, 0, 0, 1, 0, 0.8, 0, 0])
    assert joint[0, 10:].tolist() == pytest.approx([0.8] * COSINE_COPIES + [0.0] * COSINE_COPIES)
    renditions = joint_features(images.expand(3, 4).reshape(1, 3, 4), prompts)
    assert torch.equal(renditions, joint.expand(3, -1)[None])


@pytest.mark.slow
def test_a_head_learns_from_the_cosine_among_a_thousand_other_values():
    """Whether image and prompt agree is in no single value of either: only the product tells."""
    rng = np.random.default_rng(0)
    images, prompts = (torch.tensor(rng.normal(size=(900, 256)), dtype=torch.float32) for _ in range(2))
    images += torch.tensor(rng.uniform(0, 1, size=(900, 1)), dtype=torch.float32) * prompts
    images, prompts = (torch.nn.functional.normalize(x, dim=1) for x in (images, prompts))
    fits = (images * prompts).sum(1).numpy()
    targets = torch.eye(3)[np.digitize(fits, np.quantile(fits, [1 / 3, 2 / 3]))][:, None]
    head_config = HeadConfig(kind="mlp", components=256, hidden=32, dropout=0.2, members=1)
    trainer = TrainerConfig(
        epochs=10, earliest=0, patience=4, minibatch=64, steps=20, learning_rate=3e-3, weight_decay=0.0,
        average_decay=0.9, class_balance=True,
    )  # fmt: skip

    def learnt(features):
        examples = Examples(features, targets, targets, [None] * 900)
        head, _ = fit_head(examples, range(600), range(600, 700), head_config, trainer, seed=1)
        with torch.inference_mode():
            expected = grade_probabilities(head(features[700:]))[:, 0] @ torch.arange(3.0)
        return spearmanr(expected, fits[700:]).statistic

    assert learnt(joint_features(images, prompts)) > 0.9
    assert learnt(torch.cat([images, prompts], 1)) < 0.5


def test_pictures_differ_for_the_tiny_towers(clip):
    """What the other tests stand on."""
    encoder = build_encoder(clip)
    features = encoder.encode_images([picture(0), picture(5)])
    assert (features[0] - features[1]).norm() > 0.01
