"""Predicted clean latents → a small picture: by the model's codec, a tiny autoencoder, or a fitted linear map."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn.functional import conv2d, interpolate, pad, pixel_shuffle, unfold

from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.generation.models import DiffusionModel
from artgate.generation.preview_config import PreviewConfig

# Beside the squares of the latents, so that the map stays small where few pictures taught it.
RIDGE = 1e-3


@dataclass(frozen=True)
class PreviewDecoder:
    """decode: (C, h, w) clean latents → RGB picture. fingerprint: of weights and settings, the model's own aside."""

    name: str
    fingerprint: str
    decode: Callable[[torch.Tensor], Image.Image]


def build_decoder(config: PreviewConfig, model: DiffusionModel) -> PreviewDecoder:
    """The decoder that the configuration names. Raises UserError where its weights are missing or do not fit."""
    if config.decoder == "tiny":
        tiny = _load_tiny(str(config.tiny), model)
        return PreviewDecoder(
            f"tiny {config.tiny}, 1/{config.shrink}",
            _digest(dict(tiny.state_dict()), f"tiny {config.shrink}"),
            lambda clean: _tiny_picture(tiny, _shrunk(clean[None], config.shrink)),
        )
    if config.decoder == "linear":
        linear = LinearDecoder.load(Path(str(config.linear)).expanduser(), model)
        return PreviewDecoder("linear", linear.fingerprint, linear)
    return PreviewDecoder(
        f"codec, 1/{config.shrink}",
        _digest({}, f"codec {config.shrink}"),
        lambda clean: model.decode(_shrunk(clean[None], config.shrink).to(model.dtype))[0],
    )


class LinearDecoder:
    """Each latent and its eight neighbours → the pixels of its place, by one linear map.

    weight: (3 s s, C, 3, 3) and bias: (3 s s,), where s is pixels a latent along each side.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.weight, self.bias = weight, bias
        self.scale = round((len(bias) / 3) ** 0.5)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the weights."""
        return _digest({"weight": self.weight, "bias": self.bias}, "linear")

    @torch.inference_mode()
    def __call__(self, clean: torch.Tensor) -> Image.Image:
        """(C, h, w) latents → a picture of (h s, w s) pixels."""
        latents = pad(clean[None].float().cpu(), (1, 1, 1, 1), mode="replicate")
        return _picture(pixel_shuffle(conv2d(latents, self.weight, self.bias), self.scale)[0])

    def save(self, path: Path) -> None:
        """Write it to a safetensors file: all of it, or nothing."""
        write_atomic(path, save({"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}))

    @classmethod
    def load(cls, path: Path, model: DiffusionModel) -> "LinearDecoder":
        """Read `save`'s file; UserError where it is missing, damaged, or of a model with other latents."""
        try:
            tensors = load_file(path)
            made = cls(tensors["weight"], tensors["bias"])
            channels, scale = made.weight.shape[1], made.scale
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise UserError(
                f"preview.linear {path} cannot be read ({error}): give what mode=calibrate fitted"
            ) from None
        wanted = model.latent_shape(*model.size)[0], model.scale
        if (channels, scale) != wanted:
            raise UserError(
                f"preview.linear {path} is for latents of {channels} channels and {scale} pixels, and the model has "
                f"{wanted[0]} and {wanted[1]}: calibrate with this model"
            )
        return made


def fit_linear(latents: torch.Tensor, pictures: list[Image.Image]) -> LinearDecoder:
    """The least-squares map from latents (N, C, h, w) to their pictures, with a little ridge."""
    n, channels, height, width = latents.shape
    scale = pictures[0].size[0] // width
    pixels = torch.stack([_pixels(picture) for picture in pictures])  # (N, 3, h s, w s)
    targets = unfold(pixels, scale, stride=scale)  # (N, 3 s s, h w)
    inputs = unfold(pad(latents.float().cpu(), (1, 1, 1, 1), mode="replicate"), 3)  # (N, 9 C, h w)
    rows = inputs.transpose(1, 2).reshape(n * height * width, -1).double()  # (N h w, 9 C)
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
    values = targets.transpose(1, 2).reshape(n * height * width, -1).double()
    square = rows.T @ rows
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    found = torch.linalg.solve(square, rows.T @ values).float()  # (9 C + 1, 3 s s)
    return LinearDecoder(found[:-1].T.reshape(-1, channels, 3, 3).contiguous(), found[-1].contiguous())


def _load_tiny(name: str, model: DiffusionModel) -> Any:
    from diffusers import AutoencoderTiny

    try:
        tiny: Any = AutoencoderTiny.from_pretrained(name, torch_dtype=model.dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"preview.tiny {name} cannot be loaded ({reason}): give the folder of an AutoencoderTiny in diffusers' "
            "layout, or preview.decoder=codec"
        ) from None
    wanted = model.latent_shape(*model.size)[0]
    if tiny.config.latent_channels != wanted:
        raise UserError(
            f"preview.tiny {name} reads latents of {tiny.config.latent_channels} channels, and the model's have "
            f"{wanted}: give one made for this model"
        )
    return tiny.eval().to(model.device)


@torch.inference_mode()
def _tiny_picture(tiny: Any, latents: torch.Tensor) -> Image.Image:
    # It was distilled on latents at the denoiser's scale: nothing to undo. Its pixels are in [-1, 1]
    pixels = tiny.decode(latents.to(tiny.device, tiny.dtype), return_dict=False)[0]
    return _picture(pixels[0].float().cpu() / 2 + 0.5)


def _shrunk(latents: torch.Tensor, times: int) -> torch.Tensor:
    if times == 1:
        return latents
    size = [max(1, side // times) for side in latents.shape[-2:]]
    return interpolate(latents.float(), size=size, mode="area").to(latents.dtype)


def _pixels(picture: Image.Image) -> torch.Tensor:
    """(3, H, W) in [0, 1]."""
    data = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return data.view(picture.size[1], picture.size[0], 3).permute(2, 0, 1).float() / 255


def _picture(pixels: torch.Tensor) -> Image.Image:
    """Of (3, H, W) in [0, 1]; ValueError where a value is not finite."""
    if not torch.isfinite(pixels).all():
        raise ValueError("the preview's pixels are not finite")
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.frombytes("RGB", (levels.shape[1], levels.shape[0]), levels.numpy().tobytes())


def _digest(tensors: dict[str, torch.Tensor], settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
