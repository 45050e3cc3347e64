"""The embedded autoencoder: 64 px pictures to 8 x 8 x 8 latents and back."""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from artgate.generation.pretraining.pictures import MARGIN_SIDE, SIDE, Pictures
from artgate.scoring.backbones import embedded_backbone

log = logging.getLogger(__name__)

MINIBATCH = 8  # small: within minutes, more updates beat better ones
LEARNING_RATE = 8e-4
WARMUP_UPDATES = 30
FEATURE_WEIGHT = 0.04
KL_WEIGHT = 3e-4
Features = Callable[[Tensor], list[Tensor]]


def new_autoencoder() -> AutoencoderKL:
    """An untrained f8 autoencoder with 8 latent channels, 4.5 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        sample_size=SIDE,
    )


def train_autoencoder(model: AutoencoderKL, pictures: Pictures, updates: int, seed: int) -> AutoencoderKL:
    """Train `model` on L1 in pixels and in the early features of an ImageNet network."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = model.train().to(memory_format=torch.channels_last)
    features = _feature_stages()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_UPDATES) * (1 - step / updates) ** 0.5
        images = random_crops(pictures.pixels, rng.integers(len(pictures.pixels), size=MINIBATCH), rng)  # (B, 3, S, S)
        pixel_loss, feature_loss, kl = _losses(model, features, images)
        loss = pixel_loss + FEATURE_WEIGHT * feature_loss + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            figures = [loss.item() for loss in (pixel_loss, feature_loss, kl)]
            log.info("autoencoder %d of %d: L1 %.4f features %.3f KL %.2f", step + 1, updates, *figures)
    return model.eval()


def _losses(model: AutoencoderKL, features: Features, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 in pixels (and in 8 x 8 means of them), L1 in early ImageNet features, and the divergence of the latents."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(images).latent_dist
        decoded = model.decode(posterior.sample()).sample
        pairs = zip(features(decoded), features(images), strict=True)
        feature_loss = torch.stack([F.l1_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).mean()
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    decoded = decoded.float()
    # Flat areas of colour are what an eye sees first and what L1 in pixels alone learns last.
    pixel_loss = F.l1_loss(decoded, images) + F.l1_loss(F.avg_pool2d(decoded, 8), F.avg_pool2d(images, 8))
    return pixel_loss, feature_loss, kl


def random_crops(pixels: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> Tensor:
    """(B, 3, SIDE, SIDE) in [-1, 1]: a random window of each picture, mirrored half of the time."""
    offsets = rng.integers(MARGIN_SIDE - SIDE + 1, size=(len(index), 2))
    crops = np.stack(
        [pixels[i, y : y + SIDE, x : x + SIDE] for i, (y, x) in zip(index, offsets, strict=True)]
    )  # (B, S, S, 3)
    mirrored = rng.random(len(index)) < 0.5
    crops[mirrored] = crops[mirrored, :, ::-1]
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


def _feature_stages() -> Features:
    """(B, 3, S, S) to the outputs of the first three stages of the embedded ImageNet encoder, frozen."""
    network: Any = embedded_backbone(None, checkpoint=None, features="stages", normalisation="none").network.network
    network.eval().requires_grad_(False)
    return functools.partial(network.forward_intermediates, indices=[0, 1, 2], stop_early=True, intermediates_only=True)


def encode_variants(model: AutoencoderKL, pictures: Pictures, variants: int, seed: int) -> Tensor:
    """(variants, N, 8, 8, 8) latents of differently cropped and mirrored copies of all pictures."""
    rng = np.random.default_rng(seed)
    index = np.arange(len(pictures.pixels))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return torch.stack(
            [
                torch.cat(
                    [
                        model.encode(random_crops(pictures.pixels, part, rng)).latent_dist.mean.float()
                        for part in np.array_split(index, math.ceil(len(index) / 64))
                    ]
                )
                for _ in range(variants)
            ]
        ).clone()
