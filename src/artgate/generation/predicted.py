"""The predicted clean image: where the denoiser, at this step, believes that the trajectory will end.

A noisy sample is alpha x clean + sigma x noise. What a denoiser tells of it (the noise, the velocity, the clean image
itself) and the scale that a scheduler keeps its samples in differ; the clean image follows from alpha and sigma alone.
Nothing here changes a scheduler's state.
"""

from typing import Any

import torch


def predicted_clean(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, index: int
) -> torch.Tensor:
    """The clean latents, of the shape of `sample`, in float32.

    output: of the denoiser, after guidance. sample: before the scheduler's step, not scaled for the denoiser.
    index: place of the timestep in the scheduler's whole list. Raises ValueError for an unknown prediction type.
    """
    alpha, sigma = noise_level(scheduler, timestep, index)
    output, sample = output.float(), sample.float()
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind == "epsilon":
        clean = (sample - sigma * output) / alpha
    elif kind == "v_prediction":
        # Salimans and Ho (arXiv 2202.00512), for samples of variance alpha^2 + sigma^2 instead of 1
        size = (alpha**2 + sigma**2) ** 0.5
        clean = (alpha * sample / size - sigma * output) / size
    elif kind in ("sample", "original_sample"):
        clean = output
    elif kind == "flow_prediction":
        clean = sample - sigma * output
    else:
        raise ValueError(f"prediction type {kind!r} is not known")
    return _clipped(scheduler, clean)


def noise_level(scheduler: Any, timestep: torch.Tensor, index: int) -> tuple[float, float]:
    """(alpha, sigma) of the scheduler's samples at this timestep."""
    if not hasattr(scheduler, "sigmas"):  # DDIM, DDPM, LCM: samples of variance 1
        kept = float(scheduler.alphas_cumprod[int(timestep)])
        return kept**0.5, (1 - kept) ** 0.5
    sigma = scheduler.sigmas[index]
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # DPM-Solver, UniPC, flow schedules among them
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigma)
        return float(alpha), float(sigma)
    if "prediction_type" not in scheduler.config:  # flow matching
        return 1 - float(sigma), float(sigma)
    return 1.0, float(sigma)  # Euler, Heun: the clean image at its own scale, noise on top


def _clipped(scheduler: Any, clean: torch.Tensor) -> torch.Tensor:
    if scheduler.config.get("thresholding", False):
        thresholded: torch.Tensor = scheduler._threshold_sample(clean)
        return thresholded
    if scheduler.config.get("clip_sample", False):
        limit = float(scheduler.config.clip_sample_range)
        return clean.clamp(-limit, limit)
    return clean
