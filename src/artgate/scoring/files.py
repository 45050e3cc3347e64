"""Image files and folders to lines of scores; what cannot be read gets a line that says why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from artgate.artworks.artwork import image_id_of
from artgate.artworks.collection import Collection
from artgate.artworks.decode import Refused, decode
from artgate.artworks.importers import image_files
from artgate.scoring.scorer import Score, Scorer
from artgate.scoring.text_encoders import PROMPTED

# Files are decoded whole before they are scored: more at once would fill the memory with large ones.
MINIBATCH = 8


def score_files(scorer: Scorer, paths: Iterable[str | Path], minibatch: int = MINIBATCH) -> Iterator[dict[str, Any]]:
    """Score image files, and the images in folders (at any depth, by name), in the order given.

    Yields for each file {"file", "image_id", "score", "grade", "probabilities"}, or {"file", "error"}; a scorer of
    several aspects adds "aspects", and with alignment "prompt_read". Prompts are those in the metadata of Collections.
    """
    paths = [Path(path) for path in paths]
    prompts = _prompts(paths) if scorer.prompted else {}
    files = iter(_files(paths))
    while chunk := list(islice(files, minibatch)):
        yield from _score_chunk(scorer, chunk, prompts)


def _score_chunk(scorer: Scorer, files: Sequence[Path], prompts: Mapping[Path, str]) -> Iterator[dict[str, Any]]:
    read = [_read(file) for file in files]
    known = [prompts.get(file) for file, (_, image) in zip(files, read, strict=True) if image is not None]
    scores = iter(scorer([image for line, image in read if image is not None], known))
    for line, image in read:
        yield line if image is None else line | _told(next(scores))


def _told(score: Score) -> dict[str, Any]:
    line = {"score": score.score, "grade": score.grade, "probabilities": score.probabilities}
    if len(score.aspects) > 1:
        line["aspects"] = score.aspects
    return line | ({"prompt_read": score.prompt_read} if PROMPTED in score.aspects else {})


def _prompts(paths: Iterable[Path]) -> dict[Path, str]:
    """File -> prompt, of those folders that are Collections."""
    collections = [Collection(path, read_only=True) for path in paths if (path / "metadata.jsonl").is_file()]
    return {
        collection.root / artwork.file_name: artwork.provenance.prompt
        for collection in collections
        for artwork in collection
        if artwork.provenance.prompt
    }


def _read(file: Path) -> tuple[dict[str, Any], Image.Image | None]:
    try:
        data = file.read_bytes()
        return {"file": str(file), "image_id": image_id_of(data)}, decode(data, file.name)
    except OSError as error:
        return {"file": str(file), "error": f"unreadable: {error.strerror}"}, None
    except Refused as refused:
        return {"file": str(file), "error": f"{refused.reason}: {refused.detail}"}, None


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from image_files(path)
        else:
            yield path
