"""Memory over a long batch: the resident size of one process after every 100 of 2,000 candidates.

    python -m benchmarks.long_batch [--candidates 2000] [--out long_batch.json]

The tests' tiny diffusion model and quick scorer, a gate that all pass, every picture kept: what grows with the batch
would show soonest here, where the rest is small.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artgate.artworks.files import write_atomic

ROOT = Path(__file__).parents[1]
EVERY = 100


def main() -> None:
    """Run, print the sizes, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = resident_sizes(Path(folder), given.candidates)
    growth = (sizes[-1][1] - sizes[len(sizes) // 4][1]) / (sizes[-1][0] - sizes[len(sizes) // 4][0])
    found = {"mib_by_candidates": dict(sizes), "kib_a_candidate": round(growth * 1024, 2)}
    print(json.dumps(found, indent=1))
    if given.out:
        write_atomic(given.out, json.dumps(found, indent=1) + "\n")


def resident_sizes(folder: Path, candidates: int, every: int = EVERY) -> list[tuple[int, float]]:
    """(candidates decided, MiB resident) along a batch in this process."""
    sys.path.append(str(ROOT / "tests"))
    from batches import build_scorer, configured  # type: ignore[import-not-found]
    from tiny_models import build_tiny  # type: ignore[import-not-found]

    from artgate.generation.batch import Batch
    from artgate.generation.production import generate

    sizes: list[tuple[int, float]] = []
    append = Batch.append

    def noted(batch: Batch, line: Mapping[str, Any]) -> None:
        append(batch, dict(line))
        if len(batch.lines) % every == 0:
            gc.collect()
            sizes.append((len(batch.lines), _resident()))
            print(*sizes[-1], flush=True)

    Batch.append = noted  # type: ignore[method-assign]
    try:
        model, scorer = build_tiny("sd1", folder / "sd1"), build_scorer(folder / "scorer")
        length = [f"target={candidates}", f"max_candidates={candidates}", "gate.threshold=0"]
        generate(configured(model, scorer, folder / "batch", *length))
    finally:
        Batch.append = append  # type: ignore[method-assign]
    return sizes


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    main()
