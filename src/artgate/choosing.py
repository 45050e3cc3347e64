"""Which artworks of a Collection people are to grade next: `artgate label push --by …`.

labels/ knows how to choose and scoring/ what a model thinks; here they meet.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from artgate.errors import UserError

if TYPE_CHECKING:
    from artgate.artworks.collection import Collection

# Fewer grades teach a model less than the shipped scorer knows.
LEAST_GRADED = 20


class By(StrEnum):
    """What `artgate label push` sends first.

    uncertainty: grades that the model is least sure of. diversity: artworks unlike all that have grades. mixed: both.
    disagreement: artworks whose votes differ. suspects: grades that are hard to believe.
    """

    RANDOM = "random"
    UNCERTAINTY = "uncertainty"
    DIVERSITY = "diversity"
    MIXED = "mixed"
    DISAGREEMENT = "disagreement"
    SUSPECTS = "suspects"


def choose(
    collection: "Collection", by: By, limit: int | None, seed: int, scorer: Path | None, cache: Path
) -> list[str]:
    """image_ids of at most `limit` artworks, in the order in which they are to be graded.

    By uncertainty, diversity and both, only artworks without a grade of quality are chosen. What is uncertain is told
    by `scorer`; without one by a quick model of the grades that there are, and where they are too few by the shipped
    scorer. Where no artwork has a grade, diversity is a cold start, and so is mixed unless a scorer is named.
    cache: where features are kept. Raises UserError where there is nothing to choose.
    """
    if by is By.RANDOM:
        from artgate.labels.selection import random_order

        return random_order((artwork.image_id for artwork in collection), seed)[:limit]
    if by is By.DISAGREEMENT:
        return _disputed(collection)[:limit]
    if by is By.SUSPECTS:
        return _suspects(collection)[:limit]
    return _by_model(collection, by, limit, seed, scorer, cache)


def _disputed(collection: "Collection") -> list[str]:
    from artgate.labels.disagreement import by_disagreement
    from artgate.labels.votes import read_votes

    found = [image_id for image_id in by_disagreement(read_votes(collection.root)) if image_id in collection]
    if not found:
        raise UserError(f"0 artworks of {collection.root} have votes that differ: let several people grade the same")
    return found


def _suspects(collection: "Collection") -> list[str]:
    from artgate.labels.suspects import read_suspects

    ranked = (suspect.image_id for suspect in read_suspects(collection.root))
    found = [image_id for image_id in dict.fromkeys(ranked) if image_id in collection]
    if not found:
        raise UserError(f"0 grades of {collection.root} are suspect: there is nothing to grade again")
    return found


def _by_model(
    collection: "Collection", by: By, limit: int | None, seed: int, scorer: Path | None, cache: Path
) -> list[str]:
    graded = _graded(collection)
    ungraded = [artwork.image_id for artwork in collection if artwork.image_id not in graded]
    if not ungraded:
        raise UserError(
            f"all {len(graded)} artworks of {collection.root} have a grade: add new ones, or push --by disagreement"
        )
    import numpy as np

    from artgate.labels.grades import GRADES
    from artgate.labels.selection import by_both, by_diversity, by_uncertainty, cold_start
    from artgate.scoring.features import extract_features
    from artgate.scoring.quick import principal_axes, quick_probabilities, selection_axes
    from artgate.scoring.scorer import Scorer, default_scorer_path

    loaded = Scorer.load(scorer or default_scorer_path())
    features = extract_features(collection, loaded.encoder, [*ungraded, *graded], cache)  # (N + M, D)
    axes, count = principal_axes(features), len(ungraded)
    near, labelled = selection_axes(axes[:count]), selection_axes(axes[count:])
    if not graded and (by is By.DIVERSITY or (by is By.MIXED and scorer is None)):
        return cold_start(ungraded, near, limit, seed)
    if by is By.DIVERSITY:
        return by_diversity(ungraded, near, labelled, limit)
    grades = np.array(list(graded.values()), dtype=int)
    if scorer is None and len(grades) >= LEAST_GRADED and len(np.unique(grades)) > 1:
        probabilities = quick_probabilities(axes[count:], grades, axes[:count])
    else:
        scores = loaded.score_features(features[:count])
        probabilities = np.array([[score.probabilities[grade] for grade in GRADES] for score in scores])
    if by is By.UNCERTAINTY:
        return by_uncertainty(ungraded, probabilities, limit)
    return by_both(ungraded, probabilities, near, labelled, limit)


def _graded(collection: "Collection") -> dict[str, int]:
    """image_id -> likeliest grade of quality, 0 to 2, of the artworks that have one, by votes and by grades.jsonl.

    Votes come first: they are newer than what was made of them. Ratings of a database are other people's opinions.
    """
    from artgate.labels.consensus import consensus
    from artgate.labels.grades import FILE_NAME, Grades
    from artgate.labels.votes import read_votes, votes_files

    root = collection.root
    sources = [Grades.load(root)] if (root / FILE_NAME).is_file() else []
    if votes_files(root) and (votes := read_votes(root)):
        sources.append(consensus(votes))
    return {
        image_id: int(aspects["quality"].argmax())
        for grades in sources
        for image_id, aspects in grades.items()
        if "quality" in aspects and image_id in collection
    }
