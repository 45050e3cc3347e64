import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scoring.encoder_samples import picture, save_timm_checkpoint, timm_config

from artgate.errors import UserError
from artgate.scoring import export
from artgate.scoring.calibration import Calibration
from artgate.scoring.encoders import build_encoder
from artgate.scoring.export import export_scorer
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.portable import PortableScorer
from artgate.scoring.scorer import Scorer, default_scorer_path

ASPECTS = ("quality", "rationality")
# Runs a program in which importing torch, or artgate, fails.
WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "artgate"):
            raise ImportError(f"{name} is not for this program")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def scorer_of(config):
    """A scorer whose head has random weights and whose probabilities are far from even."""
    encoder = build_encoder(config)
    torch.manual_seed(1)
    head = OrdinalHead(encoder.dim, len(ASPECTS), 3, kind="mlp", hidden=8, dropout=0.5, members=3)
    for member in head.members:
        torch.nn.init.normal_(member[-1].weight)
    features = encoder.encode_images([picture(seed, 120, 90) for seed in range(6)])
    head.mean.copy_(features.mean(0))
    head.scale.copy_(features.std(0) + 0.01)
    return Scorer(encoder, head, Calibration((1.5, 0.8), ((0.2, -0.1), (0.0, 0.3))), ASPECTS)


@pytest.fixture(scope="module")
def small_scorer(tmp_path_factory):
    path = save_timm_checkpoint(tmp_path_factory.mktemp("timm") / "weights.safetensors")
    return scorer_of(timm_config(path, features="last+stages", sizes=[64, 96]))


