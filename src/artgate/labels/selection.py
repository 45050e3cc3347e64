"""What to label next: artworks in the order in which a grade of each is wanted. Pure functions of what is known.

Orders do not depend on the order of the rows given: what ties goes by image_id.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.labels.k_center import k_center

# Clusters at a cold start. More would each hold too few artworks to stand for.
CLUSTERS = 200


def random_order(image_ids: Iterable[str], seed: int = 0) -> list[str]:
    """By chance, the same for the same seed; what a growing collection held before keeps its order among itself."""
    return sorted(image_ids, key=lambda image_id: hashlib.sha256(f"order {seed} {image_id}".encode()).digest())


def by_uncertainty(image_ids: Sequence[str], probabilities: np.ndarray, limit: int | None = None) -> list[str]:
    """The artworks whose grade is least certain first, by (N, 3) grade probabilities; the first `limit` of them.

    Raises UserError for a limit below 1 and for probabilities that are none or do not fit.
    """
    ids, rows = _by_id(image_ids)
    uncertain = uncertainty(_probabilities(probabilities, len(ids))[rows])
    order = np.argsort(-uncertain, kind="stable")
    return [ids[place] for place in order[: _count(limit, len(ids))]]


def by_diversity(
    image_ids: Sequence[str], features: np.ndarray, labelled: np.ndarray | None = None, limit: int | None = None
) -> list[str]:
    """Each the artwork that is most unlike all labelled and all before it, by (N, D) features: greedy k-center.

    labelled: (M, D) features of what has grades already. The order is Sener and Savarese's ("Active learning for
    convolutional neural networks: a core-set approach", 2018).
    Raises UserError for a limit below 1 and for features that are not finite or do not fit.
    """
    ids, rows = _by_id(image_ids)
    found = _features(features, len(ids))[rows]
    order = k_center(found, _labelled(labelled, found), _count(limit, len(ids)))
    return [ids[place] for place in order]


def by_both(
    image_ids: Sequence[str],
    probabilities: np.ndarray,
    features: np.ndarray,
    labelled: np.ndarray | None = None,
    limit: int | None = None,
) -> list[str]:
    """Greedy k-center as `by_diversity`, where each distance counts as much as the artwork's grade is uncertain.

    So it is neither outliers whose grade is plain, nor one uncertain picture ten times.
    """
    ids, rows = _by_id(image_ids)
    found = _features(features, len(ids))[rows]
    weights = uncertainty(_probabilities(probabilities, len(ids))[rows])
    order = k_center(found, _labelled(labelled, found), _count(limit, len(ids)), weights)
    return [ids[place] for place in order]


def cold_start(image_ids: Sequence[str], features: np.ndarray, limit: int | None = None, seed: int = 0) -> list[str]:
    """Where nothing is labelled: the artwork nearest the centre of each cluster of (N, D) features, largest first.

    There are as many clusters as artworks wanted, and at most `CLUSTERS`; what is wanted beyond goes by diversity.
    """
    from sklearn.cluster import MiniBatchKMeans  # scikit-learn takes seconds to import

    ids, rows = _by_id(image_ids)
    found = _features(features, len(ids))[rows]
    count = _count(limit, len(ids))
    if not count:
        return []
    clusters = MiniBatchKMeans(min(count, CLUSTERS), random_state=seed, n_init=3).fit(found)
    distance = ((found - clusters.cluster_centers_[clusters.labels_]) ** 2).sum(1)
    sizes = np.bincount(clusters.labels_, minlength=clusters.n_clusters)
    by_distance = np.argsort(distance, kind="stable")
    nearest = {cluster: place for place in by_distance[::-1].tolist() for cluster in [clusters.labels_[place]]}
    first = [nearest[cluster] for cluster in np.argsort(-sizes, kind="stable").tolist() if cluster in nearest]
    others = np.setdiff1d(np.arange(len(ids)), first)
    more = others[k_center(found[others], found[first], count - len(first))]
    return [ids[place] for place in [*first, *more.tolist()]]


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """(N, 3) grade probabilities -> (N,) their entropy in nats: 0 where the grade is certain, log 3 where all may be.

    It knows no order, and was still no worse than what does (the variance of the grade, the entropy over its cuts, the
    margin at the nearest): docs/benchmarks.md.
    """
    return -(probabilities * np.log(np.where(probabilities > 0, probabilities, 1))).sum(1)


def _by_id(image_ids: Sequence[str]) -> tuple[list[str], list[int]]:
    """The ids sorted, and the row that each had."""
    rows = sorted(range(len(image_ids)), key=lambda row: image_ids[row])
    ids = [image_ids[row] for row in rows]
    repeated = next((one for one, next_ in zip(ids, ids[1:], strict=False) if one == next_), None)
    if repeated is not None:
        raise UserError(f"image_id {repeated!r} is given more than once: give each artwork once")
    return ids, rows


def _count(limit: int | None, there: int) -> int:
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit} is below 1: give how many artworks are wanted")
    return there if limit is None else min(limit, there)


def _probabilities(probabilities: np.ndarray, count: int) -> np.ndarray:
    if probabilities.shape != (count, len(GRADES)):
        raise UserError(
            f"probabilities {probabilities.shape} do not fit {count} artworks: give ({count}, {len(GRADES)})"
        )
    sums = probabilities.sum(1)
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and np.allclose(sums, 1, atol=1e-3)):
        raise UserError("probabilities are not: each row must be finite, of no value below 0, and sum to 1")
    return probabilities


def _features(features: np.ndarray, count: int) -> np.ndarray:
    if features.ndim != 2 or len(features) != count:
        raise UserError(f"features {features.shape} do not fit {count} artworks: give a row each")
    bad = int((~np.isfinite(features).all(1)).sum())
    if bad:
        raise UserError(f"{bad} of {count} rows of features are not finite: compute them again")
    return features


def _labelled(labelled: np.ndarray | None, features: np.ndarray) -> np.ndarray:
    if labelled is None:
        return features[:0]
    if labelled.ndim != 2 or labelled.shape[1] != features.shape[1]:
        raise UserError(
            f"features of the labelled {labelled.shape} do not fit those to choose from {features.shape}: "
            "both must come from one encoder"
        )
    return _features(labelled, len(labelled))
