"""`artgate label …`: from votes of people to grades that `train.py` learns from."""

from pathlib import Path
from typing import Annotated

import typer

from artgate import consensus_cli, studio_cli
from artgate.collection_cli import CollectionArgument

label = typer.Typer(help="From votes of people to grades that `train.py` learns from.", no_args_is_help=True)
label.command()(studio_cli.serve)
label.command()(studio_cli.push)
label.command()(studio_cli.pull)
label.command()(studio_cli.watch)
label.command()(consensus_cli.consensus)
label.command()(consensus_cli.report)


@label.command("import")
def label_import(
    export: Annotated[Path, typer.Argument(help="A Label Studio project exported in the format JSON.")],
    collection: CollectionArgument,
) -> None:
    """Read the votes of a Label Studio export into the Collection's votes.parquet, beside those already there."""
    from artgate.artworks.collection import Collection
    from artgate.labels.studio.export import votes_from_label_studio
    from artgate.labels.studio.lock import alone
    from artgate.labels.votes import FILE_NAME, latest_votes, read_votes, write_votes

    votes, left_out = votes_from_label_studio(export, Collection(collection))
    with alone(collection):
        earlier = read_votes(collection / FILE_NAME) if (collection / FILE_NAME).exists() else []
        pulled = [vote for vote in earlier if vote.annotation is not None]
        imported = [vote for vote in earlier if vote.annotation is None]
        kept = [*pulled, *latest_votes([*imported, *votes])]
        write_votes(collection, kept)
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "nothing"
    typer.echo(f"{len(votes)} votes read, {len(kept)} now in {collection / FILE_NAME}; left out: {told}")
