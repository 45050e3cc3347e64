"""Many votes to one set of grade probabilities an artwork."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from artgate.errors import UserError
from artgate.labels.ballots import Ballots, ballots
from artgate.labels.grades import ASPECTS, GRADES, Grades
from artgate.labels.votes import Vote

METHODS = ("majority", "dawid-skene")
# On simulated votes of 3 to 5 annotators, 1000 iterations of EM were no more often right than 100.
ITERATIONS = 100
# What an annotator says of a grade is made up by the model where they saw hardly one artwork of it.
LEAST_SEEN = 0.5
K = len(GRADES)


def consensus(votes: Iterable[Vote], method: str = "majority") -> Grades:
    """Grade probabilities from votes, each aspect by itself; a person's later vote on an artwork replaces the earlier.

    method: "majority", the share of votes that each grade got; or "dawid-skene", the posterior under one confusion
    matrix an annotator (Dawid and Skene, Applied Statistics 28, 1979), which weighs careful annotators more but wants
    several votes an artwork and tens of votes an annotator. Both take grades as unordered names: a vote of `poor` is as
    far from `good` as from `average`. The order comes in later, with the expected grade.
    A ground-truth vote decides: its artwork has that grade, whatever others said, and under Dawid-Skene what they said
    there tells how far to trust them elsewhere. Where ground-truth votes contradict each other they count as votes.
    `Grades.votes` counts the votes on quality, or on the first aspect that has any.
    Raises UserError for an unknown method, or no votes at all.
    """
    if method not in METHODS:
        raise UserError(f"consensus method {method!r} is not one of {', '.join(METHODS)}: choose one of them")
    votes = list(votes)
    if not votes:
        raise UserError("there are 0 votes and at least 1 is needed: grade some artworks first")
    probabilities: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    counts: dict[str, int] = {}
    for aspect in ASPECTS:
        told = ballots(votes, aspect)
        if told.artworks:
            triples = majority(told) if method == "majority" else dawid_skene(told).probabilities
            numbers = told.counts.sum(1) + (told.truth >= 0)
            for image_id, triple, number in zip(told.artworks, triples, numbers.tolist(), strict=True):
                probabilities[image_id][aspect] = triple
                counts.setdefault(image_id, number)
    return Grades(probabilities, counts)


def majority(told: Ballots) -> np.ndarray:
    """(N, K) shares of the votes; of an anchor its truth."""
    counts = np.where(told.truth[:, None] < 0, told.counts, np.eye(K)[told.truth])
    return counts / counts.sum(1, keepdims=True)


@dataclass(frozen=True)
class DawidSkene:
    """probabilities: (N, K) of the artworks. errors: (M, K, K), how often each annotator says the grade of a column
    where that of the row is true; NaN where they saw none such.
    """

    probabilities: np.ndarray
    errors: np.ndarray


def dawid_skene(told: Ballots) -> DawidSkene:
    """The model fitted to votes, by crowd-kit, with the anchors' grades held fixed."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene as Model  # imports scikit-learn and nltk: seconds

    anchors = np.flatnonzero(told.truth >= 0)
    # Grades that only a truth has would be unknown to crowd-kit: truth votes too, as nobody (-1).
    table = pd.DataFrame(
        {
            "task": np.concatenate([told.artwork, anchors]),
            "worker": np.concatenate([told.annotator, np.full(len(anchors), -1)]),
            "label": np.concatenate([told.grade, told.truth[anchors]]),
        }
    )
    truth = pd.Series(told.truth[anchors], index=anchors) if len(anchors) else None
    model = Model(n_iter=ITERATIONS).fit(table, true_labels=truth)
    assert model.probas_ is not None and model.errors_ is not None
    # It knows only the grades that someone gave.
    found = model.probas_.reindex(index=range(len(told.artworks)), columns=range(K), fill_value=0.0)
    probabilities = found.to_numpy(dtype=np.float64)
    every = pd.MultiIndex.from_product([range(len(told.annotators)), range(K)], names=["worker", "label"])
    said = model.errors_.reindex(index=every, columns=range(K), fill_value=0.0).to_numpy(dtype=np.float64)
    errors = said.reshape(len(told.annotators), K, K).transpose(0, 2, 1)  # (M, true, said)
    seen = np.zeros(errors.shape[:2])  # (M, true): how many artworks of each grade everyone voted on
    np.add.at(seen, told.annotator, probabilities[told.artwork])
    return DawidSkene(probabilities, np.where(seen[:, :, None] < LEAST_SEEN, np.nan, errors))
