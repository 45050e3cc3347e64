"""(N, D) features of a Collection's artworks, and of other renditions of them: computed once, and kept by image_id,
rendition and encoder fingerprint.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artgate.artworks.collection import Collection
from artgate.errors import UserError
from artgate.scoring.encoders import Encoder
from artgate.scoring.feature_store import Features, FeatureStore
from artgate.scoring.renditions import ORIGINAL, RECIPE, rendition
from artgate.scoring.streams import on_all_cores

SHARD_SECONDS = 10.0  # what a kill may cost

Computed = Iterator[tuple[list[str], Features]]


def extract_features(
    collection: Collection,
    encoder: Encoder,
    image_ids: Sequence[str],
    cache_dir: Path | str,
    workers: int = 0,
    minibatch: int = 8,
) -> Features:
    """(N, D) float32 features of the artworks `image_ids`, in this order; else as `extract_renditions`."""
    return extract_renditions(collection, encoder, image_ids, [ORIGINAL], cache_dir, workers, minibatch)[:, 0]


def extract_renditions(
    collection: Collection,
    encoder: Encoder,
    image_ids: Sequence[str],
    names: Sequence[str],
    cache_dir: Path | str,
    workers: int = 0,
    minibatch: int = 8,
) -> Features:
    """(N, R, D) float32 features of the R renditions `names` (see renditions.py) of each of the artworks `image_ids`.

    What the cache does not hold is computed, and appended to it as it comes: a killed run goes on where it was, to
    `SHARD_SECONDS`. workers: threads that each decode, preprocess and encode; 0 chooses. minibatch: images to a
    forward pass; the last is padded, so that features do not depend on what was cached before.
    Raises UserError for an image_id that is not in the Collection and for an image that cannot be read.
    """
    _check(workers, minibatch)
    unknown = [image_id for image_id in image_ids if image_id not in collection]
    if unknown:
        raise UserError(f"image_id {unknown[0]!r} is not in {collection.root} ({len(unknown)} such): check the ids")
    store = FeatureStore(cache_dir, encoder.fingerprint, encoder.dim, describe(encoder))
    wanted = {_key(image_id, name): (image_id, name) for image_id in image_ids for name in names}
    found = store.read(list(wanted))
    missing = [key for key in wanted if key not in found]
    with closing(_computed(collection, encoder, [wanted[key] for key in missing], workers, minibatch)) as computed:
        for chunk, features in _in_shards(_with_progress(computed, len(missing))):
            store.write(chunk, features)
            found |= dict(zip(chunk, features, strict=True))
    rows = [found[_key(image_id, name)] for image_id in image_ids for name in names]
    flat = np.stack(rows) if rows else np.empty((0, encoder.dim), np.float32)  # (N * R, D)
    return flat.reshape(len(image_ids), len(names), encoder.dim)


def _key(image_id: str, name: str) -> str:
    return image_id if name == ORIGINAL else f"{image_id}/{name}/{RECIPE}"


def _computed(
    collection: Collection, encoder: Encoder, wanted: Sequence[tuple[str, str]], workers: int, minibatch: int
) -> Generator[tuple[list[str], Features]]:
    """(keys, (n, D)) a minibatch, in order. wanted: image_id and rendition."""
    chunks = [list(wanted[start : start + minibatch]) for start in range(0, len(wanted), minibatch)]

    def features_of(chunk: list[tuple[str, str]]) -> Features:
        images = [rendition(collection.image(collection[image_id]), image_id, name) for image_id, name in chunk]
        views = [encoder.preprocess(image) for image in images]
        padding = [views[-1]] * (minibatch - len(views))
        return encoder.encode(encoder.collate(views + padding))[: len(chunk)].numpy()

    with closing(on_all_cores(features_of, chunks, workers)) as found:
        for chunk, features in zip(chunks, found, strict=True):
            yield [_key(image_id, name) for image_id, name in chunk], features


def _in_shards(computed: Computed) -> Computed:
    """Minibatches joined until a shard is worth its file, by time: fast encoders get large shards."""
    ids: list[str] = []
    parts: list[Features] = []
    started = time.monotonic()
    for chunk, features in computed:
        ids += chunk
        parts.append(features)
        if time.monotonic() - started >= SHARD_SECONDS:
            yield ids, np.concatenate(parts)
            ids, parts, started = [], [], time.monotonic()
    if ids:
        yield ids, np.concatenate(parts)


def _with_progress(computed: Computed, total: int) -> Computed:
    # disable=None: silent where stderr is not a terminal.
    with tqdm(total=total, desc="features", unit=" images", disable=None if total else True) as bar:
        for chunk, features in computed:
            bar.update(len(chunk))
            yield chunk, features


def _check(workers: int, minibatch: int) -> None:
    if workers < 0:
        raise UserError(f"workers {workers} is negative: give a number of threads, or 0 to have it chosen")
    if minibatch < 1:
        raise UserError(f"minibatch {minibatch} is below 1: give the number of images to a forward pass")


def describe(encoder: Encoder) -> dict[str, object]:
    """What a cache's encoder.json tells people of the encoder."""
    return {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "config": {key: value for key, value in encoder.config.items() if key != "device"},
    }
