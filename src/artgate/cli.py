"""`artgate …`: what one does with artworks outside of `train.py` and `generate.py`."""

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artgate.certify_cli import certify
from artgate.collection_cli import CollectionArgument, collection
from artgate.errors import UserError, exits_cleanly
from artgate.label_cli import label

if TYPE_CHECKING:
    from artgate.scoring.exported import ExportedScorer
    from artgate.scoring.scorer import Scorer

# Each command imports what it needs: torch and its friends take seconds that `--help` and an error should not cost.
app = typer.Typer(
    help="Crawl, label, score and look at AI artworks. Training is `python train.py`, generation `python generate.py`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(label, name="label")
app.add_typer(collection, name="collection")
app.command()(certify)

ScorerOption = Annotated[Path | None, typer.Option(help="A scorer's folder; without it the shipped one.")]


class Layout(StrEnum):
    """What `artgate import` reads."""

    AGIQA3K = "agiqa3k"
    IMAGEFOLDER = "imagefolder"
    FOLDER = "folder"
    REJECTED = "rejected"  # of a generate.py run


@exits_cleanly
def main() -> None:
    """The console script: bad input ends with one message on stderr and exit status 2."""
    app()


@app.command("import")
def import_(
    layout: Annotated[Layout, typer.Argument(help="How the source is laid out.")],
    source: Annotated[Path, typer.Argument(help="The folder to read.")],
    target: Annotated[Path, typer.Argument(help="The Collection to make or to add to.")],
) -> None:
    """Copy images and what is known of them into a Collection; running it again adds what is new."""
    from artgate.artworks import importers
    from artgate.artworks.rejects import import_rejected

    read = {
        Layout.AGIQA3K: importers.import_agiqa3k,
        Layout.IMAGEFOLDER: importers.import_imagefolder,
        Layout.FOLDER: importers.import_folder,
        Layout.REJECTED: import_rejected,
    }[layout]
    collection = read(source, target)
    typer.echo(f"{len(collection)} artworks in {target}; what was not taken is in {target / 'drops.jsonl'}")


@app.command()
def duplicates(
    collection: CollectionArgument,
    radius: Annotated[
        int | None, typer.Option(help="Hamming radius in bits, of 256; without it the measured one.")
    ] = None,
) -> None:
    """List groups of near-duplicates: one JSON line a group, with the files in it."""
    from artgate.artworks.collection import Collection
    from artgate.artworks.duplicates import RADIUS, group_artworks

    artworks = list(Collection(collection))
    groups: dict[int, list[str]] = {}
    for artwork, group in zip(artworks, group_artworks(artworks, RADIUS if radius is None else radius), strict=True):
        groups.setdefault(int(group), []).append(artwork.file_name)
    for files in groups.values():
        if len(files) > 1:
            typer.echo(json.dumps(files))


@app.command()
def score(
    paths: Annotated[list[Path], typer.Argument(help="Image files and folders of them.")],
    scorer: ScorerOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the lines to this .jsonl file; killed, the same command goes on.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep features in this folder, and use those that are there.")
    ] = None,
) -> None:
    """Score images: a table on a terminal, one JSON a line otherwise. Exit status 1 if any file could not be read."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]} does not exist ({len(missing)} such): check the path")
    if out is not None:
        _check_writable(out)
    from artgate.artworks.importers import image_files

    empty = [path for path in paths if path.is_dir() and not image_files(path)]
    if empty:
        raise UserError(f"{empty[0]} holds 0 PNG, JPEG or WebP files ({len(empty)} such folders): check the path")
    from artgate.scoring.files import files_in, score_files

    read = _image_scorer(scorer, cache)
    if out is not None:
        from artgate.scoring.score_log import write_scores

        def score_from(first: int) -> Iterator[dict[str, Any]]:
            return score_files(read, paths, cache=cache, first=first)

        failed = write_scores(score_from, list(files_in(paths)), out, read.fingerprint)
    elif sys.stdout.isatty():
        failed = _print_table(score_files(read, paths, cache=cache))
    else:
        failed = sum(_echo(line) for line in score_files(read, paths, cache=cache))
    if failed:
        typer.echo(f"{failed} files could not be scored: their lines say why", err=True)
        raise typer.Exit(1)


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The folder to write: model.onnx, model.json, score.py.")],
    scorer: ScorerOption = None,
    precision: Annotated[
        str, typer.Option(help="float32, or int8: smaller, faster, and a little different.")
    ] = "float32",
    images: Annotated[
        Path | None, typer.Option(help="For int8: a folder of images such as will be scored, 128 or more.")
    ] = None,
) -> None:
    """Write a scorer as one ONNX model that runs without torch, and a program that scores with it."""
    from artgate.scoring.scorer import Scorer, default_scorer_path

    read = Scorer.load(scorer or default_scorer_path())
    from artgate.scoring.export import export_scorer

    told = export_scorer(read, out, precision, images)
    typer.echo(
        f"{out / 'model.onnx'} in {precision}, at most {told['largest_difference']:.1e} from the scorer; "
        f"score with `artgate score --scorer {out}`, or without artgate: `python {out / 'score.py'} picture.png`"
    )


@app.command()
def embed(
    collection: CollectionArgument,
    out: Annotated[Path, typer.Option(help="The .npz file to write: image_ids (N,), features (N, D), fingerprint.")],
    scorer: ScorerOption = None,
    cache: Annotated[Path, typer.Option(help="Where features are kept between runs.")] = Path(".cache/features"),
) -> None:
    """Write the features that a scorer's encoder gives to each artwork of a Collection."""
    from artgate.artworks.collection import Collection
    from artgate.artworks.files import replacing

    if out.suffix != ".npz":
        raise UserError(f"{out} ends in {out.suffix!r}: name a file that ends in .npz")
    _check_writable(out)
    artworks = Collection(collection)
    import numpy as np

    from artgate.scoring.features import extract_features
    from artgate.scoring.scorer import Scorer, default_scorer_path

    encoder = Scorer.load(scorer or default_scorer_path()).encoder
    image_ids = [artwork.image_id for artwork in artworks]
    features = extract_features(artworks, encoder, image_ids, cache)
    with replacing(out) as file:
        np.savez(file, image_ids=np.array(image_ids), features=features, fingerprint=np.array(encoder.fingerprint))
    typer.echo(f"{features.shape[0]} x {features.shape[1]} features of {encoder.name} in {out}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of one train.py run.")],
    collection: Annotated[
        Path | None, typer.Option(help="Where its pictures are; without it where its settings say.")
    ] = None,
) -> None:
    """Write a training run's report.html anew, with the certificate that its scorer has got since."""
    from artgate.artworks.collection import Collection
    from artgate.scoring.predictions import check_run

    check_run(run)
    pictures = None if collection is None else Collection(collection)
    from artgate.scoring.report import write_report

    typer.echo(str(write_report(run, pictures)))


@app.command()
def gallery(batch_dir: Annotated[Path, typer.Argument(help="The folder of one generate.py run.")]) -> None:
    """Write the batch's gallery.html anew."""
    from artgate.generation.gallery import write_gallery

    typer.echo(str(write_gallery(batch_dir)))


def _image_scorer(folder: Path | None, cache: Path | None) -> "Scorer | ExportedScorer":
    from artgate.scoring.exported import ExportedScorer, is_exported
    from artgate.scoring.scorer import Scorer, default_scorer_path

    if folder is None or not is_exported(folder):
        return Scorer.load(folder or default_scorer_path())
    if cache is not None:
        raise UserError(f"{folder} is an exported scorer, whose features are not kept: leave --cache out")
    return ExportedScorer(folder)


def _check_writable(out: Path) -> None:
    """Complain now of a file that could not be written once all is computed."""
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder; name a file in it")


def _echo(line: dict[str, Any]) -> bool:
    typer.echo(json.dumps(line))
    return "error" in line


def _print_table(lines: Iterator[dict[str, Any]]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from artgate.artworks.text import one_line

    failed = 0
    table = Table("file", "score", "grade", "poor", "average", "good")
    for line in lines:
        file = Text(one_line(line["file"]))  # a name is no markup, and may not steer the terminal
        if "error" in line:
            failed += 1
            table.add_row(file, "", Text(one_line(line["error"]), "red"), "", "", "")
        else:
            shares = (f"{line['probabilities'][grade]:.2f}" for grade in ("poor", "average", "good"))
            table.add_row(file, f"{line['score']:.3f}", line["grade"], *shares)
    Console().print(table)
    return failed


if __name__ == "__main__":
    main()
