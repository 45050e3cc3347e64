"""Votes to grades: how fast at scale, and how good. `python -m benchmarks.labels [--agiqa3k COLLECTION]`.

- speed: `artgate label consensus` and `label report` on 5,000 and 20,000 artworks with 3 votes each by 10 annotators,
  as a user runs them: seconds and largest memory;
- consensus: majority against Dawid-Skene with three unequal annotators, over 20 seeds;
- suspects (with --agiqa3k, an imported Collection with ratings): of 10 % planted wrong grades, what cleanlab's choice
  holds, and what the order finds first.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES, ANNOTATORS, VOTES = (5_000, 20_000), 10, 3
PLANTED, SEEDS = 0.1, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agiqa3k", type=Path, help="a Collection that `artgate import agiqa3k` made")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            _speed(_voted(Path(folder) / str(size), size))
    _consensus()
    if options.agiqa3k:
        _suspects(options.agiqa3k, options.cache)


def _voted(root: Path, size: int) -> Path:
    """A Collection of so many small pictures, and votes on all of them."""
    from artgate.artworks.collection import Collection, NewArtwork
    from artgate.labels.grades import GRADES
    from artgate.labels.votes import Vote, write_votes
    from benchmarks.pictures import jpeg

    collection = Collection(root, create=True)
    for start in range(0, size, 500):
        collection.add_many([NewArtwork(jpeg(seed, 64)) for seed in range(start, min(start + 500, size))])
    rng = np.random.default_rng(0)
    accuracy, pace = rng.uniform(0.6, 0.9, ANNOTATORS), rng.uniform(5, 15, ANNOTATORS)
    votes = []
    for place, artwork in enumerate(collection):
        true = int(rng.integers(3))
        for person in rng.choice(ANNOTATORS, VOTES, replace=False).tolist():
            grade = true if rng.random() < accuracy[person] else int(rng.integers(3))
            when = f"2026-03-{1 + place % 28:02}T{place // 28 % 24:02}:{place // 672 % 60:02}:00Z"
            seconds = float(pace[person] * rng.lognormal(0, 0.7))
            votes.append(Vote(artwork.image_id, f"annotator {person}", "quality", GRADES[grade], seconds, when))
    write_votes(root, votes)
    return root


def _speed(root: Path) -> None:
    commands = {
        "consensus": ["consensus", str(root)],
        "consensus, Dawid-Skene": ["consensus", str(root), "--method", "dawid-skene"],
        "report without suspects": ["report", str(root), "--no-suspects", "--out", str(root / "report.html")],
    }
    for name, arguments in commands.items():
        seconds, megabytes = _run(arguments)
        print(f"{root.name:>7} artworks, {name:24} {seconds:6.1f} s, {megabytes:5.0f} MiB")


def _run(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds, and the most memory that the process held, imports included."""
    measured = "import resource, sys; from artgate.cli import app; app(standalone_mode=False); " + (
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", measured, "label", *arguments], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, int(ended.stderr.split()[-1]) / 1024


def _consensus() -> None:
    from artgate.labels.ballots import ballots
    from artgate.labels.consensus import dawid_skene, majority
    from artgate.labels.grades import GRADES
    from artgate.labels.votes import Vote

    accuracies = (0.9, 0.7, 0.5)
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.integers(3, size=500)
        votes = [
            Vote(
                f"{row:04}",
                str(person),
                "quality",
                GRADES[true if rng.random() < right else (true + rng.integers(1, 3)) % 3],
            )
            for row, true in enumerate(truth)
            for person, right in enumerate(accuracies)
        ]
        told = ballots(votes, "quality")
        by_each = (majority(told), dawid_skene(told).probabilities)
        found.append([float(np.mean(probabilities.argmax(1) == truth)) for probabilities in by_each])
    first, second = np.array(found).T
    print(
        f"three annotators right in {accuracies}, 500 artworks, 20 seeds: majority {first.mean():.3f}, "
        f"Dawid-Skene {second.mean():.3f}, better in {int((second > first).sum())}"
    )


def _suspects(root: Path, cache: Path) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    from artgate.artworks.collection import Collection
    from artgate.artworks.duplicates import RADIUS
    from artgate.labels.ratings import grades_from_ratings, read_ratings
    from artgate.labels.suspects import suspects, suspicion
    from artgate.scoring.features import extract_features
    from artgate.scoring.scorer import Scorer, default_scorer_path
    from artgate.scoring.second_opinion import FOLDS, GROUP_BY, out_of_fold
    from artgate.scoring.splits import leakage_groups, make_folds

    collection = Collection(root, read_only=True)
    grades = grades_from_ratings(read_ratings(root))
    image_ids = [artwork.image_id for artwork in collection if "quality" in grades.get(artwork.image_id, ())]
    truth = grades.array(image_ids, ["quality"])[:, 0].argmax(1)
    groups = leakage_groups(list(collection), GROUP_BY, RADIUS)
    folds = make_folds({image_id: groups[image_id] for image_id in image_ids}, FOLDS, seed=0)
    fold = np.array([folds[image_id] for image_id in image_ids])
    encoder = Scorer.load(default_scorer_path()).encoder
    features = extract_features(collection, encoder, image_ids, cache)
    for name, plant in (("another grade", _any), ("the other end", _far)):
        found = []
        for seed in range(SEEDS):
            given = plant(truth, np.random.default_rng(seed))
            wrong = given != truth
            opinion = out_of_fold(features, given, fold)
            order = suspicion(given, opinion)
            precision, recall, _ = precision_recall_curve(wrong, order)
            chosen = {suspect.image_id for suspect in suspects(image_ids, given, opinion)}
            taken = np.array([image_id in chosen for image_id in image_ids])
            found.append(
                [
                    precision[recall >= 0.8].max(),
                    recall[precision >= 0.6].max(),
                    average_precision_score(wrong, order),
                    wrong[np.argsort(-order)[:100]].mean(),
                    wrong[taken].mean(),
                    taken[wrong].mean(),
                    float((opinion.argmax(1) == truth).mean()),
                ]
            )
        names = (
            "precision at recall .8",
            "recall at precision .6",
            "average precision",
            "wrong among the first 100",
            "precision of cleanlab's choice",
            "its recall",
            "model accuracy",
        )
        figures = ", ".join(f"{what} {value:.2f}" for what, value in zip(names, np.mean(found, 0), strict=True))
        print(f"{len(image_ids)} artworks, 10 % planted with {name}, {SEEDS} seeds: {figures}")


def _any(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    given, wrong = truth.copy(), rng.choice(len(truth), int(PLANTED * len(truth)), replace=False)
    given[wrong] = (truth[wrong] + rng.integers(1, 3, len(wrong))) % 3
    return given


def _far(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    given, wrong = truth.copy(), rng.choice(np.flatnonzero(truth != 1), int(PLANTED * len(truth)), replace=False)
    given[wrong] = 2 - truth[wrong]
    return given


if __name__ == "__main__":
    main()
