"""What an accepted artwork costs: generate-then-filter, best-of-n, early rejection; the same seeds, one run.

    python -m benchmarks.cost_per_accepted --folder .cache/benchmarks/cost_per_accepted [--candidates 400]
        [--collection .cache/collections/agiqa3k] [--out cost.json]
    python -m benchmarks.cost_per_accepted --simulated

The first makes `--candidates` of the embedded model and takes each to its end, with a preview at every `--steps`; a
killed run goes on. The first `--share` of them choose steps and thresholds, as mode=calibrate does; on the others each
way is measured. Nothing is simulated there: a candidate's picture and previews depend on its prompt and seed alone, so
that what it costs and whether it leaves can be read off, and `--confirm` runs early rejection for real on some of them
and compares every line. Yields are set by the gate's threshold.

evaluations: denoiser rows per accepted. seconds: per accepted, from the mean times of an evaluation, a look and a
finish (decoding, scoring). gain: evaluations of generate-then-filter over those of the row. kept: of the acceptable
that were not lost (TPR), of the others that were not left in time (FPR). second: mean score of the accepted by another
scorer, which the gate knows nothing of: ridge regression of AGIQA-3K's opinions on the features of
`encoder=embedded_fast`. perfect preview: as if previews at the first step knew the verdict; 1 / yield: as if they took
nothing.

--simulated does the same for a model whose previews carry the signal (simulated_diffusion.py), through the same slots,
previews and choice.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from artgate.artworks.files import write_atomic
from artgate.generation.calibrating import prices, trajectories
from artgate.generation.preview_policy import (
    Choice,
    Prices,
    Trajectories,
    choose,
    costs,
    fewest_acceptable,
    left_at,
    rates,
    spearman,
)
from benchmarks.simulated_diffusion import simulated_trajectories

YIELDS = (0.35, 0.1)
MAX_LOSS, CONFIDENCE = 0.05, 0.95
CONF = Path(__file__).parents[1] / "conf"
RESAMPLED = 2000


@dataclass(frozen=True)
class Run:
    """Candidates taken to their ends. second: (N,) scores of the scorer that the gate does not know."""

    seen: Trajectories
    second: np.ndarray
    seconds: Prices
    rows: int  # denoiser rows a step


def main() -> None:
    """Make or read the candidates, compare, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks/cost_per_accepted"))
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 10, 14])
    parser.add_argument("--share", type=float, default=0.6, help="of the candidates, those that choose")
    parser.add_argument("--collection", type=Path, default=Path(".cache/collections/agiqa3k"))
    parser.add_argument("--confirm", type=int, default=0, help="candidates to run early rejection on for real")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    run = simulated(4 * given.candidates) if given.simulated else embedded(given)
    found = [compare(run, yield_, given.share) for yield_ in YIELDS]
    for table in found:
        show(table)
    if given.confirm and not given.simulated:
        confirm(given, found[0])
    if given.out:
        write_atomic(given.out, json.dumps(found, indent=1) + "\n")


def embedded(given: argparse.Namespace) -> Run:
    """Of the embedded model, as mode=calibrate makes them, under a gate that lets all pass."""
    from artgate.generation.batch import read_ledger
    from artgate.generation.production import generate

    root = given.folder / "trajectories"
    steps = f"preview.steps=[{','.join(map(str, given.steps))}]"
    generate(configured(root, f"n={given.candidates}", "mode=calibrate", steps, "gate.threshold=0", "seed=1"))
    lines = read_ledger(root)[: given.candidates]
    scores = second_scores(given.collection, [root / line["file"] if line["file"] else None for line in lines])
    seen = trajectories(lines, given.steps)
    return Run(seen, scores, prices(lines), round(float(seen.whole.max()) / 20))


def simulated(n: int) -> Run:
    """Of a model whose previews carry the signal."""
    seen, second = simulated_trajectories(n)
    # One unit for an evaluation, as a large denoiser takes it beside a small scorer
    return Run(seen, second, Prices(1.0, 0.1, 0.2), 1)


def configured(root: Path, *overrides: str) -> Any:
    """The demo's configuration, without what has no part in the comparison."""
    from hydra import compose, initialize_config_dir

    fixed = ("experiment=demo", "upscaler=none", "near_duplicates.radius=null", "near_duplicates.distance=null")
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return compose("generate", [*fixed, f"batch_dir={root}", "keep_rejected=false", *overrides])


def second_scores(collection_root: Path, paths: Sequence[Path | None]) -> np.ndarray:
    """(N,) opinions in [0, 5] that the second scorer expects; nan where there is no picture."""
    second = second_scorer(collection_root)
    return np.array([second(Image.open(path).convert("RGB")) if path else math.nan for path in paths])