@pytest.fixture(scope="module")
def small_export(small_scorer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "made" / "deep"
    export_scorer(small_scorer, folder)
    return folder


@pytest.fixture(scope="module")
def shipped_scorer():
    return Scorer.load(default_scorer_path())


@pytest.fixture(scope="module")
def shipped_export(shipped_scorer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "export"
    export_scorer(shipped_scorer, folder)
    return folder


def clip_config(folder):
    vision = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (folder / "portable-clip.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "portable-clip.json")
    torch.manual_seed(3)
    save_file(open_clip.create_model("portable-clip").state_dict(), folder / "clip.safetensors")
    return {
        "kind": "open_clip",
        "model": "portable-clip",
        "checkpoint": str(folder / "clip.safetensors"),
        "device": "cpu",
    }


def expected(scorer, image):
    (score,) = scorer([image])
    return np.array([list(score.aspects[aspect].values()) for aspect in scorer.aspects])


def assert_same(scorer, folder, images):
    portable = PortableScorer(folder)
    for image in images:
        found = portable(image)
        (score,) = scorer([image])
        assert found["score"] == pytest.approx(score.score, abs=1e-4)
        assert found["grade"] == score.grade
        rows = np.array([list(found["aspects"][aspect].values()) for aspect in scorer.aspects])
        np.testing.assert_allclose(rows, expected(scorer, image), atol=1e-4)


def pictures():
    return [picture(seed, *size) for seed, size in enumerate([(96, 96), (64, 64), (200, 50), (77, 301), (512, 384)])]


@pytest.mark.slow
def test_an_exported_scorer_says_the_same(small_scorer, small_export):
    assert_same(small_scorer, small_export, pictures())
    spread = [PortableScorer(small_export)(image)["score"] for image in pictures()]
    assert np.ptp(spread) > 0.01  # or any constant would pass


@pytest.mark.slow
def test_a_minibatch_of_any_length_and_several_views_an_image(small_scorer, small_export):
    portable = PortableScorer(small_export)
    rng = np.random.default_rng(0)
    for batch, count in ((1, 1), (8, 1), (3, 4)):
        views = [rng.integers(0, 256, (batch, count, size, size, 3), dtype=np.uint8) for size in (64, 96)]
        each = [small_scorer.encoder.encode([torch.from_numpy(v[:, i]) for v in views]) for i in range(count)]
        scores = small_scorer.score_features(torch.stack(each).mean(0))
        rows = [[list(score.aspects[aspect].values()) for aspect in ASPECTS] for score in scores]
        np.testing.assert_allclose(portable.probabilities(views), rows, atol=1e-4)


@pytest.mark.slow
def test_features_come_out_too(small_scorer, small_export):
    views = [view.numpy()[None, None] for view in small_scorer.encoder.preprocess(picture(3, 80, 100))]
    session = onnxruntime.InferenceSession(small_export / "model.onnx")
    found = session.run(["features"], dict(zip([i.name for i in session.get_inputs()], views, strict=True)))[0]
    np.testing.assert_allclose(found, small_scorer.encoder.encode_images([picture(3, 80, 100)]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_description_tells_what_was_exported(small_scorer, small_export):
    told = json.loads((small_export / "model.json").read_text())
    assert told["scorer"] == small_scorer.fingerprint
    assert told["aspects"] == list(ASPECTS)
    assert told["preprocessing"]["sizes"] == [64, 96]
    assert told["opset"] == 18
    assert told["precision"] == "float32"
    assert told["largest_difference"] <= 1e-4
    assert {path.name for path in small_export.iterdir()} == {"model.onnx", "model.json", "score.py"}
    assert b"encoders.py" not in (small_export / "model.onnx").read_bytes(), "paths of the machine it was made on"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["open_clip", "timm transformer"])
def test_other_architectures_export_too(kind, tmp_path):
    if kind == "open_clip":
        scorer = scorer_of(clip_config(tmp_path))
    else:
        path = save_timm_checkpoint(tmp_path / "vit.safetensors", "test_vit")
        scorer = scorer_of(timm_config(path, model="test_vit", features="last+stages"))
    export_scorer(scorer, tmp_path / "export")
    assert_same(scorer, tmp_path / "export", pictures())


@pytest.mark.slow
def test_the_shipped_scorer_without_torch_on_real_images(agiqa3k, shipped_scorer, shipped_export, tmp_path):
    """Files to scores in a process that cannot import torch: of many sizes and shapes, JPEG, PNG and WebP."""
    shapes = [(512, 512), (512, 288), (300, 512), (384, 384), (1024, 768), (224, 448), (97, 200), (2000, 500)]
    files = []
    for place, (real, shape) in enumerate(zip(sorted((agiqa3k / "images").iterdir())[::300], shapes, strict=False)):
        suffix = ("jpg", "png", "webp")[place % 3]
        files.append(tmp_path / f"{place}.{suffix}")
        with Image.open(real) as image:
            image.resize(shape, Image.Resampling.LANCZOS).save(files[-1])
    lines = run_client(shipped_export, *files)
    for file, line in zip(files, lines, strict=True):
        with Image.open(file) as image:
            (score,) = shipped_scorer([image.convert("RGB")])
        assert line["file"] == str(file)
        assert line["score"] == pytest.approx(score.score, abs=1e-4)
        assert line["probabilities"] == pytest.approx(score.probabilities, abs=1e-4)
        assert line["grade"] == score.grade


@pytest.mark.slow
def test_the_client_scores_what_it_can_read(small_scorer, small_export, tmp_path):
    picture(1, 100, 60).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    good, bad = run_client(small_export, tmp_path / "good.png", tmp_path / "bad.png", status=1)
    assert good["score"] == pytest.approx(small_scorer([picture(1, 100, 60)])[0].score, abs=1e-4)
    assert bad["file"].endswith("bad.png")
    assert bad["error"]


def run_client(folder: Path, *files: Path, status: int = 0):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder / "score.py"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_model_that_was_changed_is_refused(small_export, tmp_path):
    for name in ("model.onnx", "model.json"):
        (tmp_path / name).write_bytes((small_export / name).read_bytes())
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"is not the model that model.json tells of"):
        PortableScorer(tmp_path)


@pytest.mark.slow
def test_a_model_that_says_otherwise_is_not_written(small_scorer, small_export, tmp_path, monkeypatch):
    """The export runs what it made, and compares: here it was given another scorer's calibration."""
    other = Scorer(small_scorer.encoder, small_scorer.head, Calibration((1.6, 0.8), ((0.2, -0.1), (0, 0.3))), ASPECTS)
    monkeypatch.setattr(export, "_onnx_model", lambda scorer: (small_export / "model.onnx").read_bytes())
    with pytest.raises(UserError, match=r"differs from the scorer by .* 1e-04 is the limit"):
        export_scorer(other, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_bfloat16_and_unknown_precisions_are_refused(small_scorer, tmp_path):
    with pytest.raises(UserError, match="'int4' is not one of float32, int8"):
        export_scorer(small_scorer, tmp_path, "int4")
    with pytest.raises(UserError, match="give --images FOLDER"):
        export_scorer(small_scorer, tmp_path, "int8")
    half = build_encoder({**small_scorer.encoder.config, "precision": "bfloat16"})
    with pytest.raises(UserError, match=r"runs in bfloat16.*encoder.precision=float32"):
        export_scorer(Scorer(half, small_scorer.head, small_scorer.calibration, ASPECTS), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_keeps_the_order_of_real_images_or_is_refused(
    agiqa3k, shipped_scorer, shipped_export, tmp_path, monkeypatch
):
    # Ranges of fewer images than a user's can only be worse; the model is the one that would be traced again.
    monkeypatch.setattr(export, "CALIBRATION_IMAGES", 16)
    monkeypatch.setattr(export, "CHECK_IMAGES", 64)
    monkeypatch.setattr(export, "_onnx_model", lambda scorer: (shipped_export / "model.onnx").read_bytes())
    told = export_scorer(shipped_scorer, tmp_path / "export", "int8", agiqa3k / "images")
    assert told["rank_correlation"] >= 0.995
    # The head, 40 MB in float32, is not quantised; the encoder's 43 MB become 11.
    assert (tmp_path / "export/model.onnx").stat().st_size < 55_000_000
    with Image.open(sorted((agiqa3k / "images").iterdir())[7]) as image:
        image = image.convert("RGB")
    score = shipped_scorer([image])[0].score
    assert PortableScorer(tmp_path / "export")(image)["score"] == pytest.approx(score, abs=0.15)


def test_int8_needs_enough_images(small_scorer, tmp_path):
    (tmp_path / "images").mkdir()
    for seed in range(3):
        picture(seed).save(tmp_path / "images" / f"{seed}.png")
    with pytest.raises(UserError, match="holds 3 images, and int8 needs 128"):
        export_scorer(small_scorer, tmp_path / "export", "int8", tmp_path / "images")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "made", "--scorer", "no/scorer"], "no/scorer is not a scorer"),
        (["--out", "made", "--precision", "float8"], "'float8' is not one of float32, int8"),
        (["--out", "a-file"], "cannot write a-file: a-file is a file; name a folder"),
        (["--out", "made", "--precision", "int8", "--images", "nowhere"], "nowhere is not a folder"),
        (["--out", "a-file/below"], "a-file is a file; name a folder"),
    ],
)
def test_bad_input_is_one_message(artgate, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    status, out, err = artgate("export", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.slow
def test_artgate_scores_with_an_exported_scorer(artgate, small_scorer, small_export, tmp_path):
    for seed, image in enumerate(pictures()):
        image.save(tmp_path / f"{seed}.png")
    status, out, _ = artgate("score", tmp_path, "--scorer", small_export)
    assert status == 0
    for line, image in zip(map(json.loads, out.splitlines()), pictures(), strict=True):
        (score,) = small_scorer([image])
        assert line["score"] == pytest.approx(score.score, abs=1e-4)
        assert line["aspects"]["rationality"] == pytest.approx(score.aspects["rationality"], abs=1e-4)
    status, _, err = artgate("score", tmp_path, "--scorer", small_export, "--cache", tmp_path / "cache")
    assert (status, "leave --cache out" in err) == (2, True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.json").write_text("{")
    status, _, err = artgate("score", tmp_path / "0.png", "--scorer", tmp_path / "broken")
    assert (status, "is no exported scorer" in err) == (2, True)
