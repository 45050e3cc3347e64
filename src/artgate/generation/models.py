"""Diffusion weights → what a sampler needs: text encoding, denoiser, codec, noise schedule.

Stable Diffusion 1.x and 2.x, SD-Turbo, SDXL, SDXL-Turbo and the LCM-distilled among them, from diffusers' components.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.embeddings import get_timestep_embedding
from omegaconf import DictConfig
from PIL import Image

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.cores import Cores
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.loading import load_components
from artgate.generation.schedulers import make_scheduler
from artgate.generation.weighting import plain, read_weights, weigh

log = logging.getLogger(__name__)


def load_model(cfg: Mapping[str, Any] | DictConfig | DiffusionConfig) -> "DiffusionModel":
    """The model that a `DiffusionConfig` (or a mapping of its keys) names, in evaluation mode on its device.

    Raises UserError, with the cure, where the weights are not there, are of another kind or do not fit the device.
    """
    config = cfg if isinstance(cfg, DiffusionConfig) else validated(DiffusionConfig, cfg, "diffusion")
    return DiffusionModel(config, *load_components(config))


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told of B prompts."""

    text: torch.Tensor  # (B, T, D)
    pooled: torch.Tensor | None  # (B, P), SDXL only

    @classmethod
    def joined(cls, parts: Sequence["Conditioning"]) -> Self:
        """The rows of all parts, in order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(torch.cat([part.text for part in parts]), torch.cat(pooled) if pooled else None)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, text=self.text[rows], pooled=None if self.pooled is None else self.pooled[rows])


class DiffusionModel:
    """One checkpoint, ready to sample.

    config: as loaded. family: "sd" or "sdxl". scale: pixels a latent, along each side.
    fingerprint: sha256 hex over weights, configs and precision, wherever the files lie.
    """

    def __init__(self, config: DiffusionConfig, pipeline: Any, device: torch.device, fingerprint: str) -> None:
        self.config = config
        self.device = device
        self.fingerprint = fingerprint
        self.family = "sdxl" if hasattr(pipeline, "text_encoder_2") else "sd"
        self.scale: int = pipeline.vae_scale_factor
        self._cores = Cores()
        self._denoiser = pipeline.unet.to(device)
        self._codec = pipeline.vae.to(device)
        self._images = VaeImageProcessor(vae_scale_factor=self.scale)
        self._text = [(pipeline.tokenizer, pipeline.text_encoder.to(device))]
        if self.family == "sdxl":
            self._text.append((pipeline.tokenizer_2, pipeline.text_encoder_2.to(device)))
        self._zeros_for_no_negative = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))
        self._trained_schedule = dict(pipeline.scheduler.config)
        self._encode_cached = functools.lru_cache(maxsize=128)(self._encode)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser and of latents."""
        dtype: torch.dtype = self._denoiser.dtype
        return dtype

    @property
    def size(self) -> tuple[int, int]:
        """Default (width, height) in pixels."""
        sample = self._denoiser.config.sample_size
        height, width = (sample, sample) if isinstance(sample, int) else sample
        return self.config.width or width * self.scale, self.config.height or height * self.scale

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of width x height pixels; UserError where that does not divide."""
        for key, side in (("width", width), ("height", height)):
            if side < self.scale or side % self.scale:
                nearest = max(side // self.scale, 1) * self.scale
                raise UserError(f"{key} {side} is not a positive multiple of {self.scale}: try {nearest}")
        return self._denoiser.config.in_channels, height // self.scale, width // self.scale

    def make_scheduler(self, name: str, **options: Any) -> Any:
        """A fresh scheduler (`schedulers.SCHEDULERS`) over the noise schedule that the model was trained with."""
        return make_scheduler(name, self._trained_schedule, **options)

    def guided(self, guidance: float) -> bool:
        """Whether this guidance scale takes a second, negative row an image.

        LCM-distilled denoisers are told the scale instead.
        """
        return guidance > 1 and self._denoiser.config.time_cond_proj_dim is None

    def encode_prompts(self, prompts: Sequence[str], negative: bool = False) -> Conditioning:
        """Conditioning of B prompts, each encoded alone, so that none depends on its neighbours.

        Words may be weighted (`weighting`).

        negative: they are negative prompts; where the checkpoint says so, an empty one is all zeros.
        """
        return Conditioning.joined([self._encode_cached(prompt, negative) for prompt in prompts])

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        negative: Conditioning | None = None,
        guidance: float = 0.0,
    ) -> torch.Tensor:
        """Model output (B, C, h, w) after guidance, for latents (B, C, h, w) as scaled by their schedulers.

        timesteps: (B,). negative: the negative rows if `guided(guidance)`, else ignored. One call of the denoiser; on
        the CPU one a core (`cores`). There a row's output depends on B and on that row alone, to the last bit.
        """
        if negative is None and self.guided(guidance):
            raise ValueError(f"guidance {guidance} needs negative conditioning")

        def part(rows: slice) -> torch.Tensor:
            unwanted = negative[rows] if negative and self.guided(guidance) else None
            return self._denoise(latents[rows], timesteps[rows], conditioning[rows], unwanted, guidance)

        return self._cores.run(part, len(latents)) if self.device.type == "cpu" else part(slice(None))

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Pictures of latents (B, C, h, w); one at a time, so that a picture does not depend on its neighbours."""
        mean, std = self._latent_statistics(latents)
        codes = (latents * std / self._codec.config.scaling_factor + mean).to(self._codec.dtype)
        pixels = [self._codec.decode(code[None], return_dict=False)[0] for code in codes]  # (1, 3, H, W) each
        return [self._images.postprocess(picture, output_type="pil")[0] for picture in pixels]

    @torch.inference_mode()
    def encode(
        self, images: Sequence[Image.Image], generators: Sequence[torch.Generator] | None = None
    ) -> torch.Tensor:
        """Latents (B, C, h, w) of RGB pictures of one size: samples of the posterior with generators, else its mode."""
        latents = []
        for number, image in enumerate(images):
            pixels = self._images.preprocess(image).to(self.device, self._codec.dtype)  # (1, 3, H, W) in [-1, 1]
            posterior = self._codec.encode(pixels).latent_dist
            latents.append(posterior.sample(generators[number]) if generators else posterior.mode())
        codes = torch.cat(latents).to(self.dtype)
        mean, std = self._latent_statistics(codes)
        return (codes - mean) * self._codec.config.scaling_factor / std

    @torch.inference_mode()
    def _denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        negative: Conditioning | None,
        guidance: float,
    ) -> torch.Tensor:
        if negative:
            conditioning = Conditioning.joined([negative, conditioning])
            latents, timesteps = torch.cat([latents] * 2), torch.cat([timesteps] * 2)
        output: torch.Tensor = self._denoiser(
            latents,
            timesteps.to(self.device),
            encoder_hidden_states=conditioning.text,
            timestep_cond=self._guidance_embedding(guidance, len(latents)),
            added_cond_kwargs=self._added_conditions(conditioning, latents),
            return_dict=False,
        )[0]
        if not negative:
            return output
        without, with_prompt = output.chunk(2)
        return without + guidance * (with_prompt - without)

    @torch.inference_mode()
    def _encode(self, prompt: str, negative: bool) -> Conditioning:
        if negative and not prompt and self._zeros_for_no_negative:
            like = self._encode_cached("", False)
            return Conditioning(
                torch.zeros_like(like.text), None if like.pooled is None else torch.zeros_like(like.pooled)
            )
        pieces = read_weights(prompt)
        weighted = any(piece.weight != 1 for piece in pieces)
        # Of the prompt without its weights; what it does not read is told here
        tokens = [_tokens(tokenizer, plain(pieces), self.device) for tokenizer, _ in self._text]
        if self.family == "sd":
            tokenizer, encoder = self._text[0]
            mask = tokens[0].attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
            if weighted:
                text = weigh(pieces, tokenizer, encoder, last_but_one=False)
            else:
                text = encoder(tokens[0].input_ids, attention_mask=mask)[0]
            return Conditioning(text.to(self.dtype), None)
        outputs = [
            encoder(part.input_ids, output_hidden_states=True)
            for part, (_, encoder) in zip(tokens, self._text, strict=True)
        ]
        # SDXL reads both encoders' last layer but one, and the second one's pooled output
        if weighted:
            layers = [weigh(pieces, tokenizer, encoder, last_but_one=True) for tokenizer, encoder in self._text]
        else:
            layers = [output.hidden_states[-2] for output in outputs]
        text = torch.cat(layers, dim=-1)  # (1, T, D1 + D2)
        return Conditioning(text.to(self.dtype), outputs[1][0].to(self.dtype))

    def _added_conditions(self, conditioning: Conditioning, latents: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if conditioning.pooled is None:
            return None
        height, width = latents.shape[-2] * self.scale, latents.shape[-1] * self.scale
        # original size, crop corner, target size: a picture that was never cropped nor resized
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device=self.device)
        return {"text_embeds": conditioning.pooled, "time_ids": time_ids.repeat(len(latents), 1)}

    def _guidance_embedding(self, guidance: float, rows: int) -> torch.Tensor | None:
        dimension = self._denoiser.config.time_cond_proj_dim
        if dimension is None:
            return None
        # Latent Consistency Models (arXiv 2310.04378): the scale w = guidance - 1, embedded like a timestep
        scale = torch.full((rows,), 1000.0 * (guidance - 1))
        embedding: torch.Tensor = get_timestep_embedding(scale, dimension, downscale_freq_shift=1)
        return embedding.to(self.device, self.dtype)

    def _latent_statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """Mean and standard deviation that some autoencoders give for each channel, (1, C, 1, 1)."""
        mean = getattr(self._codec.config, "latents_mean", None)
        std = getattr(self._codec.config, "latents_std", None)
        if mean is None or std is None:
            return 0.0, 1.0
        return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


def _tokens(tokenizer: Any, prompt: str, device: torch.device) -> Any:
    limit = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    whole = tokenizer(prompt, verbose=False).input_ids
    if len(whole) > limit:
        unread = tokenizer.decode(whole[limit - 1 : -1])
        log.warning("the model reads %d tokens; of %r it does not see %r", limit, prompt, unread)
    return tokens.to(device)