def second_scorer(collection_root: Path) -> Any:
    """Picture → expected mean opinion, by ridge regression on the features of one network."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from artgate.artworks.collection import Collection
    from artgate.artworks.files import read_lines
    from artgate.scoring.encoders import build_encoder
    from artgate.scoring.features import extract_features

    config = {"kind": "embedded", "model": "tf_efficientnet_lite0", "features": "last+stages"}
    encoder = build_encoder({**config, "normalisation": "power", "sizes": [448], "fit": "squash"})
    collection = Collection(collection_root)
    opinions = {
        line["image_id"]: line["mean"]
        for line in read_lines(collection_root / "ratings.jsonl")
        if line["aspect"] == "quality" and line["image_id"] in collection
    }
    ids = sorted(opinions)
    features = extract_features(collection, encoder, ids, ".cache/features")
    model = make_pipeline(StandardScaler(), RidgeCV(np.geomspace(1e2, 1e5, 7)))
    model.fit(features, [opinions[one] for one in ids])

    def score(picture: Image.Image) -> float:
        with torch.inference_mode():
            return float(model.predict(encoder.encode_images([picture]).numpy())[0])

    return score


def compare(run: Run, yield_: float, share: float) -> dict[str, Any]:
    """The ways at one yield. The gate's threshold and the policy are of the first candidates, figures of the others."""
    n = round(share * len(run.seen))
    threshold = float(np.quantile(run.seen.final[:n], 1 - yield_))
    accepted = run.seen.final >= threshold
    whole = Trajectories(**{**vars(run.seen), "accepted": accepted})
    here, fresh = np.arange(len(whole)) < n, np.arange(len(whole)) >= n
    calibrated, measured, second = whole.rows(here), whole.rows(fresh), run.second[fresh]
    first = choose(calibrated, Prices(), MAX_LOSS, CONFIDENCE)
    acceptable = int(calibrated.accepted.sum())
    # What so few can promise, where they cannot promise the loss that was asked for
    least = max(MAX_LOSS, 1 - (1 - CONFIDENCE) ** (1 / max(acceptable, 1)) + 1e-9)
    choice = first if first.policy or acceptable >= fewest_acceptable(MAX_LOSS, CONFIDENCE) else None
    choice = choice or choose(calibrated, Prices(), least, CONFIDENCE)
    ways = {
        "generate then filter": filtered(measured, run, second, {}),
        "best of n": best_of(measured, run, second, round(1 / yield_)),
        "early rejection": filtered(measured, run, second, choice.policy),
    }
    base = ways["generate then filter"]
    for way in ways.values():
        way["gain"] = base["evaluations"] / way["evaluations"] if way["evaluations"] else None
    true_yield = float(measured.accepted.mean())
    fraction = min(choice.policy, default=measured.steps[0]) / (float(measured.whole.max()) / run.rows)
    return {
        "yield": yield_,
        "measured_yield": true_yield,
        "calibrated_on": n,
        "measured_on": len(measured),
        "asked": told(first),
        "used": {"max_loss": MAX_LOSS if choice is first else least, **told(choice)},
        "ways": ways,
        "bounds": {
            "perfect preview": 1 / (fraction + true_yield * (1 - fraction)) if true_yield else None,
            "1 / yield": 1 / true_yield if true_yield else None,
        },
        "kept": dict(zip(("TPR", "FPR"), rates(measured, choice.policy), strict=True)),
        "second_difference_95": difference(measured, second, choice),
        "spearman": {str(step): value for step, value in spearman(measured).items()},
        "alone": alone(measured, run),
    }


def filtered(seen: Trajectories, run: Run, second: np.ndarray, policy: dict[int, float]) -> dict[str, Any]:
    """Every candidate is judged that its previews let pass."""
    kept = seen.accepted & (left_at(seen, policy) == len(seen.steps))
    return row(
        costs(seen, policy, Prices()).sum(), costs(seen, policy, run.seconds).sum(), second[kept], seen.final[kept]
    )


