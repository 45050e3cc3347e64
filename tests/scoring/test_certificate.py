"""From a scorer and graded artworks that it has not seen to a certificate, and back from its folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graded_sample import graded_copy

from artgate.artworks.collection import Collection
from artgate.artworks.sample import make_sample, planted_grades
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.certificate import check_scorer, load_certificate, load_reference, save_certificate
from artgate.scoring.certifying import Demand, make_certificate
from artgate.scoring.learnt import learnt_from, write_learnt

pytestmark = pytest.mark.slow  # each picture is painted and encoded

# The painted sample has few prompts: all of its pictures share one with another.
ALIKE = ("near_duplicates",)
MEAN = Demand(precision=0.5, confidence=0.8, acceptable="average")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> Collection:
    """Graded artworks of another seed than the sample's that the scorer learns from."""
    folder = tmp_path_factory.mktemp("unseen")
    return graded_copy(make_sample(folder / "painted", n=64, seed=77), folder / "graded")


@pytest.fixture(scope="module")
def scorer(sample, tmp_path_factory) -> Path:
    """A scorer of the sample's planted grades, by a linear head, that tells what it learnt from."""
    import torch

    from artgate.scoring.calibration import no_calibration
    from artgate.scoring.encoders import build_encoder
    from artgate.scoring.heads import OrdinalHead
    from artgate.scoring.scorer import Scorer

    folder = tmp_path_factory.mktemp("scorer") / "scorer"
    encoder = build_encoder({"kind": "embedded", "sizes": [64]})
    artworks = list(sample)
    features = encoder.encode_images([sample.image(artwork) for artwork in artworks])
    planted = planted_grades(sample)
    level = torch.tensor([float(GRADES.index(planted[artwork.image_id]) - 1) for artwork in artworks])
    head = OrdinalHead(encoder.dim, aspects=1, grades=3, kind="linear", hidden=1, dropout=0.0, members=1)
    head.mean.copy_(features.mean(0))
    spread = features.std(0)
    head.scale.copy_(torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread)))
    known = (features - head.mean) / head.scale
    # ridge regression, as the direction of both of the head's logits
    ridge = known.T @ torch.linalg.solve(known @ known.T + 50 * torch.eye(len(known)), level)
    with torch.no_grad():
        for part in head.members.parameters():
            whole = part.ndim > 1
            part.copy_((8 * ridge).expand_as(part.reshape(-1, encoder.dim)).reshape(part.shape) if whole else part * 0)
    parts = ["train"] * len(artworks)
    description = {"metrics": {"learnt": write_learnt(folder, learnt_from(artworks, parts))}}
    return Scorer(encoder, head, no_calibration(1, 3), ["quality"], description).save(folder)


@pytest.fixture(scope="module")
def made(scorer: Path, unseen: Collection, tmp_path_factory):
    return make_certificate(scorer, unseen.root, MEAN, group_by=ALIKE, cache=tmp_path_factory.mktemp("cache"))


def test_a_certificate_tells_what_it_stands_on(made, scorer: Path, unseen: Collection):
    certificate, reference = made
    told = json.loads((scorer / "scorer.json").read_text())
    assert (certificate.scorer, certificate.encoder) == (told["fingerprint"], told["encoder"]["fingerprint"])
    assert certificate.labels == len(unseen) and certificate.graded_by == "grades"
    assert certificate.kind == "score" and certificate.shares_test_split == 0
    assert certificate.right <= certificate.accepted <= certificate.labels
    assert certificate.observed_precision == certificate.right / certificate.accepted >= 0.5
    low, high = certificate.yield_95
    assert low <= certificate.expected_yield <= high
    assert len(reference.sizes) == certificate.groups and reference.sizes.sum() == certificate.labels


def test_its_threshold_accepts_on_its_data_what_it_says(made, scorer: Path, unseen: Collection):
    from artgate.scoring.scorer import Scorer

    certificate, _ = made
    artworks, judge = list(unseen), Scorer.load(scorer)
    values = [certificate.value(score) for score in judge([unseen.image(artwork) for artwork in artworks])]
    # a value at the very threshold may fall to either side: images here are scored in other minibatches
    assert sum(value >= certificate.threshold for value in values) == pytest.approx(certificate.accepted, abs=1)


def test_a_folder_comes_back_as_it_was_and_is_replaced_as_a_whole(made, tmp_path: Path):
    certificate, reference = made
    save_certificate(tmp_path, replace(certificate, reference_sha256="0" * 64), reference)
    save_certificate(tmp_path, certificate, reference)
    assert load_certificate(tmp_path) == load_certificate(tmp_path / "certificate.json") == certificate
    back = load_reference(tmp_path, certificate)
    for name, value in vars(reference).items():
        np.testing.assert_array_equal(getattr(back, name), value)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record | {"threshold": 0.123}, "was changed"),
        (lambda record: record | {"precision": 0.99}, "was changed"),
        (lambda record: record | {"format": 9}, "another format"),
        (lambda record: {"format": 1}, "is damaged"),
        (lambda record: [], "is damaged"),
    ],
)
def test_a_changed_file_is_refused(made, tmp_path: Path, change, told: str):
    path = save_certificate(tmp_path, *made)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=told):
        load_certificate(tmp_path)


def test_changed_reference_data_and_a_missing_certificate_are_refused(made, tmp_path: Path):
    certificate, _ = made
    save_certificate(tmp_path, *made)
    (file,) = tmp_path.glob("reference-*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"is not what certificate\.json names"):
        load_reference(tmp_path, certificate)
    with pytest.raises(UserError, match=r"holds no certificate\.json: make one with `artgate certify`"):
        load_certificate(tmp_path / "nothing")


def test_another_scorer_and_another_preprocessing_are_refused(made):
    certificate, _ = made
    check_scorer(certificate, certificate.scorer, certificate.encoder, "it")
    with pytest.raises(UserError, match="it is of scorer"):
        check_scorer(certificate, "f" * 64, certificate.encoder, "it")
    with pytest.raises(UserError, match="other weights or preprocessing"):
        check_scorer(certificate, certificate.scorer, "f" * 64, "it")


def test_what_the_scorer_learnt_from_certifies_nothing(scorer: Path, sample, tmp_path: Path):
    own = graded_copy(sample, tmp_path / "own")
    with pytest.raises(UserError, match=f"all {len(own)} graded artworks of .* were learnt from"):
        make_certificate(scorer, own.root, MEAN, group_by=ALIKE, cache=tmp_path)


def test_a_precision_that_nothing_holds_is_refused_with_what_would(scorer: Path, unseen: Collection, tmp_path: Path):
    with pytest.raises(UserError, match=r"64 graded artworks .* takes 93 accepted ones at the least"):
        make_certificate(
            scorer, unseen.root, replace(MEAN, precision=0.95, confidence=0.95), group_by=ALIKE, cache=tmp_path
        )
    with pytest.raises(UserError, match=r"no threshold holds precision 0\.9 .* on 64 labels .*[Mm]ore labels"):
        make_certificate(scorer, unseen.root, Demand(0.9, 0.95), group_by=ALIKE, cache=tmp_path)


def test_a_folder_without_grades_is_refused(scorer: Path, sample, tmp_path: Path):
    with pytest.raises(UserError, match="label its artworks first"):
        make_certificate(scorer, sample.root, MEAN, group_by=ALIKE, cache=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"precision": 1.0}, "precision 1.0 is outside"),
        ({"confidence": 0.3}, "confidence 0.3 is outside"),
        ({"acceptable": "poor"}, "acceptable 'poor' is not one of average, good"),
        ({"kind": "best_of"}, "kind 'best_of' is not one of score, good"),
    ],
)
def test_a_demand_outside_its_limits_is_refused(wrong: dict, told: str):
    with pytest.raises(UserError, match=told):
        Demand(**({"precision": 0.9, "confidence": 0.95} | wrong))


def test_the_command_writes_a_certificate_and_says_how_to_use_it(artgate, scorer: Path, unseen: Collection, tmp_path):
    given = ["--scorer", scorer, "--data", unseen.root, "--acceptable", "average", "--group-by", "near_duplicates"]
    given += ["--cache", tmp_path / "cache"]
    status, out, _ = artgate("certify", *given, "--precision", 0.5, "--confidence", 0.8, "--out", tmp_path / "made")
    assert status == 0 and "threshold   score >=" in out and "gate=certified" in out
    assert load_certificate(tmp_path / "made").labels == len(unseen)
    status, _, err = artgate("certify", *given, "--precision", 0.99, "--out", tmp_path / "none")
    assert status == 2 and "at the least" in err and not (tmp_path / "none").exists()
    status, _, err = artgate("certify", "--data", unseen.root)
    assert status == 2 and "--out" in err
