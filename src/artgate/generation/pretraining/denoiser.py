"""The embedded U-Net: trained on latents and captions, together with the text encoder."""

import copy
import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from artgate.generation.pretraining.pictures import Pictures, caption
from artgate.generation.pretraining.text import MAX_TOKENS

log = logging.getLogger(__name__)

MINIBATCH = 48
CAPTIONS_PER_PICTURE = 16  # captions are drawn and tokenised once, ahead of training
LEARNING_RATE = 6e-4
WARMUP_UPDATES = 150
SAVE_SECONDS = 240


class Denoiser(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel):
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """noisy: (B, 8, 8, 8); timesteps: (B,); tokens: (B, L) ids. Returns the predicted velocity (B, 8, 8, 8)."""
        conditioning = self.text_encoder(tokens).last_hidden_state  # (B, L, 192)
        velocity: Tensor = self.unet(noisy, timesteps, conditioning).sample
        return velocity


def new_unet() -> UNet2DConditionModel:
    """An untrained single-level U-Net over 8 x 8 latents: 192 channels, attention throughout, 8.8 M parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(192,),
        layers_per_block=1,
        transformer_layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with the velocity as the model's target."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_denoiser(
    model: Denoiser,
    latents: Tensor,
    pictures: Pictures,
    tokenizer: CLIPTokenizer,
    updates: int,
    seed: int,
    save: Callable[[Denoiser], None],
) -> Denoiser:
    """Velocity regression with timesteps drawn around the middle of the schedule.

    latents: (variants, N, 8, 8, 8), scaled to unit variance. `save` gets the averaged weights every few minutes.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokens = _tokenise(pictures, tokenizer, rng)  # (N, CAPTIONS_PER_PICTURE, L)
    model = model.train()
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    saved, smooth = time.monotonic(), 1.0
    for step in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_UPDATES, 2 * (1 - step / updates))
        which = torch.from_numpy(rng.integers(latents.shape[1], size=MINIBATCH))
        clean = latents[torch.from_numpy(rng.integers(latents.shape[0], size=MINIBATCH)), which]  # (B, 8, 8, 8)
        text = tokens[which, torch.from_numpy(rng.integers(tokens.shape[1], size=MINIBATCH))]  # (B, L)
        loss = _velocity_loss(model, clean, text)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _update_average(average, model, min(0.9995, (2 + step) / (21 + step)))
        smooth += 0.01 * (float(loss.detach()) - smooth)
        if (step + 1) % 100 == 0:
            log.info("denoiser %d of %d: loss %.4f", step + 1, updates, smooth)
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            save(average)
    return average


def _velocity_loss(model: Denoiser, clean: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity (Salimans and Ho, ICLR 2022). clean: (B, 8, 8, 8); text: (B, L)."""
    schedule = noise_schedule()
    timesteps, noise = _timesteps(len(clean)), torch.randn_like(clean)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(schedule.add_noise(clean, noise, timesteps), timesteps, text)
    return F.mse_loss(predicted.float(), schedule.get_velocity(clean, noise, timesteps))


def _timesteps(count: int) -> Tensor:
    """Logit-normal over the schedule, with a uniform tenth so that no timestep is forgotten."""
    middle = torch.sigmoid(torch.randn(count))
    uniform = torch.rand(count)
    return (torch.where(torch.rand(count) < 0.1, uniform, middle) * 1000).long().clamp(0, 999)


def _tokenise(pictures: Pictures, tokenizer: CLIPTokenizer, rng: np.random.Generator) -> Tensor:
    """(N, CAPTIONS_PER_PICTURE, L) token ids of captions drawn for every picture."""
    captions = [
        caption(prompt, quality, rng)
        for prompt, quality in zip(pictures.prompts, pictures.quality, strict=True)
        for _ in range(CAPTIONS_PER_PICTURE)
    ]
    ids = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids.view(len(pictures.prompts), CAPTIONS_PER_PICTURE, MAX_TOKENS)


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
