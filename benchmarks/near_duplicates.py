"""Where near-duplicates end: how far copies of a picture lie from it, and how near different pictures of one prompt.

    python -m benchmarks.near_duplicates FOLDER_OF_AGIQA3K [--candidates 120] [--pictures 16] [--out near.json]

Of AGIQA-3K's images, and of candidates of the embedded model: the distances of sketches, as shares of the usual
distance in the same batch (`likeness`; batches of 32 are drawn at random), and the bits that perceptual hashes differ
by. Others: pictures of one prompt (of one template, for the embedded model), which must not be joined. Copies: changes
of one picture that people would call the same.
"""

import argparse
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from artgate.artworks.duplicates import hash_and_quality, mirrored_hash
from artgate.artworks.files import write_atomic
from artgate.artworks.importers import import_agiqa3k
from artgate.generation.config import NearDuplicatesConfig
from artgate.generation.likeness import FIRST, read_sketch, sketch, typical_distance
from artgate.scoring.encoders import Encoder
from artgate.scoring.features import extract_features
from artgate.scoring.scorer import Scorer, default_scorer_path

CONF = Path(__file__).parents[1] / "conf"
TRIALS = 50


def main() -> None:
    """Measure, print a line each, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agiqa3k", type=Path)
    parser.add_argument("--candidates", type=int, default=120, help="of the embedded model; 0: none")
    parser.add_argument("--pictures", type=int, default=16, help="that copies are made of")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    encoder = Scorer.load(default_scorer_path()).encoder
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        collection = import_agiqa3k(given.agiqa3k, Path(folder) / "agiqa3k")
        artworks = list(collection)
        features = extract_features(collection, encoder, [artwork.image_id for artwork in artworks], given.cache)
        groups = [artwork.provenance.prompt or "" for artwork in artworks]
        step = max(1, len(artworks) // given.pictures)
        pictures = {row: collection.image(artworks[row]) for row in range(0, len(artworks), step)}
        hashes = [np.frombuffer(bytes.fromhex(artwork.pdq), np.uint8) for artwork in artworks]
        found["AGIQA-3K"] = measured(features, groups, hashes, pictures, encoder)
    if given.candidates:
        made = list(embedded(given.candidates))
        features = np.concatenate([encoder.encode_images([picture]).numpy() for picture, _ in made])
        hashes = [hash_and_quality(picture)[0] for picture, _ in made]
        pictures = {row: made[row][0] for row in range(given.pictures)}
        found["embedded"] = measured(features, [str(template) for _, template in made], hashes, pictures, encoder)
    for name, figures in found.items():
        for key, value in figures.items():
            print(f"{name:9} {key:24} {value}", flush=True)
    if given.out:
        write_atomic(given.out, json.dumps(found, indent=1) + "\n")


def measured(
    features: np.ndarray,
    groups: Sequence[str],
    hashes: Sequence[np.ndarray],
    pictures: dict[int, Image.Image],
    encoder: Encoder,
) -> dict[str, Any]:
    """Shares of pairs that the default thresholds join, and quantiles of the distances.

    features: (N, D). groups: the prompt of each. hashes: of each. pictures: row → picture, to make copies of.
    """
    config = NearDuplicatesConfig()
    sketches = np.stack([_sketched(row) for row in features])
    draw = np.random.default_rng(0)
    usual = np.median([typical_distance(sketches[draw.permutation(len(sketches))[:FIRST]]) for _ in range(TRIALS)])
    pairs = [pair for rows in _by_group(groups) for pair in itertools.combinations(rows, 2)]
    apart = np.array([np.linalg.norm(sketches[a] - sketches[b]) for a, b in pairs]) / usual
    bits = np.array([_bits(hashes[a], hashes[b]) for a, b in pairs])
    told: dict[str, Any] = {
        "usual distance": round(float(usual), 3),
        "pairs of others": len(pairs),
        "others, distance": _quantiles(apart, (0, 0.001, 0.01, 0.5)),
        "others, bits": _quantiles(bits, (0, 0.001, 0.01, 0.5)),
        "others joined": float(np.mean((apart <= (config.distance or 0)) | (bits <= (config.radius or 0)))),
    }
    for name, change in COPIES.items():
        rows = list(pictures)
        copies = [change(pictures[row]) for row in rows]
        changed = np.concatenate([encoder.encode_images([copy]).numpy() for copy in copies])
        distance = np.array([np.linalg.norm(_sketched(f) - sketches[r]) for f, r in zip(changed, rows, strict=True)])
        bits = np.array([_bits(hash_and_quality(c)[0], hashes[r]) for c, r in zip(copies, rows, strict=True)])
        near, like = distance / usual <= (config.distance or 0), bits <= (config.radius or 0)
        told[name] = {
            "distance": _quantiles(distance / usual, (0.5, 0.9, 1)),
            "by features": float(near.mean()),
            "by hash": float(like.mean()),
            "joined": float((near | like).mean()),
        }
    return told


def embedded(count: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures of the embedded model and the templates that they come from, of the demo's prompts."""
    from hydra import compose, initialize_config_dir

    from artgate.config import validated
    from artgate.generation.config import GenerateConfig
    from artgate.generation.models import load_model
    from artgate.generation.prompts import CandidateSource
    from artgate.generation.sampler import Finished, SlotSampler

    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = validated(GenerateConfig, compose("generate", overrides=["experiment=demo"]))
    model = load_model(settings.diffusion)
    config = model.config
    sampler = SlotSampler(model, config.scheduler, config.steps, config.guidance, config.slots)
    source = CandidateSource(settings.prompts, settings.seed)
    for item in sampler.run(source[k] for k in range(count)):
        if isinstance(item, Finished):
            yield model.decode(item.latents[None])[0], item.candidate.template


def _cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 32, height // 32, width - width // 32, height - height // 32)).resize(picture.size)


def _shifted(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 20, 0, width, height - height // 20)).resize(picture.size)


def _compressed(picture: Image.Image) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=75)
    return Image.open(data).convert("RGB")


def _blurred(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).resize(picture.size)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped by 6 %": _cropped,
    "shifted by 5 %": _shifted,
    "mirrored": ImageOps.mirror,
    "15 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "JPEG 75": _compressed,
    "smaller and back": _blurred,
}


def _sketched(features: np.ndarray) -> np.ndarray:
    found = read_sketch({"sketch": sketch(features)})
    assert found is not None
    return found


def _by_group(groups: Sequence[str]) -> Iterator[list[int]]:
    for group in sorted(set(groups)):
        yield [row for row, other in enumerate(groups) if other == group]


def _bits(first: np.ndarray, second: np.ndarray) -> int:
    views = np.stack([second, mirrored_hash(second)])
    return int(np.bitwise_count(first ^ views).sum(axis=1, dtype=int).min())


def _quantiles(values: np.ndarray, at: tuple[float, ...]) -> list[float]:
    return [round(float(value), 3) for value in np.quantile(values, at)]


if __name__ == "__main__":
    main()
