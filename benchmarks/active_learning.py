"""What to label next, measured: `python -m benchmarks.active_learning --agiqa3k DIR [--picture FILE.png]`.

AGIQA-3K, graded by simulated annotators: a vote is drawn from the normal distribution that an image's raters have
(their mean and standard deviation) and cut into poor, average, good; the median of `--votes` such is its label, wrong
for three images of ten with one vote. A fixed 30 % of the images (with `--own-splits`, another 30 % for each seed),
whole prompts with their near-duplicates, is the test, graded by the raters' means. Of the others each strategy labels
5 % a round, until all are; each seed draws other votes and another random order. After each round the quick head
(logistic regression on 256 principal axes of the embedded encoder's features, `artgate.scoring.quick`) learns from the
labels so far. All but random begin with a cold start.

Told are the mean quadratic kappa by labels, the share of labels at which it first reaches 95 % of that with all, and
the difference of the mean kappa over the first 40 % of labels to random selection, seed by seed.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Before numpy: each process computes on one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from artgate.labels.ratings import AGIQA3K_CUTS, Rating, read_ratings
from artgate.labels.selection import by_both, by_diversity, by_uncertainty, cold_start, random_order
from artgate.scoring.metrics import predicted_grade, quadratic_kappa
from artgate.scoring.quick import principal_axes, quick_probabilities, selection_axes
from artgate.scoring.splits import make_splits

TEST_SHARE = 0.3
ROUNDS = 20
# The seed of the one split that all share without --own-splits.
FIXED = 1
EARLY = 0.4
GOAL = 0.95


@dataclass(frozen=True)
class Database:
    """Images on their principal axes (N, C), with raters' mean and standard deviation (N,), and groups (N,)."""

    image_ids: np.ndarray
    axes: np.ndarray
    means: np.ndarray
    stds: np.ndarray
    groups: np.ndarray

    def test(self, seed: int) -> np.ndarray:
        """(N,) which are test, whole groups of one prompt or of near-duplicates."""
        groups = dict(zip(self.image_ids.tolist(), self.groups.tolist(), strict=True))
        splits = make_splits(groups, {"pool": 1 - TEST_SHARE, "test": TEST_SHARE}, seed)
        return np.array([splits[image_id] == "test" for image_id in groups])


@dataclass(frozen=True)
class Pool:
    """What a strategy chooses from. probabilities: (N, 3) of the head so far. labelled: the rows that have labels."""

    image_ids: np.ndarray
    axes: np.ndarray
    labelled: np.ndarray
    probabilities: np.ndarray | None
    seed: int


Strategy = Callable[[Pool, int], list[str]]


def main() -> None:
    options = _options()
    if options.agiqa3k is None:
        print("not measured: name AGIQA-3K's folder (data.csv, images/) with --agiqa3k")
        return
    database = read_database(options.agiqa3k, options.cache)
    tasks = [(name, seed) for name in STRATEGIES for seed in range(1, options.seeds + 1)]
    with ProcessPoolExecutor(options.processes) as processes:
        curves = list(
            processes.map(partial(curve, database, options.votes, options.own_splits), *zip(*tasks, strict=True))
        )
    rows = np.array(curves).reshape(len(STRATEGIES), options.seeds, ROUNDS)
    by_name = dict(zip(STRATEGIES, rows, strict=True))
    shares = np.arange(1, ROUNDS + 1) / ROUNDS
    print_table(by_name, shares, int((~database.test(FIXED)).sum()), options.votes)
    if options.picture:
        draw(by_name, shares, options.picture)


def curve(database: Database, votes: int, own_split: bool, name: str, seed: int) -> np.ndarray:
    """(R,) quadratic kappa on the test after each round, of one strategy and one draw of the votes."""
    test = database.test(seed if own_split else FIXED)
    ids, axes, asked = database.image_ids[~test], database.axes[~test], database.axes[test]
    graded = np.digitize(database.means[test], AGIQA3K_CUTS["quality"])
    labels = simulated_labels(database.means[~test], database.stds[~test], votes, seed)
    row_of = {image_id: row for row, image_id in enumerate(ids.tolist())}
    labelled, probabilities, kappas = np.array([], dtype=int), None, []
    for count in np.diff(np.linspace(0, len(ids), ROUNDS + 1).round().astype(int)).tolist():
        chosen = STRATEGIES[name](Pool(ids, axes, labelled, probabilities, seed), count)
        labelled = np.append(labelled, [row_of[image_id] for image_id in chosen])
        told = quick_probabilities(axes[labelled], labels[labelled], np.concatenate([axes, asked]))
        probabilities = told[: len(ids)]
        kappas.append(quadratic_kappa(graded, predicted_grade(told[len(ids) :])))
    return np.array(kappas)


