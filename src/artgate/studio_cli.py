"""`artgate label serve`, `push` and `pull`: artworks to people, and what they say back."""

import signal
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artgate.choosing import By, choose
from artgate.collection_cli import CACHE, CollectionArgument
from artgate.errors import UserError

if TYPE_CHECKING:
    from artgate.artworks.collection import Collection
    from artgate.labels.studio.push import Prediction
    from artgate.labels.studio.server import Server

ProjectOption = Annotated[str, typer.Option(help="The Label Studio project's name.")]


def serve(
    collections: Annotated[
        list[Path] | None, typer.Argument(help="Collections whose images it may show, beside those of earlier.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="On 127.0.0.1; without it 8080, or one that is free.")] = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Run a Label Studio on this machine, for this machine alone, until Ctrl-C; installed at the first use."""
    from artgate.artworks.collection import Collection
    from artgate.labels.studio.served import serve_images, served_images
    from artgate.labels.studio.server import data_folder, serving

    data = data_folder()
    for root in collections or []:
        serve_images(data, Collection(root, read_only=True))
    _end_by_signals()
    try:
        with serving(data, port, lambda line: typer.echo(line, err=True)) as server:
            _introduce(server, served_images(data))
            if browser:
                webbrowser.open(server.url)
            while server.process.poll() is None:
                time.sleep(0.5)
    except KeyboardInterrupt:
        typer.echo("Label Studio has ended; its data stays, and `artgate label serve` goes on with it.", err=True)
        return
    typer.echo(f"Label Studio has ended by itself: see {data / 'server.log'}", err=True)
    raise typer.Exit(1)


def push(
    collection: CollectionArgument,
    project: ProjectOption,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many of the order, those already there too.")
    ] = None,
    by: Annotated[By, typer.Option(help="Which artworks are sent, and graded, first.")] = By.RANDOM,
    seed: Annotated[int, typer.Option(help="Of what is chosen by chance.")] = 0,
    labelling: Annotated[str, typer.Option(help="What is asked: a name in conf/labelling, or a file.")] = "default",
    overlap: Annotated[int | None, typer.Option(help="So many annotators grade an artwork of the share.")] = None,
    share: Annotated[float, typer.Option(help="Of the artworks, that --overlap is for; the others get one.")] = 1.0,
    predictions: Annotated[bool, typer.Option(help="Send what the scorer thinks, with its confidence.")] = False,
    show_predictions: Annotated[bool, typer.Option(help="Let annotators see it, which sways them.")] = False,
    scorer: Annotated[
        Path | None,
        typer.Option(
            help="A scorer's folder; without it the shipped one, and by uncertainty a quick model of the grades so far."
        ),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where features are kept between runs.")] = CACHE,
    images: Annotated[
        str | None, typer.Option(help="For a team's server: what comes before a file's name in its address.")
    ] = None,
) -> None:
    """Send artworks to people: as tasks of a Label Studio project, made if need be. Again: only what is new."""
    from artgate.artworks.collection import Collection
    from artgate.labels.studio.client import Studio
    from artgate.labels.studio.config import read_labelling
    from artgate.labels.studio.overlap import Overlap
    from artgate.labels.studio.push import push as push_tasks

    asked = read_labelling(labelling)
    planned = None if overlap is None else Overlap(overlap, share, seed)
    if share != 1.0 and overlap is None:
        raise UserError(f"share {share:g} is of the artworks that several people grade: say how many with --overlap")
    opened = Collection(collection)
    if not len(opened):
        raise UserError(f"{collection} has 0 artworks: add some first")
    studio = Studio(tell=lambda line: typer.echo(line, err=True))
    order = choose(opened, by, limit, seed, scorer, cache)
    told = _predictions(opened, order, scorer, cache) if predictions or show_predictions else None
    done = push_tasks(studio, opened, project, order, asked, planned, told, images, show_predictions)
    typer.echo(
        f"{done.added} tasks added to {project!r}, {done.predicted} with a prediction; {done.there} were there; "
        f"{done.overlapping} are for several annotators"
    )
    if by in (By.DISAGREEMENT, By.SUSPECTS) and done.there and overlap is None:
        typer.echo("those that were there ask for further votes only with a higher --overlap", err=True)
    typer.echo(done.url)


def pull(
    collection: CollectionArgument,
    project: ProjectOption,
    everything: Annotated[
        bool, typer.Option("--all", help="Read all annotations anew, not only of tasks that changed.")
    ] = False,
) -> None:
    """Fetch what people said: votes into votes.parquet; defects, comments and skips into remarks.jsonl."""
    from artgate.artworks.collection import Collection
    from artgate.labels.studio.client import Studio
    from artgate.labels.studio.pull import REMARKS
    from artgate.labels.studio.pull import pull as pull_votes

    studio = Studio(tell=lambda line: typer.echo(line, err=True))
    done = pull_votes(studio, Collection(collection), project, everything)
    typer.echo(
        f"{done.votes} votes of {project!r} in {done.path}: {done.added} new, {done.edited} edited, "
        f"{done.withdrawn} withdrawn, {done.of_deleted_tasks} of deleted tasks kept, {done.repeated} graded again later"
    )
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(done.left_out.items())) or "nothing"
    typer.echo(f"{done.remarks} remarks in {collection / REMARKS}; {done.tasks} tasks, of them read anew {done.read}")
    typer.echo(f"left out of what was read: {left_out}")


def watch(
    collection: CollectionArgument,
    project: ProjectOption,
    votes: Annotated[int, typer.Option(help="Train when so many votes are new or changed.")] = 100,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 300.0,
    script: Annotated[Path, typer.Option(help="artgate's train.py.")] = Path("train.py"),
    overrides: Annotated[
        list[str] | None, typer.Argument(help="What train.py is given besides, after `--`: as encoder=embedded.")
    ] = None,
) -> None:
    """Pull votes again and again, and run train.py whenever enough are new, until Ctrl-C."""
    import subprocess

    from artgate.artworks.collection import Collection
    from artgate.labels.studio.client import Studio
    from artgate.labels.studio.pull import pull as pull_votes
    from artgate.labels.studio.watch import Watch
    from artgate.labels.studio.watch import watch as look_on
    from artgate.labels.votes import Vote, read_votes

    if not script.is_file():
        raise UserError(f"{script} does not exist: run this in artgate's folder, or name its train.py with --script")
    watched, opened = Watch(collection, votes, every), Collection(collection)
    root = str(collection.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, str(script), f"data.root='{root}'", "data.grades=votes", *(overrides or [])]
    studio = Studio(tell=lambda line: typer.echo(line, err=True))
    _end_by_signals()

    def pulled() -> list[Vote]:
        pull_votes(studio, opened, project)
        return read_votes(collection)

    def train() -> bool:
        return subprocess.run(command).returncode == 0

    try:
        look_on(watched, pulled, train, lambda line: typer.echo(f"{time.strftime('%H:%M:%S')} {line}"))
    except KeyboardInterrupt:
        typer.echo("watching has ended; run again, it goes on", err=True)


def _end_by_signals() -> None:
    """Let this process be ended from outside as by Ctrl-C, also in a shell's background."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _introduce(server: "Server", folders: Sequence[Path]) -> None:
    from artgate.labels.studio.server import credentials

    account, file = credentials(server.data), server.data / "credentials.json"
    typer.echo(f"Label Studio is at {server.url}")
    # On a terminal, for the one who sits there; what goes to a file or a log is told where to look.
    told = account.password if sys.stdout.isatty() else f"in {file}"
    typer.echo(f"  log in as {account.email}, password {told}")
    for folder in folders:
        typer.echo(f"  it may show {folder}")
    typer.echo("  next, in another terminal: artgate label push COLLECTION --project NAME")
    typer.echo("  Ctrl-C ends it")


def _predictions(
    collection: "Collection", image_ids: Sequence[str], scorer: Path | None, cache: Path
) -> dict[str, "Prediction"]:
    from artgate.labels.studio.push import Prediction
    from artgate.scoring.features import extract_features
    from artgate.scoring.scorer import Scorer, default_scorer_path

    loaded = Scorer.load(scorer or default_scorer_path())
    scores = loaded.score_features(extract_features(collection, loaded.encoder, image_ids, cache))
    version = f"artgate-{loaded.fingerprint[:12]}"
    return {
        image_id: Prediction(
            {aspect: max(grades, key=lambda grade: grades[grade]) for aspect, grades in score.aspects.items()},
            max(score.probabilities.values()),
            version,
        )
        for image_id, score in zip(image_ids, scores, strict=True)
    }
