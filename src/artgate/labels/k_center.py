"""Greedy k-center: the points that are farthest from all chosen so far."""

import numpy as np

# Labelled rows that distances are taken to at once: 256 x 20,000 in float32 are 20 MB.
BLOCK = 256


def k_center(features: np.ndarray, labelled: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """(k,) rows of (N, D) features, in order, each of the largest distance to the (M, D) labelled and those before it.

    weights: (N,) >= 0 that the distances are multiplied by. Without labelled the first is that nearest the mean. The
    lowest row goes first where several are as far. Unweighted, no point is more than twice as far from its nearest
    labelled or chosen one as with the best k there are (Gonzalez, 1985). Time N (k + M) D, memory N beside the input.
    """
    weights = np.ones(len(features)) if weights is None else weights
    squares = np.einsum("nd,nd->n", features, features)
    left = np.ones(len(features), dtype=bool)
    chosen: list[int] = []
    nearest = _nearest(features, squares, labelled)  # (N,) squared
    while len(chosen) < k:
        if np.isfinite(nearest).all():
            # A copy of what is chosen has distance 0, and is still better than what is chosen itself.
            row = int(np.where(left, np.sqrt(nearest) * weights, -1).argmax())
        else:
            row = int(_distances(features, squares, features.mean(0)).argmin())
        chosen.append(row)
        left[row] = False
        nearest = np.minimum(nearest, _distances(features, squares, features[row]))
    return np.array(chosen, dtype=int)


def _nearest(features: np.ndarray, squares: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(N,) squared distances to the nearest of (M, D) labelled; infinite where M is 0."""
    nearest = np.full(len(features), np.inf)
    for start in range(0, len(labelled), BLOCK):
        block = labelled[start : start + BLOCK]
        products = features @ block.T  # (N, BLOCK)
        distances = squares[:, None] + np.einsum("md,md->m", block, block) - 2 * products
        nearest = np.minimum(nearest, distances.min(1).clip(0))
    return nearest


def _distances(features: np.ndarray, squares: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(N,) squared distances to one (D,) point; rounding may not make them negative."""
    return (squares + point @ point - 2 * (features @ point)).clip(0)
