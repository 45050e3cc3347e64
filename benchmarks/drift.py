"""How often the drift test is wrong: false alarms on other prompts, and power against real shifts of AGIQA-3K.

    python -m benchmarks.drift .../agiqa3k [--trials 20] [--pictures 480] [--out drift.json]

Each trial draws prompts for a certificate's data, and images of other prompts that come as candidates of a batch
would, looked at at the check points. Not shifted, they may raise an alarm in 5 % of the batches at the most. Shifted:
only one generator's, which the certificate's data do not have; or the same images compressed, resized or blurred.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from artgate.artworks.collection import Collection
from artgate.artworks.duplicates import RADIUS
from artgate.artworks.files import write_atomic
from artgate.artworks.importers import import_agiqa3k
from artgate.scoring.drift import Reference, alarm, drift_p_value, make_reference
from artgate.scoring.encoders import Encoder
from artgate.scoring.features import extract_features
from artgate.scoring.renditions import recompressed
from artgate.scoring.scorer import Scorer, default_scorer_path
from artgate.scoring.splits import leakage_groups

# Prompts of the certificate's data: a test split's, and half of all.
REFERENCE_PROMPTS = (44, 120)
# As many images as the power is stated at.
MOST = 500
Change = Callable[[Image.Image], Image.Image]


def main() -> None:
    """Measure, print a line each, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agiqa3k", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=480, help="to change and encode anew for each shift; 0: none")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    encoder = Scorer.load(default_scorer_path()).encoder
    with tempfile.TemporaryDirectory() as folder:
        collection = import_agiqa3k(given.agiqa3k, Path(folder) / "agiqa3k")
        artworks = list(collection)
        image_ids = [artwork.image_id for artwork in artworks]
        owner = leakage_groups(artworks, ("near_duplicates", "prompt"), RADIUS)
        groups = np.unique([owner[image_id] for image_id in image_ids], return_inverse=True)[1]
        generators = np.array([artwork.provenance.generator for artwork in artworks])
        features = extract_features(collection, encoder, image_ids, given.cache)
        figures = generator_figures(features, groups, generators, given.trials)
        if given.pictures:
            figures |= change_figures(collection, encoder, features, groups, given.pictures)
    if given.out:
        write_atomic(given.out, json.dumps(figures, indent=1) + "\n")


def generator_figures(
    features: np.ndarray, groups: np.ndarray, generators: np.ndarray, trials: int
) -> dict[str, dict[str, float]]:
    """Share of batches that raise an alarm, by number of prompts in the reference and by shift."""
    draw, figures = np.random.default_rng(0), {}
    for prompts in REFERENCE_PROMPTS:
        alarms: dict[str, list[bool]] = {}
        for _ in range(trials):
            order = draw.permutation(groups.max() + 1)
            known, others = np.isin(groups, order[:prompts]), np.isin(groups, order[prompts:])
            reference = make_reference(features[known], groups[known])
            few = np.isin(groups, order[prompts : prompts + 50])
            once = one_each(groups, others, draw)
            alarms.setdefault("none, 50 other prompts", []).append(fires(reference, features, groups, few, draw))
            alarms.setdefault("none, one image a prompt", []).append(fires(reference, features, groups, once, draw))
            for name in np.unique(generators):
                without = known & (generators != name)
                reference = make_reference(features[without], groups[without])
                only = others & (generators == name)
                alarms.setdefault(f"only {name}", []).append(fires(reference, features, groups, only, draw))
        for name, fired in alarms.items():
            figures.setdefault(name, {})[f"{prompts} prompts"] = float(np.mean(fired))
            print(f"{prompts} prompts of reference, {name}: alarms in {np.mean(fired):.0%} of {trials}", flush=True)
    return figures


def change_figures(
    collection: Collection, encoder: Encoder, features: np.ndarray, groups: np.ndarray, pictures: int
) -> dict[str, dict[str, float]]:
    """The p-value of changed images of other prompts, and the image after which a batch of them raises the alarm."""
    draw = np.random.default_rng(1)
    artworks, order = list(collection), draw.permutation(groups.max() + 1)
    known = np.isin(groups, order[:120])
    # At random: a Collection may be in the order of its generators.
    rows = draw.permutation(np.flatnonzero(np.isin(groups, order[120:])))[:pictures]
    reference = make_reference(features[known], groups[known])
    figures: dict[str, dict[str, float]] = {}
    for name, change in {"none": None, **CHANGES}.items():
        seen = features[rows] if change is None else encoded(collection, encoder, [artworks[r] for r in rows], change)
        points = reference.project(seen)
        after = alarm(reference, points, groups[rows])
        figures[f"changed: {name}"] = {"p": drift_p_value(reference, points, groups[rows]), "after": after or 0}
        print(f"changed: {name}, {len(rows)} images: {figures[f'changed: {name}']}", flush=True)
    return figures


def encoded(collection: Collection, encoder: Encoder, artworks: list, change: Change) -> np.ndarray:
    """(N, D) features of changed images."""
    parts = [
        encoder.encode_images([change(collection.image(artwork)) for artwork in artworks[start : start + 8]]).numpy()
        for start in range(0, len(artworks), 8)
    ]
    return np.concatenate(parts)


def fires(
    reference: Reference, features: np.ndarray, groups: np.ndarray, rows: np.ndarray, draw: np.random.Generator
) -> bool:
    """Whether a batch of these images, in random order, raises the alarm."""
    chosen = draw.permutation(np.flatnonzero(rows))[:MOST]
    return alarm(reference, reference.project(features[chosen]), groups[chosen]) is not None


def one_each(groups: np.ndarray, rows: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """One image of each group, at random."""
    order = draw.permutation(np.flatnonzero(rows))
    chosen = np.zeros(len(groups), dtype=bool)
    chosen[order[np.unique(groups[order], return_index=True)[1]]] = True
    return chosen


CHANGES: dict[str, Change] = {
    "JPEG quality 30": lambda image: recompressed(image, "JPEG", 30),
    "blurred by 1 pixel": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "256 pixels": lambda image: image.resize((256, 256), Image.Resampling.LANCZOS),
    "768 pixels": lambda image: image.resize((768, 768), Image.Resampling.BICUBIC),
}


if __name__ == "__main__":
    main()
