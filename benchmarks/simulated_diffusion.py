"""A diffusion model whose previews carry the signal: of a Gaussian, which has an exact denoiser."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import norm

from artgate.generation.preview import Previewer
from artgate.generation.preview_policy import Trajectories
from artgate.generation.prompts import Candidate
from artgate.generation.sampler import Finished, SlotSampler


def simulated_trajectories(n: int, eta: float = 0.3) -> tuple[Trajectories, np.ndarray]:
    """Of `SimulatedModel`, through the slots: 20 steps, previews after 2, 4, 6, 8 and 12; and (N,) second scores."""
    model: Any = SimulatedModel()
    sampler = SlotSampler(model, "ddim", steps=20, guidance=0.0, slots=8, eta=eta)
    steps = (2, 4, 6, 8, 12)

    def decode(clean: torch.Tensor) -> Image.Image:
        return Image.new("F", (1, 1), worth(clean, 0))

    previewer = Previewer(decode, lambda picture: norm.cdf(picture.getpixel((0, 0))), dict.fromkeys(steps, -math.inf))
    candidates = (Candidate(index, "", "", index) for index in range(n))
    finished = [item for item in sampler.run(candidates, None, previewer) if isinstance(item, Finished)]
    finished.sort(key=lambda item: item.candidate.index)
    final = np.array([norm.cdf(worth(item.latents, 0)) for item in finished])
    seen = Trajectories(
        steps=steps,
        previews=np.array([[seen.score for seen in item.previews] for item in finished]),
        final=final,
        accepted=np.ones(len(finished), dtype=bool),
        spent=np.array([[seen.evaluations for seen in item.previews] for item in finished], dtype=float),
        whole=np.array([item.evaluations for item in finished], dtype=float),
    )
    # Another scorer agrees with the gate's, and sees something of its own
    second = np.array([norm.cdf((worth(item.latents, 0) + worth(item.latents, 1)) / 2**0.5) for item in finished])
    return seen, second


def worth(latents: torch.Tensor, channel: int) -> float:
    """Standard normal over clean images."""
    return float(latents[channel].mean()) * latents[channel].numel() ** 0.5


class SimulatedModel:
    """Diffusion of independent standard normal latents, through their exact denoiser.

    The first channel's mean is what a picture is worth. With a sampler that adds noise on its way (DDIM, eta), what is
    predicted early correlates with the end, and more so with each step.
    """

    device, dtype, size, scale = torch.device("cpu"), torch.float32, (64, 64), 8

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w): two channels."""
        return 2, height // 8, width // 8

    def make_scheduler(self, name: str, **options: Any) -> Any:
        """Over the noise schedule of Stable Diffusion."""
        from artgate.generation.schedulers import make_scheduler

        trained = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
        self.schedule = make_scheduler(name, trained, **options).alphas_cumprod
        return make_scheduler(name, trained, **options)

    def guided(self, guidance: float) -> bool:
        """Never: there is nothing to guide by."""
        return False

    def encode_prompts(self, prompts: Sequence[str], negative: bool = False) -> Any:
        """Prompts say nothing here."""
        from artgate.generation.models import Conditioning

        return Conditioning(torch.zeros(len(prompts), 1, 1), None)

    def denoise(self, latents: torch.Tensor, timesteps: torch.Tensor, *_: Any) -> torch.Tensor:
        """E[noise | latents] of a standard normal clean image: sqrt(1 - alpha_bar) latents."""
        spread = (1 - self.schedule[timesteps.long()]).sqrt()
        return spread.view(-1, 1, 1, 1) * latents
