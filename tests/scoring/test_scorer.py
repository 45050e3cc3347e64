import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.calibration import Calibration
from artgate.scoring.encoders import build_encoder
from artgate.scoring.files import score_files
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.scorer import IDENTITY, Scorer, default_scorer_path

EMBEDDED = {"kind": "embedded", "sizes": [64], "features": "stages", "device": "cpu"}


@pytest.fixture(scope="module")
def scorer():
    """A scorer with the real encoder, seeing little to be fast, and a head of random weights."""
    encoder = build_encoder(EMBEDDED)
    torch.manual_seed(0)
    head = OrdinalHead(encoder.dim, aspects=2, grades=3, kind="mlp", hidden=8, dropout=0.5, members=2)
    for member in head.members:
        torch.nn.init.normal_(member[-1].weight)
    rng = np.random.default_rng(0)
    features = encoder.encode_images([noise(rng) for _ in range(6)])
    head.mean.copy_(features.mean(0))
    head.scale.copy_(features.std(0) + 0.1)
    return Scorer(encoder, head, Calibration((1.5, 0.8), ((0.2, -0.1), (0.0, 0.3))), ("quality", "rationality"))


def noise(rng, size=96):
    low = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return low.resize((size, size + 16), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return [noise(rng, size) for size in (64, 96, 200, 96, 50)]


def test_score_is_half_the_expected_grade(scorer, images):
    for score in scorer(images):
        p = score.probabilities
        assert list(p) == list(GRADES)
        assert sum(p.values()) == pytest.approx(1)
        assert score.score == pytest.approx((p["average"] + 2 * p["good"]) / 2)
        assert 0 <= score.score <= 1
        median = int(p["poor"] <= 0.5) + int(p["good"] > 0.5)
        assert score.grade == GRADES[median]
        assert score.aspects["quality"] == p
        assert score.aspects["rationality"] != p
    assert len({score.score for score in scorer(images)}) == 5


def test_alone_or_among_others_the_same(scorer, images):
    together = scorer(images)
    for image, score in zip(images, together, strict=True):
        (alone,) = scorer([image])
        assert alone.score == pytest.approx(score.score, abs=1e-5)
        assert list(alone.probabilities.values()) == pytest.approx(list(score.probabilities.values()), abs=1e-5)
    assert scorer([]) == []


def test_saved_and_loaded_scores_the_same(scorer, images, tmp_path):
    scorer.save(tmp_path / "scorer", "# Scorer\n")
    loaded = Scorer.load(tmp_path / "scorer")
    assert loaded(images) == scorer(images)
    assert loaded.fingerprint == scorer.fingerprint
    assert loaded.aspects == ("quality", "rationality")
    assert (tmp_path / "scorer/README.md").read_text() == "# Scorer\n"
    record = json.loads((tmp_path / "scorer/scorer.json").read_text())
    assert record["encoder"]["fingerprint"] == scorer.encoder.fingerprint
    assert "device" not in record["encoder"]["config"]


def test_fingerprint_tells_what_changes_scores(scorer):
    other = Scorer(scorer.encoder, scorer.head, Calibration((1.6, 0.8), ((0.2, -0.1), (0.0, 0.3))), scorer.aspects)
    assert other.fingerprint != scorer.fingerprint
    named = Scorer(scorer.encoder, scorer.head, scorer.calibration, scorer.aspects, {"metrics": {"srcc": 1}})
    assert named.fingerprint == scorer.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["encoder"].update(fingerprint="0" * 64), "learnt from encoder"),
        (lambda r: r["encoder"]["config"].update(sizes=[96]), "learnt from encoder"),
        (lambda r: r["encoder"]["config"].update(kind="timm", model="no_such_model"), "no_such_model"),
        (lambda r: r.update(weights_sha256="0" * 64), "head.safetensors"),
        (lambda r: r["head"].update(hidden=9), "does not fit"),
        (lambda r: r.update(format=99), "format 99"),
        (lambda r: r.update(grades=["bad", "good"]), "grades"),
        (lambda r: r.pop("format"), "damaged"),
    ],
)
def test_a_scorer_that_is_not_what_it_says_is_refused(scorer, tmp_path, change, message):
    folder = scorer.save(tmp_path / "scorer")
    record = json.loads((folder / "scorer.json").read_text())
    change(record)
    identity = {key: record[key] for key in IDENTITY}
    record["fingerprint"] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    (folder / "scorer.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        Scorer.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["calibration"].update(temperature=[2.0, 0.8]),
        lambda r: r["encoder"]["config"].update(fit="crop"),
        lambda r: r.pop("aspects"),
        lambda r: r.pop("fingerprint"),
    ],
    ids=["calibration", "preprocessing", "no aspects", "no fingerprint"],
)
def test_a_description_changed_by_hand_is_refused(scorer, tmp_path, change):
    folder = scorer.save(tmp_path / "scorer")
    record = json.loads((folder / "scorer.json").read_text())
    change(record)
    (folder / "scorer.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"scorer.json was changed .* copy the folder again"):
        Scorer.load(folder)


def test_missing_or_torn_files_are_refused(scorer, tmp_path):
    with pytest.raises(UserError, match="not a scorer"):
        Scorer.load(tmp_path)
    folder = scorer.save(tmp_path / "scorer")
    (folder / "scorer.json").write_text('{"format":')
    with pytest.raises(UserError, match="damaged"):
        Scorer.load(folder)
    folder = scorer.save(tmp_path / "scorer")
    weights = folder / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(UserError, match="copy the folder again"):
        Scorer.load(folder)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        Scorer.load(folder)


def test_files_and_folders_become_lines(scorer, images, tmp_path):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        image.save(folder / f"{index}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    (folder / "page.png").write_text("<html>")
    (folder / "notes.txt").write_text("not an image, and not named as one")
    lines = list(score_files(scorer, [tmp_path / "nowhere.png", tmp_path / "in"], minibatch=2))
    names = [line["file"] for line in lines]
    in_folder = [str(folder / name) for name in ("0.png", "1.png", "2.png", "3.png", "4.png", "page.png")]
    assert names == [str(tmp_path / "nowhere.png"), *in_folder]
    errors = {line["file"].rsplit("/")[-1]: line["error"].split(":")[0] for line in lines if "error" in line}
    assert errors == {"nowhere.png": "unreadable", "2.png": "truncated", "page.png": "not-an-image"}
    expected = scorer([images[3]])[0]
    (line,) = [line for line in lines if line["file"].endswith("3.png")]
    assert line["score"] == pytest.approx(expected.score, abs=1e-5)
    assert line["grade"] == expected.grade
    assert line.keys() == {"file", "image_id", "score", "grade", "probabilities", "aspects"}


def test_features_of_files_are_kept_and_used(scorer, images, tmp_path, monkeypatch):
    folder, cache = tmp_path / "in", tmp_path / "cache"
    folder.mkdir()
    for index, image in enumerate(images):
        image.save(folder / f"{index}.png")
    (folder / "2b.png").write_bytes((folder / "2.png").read_bytes())
    (folder / "torn.png").write_bytes((folder / "2.png").read_bytes()[:300])
    plain = list(score_files(scorer, [folder], minibatch=3))
    cold = list(score_files(scorer, [folder], minibatch=3, cache=cache))
    assert [line.keys() for line in cold] == [line.keys() for line in plain]
    for one, other in zip(plain, cold, strict=True):
        assert one.get("image_id") == other.get("image_id")
        assert one.get("score") == pytest.approx(other.get("score"), abs=1e-5)
    assert len(list(cache.glob("*/*.safetensors"))) == 1
    monkeypatch.setattr(scorer.encoder, "encode", None)  # what is kept is not computed again
    warm = list(score_files(scorer, [folder], cache=cache, first=1))
    assert [line["file"] for line in warm] == [line["file"] for line in cold[1:]]
    assert [line.get("score") for line in warm] == [pytest.approx(line.get("score"), abs=1e-6) for line in cold[1:]]


def test_the_shipped_scorer_loads_and_is_small():
    """The scorer in the package loads offline with the embedded encoder, and is small."""
    folder = default_scorer_path()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25_000_000
    shipped = Scorer.load(folder)
    assert shipped.aspects == ("quality",)
    assert (folder / "README.md").read_text().startswith("# Scorer")
