"""The certificate in a gate: its threshold, whose scorer it is, and what follows on drift."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from batches import configured, ledger

from artgate.errors import UserError
from artgate.generation.certified import CertifiedGate
from artgate.generation.config import GateConfig
from artgate.generation.production import generate
from artgate.generation.remaking import remake
from artgate.scoring.certificate import Certificate, reference_sha256, save_certificate
from artgate.scoring.drift import FIRST_CHECK, make_reference
from artgate.scoring.scorer import Scorer

Run = Callable[..., dict[str, Any]]
AXES = 8


def certificate_of(scorer: str, encoder: str, threshold: float, reference) -> Certificate:
    return Certificate(
        kind="score",
        threshold=threshold,
        acceptable="good",
        precision=0.9,
        confidence=0.95,
        observed_precision=0.95,
        accepted=100,
        right=95,
        effective=100.0,
        labels=240,
        groups=120,
        correlation=0.0,
        one_per_group=False,
        expected_yield=0.4,
        yield_95=(0.35, 0.45),
        graded_by="votes",
        digest="0" * 64,
        shares_test_split=0,
        scorer=scorer,
        encoder=encoder,
        encoder_name="embedded",
        made_at="2026-01-01T00:00:00+00:00",
        reference_sha256=reference_sha256(reference),
    )


@pytest.fixture(scope="module")
def reference():
    chance = np.random.default_rng(0)
    return make_reference(chance.normal(size=(240, AXES)).astype(np.float32), np.repeat(np.arange(120), 2))


def watched(reference, shift: float, count: int, on_drift: str = "warn") -> tuple[CertifiedGate, list[dict[str, Any]]]:
    """A gate that has seen so many candidates, whose features are shifted so far, and their lines."""
    gate = CertifiedGate(certificate_of("s", "e", 0.5, reference), reference, on_drift)
    features = np.random.default_rng(1).normal(size=(count, AXES)) + shift
    lines = [{"index": k, "prompt": f"p{k}", "point": gate.point(row)} for k, row in enumerate(features)]
    for line in lines:
        gate.observe(json.loads(json.dumps(line)))
    return gate, lines


class Scored:
    score, probabilities = 0.7, {"poor": 0.1, "average": 0.4, "good": 0.5}


def test_candidates_like_its_data_are_judged_by_the_threshold_alone(reference):
    gate, _ = watched(reference, 0.0, 500)
    assert gate.judge([Scored()])[0].reason == "score 0.70 >= threshold 0.50"
    assert gate.warning is None and not gate.over and gate.told()["suspended"] is None


def test_unlike_candidates_suspend_the_certificate_and_every_verdict_says_so(reference):
    gate, lines = watched(reference, 0.8, 500)
    assert gate.drift is not None and gate.drift["candidate"] == FIRST_CHECK - 1
    assert gate.judge([Scored()])[0].reason.endswith(
        f"; the certificate is suspended since candidate {FIRST_CHECK - 1}"
    )
    assert "Grade about 240 candidates" in (gate.warning or "") and "artgate certify" in (gate.warning or "")
    assert not gate.over
    assert watched(reference, 0.8, 500, "stop")[0].over
    # what a later session reads from the ledger is the same
    again = CertifiedGate(gate.certificate, reference, "warn")
    for line in lines:
        again.observe(line)
    assert again.drift == gate.drift


def test_failed_candidates_are_not_counted(reference):
    gate, _ = watched(reference, 0.8, FIRST_CHECK - 1)
    gate.observe({"index": 900, "prompt": "p", "point": None})
    gate.observe({"index": 901, "prompt": "p"})
    assert gate.drift is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "certified"}, "gate.certificate has no value"),
        ({"kind": "certified", "certificate": "x", "threshold": 0.5}, "are not for gate=certified"),
        ({"kind": "certified", "certificate": "x", "on_drift": "ignore"}, "gate.on_drift ignore is not one of"),
        ({"kind": "score", "threshold": 0.5, "certificate": "x"}, "choose gate=certified"),
        ({"kind": "score"}, "gate.threshold has no value"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict, told: str):
    with pytest.raises(UserError) as error:
        GateConfig(**settings)
    assert told in str(error.value)


@pytest.fixture(scope="module")
def run(model: Path, scorer: Path) -> Run:
    def run(batch_dir: Path, *overrides: str) -> dict[str, Any]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return generate(configured(model, scorer, batch_dir, *overrides))
        finally:
            torch.set_num_threads(threads)

    return run


@pytest.fixture(scope="module")
def plain(run: Run, tmp_path_factory) -> Path:
    """The first twelve candidates, all accepted."""
    root = tmp_path_factory.mktemp("plain") / "batch"
    run(root, "target=12", "gate.threshold=0")
    return root


@pytest.fixture(scope="module")
def certified(plain: Path, scorer: Path, tmp_path_factory) -> Callable[..., Path]:
    """Folder of a certificate whose data are other than what the tiny model paints: half of its candidates pass."""
    judge = Scorer.load(scorer)
    features = np.random.default_rng(0).normal(size=(120, judge.encoder.dim)).astype(np.float32)
    reference = make_reference(features, np.arange(120))
    threshold = median(line["score"] for line in ledger(plain))
    made = certificate_of(judge.fingerprint, judge.encoder.fingerprint, threshold, reference)

    def write(**changes: str) -> Path:
        folder = tmp_path_factory.mktemp("certificate")
        save_certificate(folder, replace(made, **changes), reference)
        return folder

    return write


def gate_of(folder: Path, *more: str) -> list[str]:
    return ["gate=certified", f"gate.certificate={folder}", *more]


@pytest.mark.slow
def test_a_batch_is_gated_by_the_certificate_and_records_it(run: Run, plain: Path, certified, tmp_path: Path):
    folder = certified()
    summary = run(tmp_path / "batch", "target=4", *gate_of(folder))
    told = json.loads((folder / "certificate.json").read_text())
    lines = ledger(tmp_path / "batch")
    assert [line["score"] for line in lines] == [line["score"] for line in ledger(plain)[: len(lines)]]
    assert all((line["status"] == "accepted") == (line["score"] >= told["threshold"]) for line in lines)
    assert summary["gate"]["certificate"]["fingerprint"] == told["fingerprint"]
    accepted = [line for line in lines if line["status"] == "accepted"]
    sidecar = tmp_path / "batch" / "accepted" / "sidecars" / f"{accepted[0]['image_id']}.json"
    assert json.loads(sidecar.read_text())["gate"]["certificate"]["fingerprint"] == told["fingerprint"]
    assert "certified: at least 90% good or better" in (tmp_path / "batch" / "gallery.html").read_text()
    shutil.rmtree(folder)  # a picture can be made again without it
    remade = remake(sidecar).data
    assert remade == (tmp_path / "batch" / accepted[0]["file"]).read_bytes()


def test_another_scorers_certificate_is_refused_before_anything_is_made(run: Run, certified, tmp_path: Path):
    with pytest.raises(UserError, match="is of scorer ffffffffffff"):
        run(tmp_path / "batch", *gate_of(certified(scorer="f" * 64)))
    with pytest.raises(UserError, match="other weights or preprocessing"):
        run(tmp_path / "batch", *gate_of(certified(encoder="f" * 64)))
    assert not (tmp_path / "batch").exists()


@pytest.fixture
def early(monkeypatch) -> None:
    """Check points that a batch of a few candidates reaches."""
    monkeypatch.setattr("artgate.scoring.drift.FIRST_CHECK", 3)


@pytest.mark.slow
def test_drift_suspends_and_a_resumed_batch_is_the_same(run: Run, certified, early, tmp_path: Path, capsys):
    folder = certified()
    whole = run(tmp_path / "whole", "target=4", *gate_of(folder))
    suspended = whole["gate"]["suspended"]
    assert suspended["candidate"] == 2 and whole["complete"]
    lines = ledger(tmp_path / "whole")
    assert ["suspended" in line["reason"] for line in lines] == [line["index"] > 2 for line in lines]
    assert "warning: the certificate is suspended: by candidate 2" in capsys.readouterr().out
    assert "the certificate is suspended" in (tmp_path / "whole" / "gallery.html").read_text()
    for target in (1, 2, 4):
        parts = run(tmp_path / "parts", f"target={target}", *gate_of(folder))
    assert ledger(tmp_path / "parts") == lines and parts["gate"] == whole["gate"]


@pytest.mark.slow
def test_a_batch_that_is_to_stop_ends_there_and_goes_on_where_it_is_told_to(
    run: Run, certified, early, tmp_path: Path, capsys
):
    folder = certified()
    summary = run(tmp_path, "target=4", *gate_of(folder, "gate.on_drift=stop"))
    printed = capsys.readouterr().out
    assert "the batch ends here" in printed and "the same command goes on" not in printed
    assert (summary["candidates"], summary["complete"]) == (3, False)
    assert "the batch ends here" in summary["gate"]["warning"]
    assert run(tmp_path, "target=4", *gate_of(folder, "gate.on_drift=stop"))["candidates"] == 3
    assert run(tmp_path, "target=4", *gate_of(folder))["complete"]


@pytest.mark.slow
def test_a_batch_does_not_go_on_with_another_certificate(run: Run, certified, tmp_path: Path):
    folder, other = certified(), certified(made_at="2026-02-02T00:00:00+00:00")
    run(tmp_path, "target=1", *gate_of(folder))
    shutil.copy(other / "certificate.json", folder / "certificate.json")
    with pytest.raises(UserError, match="was made with certificate"):
        run(tmp_path, "target=3", *gate_of(folder))
