"""Which schedulers, steps and guidance go together, and what the groups of conf/ make of a model's own."""

import pytest
from batches import composed

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.schedulers import MADE_FOR, SCHEDULERS, make_scheduler

TRAINED_WITH = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def diffusion(*overrides: str) -> DiffusionConfig:
    return validated(DiffusionConfig, composed("generate", *overrides).diffusion, "diffusion")


def first_timesteps(name: str, steps: int, **options: str) -> list[float]:
    scheduler = make_scheduler(name, TRAINED_WITH, **options)
    scheduler.set_timesteps(steps)
    return [round(float(timestep), 1) for timestep in scheduler.timesteps]


@pytest.mark.parametrize(
    ("overrides", "scheduler", "steps", "guidance"),
    [
        (["diffusion=sd15"], "dpmpp_2m_karras", 25, 7.5),
        (["diffusion=sd15", "scheduler=unipc"], "unipc", 20, 7.5),
        (["diffusion=sd15", "scheduler=ddim"], "ddim", 50, 7.5),
        (["diffusion=sd15", "scheduler=ddim", "steps=two_hundred_fifty"], "ddim", 250, 7.5),
        (["scheduler=euler_ancestral", "steps=twenty", "diffusion=sdxl"], "euler_ancestral", 20, 6.0),  # in any order
        (["diffusion=sd15", "scheduler=dpmpp_2m_karras", "diffusion.steps=17"], "dpmpp_2m_karras", 17, 7.5),
        (["diffusion=sd15_lcm", "scheduler=lcm", "steps=eight"], "lcm", 8, 1.0),
        (["diffusion=sd_turbo", "scheduler=turbo"], "turbo", 4, 0.0),
        (["experiment=demo", "scheduler=euler_trailing"], "euler_trailing", 8, 3.0),
        (["experiment=demo", "steps=fifty"], "dpmpp_2m", 50, 3.0),
    ],
)
def test_the_groups_override_the_models_own_and_the_command_line_overrides_them(overrides, scheduler, steps, guidance):
    config = diffusion(*overrides)
    assert (config.scheduler, config.steps, config.guidance) == (scheduler, steps, guidance)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["diffusion=sd15", "scheduler=lcm"],
            "scheduler lcm is for weights that were .* say diffusion.distilled",
        ),
        (["experiment=demo", "scheduler=turbo"], "scheduler turbo is for weights that were distilled for it"),
        (["scheduler=unipc"], "unipc is not for weights distilled for lcm: choose scheduler=lcm, or a model"),
        (["diffusion=sdxl_turbo", "scheduler=ddim"], "distilled for turbo: choose scheduler=turbo, or a model"),
        (
            ["diffusion=sdxl_turbo", "steps=fifty"],
            "diffusion.steps 50 is more than the 10 that weights distilled",
        ),
        (["steps=two_hundred_fifty"], "diffusion.steps 250 is more than the 50 that .* distilled for lcm are for"),
        (["diffusion=sd_turbo", "diffusion.guidance=7.5"], "guidance 7.5 is not for .* turbo, which know none: give 0"),
        (["diffusion=sd15", "scheduler=unipc", "diffusion.eta=0.5"], "diffusion.eta 0.5 is not for scheduler unipc"),
        (
            ["diffusion=sd15", "+diffusion.scheduler_options.use_karras_sigmas=false"],
            "scheduler_options.use_karras_sigmas is what scheduler dpmpp_2m_karras is about",
        ),
        (
            ["diffusion=local", "diffusion.model=x", "diffusion.licence=x", "diffusion.distilled=ems"],
            "'ems' is not",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused_with_the_cure(overrides, message):
    with pytest.raises(UserError, match=message):
        diffusion(*overrides)


def test_an_option_that_is_null_is_the_models_own():
    options = {"timestep_spacing": None, "use_karras_sigmas": True}
    config = DiffusionConfig("a", "b", "c", scheduler="dpmpp_2m", scheduler_options=options)
    assert config.scheduler_options == {"use_karras_sigmas": True}


@pytest.mark.parametrize("name", ["turbo", "euler_trailing"])
def test_trailing_schedules_begin_at_the_last_timestep(name):
    assert first_timesteps(name, 4) == [999, 749, 499, 249]
    assert first_timesteps(name.replace("turbo", "euler_ancestral").replace("_trailing", ""), 4) != [999, 749, 499, 249]


def test_karras_levels_are_those_of_the_paper():
    """ArXiv 2206.00364, equation 5 with rho = 7: evenly spaced in the seventh root of sigma."""
    scheduler = make_scheduler("dpmpp_2m_karras", TRAINED_WITH)
    scheduler.set_timesteps(8)
    roots = scheduler.sigmas[:-1].double() ** (1 / 7)
    steps = (roots[1:] - roots[:-1]).tolist()
    assert steps == pytest.approx([steps[0]] * 7, rel=1e-3) and steps[0] < 0


def test_every_distillation_names_schedulers_that_there_are():
    assert {name for names in MADE_FOR.values() for name in names} <= set(SCHEDULERS)
