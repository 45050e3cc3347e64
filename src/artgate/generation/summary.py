"""What a batch cost and gave: the figures of `summary.json`, out of the ledger and the log of sessions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

VERDICTS = ("accepted", "gate", "preview", "safety", "near-duplicate")
STAGES = ("load", "denoise", "preview", "decode", "safety", "score", "upscale", "save")


def summarise(
    lines: Sequence[Mapping[str, Any]],
    sessions: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    models: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
    waiting: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The content of `summary.json`, over all sessions of a batch.

    lines: the ledger. sessions: when each start of the run began and ended, with "seconds" of what belongs to no
    candidate (loading) and "evaluations" spent on candidates that were still on their way when it ended.
    Evaluations are denoiser calls an image; ratios to the accepted are None while nothing is accepted.
    gate: what a gate with a certificate tells of it. waiting: what was made and is not decided.
    "verdicts" counts lines by what decided them (`decided_by`), "yields" by prompt template.
    """
    status = [line["status"] for line in lines]
    accepted = status.count("accepted")
    seconds = {stage: round(_total([*lines, *waiting, *sessions], stage), 3) for stage in STAGES}
    evaluations = sum(line["evaluations"] for line in [*lines, *waiting, *sessions])
    return {
        "target": config["target"],
        "candidates": len(lines),
        "accepted": accepted,
        "rejected": status.count("rejected"),
        "failed": status.count("failed"),
        "yield": accepted / len(lines) if lines else None,
        "yield_95": wilson_interval(accepted, len(lines)),
        "verdicts": dict.fromkeys(VERDICTS, 0) | Counter(map(decided_by, lines)),
        "yields": yields(lines, config["prompts"]["prompts"]) if "prompts" in config else [],
        "evaluations": evaluations,
        "evaluations_per_accepted": evaluations / accepted if accepted else None,
        "seconds": seconds,
        "seconds_per_accepted": sum(seconds.values()) / accepted if accepted else None,
        "slots": [session["slots"] for session in sessions if session["event"] == "shrunk"],
        "sessions": sum(session["event"] == "begun" for session in sessions),
        "models": dict(models),
        **({"gate": dict(gate)} if gate else {}),
        "config": dict(config),
        "complete": accepted >= config["target"],
    }


def decided_by(line: Mapping[str, Any]) -> str:
    """What decided a line of the ledger: one of `VERDICTS`, or "failed: " and the stage that it failed at."""
    if line["status"] == "accepted":
        return "accepted"
    reason = line["reason"] or ""
    if line["status"] == "failed":
        return f"failed: {reason.partition(':')[0]}"
    # The gate's reasons name what they compare, and begin with none of these.
    return next((verdict for verdict in VERDICTS if reason.startswith(verdict)), "gate")


def yields(lines: Sequence[Mapping[str, Any]], prompts: Sequence[Any]) -> list[dict[str, Any]]:
    """What each template brought: its prompt, candidates, accepted, and their share with its 95 % interval.

    prompts: `prompts.prompts` of the configuration.
    """
    candidates = Counter(line["template"] for line in lines)
    accepted = Counter(line["template"] for line in lines if line["status"] == "accepted")
    return [
        {
            "template": place,
            "prompt": entry if isinstance(entry, str) else entry["prompt"],
            "candidates": candidates[place],
            "accepted": accepted[place],
            "yield": accepted[place] / candidates[place] if candidates[place] else None,
            "yield_95": wilson_interval(accepted[place], candidates[place]),
        }
        for place, entry in enumerate(prompts)
    ]


def yields_in_words(yields: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a template, for the terminal; none where there is but one."""
    if len(yields) < 2:
        return []
    told = []
    for found in yields:
        low, high = found["yield_95"]
        share = f"{found['accepted']:>4} of {found['candidates']:<5} {low:>4.0%} to {high:>4.0%}"
        told.append(f"  {share}  {shortened(found['prompt'])}")
    return ["yield by prompt, with 95 % intervals:", *told]


def shortened(text: str, most: int = 80) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a share, (0, 1) of no trials. Source: Wilson 1927, without continuity correction."""
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes a moment, at the end of a run alone

    low, high = binomtest(successes, trials).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def _total(entries: Sequence[Mapping[str, Any]], stage: str) -> float:
    return sum(entry["seconds"].get(stage, 0.0) for entry in entries)
