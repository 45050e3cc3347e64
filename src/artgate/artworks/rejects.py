"""The rejected candidates of a generate.py run → a Collection, so that people can say what the gate threw away."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.files import read_lines
from artgate.artworks.text import clean_float, clean_int, clean_text
from artgate.errors import UserError

LEDGER = "candidates.jsonl"
GROUP = 64


def import_rejected(batch: Path, target: Path) -> Collection:
    """What a batch's ledger calls rejected, with prompt, seed and score, as a Collection in `target`.

    A run keeps of the rejected a picture at most 256 pixels wide or high, before enlargement, and only with
    `keep_rejected=true`. Running it again adds what is new.
    Raises UserError for a folder that is no batch, or has no picture of a rejected candidate.
    """
    batch = Path(batch)
    if not (batch / LEDGER).is_file():
        raise UserError(f"{batch} is not a batch (no {LEDGER} in it): name the folder of one generate.py run")
    rejects = list(_rejects(batch))
    if not rejects:
        raise UserError(
            f"{batch} has 0 pictures of rejected candidates: generate with keep_rejected=true, or there were none"
        )
    collection = Collection(target, create=True)
    for start in range(0, len(rejects), GROUP):
        collection.add_many([_new_artwork(path, line) for path, line in rejects[start : start + GROUP]])
    return collection


def _rejects(batch: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for line in read_lines(batch / LEDGER):
        if line.get("status") == "rejected" and isinstance(line.get("file"), str):
            path = batch / line["file"]
            # A batch may come from elsewhere: its ledger must not make this read files outside its folder.
            if not path.resolve().is_relative_to(batch.resolve()):
                raise UserError(f"{batch / LEDGER} names {line['file']!r}, outside its folder: remove that line")
            if path.is_file():
                yield path, line


def _new_artwork(path: Path, line: dict[str, Any]) -> NewArtwork:
    provenance = Provenance(
        source="artgate-rejected",
        source_id=f"{path.parent.parent.name}/{line.get('index')}",
        prompt=clean_text(line.get("prompt")) or None,
        negative_prompt=clean_text(line.get("negative_prompt")) or None,
        seed=clean_int(line.get("seed"), 0, 2**64 - 1),
        parameters={"score": clean_float(line.get("score"), 0.0, 1.0), "reason": clean_text(line.get("reason"))},
    )
    return NewArtwork(path.read_bytes(), provenance, path.name)