def simulated_labels(means: np.ndarray, stds: np.ndarray, votes: int, seed: int) -> np.ndarray:
    """(N,) grades 0 to 2: the median of so many votes, each a draw from the raters' normal distribution."""
    drawn = np.random.default_rng(seed).normal(means, stds, (votes, len(means)))
    return np.sort(np.digitize(drawn, AGIQA3K_CUTS["quality"]), axis=0)[votes // 2]


def _random(pool: Pool, count: int) -> list[str]:
    left = np.delete(pool.image_ids, pool.labelled).tolist()
    return random_order(left, pool.seed)[:count]


def _uncertainty(pool: Pool, count: int) -> list[str]:
    ids, near, _, probabilities = _parts(pool)
    if probabilities is None:
        return cold_start(ids, near, count, pool.seed)
    return by_uncertainty(ids, probabilities, count)


def _diversity(pool: Pool, count: int) -> list[str]:
    ids, near, labelled, _ = _parts(pool)
    return by_diversity(ids, near, labelled, count) if len(labelled) else cold_start(ids, near, count, pool.seed)


def _mixed(pool: Pool, count: int) -> list[str]:
    ids, near, labelled, probabilities = _parts(pool)
    if probabilities is None:
        return cold_start(ids, near, count, pool.seed)
    return by_both(ids, probabilities, near, labelled, count)


STRATEGIES: dict[str, Strategy] = {
    "random": _random,
    "uncertainty": _uncertainty,
    "diversity": _diversity,
    "mixed": _mixed,
}


def _parts(pool: Pool) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray | None]:
    """The unlabelled: ids, axes for selection, those of the labelled, probabilities."""
    near = selection_axes(pool.axes)
    left = np.delete(np.arange(len(pool.image_ids)), pool.labelled)
    told = None if pool.probabilities is None else pool.probabilities[left]
    return pool.image_ids[left].tolist(), near[left], near[pool.labelled], told


def read_database(source: Path, cache: Path) -> Database:
    """AGIQA-3K as a Collection under `cache`, its features computed once."""
    from artgate.artworks.duplicates import RADIUS
    from artgate.artworks.importers import import_agiqa3k
    from artgate.scoring.features import extract_features
    from artgate.scoring.scorer import Scorer, default_scorer_path
    from artgate.scoring.splits import leakage_groups

    collection = import_agiqa3k(source, cache / "benchmarks" / "agiqa3k")
    ratings: dict[str, Rating] = {}
    for rating in read_ratings(collection.root):
        if rating.aspect == "quality":
            ratings.setdefault(rating.image_id, rating)
    artworks = [artwork for artwork in collection if artwork.image_id in ratings]
    ids = [artwork.image_id for artwork in artworks]
    groups = leakage_groups(artworks, ("near_duplicates", "prompt"), RADIUS)
    encoder = Scorer.load(default_scorer_path()).encoder
    axes = principal_axes(extract_features(collection, encoder, ids, cache / "features"))
    return Database(
        np.array(ids),
        axes.astype(np.float64),
        np.array([ratings[image_id].mean for image_id in ids]),
        np.array([ratings[image_id].std for image_id in ids]),
        np.array([groups[image_id] for image_id in ids]),
    )


def print_table(curves: dict[str, np.ndarray], shares: np.ndarray, pool: int, votes: int) -> None:
    """curves: strategy -> (seeds, R)."""
    everything = curves["random"][:, -1].mean()
    early = shares <= EARLY + 1e-9
    print(f"{pool} images to choose from, labels of {votes} votes; kappa with all of them {everything:.3f}")
    print(f"{'':12} kappa by share of labels " + "".join(f"{share:6.0%}" for share in shares[1:12:2]))
    for name, found in curves.items():
        print(f"{name:12} {'':25} " + "".join(f"{kappa:6.3f}" for kappa in found.mean(0)[1:12:2]))
    print(f"{'':12} labels for {GOAL:.0%}; mean kappa, and against random by seed, to {EARLY:.0%} of labels and to all")
    for name, found in curves.items():
        reached = shares[np.argmax(found.mean(0) >= GOAL * everything)]
        told = f"{name:12} {reached:4.0%} ({round(reached * pool)})  {found[:, early].mean():.4f} {found.mean():.4f}"
        if name != "random":
            better = found - curves["random"]
            told += f"  {_paired(better[:, early].mean(1))};  {_paired(better.mean(1))}"
        print(told)


def _paired(differences: np.ndarray) -> str:
    """Mean with its 95 % interval by Student's t, and how often it is positive."""
    from scipy.stats import t

    count = len(differences)
    half = float(t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5)
    return f"{differences.mean():+.4f} +- {half:.4f}, better in {(differences > 0).sum()} of {count}"


def draw(curves: dict[str, np.ndarray], shares: np.ndarray, out: Path) -> None:
    """Draw the mean curves, with the middle half of the seeds shaded, into a small PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    everything = curves["random"][:, -1].mean()
    axes.axhline(GOAL * everything, color="0.6", linewidth=1, linestyle=":")
    axes.annotate(
        f"{GOAL:.0%} of that with all labels",
        (100, GOAL * everything),
        ha="right",
        va="bottom",
        fontsize=8,
        color="0.4",
    )
    for (name, found), colour in zip(curves.items(), ("0.25", "#c1661c", "#3b7dd8", "#1d8a4e"), strict=True):
        axes.plot(100 * shares, found.mean(0), label=name, color=colour, linewidth=1.6)
        low, high = np.quantile(found, [0.25, 0.75], axis=0)
        axes.fill_between(100 * shares, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.set(xlabel="labels, % of the pool", ylabel="quadratic kappa on the test", xlim=(5, 100))
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out, dpi=110, metadata={"Software": None})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agiqa3k", type=Path, help="the database's folder (data.csv, images/)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--votes", type=int, default=1, help="of simulated annotators, a label is the median of")
    parser.add_argument("--own-splits", action="store_true", help="another test for each seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--picture", type=Path, help="draw the curves into this .png file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
