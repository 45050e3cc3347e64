"""The gate: accept a scored candidate, or say why not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Gate:
    """An absolute threshold on the score or on P(good): each candidate is judged by itself."""

    of = 1

    def __init__(self, config: GateConfig) -> None:
        self.config = config

    def decide(self, score: Scored) -> Verdict:
        """Accept what reaches the threshold."""
        if self.config.kind == "good":
            return _against_threshold("P(good)", score.probabilities["good"], self.config.threshold)
        return _against_threshold("score", score.score, self.config.threshold)

    def judge(self, scores: Sequence[Scored]) -> list[Verdict]:
        """One verdict a score, in the order given."""
        return [self.decide(score) for score in scores]


class BestOf:
    """The best `keep` of every `of` candidates: judged once all scores of such a group are known."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self.of = config.of

    def judge(self, scores: Sequence[Scored]) -> list[Verdict]:
        """One verdict a score, in the order given. Of equal scores the earlier candidate ranks higher.

        scores: of one group; fewer than `of` where candidates failed.
        """
        by_rank = sorted(range(len(scores)), key=lambda i: -scores[i].score)  # a stable sort keeps ties in index order
        rank = {i: place for place, i in enumerate(by_rank, start=1)}
        return [self._verdict(score, rank[i], len(scores)) for i, score in enumerate(scores)]

    def _verdict(self, score: Scored, rank: int, ranked: int) -> Verdict:
        above = _against_threshold("score", score.score, self.config.threshold)
        if not above.accepted:
            return above
        return Verdict(rank <= self.config.keep, f"rank {rank} of {ranked}, best {self.config.keep} are kept")


def build_gate(config: GateConfig) -> Gate | BestOf:
    """The gate that the configuration names."""
    return BestOf(config) if config.kind == "best_of" else Gate(config)


def _against_threshold(name: str, value: float, threshold: float) -> Verdict:
    accepted = value >= threshold
    digits = _digits_to_tell_apart(value, threshold)
    sign = ">=" if accepted else "<"
    return Verdict(accepted, f"{name} {value:.{digits}f} {sign} threshold {threshold:.{digits}f}")


def _digits_to_tell_apart(value: float, threshold: float) -> int:
    """Two decimals, or as many as it takes that "0.50 < 0.50" is never said."""
    enough = (d for d in range(2, 17) if value == threshold or f"{value:.{d}f}" != f"{threshold:.{d}f}")
    return next(enough, 17)
