"""A certificate: the threshold of one scorer that holds a precision, and what is known of the data behind it.

Its folder holds `certificate.json` and a `.safetensors` with what `drift.py` compares new images with. It is bound to
one scorer by fingerprint, and refused where it was changed. `certifying.py` makes it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.scoring.drift import Reference

FORMAT = 1
FILE, FOLDER = "certificate.json", "certificate"


class Scored(Protocol):
    """The part of a `Score` that a certificate looks at."""

    @property
    def score(self) -> float:
        """Expected grade / 2, in [0, 1]."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Of the grades "poor", "average" and "good"."""


@dataclass(frozen=True)
class Certificate:
    """Of the artworks that score `threshold` or more, at least `precision` are `acceptable` or better: with a
    confidence of `confidence`, for artworks like those that it was measured on.

    kind: what is held against the threshold, "score" or "good" (P(good)), as in a gate. accepted, right: how many of
    the `labels` reach it, and how many of those are acceptable. effective: what the accepted are worth if they were
    independent; correlation: of mistakes within one of the `groups`. expected_yield, yield_95: the share accepted, and
    its interval. one_per_group: whether only one artwork a group was looked at. graded_by, digest: the grades, as in
    a scorer's metrics. shares_test_split: how many labels the scorer's own report was measured on too.
    """

    kind: str
    threshold: float
    acceptable: str
    precision: float
    confidence: float
    observed_precision: float
    accepted: int
    right: int
    effective: float
    labels: int
    groups: int
    correlation: float
    one_per_group: bool
    expected_yield: float
    yield_95: tuple[float, float]
    graded_by: str
    digest: str
    shares_test_split: int
    scorer: str
    encoder: str
    encoder_name: str
    made_at: str
    reference_sha256: str

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over all that it says, the reference data included."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def value(self, score: Scored) -> float:
        """What of a score is held against the threshold."""
        return score.probabilities["good"] if self.kind == "good" else score.score

    def summary(self) -> dict[str, Any]:
        """What sidecars and summaries tell of it."""
        told = ("kind", "threshold", "acceptable", "precision", "confidence", "labels", "accepted", "scorer", "made_at")
        return {"fingerprint": self.fingerprint} | {name: getattr(self, name) for name in told}


def reference_sha256(reference: Reference) -> str:
    """What a certificate says of its reference data."""
    return _sha256(_packed(reference))


def save_certificate(folder: Path, certificate: Certificate, reference: Reference) -> Path:
    """Write the folder, or replace the certificate in it as a whole; returns the path of `certificate.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = _reference_name(certificate)
    write_atomic(folder / name, _packed(reference))
    record = {"format": FORMAT, "fingerprint": certificate.fingerprint, **asdict(certificate)}
    write_atomic(folder / FILE, json.dumps(record, indent=1) + "\n")
    for former in folder.glob("reference-*.safetensors"):
        if former.name != name:
            former.unlink()
    return folder / FILE


def certificate_text(certificate: Certificate) -> str:
    """What a certificate says, in lines for people."""
    low, high = certificate.yield_95
    looked_at = "P(good)" if certificate.kind == "good" else "score"
    lines = [
        f"threshold   {looked_at} >= {certificate.threshold:.4f}",
        f"precision   at least {certificate.precision:g} are {certificate.acceptable} or better, with confidence "
        f"{certificate.confidence:g}; observed {certificate.right} of {certificate.accepted} "
        f"({certificate.observed_precision:.3f})",
        f"yield       {certificate.expected_yield:.1%} of artworks like these, 95 % interval {low:.1%} to {high:.1%}",
        f"stands on   {certificate.labels} labels of {certificate.groups} groups, {certificate.accepted} accepted, "
        f"worth {certificate.effective:.0f} independent ones (mistakes of a group correlate by "
        f"{certificate.correlation:.2f})",
        f"grades      {certificate.graded_by}, digest {certificate.digest[:16]}",
        f"scorer      {certificate.scorer[:16]}, encoder {certificate.encoder_name} {certificate.encoder[:16]}",
    ]
    if certificate.shares_test_split:
        lines.append(
            f"note        {certificate.shares_test_split} of the labels are the test split of the scorer's own report: "
            "its figures and this certificate share data"
        )
    return "\n".join(lines)


def load_certificate(path: str | Path) -> Certificate:
    """Read a certificate's folder, or its file. Raises UserError where there is none, and where it was changed."""
    file = _file(path)
    try:
        read = json.loads(file.read_text())
        known = read.pop("format") == FORMAT
        fingerprint = read.pop("fingerprint")
        certificate = Certificate(**{**read, "yield_95": tuple(read["yield_95"])}) if known else None
    except FileNotFoundError:
        raise UserError(f"{path} holds no {FILE}: make one with `artgate certify`") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise UserError(f"{file} is damaged: copy it again, or certify again") from None
    if certificate is None:
        raise UserError(f"{file} is of another format than {FORMAT}: certify again with this artgate")
    if certificate.fingerprint != fingerprint:
        raise UserError(f"{file} was changed (its fingerprint is another): copy it again, or certify again")
    return certificate


def load_reference(path: str | Path, certificate: Certificate) -> Reference:
    """The data that new images are compared with. Raises UserError where it is missing or another's."""
    file = _file(path).parent / _reference_name(certificate)
    data = file.read_bytes() if file.is_file() else b""
    try:
        if _sha256(data) == certificate.reference_sha256:
            return Reference(**load(data))
    except (SafetensorError, TypeError):
        pass
    raise UserError(f"{file} is missing or is not what {FILE} names: copy the certificate's folder again")


def check_scorer(certificate: Certificate, scorer: str, encoder: str, where: str) -> None:
    """Raise UserError unless the certificate is of the scorer and encoder with these fingerprints."""
    if certificate.encoder != encoder:
        raise UserError(
            f"{where} was made with encoder {certificate.encoder_name} {certificate.encoder[:12]}, and the scorer's is "
            f"{encoder[:12]} (other weights or preprocessing): certify this scorer, or give the one it is of"
        )
    if certificate.scorer != scorer:
        raise UserError(
            f"{where} is of scorer {certificate.scorer[:12]}, and this is {scorer[:12]}: certify this scorer, or give "
            "the one it is of"
        )


def _packed(reference: Reference) -> bytes:
    return save({name: np.ascontiguousarray(value) for name, value in vars(reference).items()})


def _reference_name(certificate: Certificate) -> str:
    return f"reference-{certificate.reference_sha256[:12]}.safetensors"


def _file(path: str | Path) -> Path:
    path = Path(path).expanduser()
    return path / FILE if path.is_dir() else path


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
