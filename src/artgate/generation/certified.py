"""The gate with a certificate: its threshold, and a watch on whether candidates are like what it was measured on.

What the watch knows is in the ledger (each line has the candidate's point, projected features), so that a batch that
is resumed goes on as if it had never stopped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artgate.generation.config import GateConfig
from artgate.generation.gate import Gate, Judge, Scored, Verdict
from artgate.scoring.certificate import Certificate, load_certificate, load_reference
from artgate.scoring.drift import Reference, check_points, drift_p_value

# Of coordinates with unit variance: what is tested is the same now and after a pass through the ledger.
DECIMALS = 3


class CertifiedGate(Judge):
    """Judges by the certificate's threshold. Where drift is found the certificate is suspended for the whole batch:
    candidates are judged as before, and every verdict from then on says so.

    on_drift: "stop" ends the batch there.
    """

    def __init__(self, certificate: Certificate, reference: Reference, on_drift: str) -> None:
        self.certificate, self.reference, self.on_drift = certificate, reference, on_drift
        self._gate = Gate(certificate.kind, certificate.threshold)
        self._points: list[list[float]] = []
        self._prompts: list[str] = []
        self.drift: dict[str, Any] | None = None

    def judge(self, scores: Sequence[Scored]) -> list[Verdict]:
        """One verdict a score, in the order given."""
        verdicts = self._gate.judge(scores)
        if self.drift is None:
            return verdicts
        told = f"the certificate is suspended since candidate {self.drift['candidate']}"
        return [Verdict(verdict.accepted, f"{verdict.reason}; {told}") for verdict in verdicts]

    def observe(self, line: Mapping[str, Any]) -> None:
        """Count a decided candidate in; at the check points, test for drift."""
        if line.get("point") is None or self.drift is not None:
            return
        self._points.append(line["point"])
        self._prompts.append(line["prompt"])
        level = dict(check_points(len(self._points))).get(len(self._points))
        if level is None:
            return
        p_value = drift_p_value(self.reference, np.array(self._points), self._prompts)
        if p_value < level:
            self.drift = {"candidate": line["index"], "p_value": p_value, "level": level}

    def point(self, features: np.ndarray) -> list[float]:
        """What the ledger keeps of a candidate's (D,) features."""
        return [round(float(value), DECIMALS) for value in self.reference.project(features[None])[0]]

    @property
    def over(self) -> bool:
        """Whether drift is to end the batch."""
        return self.drift is not None and self.on_drift == "stop"

    @property
    def warning(self) -> str | None:
        """That the certificate is suspended, and the cure."""
        if self.drift is None:
            return None
        end = "; the batch ends here (gate.on_drift=warn goes on)" if self.over else ""
        return (
            f"the certificate is suspended: by candidate {self.drift['candidate']} this batch's pictures are not like "
            f"those that it was measured on (p = {self.drift['p_value']:.1g}), and nothing is promised of those "
            f"accepted{end}. Grade about {self.certificate.labels} candidates of this generator, whatever their score, "
            "and run `artgate certify` on them (docs/certificate.md)"
        )

    def told(self) -> dict[str, Any]:
        """The certificate, and whether it is suspended."""
        return {"certificate": self.certificate.summary(), "suspended": self.drift, "warning": self.warning}


def load_certified_gate(config: GateConfig, lines: Sequence[Mapping[str, Any]] = ()) -> CertifiedGate:
    """The gate as it is after `lines` of the ledger. Raises UserError where the certificate is missing or damaged."""
    path = str(config.certificate)
    certificate = load_certificate(path)
    gate = CertifiedGate(certificate, load_reference(path, certificate), config.on_drift)
    for line in lines:
        gate.observe(line)
    return gate
