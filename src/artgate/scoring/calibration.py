"""Logits to probabilities that come true: temperature and bias, fitted on artworks that the head never saw.

Temperature scaling (Guo et al., "On calibration of modern neural networks", 2017) with a bias for each logit
(bias-corrected, Alexandari et al., 2020): weighting the grades alike in training shifts the logits, and a temperature
alone cannot shift them back.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from artgate.scoring.heads import grade_probabilities

# A prior worth this many artworks holds few data near "change nothing": log temperature and biases have unit width.
PRIOR_ARTWORKS = 4.0
LOG_TEMPERATURE_LIMIT = 3.0
BIAS_LIMIT = 10.0


@dataclass(frozen=True)
class Calibration:
    """For each of A aspects a temperature > 0 and K - 1 biases: calibrated logits = logits / temperature + bias."""

    temperature: tuple[float, ...]
    bias: tuple[tuple[float, ...], ...]

    def __call__(self, logits: Tensor) -> Tensor:
        """(N, A, K - 1) logits -> (N, A, K) probabilities, float64."""
        temperature = torch.tensor(self.temperature, dtype=torch.float64)[:, None]  # (A, 1)
        bias = torch.tensor(self.bias, dtype=torch.float64)  # (A, K - 1)
        return grade_probabilities(logits.detach().cpu().double() / temperature + bias)


def no_calibration(aspects: int, grades: int) -> Calibration:
    """The calibration that changes nothing."""
    return Calibration((1.0,) * aspects, ((0.0,) * (grades - 1),) * aspects)


def fit_calibration(logits: Tensor, targets: Tensor) -> Calibration:
    """Minimise the cross-entropy of the targets, aspect by aspect.

    logits: (N, A, K - 1). targets: (N, A, K) grade probabilities, NaN where an aspect was not graded. An aspect that
    nothing graded keeps its logits.
    """
    fitted = [_fit_aspect(logits[:, aspect], targets[:, aspect]) for aspect in range(logits.shape[1])]
    return Calibration(tuple(temperature for temperature, _ in fitted), tuple(bias for _, bias in fitted))


def _fit_aspect(logits: Tensor, targets: Tensor) -> tuple[float, tuple[float, ...]]:
    graded = ~targets.isnan().any(-1)
    logits, targets = logits[graded].detach().cpu().double(), targets[graded].cpu().double()  # (N, K - 1), (N, K)

    def loss_and_slope(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(parameters, requires_grad=True)
        probabilities = grade_probabilities(logits * torch.exp(-free[0]) + free[1:])
        cross_entropy = -(targets * probabilities.clamp_min(1e-12).log()).sum()
        loss = cross_entropy + PRIOR_ARTWORKS * free.square().sum() / 2
        (slope,) = torch.autograd.grad(loss, free)
        return loss.item(), slope.numpy()

    limits = [(-LOG_TEMPERATURE_LIMIT, LOG_TEMPERATURE_LIMIT)] + [(-BIAS_LIMIT, BIAS_LIMIT)] * logits.shape[-1]
    start = np.zeros(1 + logits.shape[-1])
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=limits).x
    return float(np.exp(found[0])), tuple(float(bias) for bias in found[1:])
