"""Whether images come from another distribution than those that a certificate stands on: a test on their features.

The test compares means on the principal axes of the certificate's features: the sum of the squared differences, each in
units of its standard error (as Dempster, 1958, where there are more axes than independent groups to learn a covariance
from). A mean's variance is taken apart into that between groups (artworks of one prompt are alike) and that within
them, so images to be tested may be many or few, of one prompt or of hundreds. It sees what moves the mean of some
feature, as another generator, size, blur or compression does. It does not see that a taste has changed, nor what
happens to a few images among many.

As candidates of a batch come, it is made at fixed check points among which the chance of a false alarm is divided: over
a whole batch, however long, it is at most `FALSE_ALARMS`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_ALARMS = 0.05
# The first check point, in images; each later one is at twice as many.
FIRST_CHECK = 60
# On AGIQA-3K 64 axes find a generator that was left out of the reference with fewer images than 8, 16 or 32 do.
MOST_AXES = 64
IMAGES_PER_AXIS = 4
PARTS = 4

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What is known of the certificate's data, N images of D features in G groups, on C axes.

    axes: (D, C) and offset: (C,), float32: points = features @ axes - offset, with mean 0 over the N images.
    between, within: (C,) float64, variances of images new to these axes, between and within groups. sizes: (G,) int64,
    images in each group. independent: (1,) float64, how many independent axes the C are worth.
    """

    axes: NDArray[np.float32]
    offset: NDArray[np.float32]
    between: Points
    within: Points
    sizes: NDArray[np.int64]
    independent: Points

    def project(self, features: NDArray[np.float32]) -> Points:
        """(M, D) features -> (M, C) points."""
        return np.asarray(features, np.float64) @ self.axes - self.offset


def make_reference(features: NDArray[np.float32], groups: Sequence[int] | NDArray[np.int64]) -> Reference:
    """features: (N, D) of the certificate's data; groups: (N,).

    Variances are learnt from one part of the groups after the other, on axes that were chosen on the others: few groups
    of many features have axes on which they happen to lie close together, and new images would seem far away.
    """
    features, owner = np.asarray(features, np.float32), np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(owner)
    part = np.random.default_rng(0).permutation(len(sizes)) % PARTS
    count = max(1, min(MOST_AXES, len(features) // IMAGES_PER_AXIS, features.shape[1]))
    squares, means = np.zeros((1, count)), np.zeros((len(sizes), count))
    for held_out in np.unique(part):
        own = np.flatnonzero(part[owner] == held_out)
        rest = np.flatnonzero(part[owner] != held_out) if len(sizes) > 1 else own
        axes, offset = _principal_axes(features[rest], count)
        points = np.asarray(features[own] @ axes - offset, np.float64)
        total = np.stack([np.bincount(owner[own], column, minlength=len(sizes)) for column in points.T], axis=1)
        held = part == held_out
        means[held] = total[held] / sizes[held, None]
        squares += ((points - means[owner[own]]) ** 2).sum(0)
    axes, offset = _principal_axes(features, count)
    between, within = _components(means, squares[0], sizes)
    return Reference(axes, offset, between, within, sizes.astype(np.int64), np.array([_independent(means, sizes)]))


def drift_p_value(reference: Reference, points: Points, groups: Sequence[object]) -> float:
    """The chance of means so far apart, were the M images of the reference's distribution.

    points: (M, C), of `Reference.project`. groups: (M,), equal for images of one prompt.
    """
    from scipy.stats import f

    freedom = len(reference.sizes) - 1
    if freedom < 1:
        return 1.0
    sizes = np.unique(np.asarray(groups), return_counts=True)[1]
    between, within, known = reference.between, reference.within, reference.sizes.sum()
    # Where a prompt was shared out evenly, to every generator say, groups are less alike than chance would have it,
    # and their mean is the surer for it; nobody knows that of the new images.
    of_known = np.maximum(between * _repetition(reference.sizes), -0.9 * within / known) + within / known
    of_given = between.clip(0) * _repetition(sizes) + within / len(points)
    squares = np.asarray(points, np.float64).mean(0) ** 2 / (of_known + of_given)  # (C,)
    return float(f.sf(squares.mean(), reference.independent[0], freedom))


def check_points(images: int) -> Iterator[tuple[int, float]]:
    """(after how many images, level of significance) of each check among so many images.

    The levels are shares 1/2, 1/6, 1/12, ... 1/(j (j + 1)) of `FALSE_ALARMS`: they sum to it, however long the batch.
    """
    number, after = 1, FIRST_CHECK
    while after <= images:
        yield after, FALSE_ALARMS / (number * (number + 1))
        number, after = number + 1, 2 * after


def alarm(reference: Reference, points: Points, groups: Sequence[object]) -> int | None:
    """After how many of the M images, in their order, the check points find drift; None where they do not."""
    for after, level in check_points(len(points)):
        if drift_p_value(reference, points[:after], groups[:after]) < level:
            return after
    return None


def _principal_axes(features: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(D, C) axes and (C,) offset that make points of mean 0 and variance 1 of the (N, D) features."""
    from sklearn.utils.extmath import randomized_svd

    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-6 * max(float(spread.max()), 1e-30), spread, np.inf)  # constant: looked at no more
    _, lengths, directions = randomized_svd((features - mean) / spread, count, n_iter=2, random_state=0)
    axes = (directions / spread).T / np.maximum(lengths / np.sqrt(len(features)), 1e-12)
    return axes.astype(np.float32), (mean @ axes).astype(np.float32)


def _components(means: Points, squares: Points, sizes: NDArray[np.int64]) -> tuple[Points, Points]:
    """Variances between and within groups, (C,) each, by the analysis of variance.

    means: (G, C) of groups; squares: (C,), summed within groups. Where every image is a group of its own nothing is
    known of what images of one group share: then it is everything.
    """
    total, count = sizes.sum(), len(sizes)
    spread = (sizes[:, None] * means**2).sum(0)
    if count == total:
        return spread / total, np.full_like(spread, 1e-12)
    within = squares / (total - count) + 1e-12
    return (spread - count * within) / total, within


def _independent(means: Points, sizes: NDArray[np.int64]) -> float:
    """How many independent axes have a sum of squares that varies as much: C at the most, and 1 at the least.

    Correlations of few groups are large by chance: what chance gives is taken off.
    """
    weighted = means * np.sqrt(sizes)[:, None]
    products = weighted.T @ weighted  # (C, C)
    scale, count = np.sqrt(np.diag(products).clip(1e-30)), len(products)
    squares = float(((products / np.outer(scale, scale)) ** 2).sum()) - count * (count - 1) / len(sizes)
    return float(count**2 / np.clip(squares, count, count**2))


def _repetition(sizes: NDArray[np.int64]) -> float:
    """Sum of squared shares of groups of these sizes: 1 / G for G groups of one size."""
    return float((sizes**2).sum() / sizes.sum() ** 2)
