"""The votes on one aspect as columns of numbers, which is what every measure of agreement starts from."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from artgate.labels.grades import GRADES
from artgate.labels.votes import Vote, latest_votes


@dataclass(frozen=True)
class Ballots:
    """V votes on one aspect of N artworks by M annotators, at most one a person and artwork.

    artworks: (N,) image_ids, annotators: (M,) names, both sorted. artwork, annotator: (V,) places in these.
    grade: (V,) 0 poor, 1 average, 2 good. lead_time: (V,) seconds, time: (V,) seconds since 1970; NaN where unknown.
    truth: (N,) the grade of artworks that have one for certain, by a ground-truth vote; -1 for all others. Such a vote
    is no row here: it measures others and is not measured. contradicted: artworks with two different ground-truth
    grades; those are no truth, and the votes count like any other.
    """

    artworks: tuple[str, ...]
    annotators: tuple[str, ...]
    artwork: np.ndarray
    annotator: np.ndarray
    grade: np.ndarray
    lead_time: np.ndarray
    time: np.ndarray
    truth: np.ndarray
    contradicted: int = 0

    def __len__(self) -> int:
        return len(self.grade)

    @property
    def counts(self) -> np.ndarray:
        """(N, K) how many votes gave each grade to each artwork."""
        size = len(self.artworks) * len(GRADES)
        flat = np.bincount(self.artwork * len(GRADES) + self.grade, minlength=size)
        return flat.reshape(-1, len(GRADES))


def ballots(votes: Iterable[Vote], aspect: str) -> Ballots:
    """The votes on `aspect`; a person's later vote on an artwork replaces the earlier."""
    kept = latest_votes(vote for vote in votes if vote.aspect == aspect)
    truths: dict[str, set[str]] = defaultdict(set)
    for vote in kept:
        if vote.ground_truth:
            truths[vote.image_id].add(vote.grade)
    certain = {image_id: GRADES.index(min(grades)) for image_id, grades in truths.items() if len(grades) == 1}
    measured = [vote for vote in kept if not (vote.ground_truth and vote.image_id in certain)]
    artworks = tuple(sorted({vote.image_id for vote in kept}))
    annotators = tuple(sorted({vote.annotator for vote in measured}))
    place = {image_id: number for number, image_id in enumerate(artworks)}
    person = {name: number for number, name in enumerate(annotators)}
    return Ballots(
        artworks,
        annotators,
        np.array([place[vote.image_id] for vote in measured], dtype=np.intp),
        np.array([person[vote.annotator] for vote in measured], dtype=np.intp),
        np.array([GRADES.index(vote.grade) for vote in measured], dtype=np.intp),
        np.array([np.nan if vote.lead_time is None else vote.lead_time for vote in measured], dtype=np.float64),
        np.array([_seconds(vote.created_at) for vote in measured], dtype=np.float64),
        np.array([certain.get(image_id, -1) for image_id in artworks], dtype=np.intp),
        len(truths) - len(certain),
    )


def _seconds(created_at: str | None) -> float:
    if created_at is None:
        return np.nan
    # Like `latest_votes`: a time without a zone is UTC.
    time = datetime.fromisoformat(created_at)
    return time.timestamp() if time.tzinfo else time.replace(tzinfo=UTC).timestamp()
