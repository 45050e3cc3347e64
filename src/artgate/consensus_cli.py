"""`artgate label consensus` and `report`: what votes say together, and how far those who gave them agree."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artgate.collection_cli import CACHE, CollectionArgument
from artgate.errors import UserError

if TYPE_CHECKING:
    from artgate.artworks.collection import Collection
    from artgate.labels.grades import Grades
    from artgate.labels.suspects import Suspect
    from artgate.labels.votes import Vote


class Method(StrEnum):
    """How `artgate label consensus` joins votes."""

    MAJORITY = "majority"
    DAWID_SKENE = "dawid-skene"


def consensus(
    collection: CollectionArgument,
    method: Annotated[
        Method, typer.Option(help="Vote shares, or annotators weighed by their confusions.")
    ] = Method.MAJORITY,
) -> None:
    """Join the votes of a Collection into grade probabilities: grades.jsonl, which `train.py` reads."""
    from artgate.labels.agreement import agreement
    from artgate.labels.agreement_table import print_agreement
    from artgate.labels.annotators import annotators
    from artgate.labels.ballots import ballots
    from artgate.labels.consensus import consensus as join
    from artgate.labels.grades import ASPECTS
    from artgate.labels.votes import read_votes

    votes = read_votes(collection)
    grades = join(votes, method.value)
    path = grades.save(collection)
    typer.echo(f"{len(grades)} graded artworks in {path}")
    told = {aspect: of for aspect in ASPECTS if (of := ballots(votes, aspect)).artworks}
    first, *_ = told.values()
    print_agreement([agreement(of, aspect) for aspect, of in told.items()], annotators(first))


def report(
    collection: CollectionArgument,
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path("report.html"),
    scorer: Annotated[Path | None, typer.Option(help="A scorer's folder; without it the shipped one.")] = None,
    with_suspects: Annotated[
        bool, typer.Option("--suspects/--no-suspects", help="Look for grades to give again, by the scorer's features.")
    ] = True,
    method: Annotated[Method, typer.Option(help="How the votes are joined.")] = Method.MAJORITY,
    cache: Annotated[Path, typer.Option(help="Where features are kept between runs.")] = CACHE,
) -> None:
    """Write one page on the votes: agreement, annotators, disputed artworks, balance, grades to look at again.

    The last are kept in the Collection too, in suspects.jsonl. Finding them computes features, once.
    """
    from artgate.artworks.collection import Collection
    from artgate.labels.consensus import consensus as join
    from artgate.labels.report import main_aspect, write_report
    from artgate.labels.votes import read_votes

    if out.suffix != ".html":
        raise UserError(f"{out} ends in {out.suffix!r}: name a file that ends in .html")
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: the folder {out.parent} does not exist; make it first")
    opened, votes = Collection(collection, read_only=True), read_votes(collection)
    grades = join(votes, method.value)
    found, why = None, "--no-suspects was given"
    if with_suspects:
        try:
            found, why = _suspects(opened, votes, grades, main_aspect(votes), scorer, cache), ""
        except UserError as error:
            if scorer is not None:  # who names a scorer wants its opinion; the shipped one may have too little to go by
                raise
            why = str(error)
    write_report(opened, votes, grades, found, out, why)
    typer.echo(str(out) if not why else f"{out}; no suspects: {why}")


def _suspects(
    opened: "Collection", votes: "list[Vote]", grades: "Grades", aspect: str, scorer: Path | None, cache: Path
) -> "list[Suspect]":
    """Find the suspects among grades that no ground-truth vote fixed, and keep them in the Collection."""
    import numpy as np

    from artgate.labels.ballots import ballots
    from artgate.labels.suspects import suspects, write_suspects
    from artgate.scoring.scorer import Scorer, default_scorer_path
    from artgate.scoring.second_opinion import second_opinion

    graded = [image_id for image_id in grades if aspect in grades[image_id] and image_id in opened]
    likeliest = grades.array(graded, [aspect])[:, 0].argmax(1)  # (N,)
    encoder = Scorer.load(scorer or default_scorer_path()).encoder
    opinion = second_opinion(opened, graded, likeliest, encoder, cache)
    told = ballots(votes, aspect)
    certain = {told.artworks[place] for place in np.flatnonzero(told.truth >= 0)}
    found = [suspect for suspect in suspects(graded, likeliest, opinion, aspect) if suspect.image_id not in certain]
    found = [replace(suspect, rank=rank) for rank, suspect in enumerate(found, start=1)]
    write_suspects(opened.root, found)
    return found
