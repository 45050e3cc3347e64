"""What tests of whole batches stand on: a tiny diffusion model, a scorer of random taste, and their configuration."""

import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

CONF = Path(__file__).parents[1] / "conf"


def build_scorer(path: Path, seed: int = 0) -> Path:
    """A scorer with the embedded encoder and a head of random weights: it has a taste, if no good one."""
    import numpy as np
    import torch
    from PIL import Image

    from artgate.scoring.calibration import no_calibration
    from artgate.scoring.encoders import build_encoder
    from artgate.scoring.heads import OrdinalHead
    from artgate.scoring.scorer import Scorer

    encoder = build_encoder({"kind": "embedded", "sizes": [64]})
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = OrdinalHead(encoder.dim, aspects=1, grades=3, kind="linear", hidden=1, dropout=0.0, members=1)
        features = encoder.encode_images([Image.fromarray(picture) for picture in pixels])  # (3, D)
        head.mean.copy_(features.mean(0))
        spread = features.std(0, correction=0)
        head.scale.copy_(torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread)))
        for weights in head.members.parameters():
            torch.nn.init.normal_(weights, std=0.02)
    return Scorer(encoder, head, no_calibration(aspects=1, grades=3), ["quality"]).save(path)


def configured(model: Path, scorer: Path, batch_dir: Path, *overrides: str) -> DictConfig:
    """The demo's configuration on another model and scorer, made quick."""
    return composed("generate", *overrides_of(model, scorer, batch_dir), *overrides)


def overrides_of(model: Path, scorer: Path, batch_dir: Path) -> list[str]:
    return [
        "experiment=demo",
        f"diffusion.model={model}",
        "diffusion.scheduler=euler_ancestral",
        "diffusion.steps=2",
        "diffusion.slots=3",
        "upscaler=none",
        # What random weights paint is all alike.
        "near_duplicates.radius=null",
        "near_duplicates.distance=null",
        f"scorer={scorer}",
        f"batch_dir={batch_dir}",
        "seed=5",
    ]


def composed(config_name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, overrides=list(overrides))


def ledger(root: Path) -> list[dict[str, Any]]:
    """The lines of a ledger without what differs from run to run."""
    lines = [json.loads(line) for line in (root / "candidates.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
