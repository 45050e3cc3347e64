"""A Collection as a table that may be shared: addresses, hashes and labels, never the images.

Images belong to those who made them; so do prompts, which are left out unless asked for.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.files import as_lines, read_lines, replacing
from artgate.errors import UserError
from artgate.labels.consensus import consensus
from artgate.labels.grades import ASPECTS, Grades
from artgate.labels.ratings import read_ratings
from artgate.labels.votes import read_votes

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jsonl", ".parquet")
# What a prompt can be told from: the free-form parameters hold texts of ComfyUI, templates and the like.
OF_PROMPTS = ("prompt", "negative_prompt", "parameters")
UNKNOWN = "unknown"
# Lines held in memory, and rows of a parquet row group.
GROUP = 16_384

Line = dict[str, Any]
Labels = Mapping[str, Mapping[str, Any]]  # image_id -> column -> value


def export_metadata(
    collection: Collection, out: Path, label_file: Path | None = None, with_prompts: bool = False
) -> int:
    """Write one line an artwork to `out`, JSON lines or parquet by its suffix; returns how many.

    Each line has what metadata.jsonl says but the file's name (and, unless `with_prompts`, prompts and parameters);
    "" is what is not known, and a licence that is not known says `unknown`. Of `label_file` come the columns:
    grades.jsonl and votes.parquet or votes.jsonl (joined by majority): the aspects, each
    [poor, average, good], and `votes`; ratings.jsonl: `<aspect>_mean` and `<aspect>_std`. Null where there is none.
    Raises UserError for another suffix, a missing folder, and labels that cannot be read.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} ends in {out.suffix!r}: name a file that ends in .jsonl or .parquet")
    columns, labels = _labels(label_file) if label_file else ((), {})
    lines = _lines(collection, columns, labels, with_prompts)
    write = _write_jsonl if out.suffix == ".jsonl" else _write_parquet
    with replacing(out) as file:
        return sum(write(file, lines, columns))


def _lines(collection: Collection, columns: tuple[str, ...], labels: Labels, with_prompts: bool) -> Iterator[Line]:
    for artwork in collection:
        own = labels.get(artwork.image_id, {})
        yield _line(artwork, with_prompts) | {column: own.get(column) for column in columns}


def _line(artwork: Artwork, with_prompts: bool) -> Line:
    left_out = ("file_name",) if with_prompts else ("file_name", *OF_PROMPTS)
    line = {name: value for name, value in artwork.to_json().items() if name not in left_out}
    return line | {"licence": line["licence"] or UNKNOWN}


def _labels(path: Path) -> tuple[tuple[str, ...], Labels]:
    """The columns that a file of labels gives, and what it says of each artwork.

    Parquet is votes; of other files the kind is told by their keys.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a file of grades, votes or ratings")
    first = {} if path.suffix == ".parquet" else next(iter(read_lines(path)), {})
    if path.suffix == ".parquet" or "annotator" in first:
        return (*ASPECTS, "votes"), _of_grades(consensus(read_votes(path)))
    if "mean" in first:
        return _of_ratings(path)
    return (*ASPECTS, "votes"), _of_grades(Grades.load(path))


def _of_grades(grades: Grades) -> Labels:
    return {
        image_id: {aspect: triple.tolist() for aspect, triple in aspects.items()}
        | {"votes": grades.votes.get(image_id)}
        for image_id, aspects in grades.items()
    }


def _of_ratings(path: Path) -> tuple[tuple[str, ...], Labels]:
    labels: dict[str, dict[str, float]] = defaultdict(dict)
    # Bytes that were rated under two names keep the first rating of each aspect.
    for rating in read_ratings(path):
        labels[rating.image_id].setdefault(f"{rating.aspect}_mean", rating.mean)
        labels[rating.image_id].setdefault(f"{rating.aspect}_std", rating.std)
    given = {column for own in labels.values() for column in own}
    columns = [f"{aspect}_{kind}" for aspect in ASPECTS for kind in ("mean", "std")]
    return tuple(column for column in columns if column in given), labels


def _write_jsonl(file: BinaryIO, lines: Iterator[Line], columns: Sequence[str]) -> Iterator[int]:
    """Write the lines a group at a time; how many, group by group."""
    while group := list(islice(lines, GROUP)):
        file.write(as_lines(group).encode())
        yield len(group)


def _write_parquet(file: BinaryIO, lines: Iterator[Line], columns: Sequence[str]) -> Iterator[int]:
    """As `_write_jsonl`, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = list(islice(lines, GROUP))
    schema = pa.schema([(name, _type(name)) for name in (first[0] if first else ("image_id", *columns))])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        group = first
        while group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            yield len(group)
            group = list(islice(lines, GROUP))


def _type(column: str) -> "pa.DataType":
    """Of a column: fixed, so that one that is empty in a Collection is of the same type in all."""
    import pyarrow as pa

    if column in ("width", "height", "pdq_quality", "votes"):
        return pa.int64()
    if column in ASPECTS:
        return pa.list_(pa.float64())
    return pa.float64() if column.endswith(("_mean", "_std")) else pa.string()
