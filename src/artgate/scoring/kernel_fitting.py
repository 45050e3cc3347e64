"""Kernel ridge regression of people's opinion, in closed form, and how sure it may be of it."""

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar
from torch import Tensor

from artgate.scoring.heads import corn_loss
from artgate.scoring.kernel import KernelOpinion, similarity

CHUNK = 1024


def fit_kernel(
    axes: Tensor,
    opinions: Tensor,
    lessons: Tensor,
    width: float,
    ridge: float,
    most: int,
    seed: int,
) -> KernelOpinion:
    """Fit in closed form; the centres are the rows themselves, or `most` of them drawn by the seed.

    axes: (N, C). opinions: (N, A) in grades; lessons: (N, A, K), to fit the slope by; both NaN where ungraded.
    ridge: what is added to the kernel's diagonal, > 0.
    """
    model = _with_centres(axes, opinions.shape[1], lessons.shape[2], width, most, seed)
    for aspect in range(opinions.shape[1]):
        told = opinions[:, aspect]
        if told.isnan().all():
            continue
        left_out, model.weights[:, aspect], model.middle[aspect] = _ridge(axes, told, model, ridge)
        model.slope[aspect] = _slope(model, left_out, lessons[~told.isnan(), aspect], aspect)
    return model


def _with_centres(axes: Tensor, aspects: int, grades: int, width: float, most: int, seed: int) -> KernelOpinion:
    drawn = np.random.default_rng(seed).permutation(len(axes))[:most]
    model = KernelOpinion(len(drawn), axes.shape[1], aspects, grades, width)
    model.centres.copy_(axes[drawn].half())  # as they are kept
    return model


def _products(axes: Tensor, model: KernelOpinion) -> np.ndarray:
    """(N, M) in float64, a part at a time."""
    parts = [similarity(part, model.centres, model.width).double().numpy() for part in axes.split(CHUNK)]
    return np.concatenate(parts)


def _ridge(axes: Tensor, told: Tensor, model: KernelOpinion, ridge: float) -> tuple[Tensor, Tensor, float]:
    """Regression of what is told, (N,) with NaN: what each graded row's own left-out fit says of it, weights, mean."""
    graded = ~told.isnan()
    mean = float(told[graded].double().mean())
    centred = told[graded].double().numpy() - mean
    products = _products(axes[graded], model)  # (n, M)
    between = similarity(model.centres, model.centres, model.width).double().numpy()  # (M, M)
    normal = products.T @ products + ridge * (between + 1e-6 * np.eye(len(between)))
    factor = cho_factor(normal, overwrite_a=True)
    weights = cho_solve(factor, products.T @ centred)
    leverage = np.einsum("nm,mn->n", products, cho_solve(factor, products.T))
    left_out = mean + centred - (centred - products @ weights) / (1 - leverage).clip(1e-6)
    return torch.from_numpy(left_out).float(), torch.from_numpy(weights).float(), mean


def _slope(model: KernelOpinion, opinion: Tensor, lessons: Tensor, aspect: int) -> float:
    """How sure an opinion makes of a grade, by what left-out fits say."""

    def loss(log_slope: float) -> float:
        model.slope[aspect] = float(np.exp(log_slope))
        every = opinion[:, None].expand(-1, len(model.slope))
        logits = model.logits(every)[:, aspect]  # (N, K - 1)
        return float(corn_loss(logits, lessons, torch.ones(len(lessons))))

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 4), method="bounded").x))
