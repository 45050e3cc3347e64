"""A second opinion on grades: what a model says of artworks that it did not learn from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from artgate.artworks.collection import Collection
from artgate.artworks.duplicates import RADIUS
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.encoders import Encoder
from artgate.scoring.quick import principal_axes, quick_probabilities
from artgate.scoring.splits import leakage_groups, make_folds

FOLDS = 5
# Copies, and pictures of one prompt, would vouch for each other's wrong grades; a creator's other works do not.
GROUP_BY = ("near_duplicates", "prompt")


def second_opinion(
    collection: Collection, image_ids: Sequence[str], grades: np.ndarray, encoder: Encoder, cache: Path
) -> np.ndarray:
    """(N, 3) grade probabilities of the artworks `image_ids`, each by a model that learnt from the other folds.

    grades: (N,) 0 to 2. cache: where features are kept.
    Raises UserError where the artworks cannot be divided so that every model has two grades to learn from.
    """
    from artgate.scoring.features import extract_features

    groups = leakage_groups(list(collection), GROUP_BY, RADIUS)
    folds = make_folds({image_id: groups[image_id] for image_id in image_ids}, FOLDS, seed=0)
    fold = np.array([folds[image_id] for image_id in image_ids])
    for held_out in range(FOLDS):
        if len(np.unique(grades[fold != held_out])) < 2:
            raise UserError(
                f"{len(image_ids)} graded artworks do not give {FOLDS} parts that have two grades beside each: grade "
                f"more, of several prompts"
            )
    features = extract_features(collection, encoder, image_ids, cache)
    return out_of_fold(features, grades, fold)


def out_of_fold(features: np.ndarray, grades: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Of (N, D) features: (N, 3), each row by a quick model of all folds but its own."""
    axes = principal_axes(features)  # they see no grade, so they may see every artwork
    probabilities = np.zeros((len(grades), len(GRADES)))
    for held_out in np.unique(folds):
        own = folds == held_out
        probabilities[own] = quick_probabilities(axes[~own], grades[~own], axes[own])
    return probabilities
