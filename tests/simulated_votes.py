"""Votes of simulated annotators, for the tests of what is made of votes."""

import numpy as np

from artgate.labels.grades import GRADES
from artgate.labels.votes import Vote


def simulated(n: int, accuracies: tuple[float, ...], seed: int) -> list[Vote]:
    """As `simulated_with_truth`, the votes alone."""
    return simulated_with_truth(n, accuracies, seed)[0]


def simulated_with_truth(n: int, accuracies: tuple[float, ...], seed: int) -> tuple[list[Vote], dict[str, int]]:
    """Of n artworks, a grade by one annotator for each accuracy; who errs picks one of the other two grades."""
    rng = np.random.default_rng(seed)
    truth = {f"image {i}": int(rng.integers(3)) for i in range(n)}
    votes = [
        Vote(image_id, f"annotator {a}", "quality", GRADES[_vote(true, accuracy, rng)])
        for image_id, true in truth.items()
        for a, accuracy in enumerate(accuracies)
    ]
    return votes, truth


def _vote(true: int, accuracy: float, rng: np.random.Generator) -> int:
    return true if rng.random() < accuracy else int((true + rng.integers(1, 3)) % 3)
