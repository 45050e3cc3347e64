"""The predicted clean image against what each scheduler itself says, in every prediction type that it knows."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from artgate.generation.predicted import noise_level, predicted_clean
from artgate.generation.schedulers import SCHEDULERS, make_scheduler

TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
# diffusers' own do not know it
NO_SAMPLES = ("HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler")
CASES = [
    (name, kind)
    for name in SCHEDULERS
    for kind in PREDICTIONS
    if kind != "sample" or SCHEDULERS[name][0] not in NO_SAMPLES
]


def own_words(scheduler, output, timestep, sample) -> torch.Tensor:
    """The clean sample as the scheduler itself predicts it, in its next step."""
    if hasattr(scheduler, "convert_model_output"):
        scheduler.step(output, timestep, sample)
        return scheduler.model_outputs[-1]
    if type(scheduler).__name__ == "LCMScheduler":
        # It mixes the prediction with the sample, by coefficients of its own
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        return (scheduler.step(output, timestep, sample).denoised - skip * sample) / out
    return scheduler.step(output, timestep, sample).pred_original_sample


def same(one: Any, other: Any) -> bool:
    """Of a scheduler's state: numbers, names, arrays, tensors and lists of them."""
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return np.array_equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_is_what_the_scheduler_predicts_at_every_step(name: str, kind: str) -> None:
    scheduler = make_scheduler(name, TRAINED, prediction_type=kind)
    scheduler.set_timesteps(6)
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 4, 6, 6, generator=draw) * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(sample, timestep)
        output = torch.randn(sample.shape, generator=draw)
        before = copy.deepcopy(scheduler.__dict__)
        found = predicted_clean(scheduler, output, timestep, sample, index)
        assert scheduler.__dict__.keys() == before.keys()
        assert all(same(scheduler.__dict__[key], value) for key, value in before.items())
        told = own_words(copy.deepcopy(scheduler), output, timestep, sample)
        torch.testing.assert_close(found, told.float(), rtol=1e-4, atol=1e-4 * float(told.abs().max()))
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if not name.startswith(("lcm", "ddpm"))])
def test_a_denoiser_that_knows_the_clean_image_is_taken_at_its_word(name: str) -> None:
    """From noised samples: what the noise of a known image tells is that image."""
    scheduler = make_scheduler(name, TRAINED)
    scheduler.set_timesteps(5)
    clean, noise = torch.randn(2, 1, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    for index, timestep in enumerate(scheduler.timesteps):
        alpha, sigma = noise_level(scheduler, timestep, index)
        noised = scheduler.add_noise(clean, noise, timestep[None])
        torch.testing.assert_close(noised, alpha * clean + sigma * noise, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            predicted_clean(scheduler, noise, timestep, noised, index), clean, rtol=0, atol=2e-3 * (1 + sigma / alpha)
        )


@pytest.mark.parametrize("name", ["flow matching", "unipc", "dpmpp_2m"])
def test_flow_models_predict_the_way_from_the_image_to_the_noise(name: str) -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    scheduler = FlowMatchEulerDiscreteScheduler() if name == "flow matching" else make_scheduler(name, {}, **options)
    scheduler.set_timesteps(5)
    clean, noise = torch.randn(2, 1, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    for index, timestep in enumerate(scheduler.timesteps):
        alpha, sigma = noise_level(scheduler, timestep, index)
        assert alpha == pytest.approx(1 - sigma)
        found = predicted_clean(scheduler, noise - clean, timestep, alpha * clean + sigma * noise, index)
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-5)


def test_limits_of_the_scheduler_hold_for_the_prediction_too() -> None:
    sample, output = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), -3.0)
    clipping = make_scheduler("ddim", TRAINED | {"clip_sample": True, "clip_sample_range": 1.5})
    assert predicted_clean(clipping, output, torch.tensor(500), sample, 0).max() == 1.5
    thresholding = make_scheduler("ddim", TRAINED | {"thresholding": True, "sample_max_value": 1.0})
    assert predicted_clean(thresholding, output, torch.tensor(500), sample, 0).max() == 1.0


def test_an_unknown_prediction_type_is_no_guess() -> None:
    scheduler = make_scheduler("ddim", TRAINED | {"prediction_type": "moonlight"})
    with pytest.raises(ValueError, match="prediction type 'moonlight' is not known"):
        predicted_clean(scheduler, torch.zeros(1, 1, 2, 2), torch.tensor(500), torch.zeros(1, 1, 2, 2), 0)
