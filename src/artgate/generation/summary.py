"""What a batch cost and gave: the figures of `summary.json`, out of the ledger and the log of sessions."""

from collections.abc import Mapping, Sequence
from typing import Any

STAGES = ("load", "denoise", "decode", "score", "upscale", "save")


def summarise(
    lines: Sequence[Mapping[str, Any]],
    sessions: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    models: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `summary.json`, over all sessions of a batch.

    lines: the ledger. sessions: when each start of the run began and ended, with "seconds" of what belongs to no
    candidate (loading) and "evaluations" spent on candidates that were still on their way when it ended.
    Evaluations are denoiser calls an image; ratios to the accepted are None while nothing is accepted.
    gate: what a gate with a certificate tells of it.
    """
    status = [line["status"] for line in lines]
    accepted = status.count("accepted")
    seconds = {stage: round(_total([*lines, *sessions], stage), 3) for stage in STAGES}
    evaluations = sum(line["evaluations"] for line in [*lines, *sessions])
    return {
        "target": config["target"],
        "candidates": len(lines),
        "accepted": accepted,
        "rejected": status.count("rejected"),
        "failed": status.count("failed"),
        "yield": accepted / len(lines) if lines else None,
        "yield_95": wilson_interval(accepted, len(lines)),
        "evaluations": evaluations,
        "evaluations_per_accepted": evaluations / accepted if accepted else None,
        "seconds": seconds,
        "seconds_per_accepted": sum(seconds.values()) / accepted if accepted else None,
        "sessions": sum(session["event"] == "begun" for session in sessions),
        "models": dict(models),
        **({"gate": dict(gate)} if gate else {}),
        "config": dict(config),
        "complete": accepted >= config["target"],
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a share, (0, 1) of no trials. Source: Wilson 1927, without continuity correction."""
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes a moment, at the end of a run alone

    low, high = binomtest(successes, trials).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def _total(entries: Sequence[Mapping[str, Any]], stage: str) -> float:
    return sum(entry["seconds"].get(stage, 0.0) for entry in entries)
