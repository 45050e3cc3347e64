"""A second opinion on grades: what a model says of artworks that it did not learn from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from artgate.artworks.collection import Collection
from artgate.artworks.duplicates import RADIUS
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.encoders import Encoder
from artgate.scoring.splits import leakage_groups, make_folds

FOLDS = 5
# Copies, and pictures of one prompt, would vouch for each other's wrong grades; a creator's other works do not.
GROUP_BY = ("near_duplicates", "prompt")
COMPONENTS = 256
# Inverse strength of the L2 penalty on the principal axes; AGIQA-3K is graded as well with three times more or less.
PENALTY = 2e-3


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
    """Logistic regression on (N, D) features: (N, 3), each row by a model fitted on all folds but its own."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from artgate.scoring.heads import fit_projection

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        # It sees no grade, so it may see every artwork; thousands of features would take minutes a fold.
        projection = fit_projection(torch.from_numpy(features), COMPONENTS)
        axes = projection(torch.from_numpy(features)).numpy()
    probabilities = np.zeros((len(grades), len(GRADES)))
    for held_out in np.unique(folds):
        own = folds == held_out
        model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=300)
        model.fit(axes[~own], grades[~own])
        probabilities[np.ix_(own, model.classes_)] = model.predict_proba(axes[own])
    return probabilities
