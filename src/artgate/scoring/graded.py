"""A folder with artworks and what people thought of them, read and checked: what there is to learn from.

Nothing heavy is imported here, so that a folder that will not do is told within a second.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.errors import UserError
from artgate.labels.ballots import Ballots, ballots
from artgate.labels.grades import GRADES, Grades
from artgate.labels.votes import read_votes, votes_files
from artgate.scoring.config import DataConfig

# Fewer cannot fill four splits with anything to measure.
LEAST_GRADED = 20
# The files that each source may lie in, of which votes may have both.
GRADE_FILES = {
    "grades": ("grades.jsonl",),
    "votes": ("votes.parquet", "votes.jsonl"),
    "ratings": ("ratings.jsonl",),
}


@dataclass(frozen=True)
class GradedArtworks:
    """The graded artworks of a collection, N of them, in its order.

    aspects: A of them, quality first. everything: all artworks, graded or not: any may link two graded ones.
    targets: (N, A, K) grade probabilities, NaN where an aspect is ungraded; lessons: the same as a head is
    taught them, ratings with some of the raters' spread (`soft`), for a rating next to a cut is hardly a grade.
    aspect_opinions: (N, A) what people thought of each, as fine as there is: the mean rating where there are ratings,
    else the expected grade; NaN where an aspect is ungraded. levels: (N, A) the same in grades: a rating at the lower
    cut is at 0.5, one at the upper at 1.5, and others lie in proportion, below 0 and above 2 too. absent: how many
    more have a grade of quality, and no image in the collection.
    votes: on quality, whatever it is graded by; None where the collection has none.
    """

    collection: Collection
    everything: list[Artwork]
    artworks: list[Artwork]
    aspects: tuple[str, ...]
    targets: np.ndarray
    lessons: np.ndarray
    aspect_opinions: np.ndarray
    levels: np.ndarray
    graded_by: str
    absent: int
    votes: Ballots | None

    @property
    def image_ids(self) -> list[str]:
        """(N,) in the order of `targets`."""
        return [artwork.image_id for artwork in self.artworks]

    @property
    def opinions(self) -> np.ndarray:
        """(N,) of quality, which every artwork has."""
        return self.aspect_opinions[:, 0]

    @property
    def generators(self) -> list[str | None]:
        """(N,) who made each, where known."""
        return [artwork.provenance.generator for artwork in self.artworks]

    @property
    def digest(self) -> str:
        """Hex sha256 over the image_ids and targets, whatever their order."""
        lines = sorted(
            f"{image_id} {np.round(target, 5).tolist()}"
            for image_id, target in zip(self.image_ids, self.targets, strict=True)
        )
        return hashlib.sha256("\n".join([*self.aspects, *lines]).encode()).hexdigest()


def read_graded(config: DataConfig, collections: Path) -> GradedArtworks:
    """Open the collection of `config.root`, imported into `collections` first if it is raw, with its grades.

    Raises UserError if there is no collection, nothing that grades it, too few graded artworks or only one grade.
    """
    collection = open_collection(Path(config.root), config.importer, collections)
    graded_by = _choose_source(config, collection.root)
    grades, lessons, ratings = _grades(config, collection.root, graded_by)
    everything = list(collection)
    artworks = [artwork for artwork in everything if "quality" in grades.get(artwork.image_id, ())]
    image_ids = [artwork.image_id for artwork in artworks]
    targets = grades.array(image_ids, config.aspects)
    _check_enough(collection.root, graded_by, targets)
    _check_each_aspect(collection.root, graded_by, config.aspects, targets)
    expected = targets @ np.arange(len(GRADES))  # (N, A)
    found = [[ratings.get((image_id, aspect), np.nan) for aspect in config.aspects] for image_id in image_ids]
    opinions = np.array(found) if ratings else expected
    return GradedArtworks(
        collection,
        everything,
        artworks,
        tuple(config.aspects),
        targets,
        lessons.array(image_ids, config.aspects),
        opinions,
        _in_grades(opinions, config) if ratings else expected,
        graded_by,
        sum("quality" in aspects for aspects in grades.values()) - len(artworks),
        _votes(collection.root),
    )


def _in_grades(opinions: np.ndarray, config: DataConfig) -> np.ndarray:
    low, high = np.array([config.cuts[aspect] for aspect in config.aspects]).T
    levels: np.ndarray = (opinions - low) / (high - low) + 0.5
    return levels


def open_collection(root: Path, importer: str | None, collections: Path) -> Collection:
    """The collection of `root`, imported into `collections` first if it is raw."""
    if importer is None:
        if (root / "data.csv").is_file() and not (root / "metadata.jsonl").exists():
            raise UserError(f"{root} is a raw database (it has data.csv): import it by adding `experiment=agiqa3k`")
        return Collection(root)
    from artgate.artworks.importers import import_agiqa3k

    # A folder of the same name elsewhere is another source: it gets its own collection.
    name = f"{importer}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}"
    return import_agiqa3k(root, collections / name)


def _choose_source(config: DataConfig, root: Path) -> str:
    if config.grades != "auto":
        return config.grades
    for source, names in GRADE_FILES.items():
        if any((root / name).is_file() for name in names):
            return source
    every = [name for names in GRADE_FILES.values() for name in names]
    raise UserError(
        f"{root} has none of {', '.join(every)}: label its artworks first (the README tells how), "
        "or name the folder that has the grades"
    )


def _grades(config: DataConfig, root: Path, source: str) -> tuple[Grades, Grades, dict[tuple[str, str], float]]:
    """The grades, the grades to teach, and where there are ratings their mean for each (image_id, aspect)."""
    if source == "grades":
        grades = Grades.load(root)
        return grades, grades, {}
    if source == "votes":
        from artgate.labels.consensus import consensus

        grades = consensus(read_votes(root), config.consensus)
        return grades, grades, {}
    from artgate.labels.ratings import grades_from_ratings, read_ratings

    ratings = read_ratings(root)
    means: dict[tuple[str, str], list[float]] = {}
    for rating in ratings:
        means.setdefault((rating.image_id, rating.aspect), []).append(rating.mean)
    cuts = {aspect: (low, high) for aspect, (low, high) in config.cuts.items()}
    grades = grades_from_ratings(ratings, cuts)
    spread = [replace(rating, std=rating.std * config.soft) for rating in ratings]
    lessons = grades_from_ratings(spread, cuts, soft=True)
    return grades, lessons, {key: float(np.mean(own)) for key, own in means.items()}


def _votes(root: Path) -> Ballots | None:
    if not votes_files(root):
        return None
    told = ballots(read_votes(root), "quality")
    return told if len(told) else None


def _check_each_aspect(root: Path, source: str, aspects: Sequence[str], targets: np.ndarray) -> None:
    for aspect, graded in zip(aspects, ~np.isnan(targets[..., 0]).T, strict=True):
        if not graded.any():
            cure = f"grade it, give data.cuts.{aspect}," if source == "ratings" else "grade it"
            raise UserError(
                f"{root} has 0 artworks with a grade of {aspect} in {' and '.join(GRADE_FILES[source])}: {cure} "
                "or leave it out of data.aspects"
            )


def _check_enough(root: Path, source: str, targets: np.ndarray) -> None:
    if len(targets) < LEAST_GRADED:
        raise UserError(
            f"{root} has {len(targets)} artworks with a grade of quality in {' and '.join(GRADE_FILES[source])}, "
            f"and training needs {LEAST_GRADED} at the least (some hundreds to be of use): grade more"
        )
    counts = Counter(GRADES[grade] for grade in targets.argmax(2)[:, 0].tolist())
    if len(counts) < 2:
        (only,) = counts
        raise UserError(
            f"all {len(targets)} graded artworks of {root} are {only}: there is nothing to tell apart; "
            f"grade some that are not, or check the grades"
        )
