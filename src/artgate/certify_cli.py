"""`artgate certify`: the threshold of a scorer that holds a precision, on graded artworks that it has not seen."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from artgate.errors import UserError


class Acceptable(StrEnum):
    """The lowest grade that counts as right."""

    GOOD = "good"
    AVERAGE = "average"


class Kind(StrEnum):
    """What is held against the threshold, as in a gate."""

    SCORE = "score"
    GOOD = "good"


class GradeSource(StrEnum):
    """Where a Collection's grades come from."""

    AUTO = "auto"
    GRADES = "grades"
    VOTES = "votes"
    RATINGS = "ratings"


class GroupKey(StrEnum):
    """What artworks of one group share."""

    NEAR_DUPLICATES = "near_duplicates"
    PROMPT = "prompt"
    CREATOR = "creator"


def certify(
    data: Annotated[Path, typer.Option(help="A graded Collection; what the scorer has seen of it is left out.")],
    scorer: Annotated[Path | None, typer.Option(help="A scorer's folder; without it the shipped one.")] = None,
    precision: Annotated[float, typer.Option(help="Share of the accepted that is to be acceptable.")] = 0.9,
    confidence: Annotated[float, typer.Option(help="How sure that is to be.")] = 0.95,
    acceptable: Annotated[Acceptable, typer.Option(help="The lowest grade that is acceptable.")] = Acceptable.GOOD,
    kind: Annotated[
        Kind | None,
        typer.Option(help="Of the score or of P(good); without it P(good) where good is asked for, else the score."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The certificate's folder; without it `certificate` in the scorer's.")
    ] = None,
    grades: Annotated[GradeSource, typer.Option(help="Which grades of the Collection count.")] = GradeSource.AUTO,
    cuts: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Ratings are poor below the first, good from the second on; without it AGIQA-3K's."),
    ] = None,
    group_by: Annotated[
        list[GroupKey] | None,
        typer.Option(help="What artworks share that are not independent; give it once for each. Without it all three."),
    ] = None,
    one_per_group: Annotated[
        bool, typer.Option(help="Look at one artwork a group: exact whatever groups share, and far fewer labels.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Where features are kept between runs.")] = Path(".cache/features"),
) -> None:
    """Find the lowest threshold that holds a precision with a stated confidence, and write a certificate for the gate.

    Exit status 2 where no threshold holds it: the message tells how many more labels would.
    """
    from artgate.scoring.certificate import FOLDER, certificate_text, save_certificate
    from artgate.scoring.certifying import Demand, make_certificate
    from artgate.scoring.config import GROUP_KEYS
    from artgate.scoring.shipped import default_scorer_path

    demand = Demand(precision, confidence, acceptable.value, kind.value if kind else None, one_per_group)
    folder = default_scorer_path() if scorer is None else scorer
    if out is None:
        if scorer is None:
            raise UserError("the shipped scorer's folder is not to be written in: name one with --out")
        out = folder / FOLDER
    by = tuple(key.value for key in group_by) if group_by else GROUP_KEYS
    certificate, reference = make_certificate(
        folder, data, demand, grades=grades.value, cuts=cuts, cache=cache, group_by=by
    )
    where = save_certificate(out, certificate, reference)
    typer.echo(certificate_text(certificate))
    typer.echo(f"certificate {where}")
    typer.echo(f"use it with python generate.py gate=certified gate.certificate={where.parent} scorer={folder}")
