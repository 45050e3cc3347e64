import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from artgate.generation.pretraining import __main__ as pretraining
from artgate.generation.pretraining.pictures import caption, load_pictures


@pytest.fixture(scope="module")
def rated_folder(sample, tmp_path_factory) -> Path:
    """A folder laid out as AGIQA-3K is, of painted pictures."""
    root = tmp_path_factory.mktemp("rated")
    (root / "images").mkdir()
    rows = ["name,prompt,mos_quality"]
    for number, artwork in enumerate(sample):
        name = Path(artwork.file_name).name
        (root / "images" / name).write_bytes(sample.path(artwork).read_bytes())
        rows.append(f'{name},"{artwork.provenance.prompt}",{number % 4 + 0.5}')
    (root / "data.csv").write_text("\n".join(rows))
    return root


def test_pictures_are_chosen_by_rating_and_carry_their_quality_word(rated_folder):
    pictures = load_pictures(rated_folder, least_quality=1.5)
    assert len(pictures.pixels) == len(pictures.prompts) == 36
    assert Counter(pictures.quality) == {"poor quality": 12, "average quality": 12, "good quality": 12}


def test_captions_are_mostly_prompts_often_with_their_quality():
    rng = np.random.default_rng(0)
    drawn = Counter(caption("a frog", "good quality", rng) for _ in range(10_000))
    shares = {text: count / 10_000 for text, count in drawn.items()}
    expected = {"": 0.06, "good quality": 0.06, "a frog, good quality": 0.48, "a frog": 0.40}
    assert shares == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_a_short_training_gives_a_pipeline_that_loads_and_an_autoencoder_that_learns(
    rated_folder, tmp_path, monkeypatch
):
    import torch
    from diffusers import AutoencoderKL

    from artgate.generation.models import load_model
    from artgate.generation.pretraining.autoencoder import new_autoencoder, random_crops

    out, work = tmp_path / "model", tmp_path / "work"
    updates = ["--autoencoder-updates", "40", "--denoiser-updates", "5", "--threads", "1"]
    monkeypatch.setattr(
        sys, "argv", ["", "--images", str(rated_folder), "--out", str(out), "--work", str(work), *updates]
    )
    pretraining.main()

    assert json.loads((out / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    model = load_model({"name": "short", "model": str(out), "licence": "none"})
    assert model.latent_shape(64, 64) == (8, 8, 8)

    pictures = load_pictures(rated_folder, 0.0)
    images = random_crops(pictures.pixels, np.arange(16), np.random.default_rng(0))
    torch.manual_seed(0)
    trained = AutoencoderKL.from_pretrained(work / "autoencoder")
    with torch.inference_mode():
        errors = [
            (network.decode(network.encode(images).latent_dist.mean).sample - images).abs().mean().item()
            for network in (new_autoencoder(), trained)
        ]
    assert errors[1] < 0.8 * errors[0]
