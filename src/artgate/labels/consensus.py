"""Many votes to one set of grade probabilities an artwork."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES, Grades
from artgate.labels.votes import Vote, latest_votes

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("majority", "dawid-skene")
# On simulated votes of 3 to 5 annotators, 1000 iterations of EM were no more often right than 100.
ITERATIONS = 100


def consensus(votes: Iterable[Vote], method: str = "majority") -> Grades:
    """Grade probabilities from votes, each aspect by itself; a person's later vote on an artwork replaces the earlier.

    method: "majority", the share of votes that each grade got; or "dawid-skene", the posterior under one confusion
    matrix an annotator (Dawid and Skene, Applied Statistics 28, 1979), which weighs careful annotators more but wants
    several votes an artwork and tens of votes an annotator. Both take grades as unordered names: a vote of `poor` is as
    far from `good` as from `average`. The order comes in later, with the expected grade.
    `Grades.votes` counts the votes on quality, or on the first aspect that has any.
    Raises UserError for an unknown method, or no votes at all.
    """
    if method not in METHODS:
        raise UserError(f"consensus method {method!r} is not one of {', '.join(METHODS)}: choose one of them")
    kept = latest_votes(votes)
    if not kept:
        raise UserError("there are 0 votes and at least 1 is needed: grade some artworks first")
    probabilities: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    counts: dict[str, int] = {}
    for aspect in ASPECTS:
        of_aspect = [vote for vote in kept if vote.aspect == aspect]
        if of_aspect:
            for image_id, triple in _aggregate(of_aspect, method).items():
                probabilities[image_id][aspect] = triple
            for image_id, count in _votes_by_artwork(of_aspect).items():
                counts.setdefault(image_id, count)
    return Grades(probabilities, counts)


def _aggregate(votes: list[Vote], method: str) -> dict[str, np.ndarray]:
    """image_id -> (3,) probabilities, in the order in which artworks first appear."""
    from crowdkit.aggregation import DawidSkene, MajorityVote  # imports scikit-learn and nltk: seconds

    table = _table(votes)
    if method == "majority":
        found = MajorityVote().fit_predict_proba(table)
    else:
        found = DawidSkene(n_iter=ITERATIONS).fit_predict_proba(table)
    # crowd-kit knows only the grades that someone voted for, in alphabetical order.
    found = found.reindex(index=table["task"].unique(), columns=list(GRADES), fill_value=0.0)
    return dict(zip(found.index, found.to_numpy(dtype=np.float64), strict=True))  # (n_artworks, 3)


def _table(votes: list[Vote]) -> "pd.DataFrame":
    import pandas as pd

    rows = [(vote.image_id, vote.annotator, vote.grade) for vote in votes]
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


def _votes_by_artwork(votes: list[Vote]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for vote in votes:
        counts[vote.image_id] += 1
    return counts
