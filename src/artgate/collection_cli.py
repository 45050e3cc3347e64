"""`artgate collection …`: what one does with a Collection as a whole. Text from outside is shown on one safe line."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artgate.errors import UserError

if TYPE_CHECKING:
    from artgate.artworks.artwork import Artwork
    from artgate.artworks.collection import Collection
    from artgate.artworks.purges import Rule

collection = typer.Typer(help="Look at a Collection, join, purge and share it.", no_args_is_help=True)

CollectionArgument = Annotated[Path, typer.Argument(help="A Collection: a folder with images/ and metadata.jsonl.")]
CACHE = Path(".cache/features")  # where train.py keeps features, by conf/paths/default.yaml
EXAMPLES = 5


@collection.command()
def stats(
    root: CollectionArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures to this .html file.")] = None,
) -> None:
    """Count sources, sizes, formats, generators, licences, prompts, near-duplicates, drops; changes nothing."""
    from artgate.artworks.collection import Collection
    from artgate.artworks.statistics import statistics

    opened = Collection(root, read_only=True)
    if html is not None and html.suffix != ".html":
        raise UserError(f"{html} ends in {html.suffix!r}: name a file that ends in .html")
    told = statistics(opened)
    if html is not None:
        from artgate.artworks.statistics_page import write_page

        write_page(opened, told, html)
        typer.echo(str(html), err=as_json)
    if as_json:
        typer.echo(json.dumps(told.to_json(), indent=1))
    elif html is None:
        from artgate.artworks.statistics_table import print_table

        print_table(told)


@collection.command()
def purge(
    root: CollectionArgument,
    creator: Annotated[str | None, typer.Option(help="All artworks of this creator, now and later.")] = None,
    source: Annotated[
        str | None, typer.Option(help="All artworks of this source, now and later; with --creator, that creator's.")
    ] = None,
    image_ids: Annotated[list[str] | None, typer.Option("--id", help="An image_id; may be given repeatedly.")] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="A .jsonl file of labels that lies elsewhere.")] = None,
    cache: Annotated[Path, typer.Option(help="Where train.py keeps features.")] = CACHE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete artworks for good: images, lines, labels, splits, features; they are not fetched or added again.

    Shows what it would delete and asks first. To let something return, delete its line in purged.jsonl.
    """
    from artgate.artworks.collection import Collection
    from artgate.artworks.forgetting import check_label_files

    if bool(image_ids) == bool(creator or source):
        raise UserError("give either --creator, --source or both, or --id: 1 kind of choice is needed")
    opened = Collection(root)
    # Before anything is deleted.
    check_label_files(labels or [])
    if cache.exists() and not cache.is_dir():
        raise UserError(f"cache {cache} is a file: give the folder in which train.py keeps features")
    chosen, rule = _chosen(opened, creator, source, image_ids or [])
    _show(chosen, rule, root)
    if not yes and not typer.confirm("Delete them for good?" if chosen else "Go on?"):
        raise typer.Exit(1)
    if rule:
        gone = opened.purge_all(rule.creator, rule.source)
    else:
        gone = opened.purge([artwork.image_id for artwork in chosen])
    _forget(opened, labels or [], cache, gone)


@collection.command()
def merge(
    target: Annotated[Path, typer.Argument(help="The Collection to add to, or to make.")],
    sources: Annotated[list[Path], typer.Argument(help="Collections to add; they are only read.")],
) -> None:
    """Add all artworks of other Collections, with their provenance; exact copies once. Labels are not merged."""
    from artgate.artworks.collection import Collection
    from artgate.artworks.merging import merge as merge_into

    missing = [source for source in sources if not (source / "metadata.jsonl").is_file()]
    if missing:
        raise UserError(f"{missing[0]} is not a Collection ({len(missing)} such): check the path")
    into = Collection(target, create=True)
    counts = merge_into(into, sources)
    told = ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "nothing to add"
    typer.echo(f"{told}; {len(into)} artworks in {target}")


@collection.command()
def export(
    root: CollectionArgument,
    out: Annotated[Path, typer.Argument(help="The .jsonl or .parquet file to write.")],
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Needed: images are not ours to redistribute.")
    ] = False,
    labels: Annotated[Path | None, typer.Option(help="Join this file of grades, votes or ratings.")] = None,
    with_prompts: Annotated[
        bool, typer.Option("--with-prompts", help="With prompts and parameters, which are texts of others.")
    ] = False,
) -> None:
    """Share URLs, hashes, provenance and labels, one line an artwork with its licence; never an image."""
    if not metadata_only:
        raise UserError("images are never exported: say --metadata-only to write what is known of them")
    from artgate.artworks.collection import Collection
    from artgate.labels.sharing import UNKNOWN, export_metadata

    opened = Collection(root, read_only=True)
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} lies in {root}, among its own files: name a file elsewhere")
    count = export_metadata(opened, out, labels, with_prompts)
    unknown = sum(not artwork.provenance.licence for artwork in opened)
    typer.echo(f"{count} lines in {out}; the licence of {unknown} is {UNKNOWN}")


def _chosen(
    opened: "Collection", creator: str | None, source: str | None, image_ids: list[str]
) -> tuple[list["Artwork"], "Rule | None"]:
    from artgate.artworks.purges import Rule

    artworks = [*opened, *opened.gone]
    if not image_ids:
        rule = Rule(creator, source)
        return [artwork for artwork in artworks if rule.fits(artwork.provenance)], rule
    wanted = set(image_ids)
    chosen = {artwork.image_id: artwork for artwork in artworks if artwork.image_id in wanted}
    unknown = [image_id for image_id in image_ids if image_id not in chosen and image_id not in opened.purged_ids]
    if unknown:
        raise UserError(f"image_id {unknown[0]!r} is not in {opened.root} ({len(unknown)} such): give all 64 digits")
    return list(chosen.values()), None


def _show(chosen: list["Artwork"], rule: "Rule | None", root: Path) -> None:
    from artgate.artworks.text import one_line

    typer.echo(f"{len(chosen)} artworks to delete in {root}" + (":" if chosen else ""))
    for artwork in islice(chosen, EXAMPLES):
        provenance = artwork.provenance
        told = (provenance.source, provenance.creator, provenance.prompt)
        typer.echo("  " + "  ".join([artwork.image_id[:12], *filter(None, (one_line(text, 60) for text in told))]))
    if len(chosen) > EXAMPLES:
        typer.echo(f"  and {len(chosen) - EXAMPLES} others")
    if rule:
        typer.echo(f"What comes later of {rule} is refused too.")


def _forget(opened: "Collection", labels: Iterable[Path], cache: Path, gone: int) -> None:
    from artgate.artworks.forgetting import forget
    from artgate.scoring.feature_store import remove_features

    # Of all that was ever purged here: so the same command finishes one that was killed.
    lines = forget(opened.root, opened.purged_ids, labels)
    rows = remove_features(cache, opened.purged_ids)
    typer.echo(f"{gone} artworks purged, {len(opened)} left; {rows} rows of features in {cache}")
    for path, count in lines.items():
        typer.echo(f"  {count} entries of {path}")
