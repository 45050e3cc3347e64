"""Ways to decode a predicted clean image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from artgate.errors import UserError
from artgate.generation.preview_config import PreviewConfig
from artgate.generation.preview_decoders import LinearDecoder, build_decoder, fit_linear


def tiny_autoencoder(path: Path, channels: int = 4) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = {f"{kind}_block_out_channels": (8,) * 4 for kind in ("encoder", "decoder")}
        counts = {f"num_{kind}_blocks": (1,) * 4 for kind in ("encoder", "decoder")}
        AutoencoderTiny(latent_channels=channels, **blocks, **counts).save_pretrained(path)
    return path


def latents(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_the_codecs_preview_is_its_picture_and_may_be_smaller(loaded):
    model, clean = loaded("sd1"), latents(1)[0]
    whole = build_decoder(PreviewConfig(), model)
    assert whole.decode(clean).tobytes() == model.decode(clean[None])[0].tobytes()
    half = build_decoder(PreviewConfig(shrink=2), model)
    assert whole.decode(clean).size == (64, 64) and half.decode(clean).size == (32, 32)
    assert whole.fingerprint != half.fingerprint


def test_a_tiny_autoencoder_decodes_as_diffusers_has_it(loaded, tmp_path):
    path, clean = tiny_autoencoder(tmp_path / "tiny"), latents(2)[0]
    decoder = build_decoder(PreviewConfig(decoder="tiny", tiny=str(path)), loaded("sd1"))
    with torch.inference_mode():
        own = AutoencoderTiny.from_pretrained(path).eval().decode(clean[None]).sample[0]
    expected = ((own / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(decoder.decode(clean)).astype(float) - expected).max() <= 1
    other = tiny_autoencoder(tmp_path / "other", channels=8)
    with pytest.raises(UserError, match="reads latents of 8 channels, and the model's have 4"):
        build_decoder(PreviewConfig(decoder="tiny", tiny=str(other)), loaded("sd1"))
    with pytest.raises(UserError, match=r"preview\.tiny .* cannot be loaded"):
        build_decoder(PreviewConfig(decoder="tiny", tiny=str(tmp_path / "nothing")), loaded("sd1"))


def test_a_linear_codec_is_found_again_and_kept(loaded, tmp_path):
    """Pictures that are linear in the latents around them, which the fit has to tell from 12 of them."""
    draw = torch.Generator().manual_seed(4)
    truth = LinearDecoder(torch.randn(192, 4, 3, 3, generator=draw) * 0.02, torch.full((192,), 0.5))
    known, new = latents(5, 12), latents(6)[0]
    fitted = fit_linear(known, [truth(one) for one in known])
    difference = np.abs(np.asarray(fitted(new)).astype(float) - np.asarray(truth(new)))
    assert difference.mean() < 2 and np.asarray(truth(new)).std() > 15
    fitted.save(tmp_path / "linear.safetensors")
    read = build_decoder(PreviewConfig(decoder="linear", linear=str(tmp_path / "linear.safetensors")), loaded("sd1"))
    assert read.fingerprint == fitted.fingerprint != truth.fingerprint
    assert read.decode(new).tobytes() == fitted(new).tobytes()


def test_a_linear_map_that_is_damaged_or_of_another_model_is_refused(loaded, tmp_path):
    path = tmp_path / "linear.safetensors"
    config = PreviewConfig(decoder="linear", linear=str(path))
    with pytest.raises(UserError, match="cannot be read"):
        build_decoder(config, loaded("sd1"))
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        build_decoder(config, loaded("sd1"))
    LinearDecoder(torch.zeros(192, 8, 3, 3), torch.zeros(192)).save(path)
    with pytest.raises(UserError, match="latents of 8 channels and 8 pixels, and the model has 4 and 8"):
        build_decoder(config, loaded("sd1"))


def test_what_is_not_finite_is_no_picture():
    broken = LinearDecoder(torch.full((192, 4, 3, 3), torch.nan), torch.zeros(192))
    with pytest.raises(ValueError, match="not finite"):
        broken(latents(7)[0])


def test_a_fit_takes_pictures_of_any_even_scale():
    pictures = [Image.effect_noise((32, 32), 60).convert("RGB") for _ in range(3)]
    fitted = fit_linear(latents(8, 3), pictures)
    assert fitted.scale == 4 and fitted(latents(9)[0]).size == (32, 32)
