"""What is left of purged artworks beside their Collection: labels, splits, sidecars. The images and lines go first.

A purge (`Collection.purge`) names its artworks in purged.jsonl; `forget` clears everything else of all that is named
there. So a purge that was killed is finished by `forget` at any later time, and doing it twice changes nothing.
"""

import json
from collections.abc import Collection as Ids
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from artgate.artworks.files import as_lines, read_lines, replacing, write_atomic
from artgate.errors import UserError

# The Collection's own files, which `Collection.purge` keeps.
OWN = frozenset({"metadata.jsonl", "drops.jsonl", "purged.jsonl"})
# What generate.py keeps of an accepted artwork beside their Collection, in a folder with this ledger.
BATCH_LEDGER, OF_A_BATCH = "candidates.jsonl", ("small", "signed", "thumbnails")


def forget(root: Path, image_ids: Ids[str], label_files: Iterable[Path] = ()) -> dict[str, int]:
    """Take artworks out of the files of labels and splits of a Collection's folder; how many lines left which file.

    Of every other JSON-lines or parquet file in the folder (votes, ratings, grades …) and of `label_files` the lines or
    rows with such an `image_id` go, of `splits/*.json` the entries, of `sidecars/` the files; and where the Collection
    is what a batch accepted, that batch's other pictures of them. Each file is replaced as a whole.
    Raises UserError for a file that is missing or cannot be read.
    """
    removed: dict[str, int] = {}
    named = list(label_files)
    check_label_files(named)
    found = sorted([*root.glob("*.jsonl"), *root.glob("*.parquet")])
    own = [path for path in found if path.name not in OWN and not path.name.startswith(".")]
    for path in [*own, *named]:
        removed[str(path)] = (_from_rows if path.suffix == ".parquet" else _from_lines)(path, image_ids)
    for path in sorted((root / "splits").glob("*.json")):
        removed[str(path)] = _from_splits(path, image_ids)
    folders = [root / "sidecars"]
    if (root.parent / BATCH_LEDGER).is_file():
        folders += [root.parent / name for name in OF_A_BATCH]
    for folder in folders:
        removed[str(folder)] = _named(folder, image_ids)
    return {path: count for path, count in removed.items() if count}


def check_label_files(paths: Iterable[Path]) -> None:
    """Raise UserError for a file that is missing."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} does not exist: check the path of the file of labels")


def _from_lines(path: Path, image_ids: Ids[str]) -> int:
    lines = read_lines(path)
    kept = [line for line in lines if line.get("image_id") not in image_ids]
    if len(kept) < len(lines):
        write_atomic(path, as_lines(kept))
    return len(lines) - len(kept)


def _from_rows(path: Path, image_ids: Ids[str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowException:
        raise UserError(f"{path} is not a whole parquet file: restore it, or move it out of the folder") from None
    if "image_id" not in table.column_names:
        return 0
    kept = table.filter(pa.array([image_id not in image_ids for image_id in table["image_id"].to_pylist()], pa.bool_()))
    if len(kept) < len(table):
        with replacing(path) as file:
            pq.write_table(kept, file, compression="zstd")  # with the schema's own notes
    return len(table) - len(kept)


def _from_splits(path: Path, image_ids: Ids[str]) -> int:
    file = _read_splits(path)
    kept = {image_id: split for image_id, split in file["splits"].items() if image_id not in image_ids}
    removed = len(file["splits"]) - len(kept)
    if removed:
        write_atomic(path, json.dumps(file | {"splits": kept}, indent=1) + "\n")
    return removed


def _read_splits(path: Path) -> dict[str, Any]:
    try:
        file = json.loads(path.read_text())
        file["splits"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a file of splits: restore it, or delete it to divide anew") from None
    return file


def _named(folder: Path, image_ids: Ids[str]) -> int:
    """Delete `<image_id>.<suffix>`, as generate.py writes beside what it accepts."""
    paths = [path for path in folder.glob("*.*") if path.stem in image_ids]
    for path in paths:
        path.unlink()
    return len(paths)
