"""Training the head: how fast, and how good on AGIQA-3K. `python -m benchmarks.head_training [--agiqa3k DIR]`.

- speed: fitting each head on 20,000 x 3,000 synthetic features, with epochs and minibatches as configured;
- quality (with --agiqa3k): `train.py experiment=agiqa3k` over five seeds, each with its own split: mean and range of
  every figure beside the baselines; and the seconds of the last run, by when features are cached, imports included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ARTWORKS, FEATURES = 20_000, 3_000
FIGURES = ("srcc", "qwk", "macro_f1", "within_generator_srcc", "ece")


def main() -> None:
    options = _options()
    _speed(options.threads)
    if options.agiqa3k:
        _quality(options.agiqa3k, options.heads, options.seeds)


def _speed(threads: int) -> None:
    import torch
    from hydra import compose, initialize_config_dir

    from artgate.config import validated
    from artgate.scoring.config import HeadConfig, TrainerConfig
    from artgate.scoring.fitting import Examples, fit_head

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ARTWORKS, FEATURES, generator=generator)
    quality = features @ torch.randn(FEATURES, generator=generator) / FEATURES**0.5
    quality += 0.7 * torch.randn(ARTWORKS, generator=generator)
    targets = torch.eye(3)[torch.bucketize(quality, torch.tensor([-0.5, 0.5]))][:, None]  # (N, 1, 3)
    examples = Examples(features, targets, targets, [None] * ARTWORKS)
    print(f"fitting on {ARTWORKS} x {FEATURES} features, {threads} threads")
    for kind in ("linear", "mlp"):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=[f"head={kind}"])
        head_config, config = validated(HeadConfig, cfg.head), validated(TrainerConfig, cfg.trainer)
        wall, cpu = time.perf_counter(), time.process_time()
        _, epoch = fit_head(examples, range(18_000), range(18_000, ARTWORKS), head_config, config, seed=1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"  {kind:7} {wall:6.1f} s wall, {cpu:6.1f} s of CPU; epoch {epoch} kept of {config.epochs}")


def _quality(source: Path, heads: list[str], seeds: list[int]) -> None:
    for kind in heads:
        rows: dict[str, list[dict[str, Any]]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for seed in seeds:
                started = time.perf_counter()
                metrics = _run(Path(folder) / str(seed), f"data.root={source}", f"head={kind}", f"seed={seed}")
                seconds = time.perf_counter() - started
                rows.setdefault("scorer", []).append(metrics["scorer"])
                for name, figures in metrics["baselines"].items():
                    rows.setdefault(name, []).append(figures)
        print(f"AGIQA-3K, head={kind}, seeds {seeds}; the last run took {seconds:.1f} s wall")
        for name, found in rows.items():
            print(f"  {name:20} " + "  ".join(f"{figure} {_spread([f[figure] for f in found])}" for figure in FIGURES))


def _run(folder: Path, *overrides: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "train.py"), "experiment=agiqa3k", f"paths.run={folder}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((folder / "metrics.json").read_text()))


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else "-"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--agiqa3k", type=Path, help="the database's folder (data.csv, images/)")
    parser.add_argument("--heads", nargs="+", default=["mlp"], help="of linear, mlp")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    return parser.parse_args()


if __name__ == "__main__":
    main()
