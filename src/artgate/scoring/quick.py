"""A head that is fitted in a tenth of a second: for what to label next, and for a second opinion on grades."""

import numpy as np

from artgate.labels.grades import GRADES

COMPONENTS = 256
# Inverse strength of the L2 penalty on the principal axes, shared by the graded artworks: with the same strength at
# any number of them, a hundred grades would teach nothing, or a thousand too much. AGIQA-3K is graded as
# well with three times more or less.
PENALTY = 5.0
# Axes that artworks are compared on when some are chosen: on hundreds, what sets one apart is mostly noise. On AGIQA-3K
# 8 to 16 did alike, and more of them worse.
SELECTION_AXES = 12


def principal_axes(features: np.ndarray) -> np.ndarray:
    """(N, D) features -> (N, C) on their principal axes, at most `COMPONENTS`, the strongest first."""
    import torch

    from artgate.scoring.heads import fit_projection

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        rows = torch.from_numpy(features)
        return fit_projection(rows, COMPONENTS)(rows).numpy()


def selection_axes(axes: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, at most `SELECTION_AXES`): what distances between artworks are taken on."""
    return np.ascontiguousarray(axes[:, :SELECTION_AXES])


def quick_probabilities(axes: np.ndarray, grades: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Logistic regression on (N, C) axes and their (N,) grades, 0 to 2, of which two differ; (M, C) asked -> (M, 3)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=PENALTY / len(grades), class_weight="balanced", max_iter=300).fit(axes, grades)
    probabilities = np.zeros((len(asked), len(GRADES)))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities
