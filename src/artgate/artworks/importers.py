"""Images that others laid out in their own way → a Collection. Each importer can be killed and run again."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from artgate.artworks.artwork import Artwork, Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.decode import SUFFIXES, Refused
from artgate.artworks.files import as_lines, read_lines, write_atomic
from artgate.artworks.parameters import with_parameters
from artgate.artworks.text import clean_float, clean_int, clean_text
from artgate.errors import UserError

# One lock, one directory sync and one line write for so many files.
GROUP = 64

T = TypeVar("T")

AGIQA3K_ASPECTS = {"quality": ("mos_quality", "std_quality"), "alignment": ("mos_align", "std_align")}
AGIQA3K_COLUMNS = ("name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality", "mos_align", "std_align")
AGIQA3K_LICENCE = "MIT (AGIQA-3K, doi 10.1109/TCSVT.2023.3319020)"


def import_agiqa3k(source: Path, target: Path) -> Collection:
    """AGIQA-3K (Li et al., 2023: `data.csv` and `images/`) as a Collection in `target`, with `ratings.jsonl` beside.

    ratings.jsonl holds, for each file name and aspect (quality, alignment), the mean opinion score (0 to 5) and its
    standard deviation over the raters; files of the same bytes are one artwork that keeps all their ratings.
    When `target` is complete already nothing is read but its lines and the csv. Raises UserError for a missing folder
    or column, a rating that is not a number, a missing or unreadable image.
    """
    source, target = Path(source), Path(target)
    rows = _agiqa3k_rows(source)
    collection = Collection(target, create=True)
    ratings_path = target / "ratings.jsonl"
    held = {line["name"]: line["image_id"] for line in read_lines(ratings_path) if line["image_id"] in collection}
    missing = [row for row in rows if row["name"] not in held]
    for group in _groups(missing):
        results = collection.add_many([_agiqa3k_artwork(source, row) for row in group])
        held |= {row["name"]: _kept(result, source, row["name"]) for row, result in zip(group, results, strict=True)}
    ratings = as_lines(_agiqa3k_ratings(rows, held))
    if missing or ratings != ratings_path.read_text():
        write_atomic(ratings_path, ratings)
    return collection


def import_imagefolder(source: Path, target: Path) -> Collection:
    """A Hugging Face imagefolder as a Collection in `target`; what is refused goes to drops.jsonl.

    Columns of `metadata.jsonl` or `metadata.csv` with the name of a Provenance field become that field, `text` and
    `caption` the prompt, all others go to the parameters; without metadata an image's folder is its `label` there.
    Raises UserError for a missing folder or file, and for a file outside the folder.
    """
    return _import_files(_imagefolder_rows(Path(source)), Path(source), Path(target))


def import_folder(source: Path, target: Path, provenance: Provenance = Provenance(source="folder")) -> Collection:  # noqa: B008
    """Every PNG, JPEG and WebP file below `source` as a Collection in `target`; what is refused goes to drops.jsonl.

    Generation parameters inside the files fill in what `provenance` lacks. Raises UserError if there is none.
    """
    paths = image_files(Path(source))
    if not paths:
        raise UserError(f"{source} holds no file ending in {', '.join(sorted(_SUFFIXES))}: check the path")
    return _import_files(((path, provenance) for path in paths), Path(source), Path(target))


def _import_files(files: Iterable[tuple[Path, Provenance]], source: Path, target: Path) -> Collection:
    collection = Collection(target, create=True)
    for group in _groups(files):
        collection.add_many([_new_artwork(path, provenance, source) for path, provenance in group])
    return collection


def _new_artwork(path: Path, provenance: Provenance, source: Path) -> NewArtwork:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put it back or leave it out") from None
    # Cleaned, for names of files need not be text.
    source_id = provenance.source_id or clean_text(path.relative_to(source).as_posix())
    named = replace(provenance, source_id=source_id)
    return NewArtwork(data, with_parameters(named, data), path.name)


def _agiqa3k_rows(source: Path) -> list[dict[str, Any]]:
    table = _existing_folder(source) / "data.csv"
    if not table.is_file() or not (source / "images").is_dir():
        raise UserError(f"{source} is not AGIQA-3K: expected data.csv and images/ in it")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = [column for column in AGIQA3K_COLUMNS if column not in (reader.fieldnames or [])]
        if lacking:
            raise UserError(f"{table} lacks the column {lacking[0]!r}: expected {', '.join(AGIQA3K_COLUMNS)}")
        rows = [_agiqa3k_row(row, f"{table}, line {number}") for number, row in enumerate(reader, start=2)]
    if not rows:
        raise UserError(f"{table} has no rows: expected one an image")
    return rows


def _agiqa3k_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    if not row["name"] or Path(row["name"]).name != row["name"]:
        raise UserError(f"{where}: name {row['name']!r} is not a file name")
    for column in (column for columns in AGIQA3K_ASPECTS.values() for column in columns):
        number = clean_float(row[column], 0.0, 5.0)
        if number is None:
            raise UserError(f"{where}: {column} {row[column]!r} is not a number in [0, 5]")
        row[column] = number
    return row


def _agiqa3k_artwork(source: Path, row: dict[str, Any]) -> NewArtwork:
    path = source / "images" / row["name"]
    if not path.is_file():
        raise UserError(f"{path} is named in data.csv but missing: fetch the database again")
    provenance = Provenance(
        source="agiqa3k",
        source_id=row["name"],
        licence=AGIQA3K_LICENCE,
        prompt=row["prompt"],
        generator=row["name"].partition("_")[0],
        parameters={column: row[column] for column in ("adj1", "adj2", "style") if row[column]},
    )
    return NewArtwork(path.read_bytes(), provenance, row["name"])


def _kept(result: Artwork | Refused, source: Path, name: str) -> str | None:
    if isinstance(result, Artwork):
        return result.image_id
    if result.reason == "purged":
        return None
    raise UserError(f"{source / 'images' / name} cannot be taken ({result}): fetch the database again")


def _agiqa3k_ratings(rows: Sequence[dict[str, Any]], held: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for aspect, (mean, std) in AGIQA3K_ASPECTS.items():
            if held[row["name"]] is not None:
                yield {
                    "image_id": held[row["name"]],
                    "aspect": aspect,
                    "mean": row[mean],
                    "std": row[std],
                    "name": row["name"],
                }


def _imagefolder_rows(source: Path) -> Iterator[tuple[Path, Provenance]]:
    """Each image of an imagefolder with what its metadata, or the name of its folder, says of it."""
    tables = [t for name in ("metadata.jsonl", "metadata.csv") for t in sorted(_existing_folder(source).rglob(name))]
    for table in tables:
        for row in read_lines(table) if table.suffix == ".jsonl" else _read_csv(table):
            yield _file_beside(table, row), _provenance_of_row(row)
    if not tables:
        for path in image_files(source):
            yield path, Provenance(source="imagefolder", parameters={"label": path.parent.name})


def _file_beside(table: Path, row: Mapping[str, Any]) -> Path:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{table} has a row without file_name: it is not the metadata of an imagefolder")
    path = table.parent / name
    # The table comes from elsewhere: it must not make this read, and publish, files outside its folder.
    if not path.resolve().is_relative_to(table.parent.resolve()):
        raise UserError(f"{table} names {name!r}, outside its folder: remove that row")
    return path


def _provenance_of_row(row: Mapping[str, Any]) -> Provenance:
    texts = {name: clean_text(row.get(name)) or None for name in _TEXT_FIELDS}
    caption = clean_text(row.get("text") or row.get("caption")) or None
    rest = {k: v for k, v in row.items() if k not in (*_TEXT_FIELDS, *_NUMBER_FIELDS, "file_name", "text", "caption")}
    return Provenance(
        source=texts.pop("source") or "imagefolder",
        prompt=texts.pop("prompt") or caption,
        **texts,
        seed=clean_int(row.get("seed"), 0, 2**64 - 1),
        steps=clean_int(row.get("steps"), 1, 10_000),
        guidance=clean_float(row.get("guidance"), 0.0, 1000.0),
        http_status=clean_int(row.get("http_status"), 100, 599),
        parameters=rest,
    )


_NUMBER_FIELDS = ("seed", "steps", "guidance", "http_status")
_TEXT_FIELDS = tuple(f.name for f in fields(Provenance) if f.name not in (*_NUMBER_FIELDS, "parameters"))


def image_files(folder: Path) -> list[Path]:
    """The files below `folder` whose suffix is that of PNG, JPEG or WebP, sorted; hidden ones are left out."""
    paths = (p for p in _existing_folder(folder).rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    return sorted(p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts))


_SUFFIXES = frozenset().union(*SUFFIXES.values())


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: check the path")
    return path


def _groups(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, GROUP)):
        yield group
