"""Feature extraction against the bare encoder and against a plain loop: `python -m benchmarks.features`.

One run, the candidates interleaved and repeated, because only ratios within a run mean something on a shared machine.
CPU seconds (of all threads together) are told beside wall seconds: where other work takes its turns on the cores,
they are the steadier measure of what a candidate costs.

- bare: the encoder's forward over minibatches that lie preprocessed in memory, as one stream on all cores and as one
  stream a core; the faster counts;
- ours: `extract_features` of a Collection, files to features, into an empty cache;
- loop over ours: Pillow decode, this encoder's transform and forward, one image at a time, on all cores;
- plain loop: Pillow decode and resize, and timm's network as it comes, one image at a time, on all cores.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from artgate.artworks.collection import Collection, NewArtwork
from artgate.scoring.backbones import embedded_network
from artgate.scoring.encoders import Encoder, build_encoder
from artgate.scoring.features import extract_features
from benchmarks.pictures import jpeg


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    encoder = build_encoder({"kind": "embedded", "precision": options.precision})
    with tempfile.TemporaryDirectory() as folder:
        collection = _collection(Path(folder) / "collection", options.images, options.size)
        candidates = _candidates(collection, encoder, options.minibatch, Path(folder))
        taken = _interleaved(candidates, options.rounds)
    _print_table(taken, options.images)


def _candidates(
    collection: Collection, encoder: Encoder, minibatch: int, folder: Path
) -> dict[str, Callable[[], object]]:
    ids = [artwork.image_id for artwork in collection]
    network = embedded_network()
    views = [encoder.preprocess(collection.image(artwork)) for artwork in collection]
    minibatches = [encoder.collate(views[start : start + minibatch]) for start in range(0, len(views), minibatch)]
    return {
        "bare, a stream a core": lambda: _streams(encoder, minibatches),
        "bare, one stream": lambda: [encoder.encode(minibatch) for minibatch in minibatches],
        "ours": lambda: extract_features(collection, encoder, ids, tempfile.mkdtemp(dir=folder), minibatch=minibatch),
        "loop over ours": lambda: [encoder.encode_images([_open(collection, i)]) for i in ids],
        "plain loop": lambda: [_plain(network, _open(collection, i)) for i in ids],
    }


@torch.inference_mode()
def _plain(network: Any, image: Image.Image) -> torch.Tensor:
    """The embedded encoder's (D,) features without this project's code."""
    parts = []
    for size in (224, 448):
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
        final, stages = network.forward_intermediates(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        parts.append(network.forward_head(final, pre_logits=True)[0])
        for stage in stages:  # (1, C, h, w)
            variance, mean = torch.var_mean(stage[0], dim=(1, 2), correction=0)
            parts += [mean, variance.sqrt()]
    return torch.cat(parts)


def _streams(encoder: Encoder, minibatches: Sequence[Sequence[torch.Tensor]]) -> None:
    cores = torch.get_num_threads()
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        list(threads.map(encoder.encode, minibatches))
    torch.set_num_threads(cores)


def _open(collection: Collection, image_id: str) -> Image.Image:
    with Image.open(collection.path(collection[image_id])) as image:
        return image.convert("RGB")


class Taken(NamedTuple):
    """Seconds of one run of a candidate: on the clock, and of all cores together."""

    wall: float
    cpu: float


def _interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[Taken]]:
    """What each candidate took in each round, after a round to warm up."""
    taken: dict[str, list[Taken]] = {name: [] for name in candidates}
    order = random.Random(1)
    for round_ in range(rounds + 1):
        # What runs before leaves caches and clock as it likes: let no candidate always follow the same one.
        for name, run in order.sample(list(candidates.items()), len(candidates)):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if round_:
                taken[name].append(Taken(time.perf_counter() - wall, time.process_time() - cpu))
    return taken


def _print_table(taken: dict[str, list[Taken]], images: int) -> None:
    for measure in Taken._fields:
        seconds = {name: [getattr(run, measure) for run in runs] for name, runs in taken.items()}
        bare = [min(pair) for pair in zip(seconds["bare, a stream a core"], seconds["bare, one stream"], strict=True)]
        print(f"by {measure} seconds")
        for name, runs in seconds.items():
            speed = images / statistics.median(runs)
            print(f"  {name:22} {speed:6.1f} images/s   {_ratio(bare, runs)} of the faster bare")
        for loop in ("loop over ours", "plain loop"):
            print(f"  {'ours against ' + loop:40} {_ratio(seconds[loop], seconds['ours'])}")


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _collection(root: Path, images: int, size: int) -> Collection:
    collection = Collection(root, create=True)
    collection.add_many([NewArtwork(jpeg(seed, size)) for seed in range(images)])
    return collection


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=512, help="side of the square JPEG files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minibatch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
