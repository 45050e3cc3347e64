"""Files to lines of scores against plain loops: `python -m benchmarks.scoring --images FOLDER [--count N]`.

One run, the candidates turn by turn in an order that changes, because only ratios within a run mean something on a
shared machine. CPU seconds (of all threads together) are told beside wall seconds: where other work takes its turns on
the cores, they are the steadier measure of what a candidate costs. All compute the same features with the same network
and judge them with the same head, at all sizes; every one was started and its weights read before the clock runs.

- cold, cached: what `artgate score --out FILE` does, into an empty cache of features and from a full one;
- exported: the same with `--scorer` an `artgate export`; with `--int8` also of one in int8, minutes in the making;
- one at a time: a metric made once and called with a path, as pyiqa's command scores a folder: the whole image to a
  float tensor, resized and normalised within the metric, a forward pass over one image, `.item()`. It is a rendering:
  pyiqa itself (PolyForm Noncommercial) is not among what this project may install, nor has it this backbone;
- plain loop: Pillow's resize, the library's network as it comes, one image at a time; and in minibatches of 16.

`--clip MODEL` measures an open_clip model, at random weights, against the loop of open_clip's own README.
`--memory` measures instead the peak memory of the `artgate score` command over an eighth, half and all of the images.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from artgate.artworks.importers import image_files
from artgate.scoring.backbones import embedded_network
from artgate.scoring.calibration import no_calibration
from artgate.scoring.encoders import build_encoder
from artgate.scoring.export import export_scorer
from artgate.scoring.exported import ExportedScorer
from artgate.scoring.files import ImageScorer, score_files
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.score_log import write_scores
from artgate.scoring.scorer import Scorer, default_scorer_path

PLAIN_MINIBATCH = 16

Candidate = Callable[[], object]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    files = image_files(options.images)[:: options.every][: options.count]
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            _print_memory(files, Path(folder), options)
            return
        make = _clip_candidates if options.clip else _embedded_candidates
        candidates = make(files, Path(folder), options)
        taken = _turn_by_turn(candidates, options.rounds)
    print(f"{len(files)} images, {options.threads} threads, medians of {options.rounds} rounds")
    _print_table(taken, len(files))


def _embedded_candidates(files: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Candidate]:
    scorer = Scorer.load(default_scorer_path(), device="cpu")
    network = _Network(scorer)
    metric = _Metric(scorer)
    return {
        **_ours(scorer, files, folder, options),
        "one at a time": lambda: _lines({"file": str(file), "score": metric(file).item()} for file in files),
        "plain loop": lambda: [_plain(scorer, network, [file]) for file in files],
        "plain loop by 16": lambda: [_plain(scorer, network, chunk) for chunk in _chunks(files, PLAIN_MINIBATCH)],
    }


def _clip_candidates(files: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Candidate]:
    import open_clip

    torch.manual_seed(0)
    weights = folder / "clip.pt"
    torch.save(open_clip.create_model(options.clip).state_dict(), weights)
    tag = {"pretrained": open_clip.list_pretrained_tags_by_model(options.clip)[0]}
    encoder = build_encoder(
        {"kind": "open_clip", "model": options.clip, "checkpoint": str(weights), "device": "cpu", **tag}
    )
    head = OrdinalHead(encoder.dim, 1, 3, kind="linear", hidden=0, dropout=0.0, members=1)
    scorer = Scorer(encoder, head, no_calibration(1, 3), ["quality"])
    model, _, preprocess = open_clip.create_model_and_transforms(
        options.clip, pretrained=str(weights), weights_only=True
    )
    model.eval()

    @torch.inference_mode()
    def loop(chunk: Sequence[Path]) -> None:
        pixels = torch.stack([preprocess(Image.open(file)) for file in chunk])
        features = model.encode_image(pixels)
        scorer.score_features(features / features.norm(dim=-1, keepdim=True))

    return {
        **_ours(scorer, files, folder, options),
        "plain loop": lambda: [loop([file]) for file in files],
        "plain loop by 16": lambda: [loop(chunk) for chunk in _chunks(files, PLAIN_MINIBATCH)],
    }


def _ours(scorer: Scorer, files: Sequence[Path], folder: Path, options: argparse.Namespace) -> dict[str, Candidate]:
    full = folder / "full"
    list(score_files(scorer, files, cache=full))
    candidates: dict[str, Candidate] = {
        "cold": lambda: _written(scorer, files, folder, tempfile.mkdtemp(dir=folder)),
        "cached": lambda: _written(scorer, files, folder, full),
    }
    for name, precision in {"exported": "float32", **({"exported, int8": "int8"} if options.int8 else {})}.items():
        export_scorer(scorer, folder / precision, precision, options.images)
        exported = ExportedScorer(folder / precision)
        candidates[name] = lambda exported=exported: _written(exported, files, folder)  # type: ignore[misc]
    return candidates


def _written(scorer: ImageScorer, files: Sequence[Path], folder: Path, cache: str | Path | None = None) -> None:
    write_scores(lambda first: score_files(scorer, files, cache=cache, first=first), files, folder / "scores", "0" * 64)


class _Network(torch.nn.Module):
    """(B, 3, s, s) views, normalised, one a size → the shipped scorer's (B, D) features, with timm's networks as is."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        names = scorer.encoder.name.split("+")
        self.networks: Any = torch.nn.ModuleList(embedded_network(name) for name in names)
        self.power = scorer.encoder.config.get("normalisation") == "power"

    def forward(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        parts = []
        for view in views:
            for network in self.networks:
                final, stages = network.forward_intermediates(view)
                parts.append(network.forward_head(final, pre_logits=True))
                for stage in stages:  # (B, C, h, w)
                    variance, mean = torch.var_mean(stage, dim=(2, 3), correction=0)
                    parts += [mean, variance.sqrt()]
        features = torch.cat(parts, 1)
        return features.sign() * features.abs().sqrt() if self.power else features


class _Metric(torch.nn.Module):
    """A path → (1,) its score: preprocessing, network and head in one module."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self.scorer = scorer
        self.network = _Network(scorer)
        self.sizes = scorer.encoder.preprocessing.sizes

    @torch.no_grad()
    def forward(self, file: Path) -> torch.Tensor:
        image = transforms.to_dtype(transforms.pil_to_tensor(Image.open(file).convert("RGB")), torch.float32, True)
        views = [
            transforms.normalize(transforms.resize(image[None], [size, size]), [0.5] * 3, [0.5] * 3)
            for size in self.sizes
        ]
        return torch.tensor([score.score for score in self.scorer.score_features(self.network(views))])


@torch.inference_mode()
def _plain(scorer: Scorer, network: _Network, files: Sequence[Path]) -> None:
    views = []
    images = [Image.open(file).convert("RGB") for file in files]
    for size in scorer.encoder.preprocessing.sizes:
        resized = [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in images]
        pixels = np.stack(resized).astype(np.float32) / 127.5 - 1
        views.append(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    scorer.score_features(network(views))


def _lines(lines: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


class Taken(NamedTuple):
    """Seconds of one run of a candidate: on the clock, and of all cores together."""

    wall: float
    cpu: float


def _turn_by_turn(candidates: dict[str, Candidate], rounds: int) -> dict[str, list[Taken]]:
    taken: dict[str, list[Taken]] = {name: [] for name in candidates}
    order = random.Random(1)
    for _ in range(rounds):
        for name, run in order.sample(list(candidates.items()), len(candidates)):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            taken[name].append(Taken(time.perf_counter() - wall, time.process_time() - cpu))
    return taken


def _print_table(taken: dict[str, list[Taken]], images: int) -> None:
    loops = [name for name in ("one at a time", "plain loop", "plain loop by 16") if name in taken]
    for measure in Taken._fields:
        seconds = {name: [getattr(run, measure) for run in runs] for name, runs in taken.items()}
        print(f"by {measure} seconds")
        for name, runs in seconds.items():
            ratios = [f"{_ratio(seconds[loop], runs)} of {loop}" for loop in loops if loop != name]
            print(f"  {name:18} {images / statistics.median(runs):7.1f} images/s   {', '.join(ratios)}")


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _print_memory(files: Sequence[Path], folder: Path, options: argparse.Namespace) -> None:
    """Each in a process of its own, all of it: the scorer, the libraries, the pixels, the lines."""
    for count in (len(files) // 8, len(files) // 2, len(files)):
        images = folder / str(count)
        images.mkdir()
        for file in files[:count]:
            (images / file.name).symlink_to(file.absolute())
        command = ["score", images, "--scorer", options.scorer, "--out", folder / f"{count}.jsonl"]
        started = subprocess.Popen([sys.executable, "-m", "artgate.cli", *map(str, command)])
        _, status, used = os.wait4(started.pid, 0)
        if status:
            raise SystemExit(f"artgate score ended with {status}")
        print(f"{count} images: peak memory {used.ru_maxrss / 1024:.0f} MiB, {used.ru_utime + used.ru_stime:.0f} CPU s")


def _chunks(files: Sequence[Path], size: int) -> list[Sequence[Path]]:
    return [files[start : start + size] for start in range(0, len(files), size)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("../shared/agiqa3k/images"), help="128 images or more")
    parser.add_argument("--count", type=int, default=None, help="use this many of the images; without it all")
    parser.add_argument("--every", type=int, default=1, help="use every so many-th image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clip", help="an open_clip model, such as ViT-B-32")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--scorer", type=Path, default=default_scorer_path(), help="for --memory: or an export")
    return parser.parse_args()


if __name__ == "__main__":
    main()
