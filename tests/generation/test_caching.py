"""Why no cache of diffusers is offered, and that half precision keeps what slots promise."""

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_first_block_cache as first_block_cache
from diffusers.hooks import apply_pyramid_attention_broadcast as attention_broadcast

from artgate.generation.models import DiffusionModel, load_model
from artgate.generation.prompts import Candidate
from artgate.generation.sampler import Finished, SlotSampler

CANDIDATES = [Candidate(number, "a frog", "", seed=number) for number in range(5)]


def load(tiny, **settings) -> DiffusionModel:
    return load_model({"name": "sd1", "model": str(tiny("sd1")), "licence": "none", **settings})


def painted(model: DiffusionModel, *candidates: Candidate, slots: int = 2) -> dict[int, torch.Tensor]:
    outcomes = list(SlotSampler(model, "euler_ancestral", steps=4, guidance=4.0, slots=slots).run(candidates))
    return {item.candidate.index: item.latents for item in outcomes if isinstance(item, Finished)}


def test_pictures_in_half_precision_depend_on_prompt_and_seed_alone(tiny):
    model = load(tiny, dtype="bfloat16")
    among = painted(model, *CANDIDATES)
    assert among[0].dtype == torch.bfloat16 and len(among) == 5
    for candidate in CANDIDATES:
        assert torch.equal(painted(model, candidate)[candidate.index], among[candidate.index])


def test_half_precision_paints_nearly_the_same_picture(tiny):
    whole, half = painted(load(tiny), CANDIDATES[0])[0], painted(load(tiny, dtype="bfloat16"), CANDIDATES[0])[0]
    assert 0 < (whole - half).abs().mean() < 0.05 * whole.std()


def test_a_first_block_cache_does_not_attach_to_a_unet(tiny):
    with pytest.raises(IndexError):
        first_block_cache(load(tiny)._denoiser, FirstBlockCacheConfig())


@pytest.mark.slow
def test_with_attention_broadcast_a_candidate_would_depend_on_its_neighbours(tiny):
    """Were this to fail, diffusers keeps the cache apart by rows by now: then it could be offered."""
    model = load(tiny)
    settings = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=3,
        cross_attention_block_skip_range=3,
        current_timestep_callback=lambda: 500,
    )
    attention_broadcast(model._denoiser, settings)
    among = painted(model, *CANDIDATES)
    alone = painted(load(tiny), CANDIDATES[4])  # what it is without any cache
    assert not torch.equal(among[4], alone[4])
    # and not the approximation that a cache of its own would give
    fresh = load(tiny)
    attention_broadcast(fresh._denoiser, settings)
    assert not torch.equal(among[4], painted(fresh, CANDIDATES[4])[4])
