"""Precisions and engines against each other on one scorer: `python -m benchmarks.precisions --images FOLDER`.

torch in float32 and bfloat16, and the export in onnxruntime in float32 and int8, each on one thread, all on the same
preprocessed pixels, turn by turn. Rank correlation and differences are those of the scores with torch's in float32.
int8 sets its ranges by 64 of the images, which are not measured on.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from artgate.artworks.decode import decode
from artgate.artworks.importers import image_files
from artgate.errors import UserError
from artgate.scoring.encoders import build_encoder
from artgate.scoring.export import CALIBRATION_IMAGES, export_scorer
from artgate.scoring.portable import PortableScorer, explained
from artgate.scoring.scorer import Scorer, default_scorer_path

Engine = Callable[[list[torch.Tensor]], float]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    scorer = Scorer.load(options.scorer)
    files = image_files(options.images)
    # The export takes the first of this very order to set its ranges.
    order = [files[place] for place in np.random.default_rng(0).permutation(len(files))]
    with tempfile.TemporaryDirectory() as folder:
        engines = _engines(scorer, options.images, Path(folder))
        _print_table(*_measured(scorer, engines, order[CALIBRATION_IMAGES:][: options.count]))


def _engines(scorer: Scorer, images: Path, folder: Path) -> dict[str, Engine]:
    half = build_encoder({**scorer.encoder.config, "precision": "bfloat16"})
    engines: dict[str, Engine] = {
        "torch float32": lambda views: scorer.score_features(scorer.encoder.encode(views))[0].score,
        "torch bfloat16": lambda views: scorer.score_features(half.encode(views))[0].score,
    }
    for precision in ("float32", "int8"):
        try:
            told = export_scorer(scorer, folder / precision, precision, images)
        except UserError as error:
            print(f"{precision} is not exported: {error}")
            continue
        print(f"{precision}: {(folder / precision / 'model.onnx').stat().st_size / 1e6:.1f} MB, {told}")
        engines[f"onnxruntime {precision}"] = _portable(PortableScorer(folder / precision, threads=1))
    return engines


def _portable(portable: PortableScorer) -> Engine:
    return lambda views: float(
        explained(portable.probabilities([view.numpy()[None] for view in views])[0], portable.description)["score"]
    )


def _measured(
    scorer: Scorer, engines: dict[str, Engine], files: list[Path]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Of each engine the CPU seconds and the score of each image."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    scores: dict[str, list[float]] = {name: [] for name in engines}
    for file in tqdm(files, disable=None):
        views = [view[None] for view in scorer.encoder.preprocess(decode(file.read_bytes(), file.name))]
        for name, engine in engines.items():
            started = time.process_time()
            scores[name].append(engine(views))
            seconds[name].append(time.process_time() - started)
    return seconds, scores


def _print_table(seconds: dict[str, list[float]], scores: dict[str, list[float]]) -> None:
    first = next(iter(scores))
    base, exact = statistics.median(seconds[first]), np.array(scores[first])
    print(f"{len(exact)} images, one thread, medians of CPU seconds")
    for name, found in scores.items():
        took, difference = statistics.median(seconds[name]), np.abs(np.array(found) - exact)
        print(
            f"  {name:20} {took * 1e3:6.1f} ms an image, {base / took:.2f} times as fast; rank correlation "
            f"{spearmanr(exact, found)[0]:.5f}, mean difference {difference.mean():.5f}, largest {difference.max():.5f}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("../shared/agiqa3k/images"), help="128 images or more")
    parser.add_argument("--count", type=int, default=600, help="images to measure on")
    parser.add_argument("--scorer", type=Path, default=default_scorer_path())
    return parser.parse_args()


if __name__ == "__main__":
    main()
