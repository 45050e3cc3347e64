"""What the bandit over prompt templates brings: candidates to a target, against templates in turn, in simulation.

    python -m benchmarks.allocation [--trials 200] [--target 64] [--out allocation.json]

Templates have true yields; a candidate is accepted with the yield of its template, and both ways of allocation see the
same draws. gain: candidates that templates in turn take to the target, over those that the bandit takes. least_share:
of the candidates, what the template with fewest gets, as a share of what it would get in turn. evenness: the entropy of
the accepted over templates, as a share of the most that is possible.
"""

import argparse
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

from artgate.artworks.files import write_atomic
from artgate.generation.allocation import Allocation, Bandit, InTurn
from artgate.generation.config import AllocationConfig

# True yields, by template.
SETS: dict[str, tuple[float, ...]] = {
    "skewed": (0.6, 0.25, 0.15, 0.1, 0.1, 0.05, 0.05, 0.02),
    "one good of twenty": (0.5, *[0.05] * 19),
    "fan of twenty": tuple(0.6 * 0.85**place for place in range(20)),
    "two of five": (0.6, 0.5, 0.1, 0.05, 0.0),
    "alike": (0.3,) * 8,
}
MOST = 20_000


def main() -> None:
    """Simulate, print a line each, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--target", type=int, default=64)
    parser.add_argument("--floor", type=float, default=AllocationConfig().floor)
    parser.add_argument("--round", type=int, default=AllocationConfig().round)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = AllocationConfig("bandit", given.floor, given.round)
    found = {name: compared(truth, given.target, config, given.trials) for name, truth in SETS.items()}
    for name, figures in found.items():
        print(f"{name:20}", "  ".join(f"{key} {value:.2f}" for key, value in figures.items()), flush=True)
    if given.out:
        write_atomic(given.out, json.dumps(found, indent=1) + "\n")


def compared(truth: tuple[float, ...], target: int, config: AllocationConfig, trials: int) -> dict[str, float]:
    """Means over trials: candidates in turn and by the bandit, their ratio, and how the accepted spread."""
    in_turn = [simulated(InTurn(len(truth)), truth, target, trial) for trial in range(trials)]
    bandit = [simulated(Bandit(len(truth), config, trial), truth, target, trial) for trial in range(trials)]
    uniform, spent = (sum(map(len, runs)) / trials for runs in (in_turn, bandit))
    return {
        "in_turn": uniform,
        "bandit": spent,
        "gain": uniform / spent,
        "least_share": sum(map(least_share, bandit)) / trials * len(truth),
        "evenness_in_turn": sum(evenness(run, len(truth)) for run in in_turn) / trials,
        "evenness_bandit": sum(evenness(run, len(truth)) for run in bandit) / trials,
    }


def simulated(allocation: Allocation, truth: tuple[float, ...], target: int, seed: int) -> list[dict[str, Any]]:
    """The ledger of one batch: the n-th candidate of a template has the same fate whatever the allocation."""
    chances = [random.Random(f"{seed} {place}") for place in range(len(truth))]
    lines: list[dict[str, Any]] = []
    accepted = 0
    while accepted < target and len(lines) < MOST:
        template = allocation.template_of(len(lines), lines)
        assert template is not None
        passed = chances[template].random() < truth[template]
        lines.append({"template": template, "status": "accepted" if passed else "rejected"})
        accepted += passed
    return lines


def least_share(lines: list[dict[str, Any]]) -> float:
    """The share of candidates that the template with fewest got."""
    return min(Counter(line["template"] for line in lines).values()) / len(lines)


def evenness(lines: list[dict[str, Any]], templates: int) -> float:
    """Entropy of the accepted over templates, of log(templates): 1 where each brought as many."""
    counts = Counter(line["template"] for line in lines if line["status"] == "accepted")
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) / math.log(templates)


if __name__ == "__main__":
    main()
