"""The samplers that a configuration can name, made from the noise schedule that a model was trained with."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from artgate.errors import UserError

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "turbo": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}

# Distillation → the schedulers that such weights were made for; all others, they turn to mush or noise
MADE_FOR: dict[str, tuple[str, ...]] = {"lcm": ("lcm",), "turbo": ("turbo", "euler_trailing")}
# The most steps that bring distilled weights anything
MOST_STEPS = {"lcm": 50, "turbo": 10}
TAKES_ETA = ("ddim",)


def check_schedule(
    name: str, steps: int, guidance: float, eta: float, options: Collection[str], distilled: str | None
) -> None:
    """Raise UserError for a scheduler, steps and guidance that make no sense together, or for these weights.

    name: one of `SCHEDULERS`. eta: DDIM's. options: names of those that are set. distilled: one of `MADE_FOR`, or None.
    """
    fixed = sorted(set(options) & set(SCHEDULERS[name][1]))
    if fixed:
        raise UserError(
            f"diffusion.scheduler_options.{fixed[0]} is what scheduler {name} is about: leave it out, or choose "
            "another scheduler"
        )
    if eta > 0 and name not in TAKES_ETA:
        raise UserError(f"diffusion.eta {eta:g} is not for scheduler {name}, only for ddim: give 0, or scheduler=ddim")
    if distilled is None:
        _check_not_distilled(name)
    else:
        _check_distilled(name, steps, guidance, distilled)


def _check_not_distilled(name: str) -> None:
    for kind, schedulers in MADE_FOR.items():
        if name == schedulers[0]:
            raise UserError(
                f"scheduler {name} is for weights that were distilled for it, and these are not: choose a model that "
                f"is (diffusion=sd15_lcm, sdxl_turbo, …), or scheduler=dpmpp_2m_karras; if yours is one, say "
                f"diffusion.distilled={kind}"
            )


def _check_distilled(name: str, steps: int, guidance: float, distilled: str) -> None:
    if name not in MADE_FOR[distilled]:
        raise UserError(
            f"scheduler {name} is not for weights distilled for {distilled}: choose "
            f"scheduler={MADE_FOR[distilled][0]}, or a model that is not distilled, such as diffusion=sd15"
        )
    if steps > MOST_STEPS[distilled]:
        raise UserError(
            f"diffusion.steps {steps} is more than the {MOST_STEPS[distilled]} that weights distilled for {distilled} "
            "are for: give 4, say"
        )
    if distilled == "turbo" and guidance > 1:
        raise UserError(
            f"diffusion.guidance {guidance:g} is not for weights distilled for turbo, which know none: give 0"
        )


def make_scheduler(name: str, trained_with: Mapping[str, Any], **options: Any) -> Any:
    """A fresh diffusers scheduler.

    name: one of `SCHEDULERS`. trained_with: the model's scheduler config (betas, prediction type, spacing).
    options: override single entries of it (`timestep_spacing="trailing"`). Raises UserError for what does not exist.
    """
    if name not in SCHEDULERS:
        raise UserError(f"scheduler {name!r} is not one of {', '.join(SCHEDULERS)}")
    import diffusers  # the table above is for everyone, this takes seconds

    class_name, preset = SCHEDULERS[name]
    scheduler_class = getattr(diffusers, class_name)
    # diffusers drops options that it does not know without a word
    known = set(inspect.signature(scheduler_class.__init__).parameters) - {"self"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UserError(f"scheduler {name!r} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return scheduler_class.from_config(dict(trained_with), **{**preset, **options})
