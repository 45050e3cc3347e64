"""Image files and folders to lines of scores; what cannot be read gets a line that says why.

Memory does not grow with the number of images: a few minibatches of preprocessed pixels are alive at a time.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from artgate.artworks.artwork import image_id_of
from artgate.artworks.collection import Collection
from artgate.artworks.decode import Refused, decode
from artgate.artworks.importers import image_files
from artgate.scoring.feature_store import Features, FeatureStore
from artgate.scoring.features import SHARD_SECONDS, describe
from artgate.scoring.scorer import Score, Scorer
from artgate.scoring.streams import on_all_cores
from artgate.scoring.text_encoders import PROMPTED

MINIBATCH = 8
LOOKED_UP = 256  # files a pass over the cache

Line = dict[str, Any]
Prompts = Mapping[Path, str]
T = TypeVar("T")


class ImageScorer(Protocol):
    """What scores files: a `Scorer`, or an `ExportedScorer`."""

    prompted: Any

    def preprocess(self, image: Image.Image) -> Any:
        """An RGB image → what `score_preprocessed` takes, many times smaller than a large image."""

    def score_preprocessed(self, items: Sequence[Any], prompts: Sequence[str | None]) -> list[Score]:
        """One score an item."""


def score_files(
    scorer: ImageScorer,
    paths: Iterable[str | Path],
    minibatch: int = MINIBATCH,
    cache: str | Path | None = None,
    first: int = 0,
) -> Iterator[Line]:
    """Score image files, and the images in folders (at any depth, by name), in the order given, on all cores.

    Yields for each file {"file", "image_id", "score", "grade", "probabilities"}, or {"file", "error"}; a scorer of
    several aspects adds "aspects", and with alignment "prompt_read". Prompts are those in the metadata of Collections.
    cache: a folder of features, read and added to; only for a `Scorer`. first: how many files to leave out.
    """
    named = [Path(path) for path in paths]
    prompts = _prompts(named) if scorer.prompted else {}
    files = islice(files_in(named), first, None)
    if cache is not None and isinstance(scorer, Scorer):
        yield from _with_cache(scorer, files, prompts, minibatch, cache)
        return

    def score(chunk: list[Path]) -> list[Line]:
        read = [_read(scorer, file) for file in chunk]
        items = [item for _, item in read if item is not None]
        known = [prompts.get(file) for file, (_, item) in zip(chunk, read, strict=True) if item is not None]
        scores = iter(scorer.score_preprocessed(items, known))
        return [line if item is None else line | _told(next(scores)) for line, item in read]

    with closing(on_all_cores(score, _chunks(files, minibatch))) as scored:
        for lines in scored:
            yield from lines


def files_in(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Files as they are named, and the images in folders."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from image_files(path)
        else:
            yield path


class _Scored(NamedTuple):
    lines: list[Line]
    computed: dict[str, Features]  # image_id -> (D,)


def _with_cache(
    scorer: Scorer, files: Iterator[Path], prompts: Prompts, minibatch: int, cache: str | Path
) -> Iterator[Line]:
    encoder = scorer.encoder
    store = FeatureStore(cache, encoder.fingerprint, encoder.dim, describe(encoder))

    def score(chunk: list[tuple[Path, str | None, Features | None]]) -> _Scored:
        # Of an image whose features are known, the bytes are all that is looked at.
        read: list[tuple[Line, Any]] = [
            ({"file": str(file), "image_id": image_id}, None) if known is not None else _read(scorer, file)
            for file, image_id, known in chunk
        ]
        computed = _computed(scorer, {line["image_id"]: item for line, item in read if item is not None}, minibatch)
        features = [
            computed.get(line.get("image_id", "")) if known is None else known
            for (line, _), (_, _, known) in zip(read, chunk, strict=True)
        ]
        there = [row for row in features if row is not None]
        known_prompts = [prompts.get(chunk[row][0]) for row, found in enumerate(features) if found is not None]
        scores = iter(scorer.score_features(np.stack(there), known_prompts) if there else [])
        lines = [
            line if row is None else line | _told(next(scores)) for (line, _), row in zip(read, features, strict=True)
        ]
        return _Scored(lines, computed)

    with closing(on_all_cores(score, _looked_up(files, store, minibatch))) as scored:
        for part in _keeping(scored, store):
            yield from part.lines


def _computed(scorer: Scorer, items: Mapping[str, Any], minibatch: int) -> dict[str, Features]:
    """image_id -> (D,). The minibatch is padded, so that features do not depend on what was cached before."""
    if not items:
        return {}
    views = list(items.values())
    padding = [views[-1]] * (minibatch - len(views))
    features = scorer.encoder.encode(scorer.encoder.collate(views + padding)).numpy()
    return dict(zip(items, features, strict=False))


def _looked_up(
    files: Iterator[Path], store: FeatureStore, minibatch: int
) -> Iterator[list[tuple[Path, str | None, Features | None]]]:
    for block in _chunks(files, LOOKED_UP):
        ids = [_image_id(file) for file in block]
        found = store.read([image_id for image_id in ids if image_id])
        yield from _chunks(
            ((file, image_id, found.get(image_id or "")) for file, image_id in zip(block, ids, strict=True)), minibatch
        )


def _keeping(scored: Iterable[_Scored], store: FeatureStore) -> Generator[_Scored]:
    """Hand on what is scored, and keep new features, in shards that are worth a file."""
    fresh: dict[str, Features] = {}
    started = time.monotonic()
    try:
        for part in scored:
            fresh |= part.computed
            if fresh and time.monotonic() - started >= SHARD_SECONDS:
                store.write(list(fresh), np.stack(list(fresh.values())))
                fresh, started = {}, time.monotonic()
            yield part
    finally:
        if fresh:
            store.write(list(fresh), np.stack(list(fresh.values())))


def _prompts(paths: Iterable[Path]) -> dict[Path, str]:
    """File -> prompt, of those folders that are Collections."""
    collections = [Collection(path, read_only=True) for path in paths if (path / "metadata.jsonl").is_file()]
    return {
        collection.root / artwork.file_name: artwork.provenance.prompt
        for collection in collections
        for artwork in collection
        if artwork.provenance.prompt
    }


def _image_id(file: Path) -> str | None:
    try:
        return image_id_of(file.read_bytes())
    except OSError:
        return None


def _read(scorer: ImageScorer, file: Path) -> tuple[Line, Any]:
    """Preprocessed at once: whole images, which may be large, are never alive together."""
    try:
        data = file.read_bytes()
        return {"file": str(file), "image_id": image_id_of(data)}, scorer.preprocess(decode(data, file.name))
    except OSError as error:
        return {"file": str(file), "error": f"unreadable: {error.strerror}"}, None
    except Refused as refused:
        return {"file": str(file), "error": f"{refused.reason}: {refused.detail}"}, None


def _told(score: Score) -> Line:
    line = {"score": score.score, "grade": score.grade, "probabilities": score.probabilities}
    if len(score.aspects) > 1:
        line["aspects"] = score.aspects
    return line | ({"prompt_read": score.prompt_read} if PROMPTED in score.aspects else {})


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
