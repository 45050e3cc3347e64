"""Image files and folders to lines of scores; what cannot be read gets a line that says why."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from artgate.artworks.artwork import image_id_of
from artgate.artworks.decode import Refused, decode
from artgate.artworks.importers import image_files
from artgate.scoring.scorer import Scorer

# Files are decoded whole before they are scored: more at once would fill the memory with large ones.
MINIBATCH = 8


def score_files(scorer: Scorer, paths: Iterable[str | Path], minibatch: int = MINIBATCH) -> Iterator[dict[str, Any]]:
    """Score image files, and the images in folders (at any depth, by name), in the order given.

    Yields for each file {"file", "image_id", "score", "grade", "probabilities"}, or {"file", "error"}.
    """
    files = iter(_files(paths))
    while chunk := list(islice(files, minibatch)):
        yield from _score_chunk(scorer, chunk)


def _score_chunk(scorer: Scorer, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    read = [_read(file) for file in files]
    scores = iter(scorer([image for line, image in read if image is not None]))
    for line, image in read:
        if image is None:
            yield line
        else:
            score = next(scores)
            yield line | {"score": score.score, "grade": score.grade, "probabilities": score.probabilities}


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
