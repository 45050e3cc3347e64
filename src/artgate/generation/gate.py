"""The gate: accept a scored candidate, or say why not."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from artgate.generation.config import GateConfig


class Scored(Protocol):
    """The part of a `Score` that a gate looks at."""

    @property
    def score(self) -> float:
        """Expected grade / 2, in [0, 1]."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Of the grades "poor", "average" and "good"."""


@dataclass(frozen=True)
class Verdict:
    """accepted, and the reason in words, for the ledger."""

    accepted: bool
    reason: str


class Judge(ABC):
    """What every gate is: verdicts on groups of `of` candidates, and nothing that changes from one to the next."""

    of = 1

    @abstractmethod
    def judge(self, scores: Sequence[Scored]) -> list[Verdict]:
        """One verdict a score, in the order given."""

    def observe(self, line: Mapping[str, Any]) -> None:  # noqa: B027 - most gates take no note
        """Take note of a decided candidate's line of the ledger: each once, in order."""

    @property
    def over(self) -> bool:
        """Whether the batch is to end now, be it complete or not."""
        return False

    @property
    def warning(self) -> str | None:
        """What whoever runs the batch has to know, and do."""
        return None

    def told(self) -> dict[str, Any]:
        """What a summary tells of the gate beside the configuration."""
        return {}


class Gate(Judge):
    """An absolute threshold on the score or on P(good): each candidate is judged by itself."""

    def __init__(self, kind: str, threshold: float) -> None:
        self.kind, self.threshold = kind, threshold

    def decide(self, score: Scored) -> Verdict:
        """Accept what reaches the threshold."""
        if self.kind == "good":
            return _against_threshold("P(good)", score.probabilities["good"], self.threshold)
        return _against_threshold("score", score.score, self.threshold)

    def judge(self, scores: Sequence[Scored]) -> list[Verdict]:
        """One verdict a score, in the order given."""
        return [self.decide(score) for score in scores]


class BestOf(Judge):
    """The best `keep` of every `of` candidates: judged once all scores of such a group are known."""

    def __init__(self, config: GateConfig) -> None:
        self.keep, self.of = config.keep, config.of
        self.threshold = config.threshold or 0.0

    def judge(self, scores: Sequence[Scored]) -> list[Verdict]:
        """One verdict a score, in the order given. Of equal scores the earlier candidate ranks higher.

        scores: of one group; fewer than `of` where candidates failed.
        """
        by_rank = sorted(range(len(scores)), key=lambda i: -scores[i].score)  # a stable sort keeps ties in index order
        rank = {i: place for place, i in enumerate(by_rank, start=1)}
        return [self._verdict(score, rank[i], len(scores)) for i, score in enumerate(scores)]

    def _verdict(self, score: Scored, rank: int, ranked: int) -> Verdict:
        above = _against_threshold("score", score.score, self.threshold)
        if not above.accepted:
            return above
        return Verdict(rank <= self.keep, f"rank {rank} of {ranked}, best {self.keep} are kept")


def build_gate(config: GateConfig, lines: Sequence[Mapping[str, Any]] = ()) -> Judge:
    """The gate that the configuration names, as it is after `lines` of the ledger.

    Raises UserError where its certificate is missing or was changed.
    """
    if config.kind == "best_of":
        return BestOf(config)
    if config.kind == "certified":
        from artgate.generation.certified import load_certified_gate

        return load_certified_gate(config, lines)
    return Gate(config.kind, config.threshold or 0.0)


def _against_threshold(name: str, value: float, threshold: float) -> Verdict:
    accepted = value >= threshold
    digits = _digits_to_tell_apart(value, threshold)
    sign = ">=" if accepted else "<"
    return Verdict(accepted, f"{name} {value:.{digits}f} {sign} threshold {threshold:.{digits}f}")


def _digits_to_tell_apart(value: float, threshold: float) -> int:
    """Two decimals, or as many as show two digits of the smaller, and that "0.50 < 0.50" is never said."""
    smaller = min((number for number in (value, threshold) if number > 0), default=1.0)
    least = max(2, 1 - math.floor(math.log10(smaller)))
    enough = (d for d in range(least, 17) if value == threshold or f"{value:.{d}f}" != f"{threshold:.{d}f}")
    return next(enough, 17)
