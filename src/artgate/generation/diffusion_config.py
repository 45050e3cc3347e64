"""What `conf/diffusion/*.yaml` says of a diffusion model, checked before anything heavy is imported."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from artgate.errors import UserError
from artgate.generation.schedulers import MADE_FOR, SCHEDULERS, check_schedule

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass
class DiffusionConfig:
    """A checkpoint, its licence, and how it is sampled.

    name: for reports. model: `embedded`, a local folder in diffusers' layout, or a hub repository `owner/name`.
    revision: of the repository. variant: weight files to prefer (`fp16`). download_gb: what the hub sends.
    licence, terms: the licence's name and what it means for the images, in words.
    lora: safetensors file, folder or repository whose LoRA is fused into the weights; lora_weight_name: its file there.
    distilled: "lcm" or "turbo" for weights made for few steps of that kind, which limits the schedulers; else None.
    scheduler: one of `SCHEDULERS`; scheduler_options override the model's own scheduler config, those that are None do
    not; eta: DDIM's, in [0, 1].
    steps: denoising steps. guidance: classifier-free guidance scale; up to 1 is none.
    safety_checker: whether what the checkpoint's own rejects is rejected, where it carries one.
    width, height: pixels; None takes the model's own. slots: images that one denoiser call serves.
    device, dtype: `auto` is a GPU with float16 where there is one, else the CPU with float32.
    """

    name: str = MISSING
    model: str = MISSING
    licence: str = MISSING
    terms: str = ""
    download_gb: float = 0.0
    revision: str | None = None
    variant: str | None = None
    lora: str | None = None
    lora_weight_name: str = "pytorch_lora_weights.safetensors"
    lora_scale: float = 1.0
    distilled: str | None = None
    scheduler: str = "ddim"
    scheduler_options: dict[str, Any] = field(default_factory=dict)
    eta: float = 0.0
    steps: int = 30
    guidance: float = 7.5
    width: int | None = None
    height: int | None = None
    slots: int = 4
    device: str = "auto"
    dtype: str = "auto"
    safety_checker: bool = True

    def __post_init__(self) -> None:
        for key, choices in (("scheduler", tuple(SCHEDULERS)), ("device", DEVICES), ("dtype", DTYPES)):
            value = getattr(self, key)
            if value not in choices and not (key == "device" and value.startswith("cuda:")):
                raise UserError(f"diffusion.{key} {value!r} is not one of {', '.join(choices)}")
        for key, low, high in (
            ("eta", 0, 1),
            ("steps", 1, 1000),
            ("guidance", 0, 100),
            ("slots", 1, 1024),
            ("lora_scale", -10, 10),
        ):
            if not low <= getattr(self, key) <= high:
                raise UserError(f"diffusion.{key} {getattr(self, key)} is outside [{low}, {high}]")
        if self.distilled is not None and self.distilled not in MADE_FOR:
            raise UserError(f"diffusion.distilled {self.distilled!r} is not one of {', '.join(MADE_FOR)}, or null")
        self.scheduler_options = {key: value for key, value in self.scheduler_options.items() if value is not None}
        check_schedule(self.scheduler, self.steps, self.guidance, self.eta, self.scheduler_options, self.distilled)
