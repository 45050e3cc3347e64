"""The samplers that a configuration can name, made from the noise schedule that a model was trained with."""

import inspect
from collections.abc import Mapping
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
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


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
