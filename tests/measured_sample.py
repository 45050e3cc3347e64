"""A training run's folder without the training: the painted sample, rated, and what a made-up scorer says of it."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from batches import composed

from artgate.artworks.collection import Collection
from artgate.artworks.files import as_lines, read_lines
from artgate.artworks.sample import planted_grades
from artgate.config import validated
from artgate.labels.grades import GRADES
from artgate.labels.ratings import Rating, write_ratings
from artgate.scoring.baselines import generator_majority, logistic_regression
from artgate.scoring.calibration import no_calibration
from artgate.scoring.config import TrainConfig
from artgate.scoring.fitting import Examples, Fit
from artgate.scoring.graded import GradedArtworks, read_graded
from artgate.scoring.measuring import held_out
from artgate.scoring.predictions import write_predictions
from artgate.scoring.training import _measure

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>\u202e'
GENERATORS = (HOSTILE, "new", "old")


@dataclass(frozen=True)
class Run:
    """A run's folder and what it was made from."""

    folder: Path
    collection: Collection
    graded: GradedArtworks
    fit: Fit
    metrics: dict[str, Any]


def rated_copy(sample: Collection, folder: Path) -> Collection:
    """The sample by three generators, with hostile prompts, rated for quality and alignment by its planted grades."""
    shutil.copytree(sample.root, folder)
    lines = read_lines(folder / "metadata.jsonl")
    for place, line in enumerate(lines):
        line |= {"generator": GENERATORS[place // 3 % 3], "prompt": f"{HOSTILE} no. {place // 2}"}
    (folder / "metadata.jsonl").write_text(as_lines(lines))
    collection = Collection(folder)
    rng = np.random.default_rng(0)
    ratings = []
    for image_id, grade in planted_grades(collection).items():
        for aspect in ("quality", "alignment"):
            mean = 1.5 + 1.2 * GRADES.index(grade) + rng.normal(0, 0.25)
            ratings.append(Rating(image_id, aspect, mean, 0.6, "n"))
    write_ratings(folder, ratings)
    return collection


def measured_run(collection: Collection, folder: Path, *overrides: str, skill: float = 2.0) -> Run:
    """The folder that a run of these overrides leaves, but for scorer and pictures. skill: of the made-up scorer."""
    folder.mkdir(parents=True)
    given = (
        "experiment=sample",
        f"data.root={collection.root}",
        f"paths.run={folder}",
        "data.grades=ratings",
        "data.aspects=[quality,alignment]",
        "data.raters=10",
        "report.resamples=200",
        *overrides,
    )
    settings = validated(TrainConfig, composed("train", *given))
    graded = read_graded(settings.data, folder)
    groups = {artwork.image_id: artwork.provenance.prompt or artwork.image_id for artwork in graded.artworks}
    parts = ["train" if place % 4 < 2 else "test" for place in range(len(graded.artworks))]
    rows = [row for row, part in enumerate(parts) if part == "test"]
    rng = np.random.default_rng(1)
    seen = graded.aspect_opinions + rng.normal(0, 1 / skill, graded.aspect_opinions.shape)  # (N, A)
    features = torch.tensor(np.c_[seen, rng.normal(size=(len(seen), 6))], dtype=torch.float32)
    logits = np.stack([-2 * (seen - 2), 0.5 + 0 * seen, 2 * (seen - 3)], -1)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)  # (N, A, K)
    targets = torch.from_numpy(graded.targets)
    learnt = [row for row, part in enumerate(parts) if part == "train"]
    taught, made_by = graded.targets[learnt, 0], np.array(graded.generators, dtype=object)
    baselines = {
        "logistic_regression": logistic_regression(features[learnt].numpy(), taught, features[rows].numpy()),
        "generator_majority": generator_majority(made_by[learnt].tolist(), taught, made_by[rows].tolist()),
    }
    head: Any = SimpleNamespace(kernel="there", detector=None)  # nothing here asks more of it
    fit = Fit(head, no_calibration(2, 3), 7, rows, probabilities[rows], baselines)
    encoder: Any = SimpleNamespace(name="made up", fingerprint="f" * 64, dim=8)
    metrics = _measure(
        graded, groups, parts, Examples(features, targets, targets, graded.generators), fit, encoder, settings
    )
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump(asdict(settings), sort_keys=False))
    (folder / "scorer").mkdir()
    told = {"fingerprint": "s" * 64, "encoder": {"config": {"kind": HOSTILE}}, "description": {"command": "train.py x"}}
    (folder / "scorer/scorer.json").write_text(json.dumps(told))
    group = [groups[image_id] for image_id in graded.image_ids]
    held = {aspect: held_out(graded, group, fit, column) for column, aspect in enumerate(graded.aspects)}
    write_predictions(folder, held)
    return Run(folder, collection, graded, fit, json.loads((folder / "metrics.json").read_text()))
