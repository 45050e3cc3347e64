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
    axes: Tensor, opinions: Tensor, lessons: Tensor, width: float, ridge: float, most: int, seed: int
) -> KernelOpinion:
    """Fit in closed form; the centres are the artworks themselves, or `most` of them drawn by the seed.

    axes: (N, C). opinions: (N, A) in grades; lessons: (N, A, K), to fit the slope by; both NaN where ungraded.
    ridge: what is added to the kernel's diagonal, > 0.
    """
    drawn = np.random.default_rng(seed).permutation(len(axes))[:most]
    model = KernelOpinion(len(drawn), axes.shape[1], opinions.shape[1], lessons.shape[2], width)
    model.centres.copy_(axes[drawn].half())  # as they are kept
    between = similarity(model.centres, model.centres, width).double().numpy()  # (M, M)
    for aspect in range(opinions.shape[1]):
        graded = ~opinions[:, aspect].isnan()
        if not graded.any():
            continue
        told = opinions[graded, aspect].double().numpy()
        left_out, weights = _ridge(_products(axes[graded], model), between, told - told.mean(), ridge)
        model.weights[:, aspect] = torch.from_numpy(weights)
        model.middle[aspect] = told.mean()
        seen = torch.from_numpy(left_out + told.mean()).float()
        model.slope[aspect] = _slope(model, seen, lessons[graded, aspect], aspect)
    return model


def _products(axes: Tensor, model: KernelOpinion) -> np.ndarray:
    """(N, M) in float64, a part at a time."""
    parts = [similarity(part, model.centres, model.width).double().numpy() for part in axes.split(CHUNK)]
    return np.concatenate(parts)


def _ridge(products: np.ndarray, between: np.ndarray, told: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """What each row's own left-out fit says of it (N,), and the weights of the centres (M,), told being centred."""
    normal = products.T @ products + ridge * (between + 1e-6 * np.eye(len(between)))
    factor = cho_factor(normal, overwrite_a=True)
    weights: np.ndarray = cho_solve(factor, products.T @ told)
    leverage = np.einsum("nm,mn->n", products, cho_solve(factor, products.T))
    return told - (told - products @ weights) / (1 - leverage).clip(1e-6), weights


def _slope(model: KernelOpinion, opinion: Tensor, lessons: Tensor, aspect: int) -> float:
    """How sure an opinion makes of a grade, by what left-out fits say."""

    def loss(log_slope: float) -> float:
        model.slope[aspect] = float(np.exp(log_slope))
        every = opinion[:, None].expand(-1, len(model.slope))
        logits = model.logits(every)[:, aspect]  # (N, K - 1)
        return float(corn_loss(logits, lessons, torch.ones(len(lessons))))

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 4), method="bounded").x))