def best_of(seen: Trajectories, run: Run, second: np.ndarray, n: int) -> dict[str, Any]:
    """The best of every n, whatever it scores."""
    groups = np.arange(len(seen) // n * n).reshape(-1, n)
    best = groups[np.arange(len(groups)), seen.final[groups].argmax(axis=1)]
    spent = [float(costs(seen, {}, price)[groups].sum()) for price in (Prices(), run.seconds)]
    return row(spent[0], spent[1], second[best], seen.final[best])


def row(evaluations: float, seconds: float, second: np.ndarray, final: np.ndarray) -> dict[str, Any]:
    """Figures per accepted; None while nothing is."""
    count = len(second)
    return {
        "accepted": count,
        "evaluations": float(evaluations) / count if count else None,
        "seconds": float(seconds) / count if count else None,
        "second": float(np.nanmean(second)) if count else None,
        "score": float(final.mean()) if count else None,
    }


def difference(seen: Trajectories, second: np.ndarray, choice: Choice) -> list[float] | None:
    """95 % interval of the second score of what early rejection accepts, less that of all that the gate accepts."""
    draw = np.random.default_rng(0)
    kept = seen.accepted & (left_at(seen, choice.policy) == len(seen.steps))
    found = []
    for _ in range(RESAMPLED):
        rows = draw.integers(len(seen), size=len(seen))
        if kept[rows].any():
            found.append(np.nanmean(second[rows][kept[rows]]) - np.nanmean(second[rows][seen.accepted[rows]]))
    return [float(value) for value in np.quantile(found, [0.025, 0.975])] if found else None


def alone(seen: Trajectories, run: Run) -> list[dict[str, float]]:
    """What one threshold at one step would do on these very candidates, if it lost `MAX_LOSS` of the acceptable."""
    found = []
    for column, step in enumerate(seen.steps):
        good = seen.previews[seen.accepted, column]
        if len(good):
            policy = {step: float(np.quantile(good, MAX_LOSS, method="inverted_cdf"))}
            tpr, fpr = rates(seen, policy)
            gain = seen.whole.mean() / costs(seen, policy, Prices()).mean() * tpr
            found.append({"step": step, "TPR": tpr, "FPR": fpr, "gain": float(gain)})
    return found


def told(choice: Choice) -> dict[str, Any]:
    """A choice as the figures keep it."""
    return {
        "policy": {str(step): threshold for step, threshold in choice.policy.items()},
        "loss_bound": choice.loss_bound,
        "saving": choice.saving,
        "saving_95": list(choice.saving_95),
        "reason": choice.reason,
        "more": choice.more,
    }


def show(table: dict[str, Any]) -> None:
    """One yield as a table."""
    print(
        f"\nyield {table['yield']:.0%} asked, {table['measured_yield']:.1%} measured on {table['measured_on']}; chosen "
        f"on {table['calibrated_on']}"
    )
    asked, used = table["asked"], table["used"]
    if asked["reason"]:
        more = f"; {asked['more']} more would do" if asked["more"] else ""
        print(f"at a loss of {MAX_LOSS:g}: {asked['reason']}{more}")
    print(
        f"rejects below {used['policy'] or 'nothing'}, loss at most {used['loss_bound']:.3f} with confidence "
        f"{CONFIDENCE:g}; predicted gain {used['saving']:.2f} "
        f"({used['saving_95'][0]:.2f} to {used['saving_95'][1]:.2f})"
    )
    print(f"{'':24}{'accepted':>9}{'evaluations':>13}{'gain':>7}{'seconds':>9}{'score':>9}{'second':>8}")
    for name, way in table["ways"].items():
        figures = [way[key] for key in ("evaluations", "gain", "seconds", "score", "second")]
        cells = [math.nan if value is None else value for value in figures]
        print(
            f"{name:24}{way['accepted']:>9}{cells[0]:>13.1f}{cells[1]:>7.2f}{cells[2]:>9.2f}{cells[3]:>9.4f}{cells[4]:>8.3f}"
        )
    for name, bound in table["bounds"].items():
        print(f"{name:24}{'':>22}{bound or math.nan:>7.2f}")
    kept, between = table["kept"], table["second_difference_95"]
    print(f"kept of the acceptable (TPR) {kept['TPR']:.3f}, of the others (FPR) {kept['FPR']:.3f}")
    if between:
        print(f"second score, early rejection less filter: {between[0]:+.3f} to {between[1]:+.3f} (95 %)")
    for one in table["alone"]:
        agreement = table["spearman"][str(one["step"])]
        print(
            f"step {one['step']}: rank agreement {agreement:.2f}; a threshold there alone: TPR {one['TPR']:.2f}, FPR "
            f"{one['FPR']:.2f}, gain {one['gain']:.2f}"
        )


def confirm(given: argparse.Namespace, table: dict[str, Any]) -> None:
    """Run early rejection on the first candidates that were measured, and compare with what was read off."""
    from artgate.generation.batch import read_ledger
    from artgate.generation.calibrating import seed_beside
    from artgate.generation.production import generate

    policy = table["used"]["policy"]
    if not policy:
        print("nothing is rejected: nothing to confirm")
        return
    unpruned = read_ledger(given.folder / "trajectories")[: given.confirm]
    root = given.folder / f"early-{hashlib.sha256(json.dumps(policy).encode()).hexdigest()[:8]}"
    steps, thresholds = ",".join(policy), ",".join(map(repr, policy.values()))
    count = [f"target={given.confirm}", f"max_candidates={given.confirm}", f"seed={seed_beside(1)}", "gate.threshold=0"]
    begun = time.perf_counter()
    previews = ["preview=thresholds", f"preview.steps=[{steps}]", f"preview.thresholds=[{thresholds}]"]
    summary = generate(configured(root, *count, *previews))
    wrong = 0
    for line, whole in zip(read_ledger(root), unpruned, strict=True):
        seen = {str(one["step"]): one["score"] for one in whole["previews"]}
        leaves = next((step for step, threshold in policy.items() if seen[step] < threshold), None)
        wrong += (str(line["preview"]["step"]) if "preview" in line else None) != leaves
        wrong += leaves is None and line["image_id"] != whole["image_id"]
    plain = sum(line["evaluations"] for line in unpruned)
    print(
        f"run for real on {len(unpruned)} candidates: {wrong} lines differ from what was read off; "
        f"{sum(line['evaluations'] for line in read_ledger(root))} evaluations against {plain}, "
        f"{time.perf_counter() - begun:.0f} s with loading; left {summary['preview']['by_step']}"
    )


if __name__ == "__main__":
    main()
