"""Does a score follow the picture, and not its file, size or shape? `python -m benchmarks.robustness RUN COLLECTION`.

RUN is a folder of `train.py` that measured on a test split; its held-out artworks are looked at again:

- files: saved as PNG, WebP and JPEG and at other sizes: the mean change of the score, and the rank correlation;
- damage: each kind at three severities: how often the score is below that of the sound picture, and of the severity
  before;
- shape: random crops of every aspect from 1:2 to 2:1: the rank correlation of score and aspect, as it is scored, and
  with --squares for other ways to make squares of them.

And with `--generators`, which looks at COLLECTION alone, whatever RUN is: heads that learn from all generators but one,
tested on that one, with and without a detector of damage.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from artgate.artworks.collection import Collection

FILES: dict[str, tuple[int | None, Image.Resampling, str, int]] = {
    "PNG": (None, Image.Resampling.LANCZOS, "PNG", 0),
    "WebP 80": (None, Image.Resampling.LANCZOS, "WEBP", 80),
    "JPEG 95": (None, Image.Resampling.LANCZOS, "JPEG", 95),
    "JPEG 75": (None, Image.Resampling.LANCZOS, "JPEG", 75),
    "JPEG 60": (None, Image.Resampling.LANCZOS, "JPEG", 60),
    "384 px bilinear": (384, Image.Resampling.BILINEAR, "PNG", 0),
    "384 px Lanczos, JPEG 85": (384, Image.Resampling.LANCZOS, "JPEG", 85),
    "640 px bicubic": (640, Image.Resampling.BICUBIC, "PNG", 0),
    "768 px box, WebP 90": (768, Image.Resampling.BOX, "WEBP", 90),
    "1024 px Lanczos, JPEG 90": (1024, Image.Resampling.LANCZOS, "JPEG", 90),
}
SEVERITIES = (0.25, 0.5, 1.0)
ASPECTS = (0.5, 2.0)

Score = Callable[[Sequence[Image.Image]], np.ndarray]


def main() -> None:
    options = _options()
    if options.generators:
        _generators(options.collection)
        return
    from artgate.scoring.scorer import Scorer

    scorer = Scorer.load(options.run / "scorer")
    held_out = [json.loads(line)["image_id"] for line in (options.run / "predictions.jsonl").read_text().splitlines()]
    collection = Collection(options.collection)
    chosen = np.random.default_rng(0).permutation(sorted(set(held_out)))
    score = _scoring(scorer)
    pictures = [collection.image(collection[image_id]) for image_id in chosen[: options.images]]
    sound = score(pictures)
    print(f"{len(pictures)} held-out artworks of {len(set(held_out))}, encoder {scorer.encoder.name}")
    _files(score, pictures, sound)
    _damage(score, pictures, sound)
    _shape(score, [collection.image(collection[image_id]) for image_id in chosen[: options.crops]], options.squares)


def _scoring(scorer: Any) -> Score:
    from artgate.scoring.streams import on_all_cores

    def score(pictures: Sequence[Image.Image]) -> np.ndarray:
        parts = [pictures[start : start + 8] for start in range(0, len(pictures), 8)]
        return np.array([told.score for part in on_all_cores(scorer, parts, 0) for told in part])

    return score


def _files(score: Score, pictures: Sequence[Image.Image], sound: np.ndarray) -> None:
    from artgate.scoring.renditions import recompressed, resized

    print(f"{'file':26} mean |change|  mean change  rank correlation")
    changes = []
    for name, (side, filter, format, quality) in FILES.items():
        sized = [resized(picture, side, filter) if side else picture for picture in pictures]
        found = score([recompressed(p, format, quality) if quality else p for p in sized])
        change = found - sound
        changes.append(change)
        print(f"{name:26} {np.abs(change).mean():13.4f} {change.mean():+12.4f} {_rank(found, sound):17.4f}")
    print(f"{'all of them':26} {np.abs(changes).mean():13.4f} {np.mean(changes):+12.4f}", flush=True)


def _damage(score: Score, pictures: Sequence[Image.Image], sound: np.ndarray) -> None:
    from artgate.scoring.renditions import DAMAGES

    told = "  ".join(f"below sound at {severity:g}" for severity in SEVERITIES)
    print(f"{'damage':12} {told}  lower at each step  mean change at 1")
    for name, damage in DAMAGES.items():
        scores = [sound]
        for severity in SEVERITIES:
            draws = [np.random.default_rng(number) for number in range(len(pictures))]
            scores.append(score([damage(p, severity, d) for p, d in zip(pictures, draws, strict=True)]))
        below = "  ".join(f"{np.mean(found < sound):20.1%}" for found in scores[1:])
        steps = np.mean(np.all(np.diff(scores, axis=0) < 0, axis=0))
        print(f"{name:12} {below} {steps:19.1%} {(scores[-1] - sound).mean():+17.3f}", flush=True)


def _shape(score: Score, pictures: Sequence[Image.Image], squares: bool) -> None:
    from artgate.scoring.renditions import cropped

    draw = np.random.default_rng(1)
    aspects = np.exp(draw.uniform(*np.log(ASPECTS), size=len(pictures)))
    crops = [cropped(picture, aspect, draw) for picture, aspect in zip(pictures, aspects, strict=True)]
    whole = score(pictures)
    print(f"{len(crops)} crops            score and aspect  score and elongation  rank correlation with the whole")
    # Chance alone may give the better pictures the wider crops: what counts is the difference from this.
    print(f"{'(the whole picture)':20} {_rank(whole, aspects):+17.3f} {_rank(whole, np.abs(np.log(aspects))):+21.3f}")
    ways: dict[str, Callable[[Image.Image], list[Image.Image]]] = {
        "as it is scored": lambda crop: [crop],
        "middle square": lambda crop: [_middle(crop)],
        "padded": lambda crop: [_padded(crop)],
        "squares averaged": _squares,
    }
    for name, cut in list(ways.items())[: None if squares else 1]:
        views = [cut(crop) for crop in crops]
        flat = score([view for each in views for view in each])
        ends = np.cumsum([len(each) for each in views])
        found = np.array([part.mean() for part in np.split(flat, ends[:-1])])
        elongated = np.abs(np.log(aspects))
        print(
            f"{name:20} {_rank(found, aspects):+17.3f} {_rank(found, elongated):+21.3f} {_rank(found, whole):32.3f}",
            flush=True,
        )


def _middle(crop: Image.Image) -> Image.Image:
    side = min(crop.size)
    left, top = (crop.width - side) // 2, (crop.height - side) // 2
    return crop.crop((left, top, left + side, top + side))


def _padded(crop: Image.Image) -> Image.Image:
    side = max(crop.size)
    colour = tuple(int(value) for value in np.asarray(crop).mean((0, 1)))
    padded = Image.new("RGB", (side, side), colour)  # type: ignore[arg-type]
    padded.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    return padded


def _squares(crop: Image.Image) -> list[Image.Image]:
    """As few squares as cover all of it, at even distances."""
    side, long = min(crop.size), max(crop.size)
    count = -(-long // side)
    starts = [round(start) for start in np.linspace(0, long - side, count)]
    wide = crop.width >= crop.height
    boxes = [(s, 0, s + side, side) if wide else (0, s, side, s + side) for s in starts]
    return [crop.crop(box) for box in boxes]


def _generators(root: Path) -> None:
    from dataclasses import replace

    import torch
    from hydra import compose, initialize_config_dir

    from artgate.config import validated
    from artgate.scoring.config import TrainConfig
    from artgate.scoring.encoders import build_encoder
    from artgate.scoring.fitting import fit_head
    from artgate.scoring.graded import read_graded
    from artgate.scoring.heads import grade_probabilities
    from artgate.scoring.training import _examples, _renditions

    project = Path(__file__).parents[1]
    with initialize_config_dir(str(project / "conf"), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=["experiment=agiqa3k", f"data.root={root}", "data.importer=null", "paths.run=/nowhere",
                       f"paths.cache={project / '.cache'}"],
        )  # fmt: skip
    settings = validated(TrainConfig, cfg)
    graded = read_graded(settings.data, root)
    encoder = build_encoder({**settings.encoder, "device": "cpu"})
    examples = _examples(graded, encoder, settings, _renditions(settings))
    ways = {
        "no detector": (replace(examples, renditions=None, damaged=()), settings.head),
        "with a detector": (examples, settings.head),
    }
    made_by = np.array(graded.generators)
    print(f"{'left out':12} {'n':>5}  " + "  ".join(f"{way:>16}" for way in ways) + "   SRCC on it")
    for generator in sorted(set(graded.generators) - {None}):  # type: ignore[type-var]
        learnt, asked = np.flatnonzero(made_by != generator).tolist(), np.flatnonzero(made_by == generator).tolist()
        cells = []
        for taught, head in ways.values():
            found, _ = fit_head(taught, learnt, None, head, settings.trainer, 1, None, settings.trainer.epochs - 1)
            with torch.inference_mode():
                expected = grade_probabilities(found(examples.features[asked]))[:, 0].numpy() @ np.arange(3)
            cells.append(f"{_rank(expected, graded.opinions[asked]):16.3f}")
        print(f"{generator:12} {len(asked):5}  " + "  ".join(cells), flush=True)


def _rank(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearmanr(first, second).statistic)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("collection", type=Path, help="the Collection that it learnt from")
    parser.add_argument("--images", type=int, default=100, help="held-out artworks for files and damage")
    parser.add_argument("--crops", type=int, default=400, help="held-out artworks for shape")
    parser.add_argument("--squares", action="store_true", help="for shape, measure other ways to make squares too")
    parser.add_argument("--generators", action="store_true", help="leave each generator out instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
