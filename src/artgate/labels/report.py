"""What people's votes say, as one HTML page: agreement, annotators, balance, disputes, grades to give again.

The page stands alone: pictures are inside it, nothing comes from a network. All names and prompts in it came from
outside, and are escaped. It holds samples of bounded number, so it stays small however many votes there are.
Agreement and balance are of every aspect; annotators, disputes and suspects of the first that has votes: quality.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from artgate.artworks.collection import Collection
from artgate.artworks.files import write_atomic
from artgate.artworks.page import environment, thumbnail
from artgate.artworks.text import one_line
from artgate.errors import UserError
from artgate.labels.agreement import Pair, agreement
from artgate.labels.annotators import Annotator, annotators
from artgate.labels.ballots import Ballots, ballots
from artgate.labels.disagreement import disputed
from artgate.labels.grades import ASPECTS, GRADES, Grades
from artgate.labels.suspects import Suspect
from artgate.labels.votes import Vote

SIDE = 256  # of thumbnails, in pixels
MOST_PICTURES, MOST_ANNOTATORS, MOST_VOTERS, MOST_PAIRS = 24, 40, 12, 8
# Krippendorff's own: from the first on conclusions may be drawn, from the second on tentative ones.
RELIABLE, TENTATIVE = 0.8, 0.667
SPARK = (240, 56)  # of the drawing of a drift, in pixels
LEAST_TOP = 0.5  # of its scale, in grades: smaller ups and downs look small


@dataclass(frozen=True)
class Picture:
    """An artwork as the page shows it. thumbnail: a data URI, None where there is no picture to show."""

    image_id: str
    thumbnail: str | None
    width: int
    height: int
    prompt: str


@dataclass(frozen=True)
class Dispute:
    """A picture with its votes: how many of each grade, and some of them by name."""

    picture: Picture
    counts: list[tuple[str, int]]
    voters: list[tuple[str, str]]
    others: int


@dataclass(frozen=True)
class Balance:
    """How many artworks have each grade by the consensus, of one aspect."""

    aspect: str
    counts: list[tuple[str, int]]


def main_aspect(votes: Iterable[Vote]) -> str:
    """The first aspect that has any vote: quality, in most Collections."""
    voted = {vote.aspect for vote in votes}
    return next(aspect for aspect in ASPECTS if aspect in voted)


def write_report(
    collection: Collection,
    votes: Sequence[Vote],
    grades: Grades,
    suspects: Sequence[Suspect] | None,
    path: Path,
    why_none: str = "",
) -> None:
    """Write the page, replacing `path` as a whole.

    votes: at least one. grades: their consensus. suspects: the worst first; None where nothing looked for them, for
    the reason `why_none`. Raises UserError where the folder of `path` is missing.
    """
    write_atomic(path, render(collection, votes, grades, suspects, why_none))


def render(
    collection: Collection, votes: Sequence[Vote], grades: Grades, suspects: Sequence[Suspect] | None, why_none: str
) -> str:
    """The page, as `write_report` writes it."""
    by_aspect = {aspect: ballots(votes, aspect) for aspect in ASPECTS}
    main = main_aspect(votes)
    told = by_aspect[main]
    people = sorted(annotators(told), key=lambda annotator: (not annotator.remarks, -annotator.votes))
    found = [agreement(of, aspect) for aspect, of in by_aspect.items() if of.artworks]
    wide = disputed(told)
    templates = environment(Path(__file__).parent)
    templates.filters.update(points=_points, cells=_cells)
    return templates.get_template("report.html.j2").render(
        name=one_line(collection.root.resolve().name),
        grade_names=GRADES,
        main=found[0],
        aspects=found,
        reading=_reading(found[0].alpha),
        lowest=_lowest(found[0].pairs),
        kappas=_range([pair.kappa for pair in found[0].pairs if pair.kappa is not None]),
        annotators=[_safe(annotator) for annotator in people[:MOST_ANNOTATORS]],
        more_annotators=max(0, len(people) - MOST_ANNOTATORS),
        blamed=[_safe(annotator) for annotator in people if annotator.remarks][:MOST_ANNOTATORS],
        balance=[_balance(grades, aspect.aspect) for aspect in found],
        disputes=_disputes(collection, told, [artwork.image_id for artwork in wide[:MOST_PICTURES]]),
        disputed=len(wide),
        suspects=None
        if suspects is None
        else [(_picture(collection, suspect.image_id), suspect) for suspect in suspects[:MOST_PICTURES]],
        suspected=len(suspects or ()),
        why_none=one_line(why_none, 400),
        spark=SPARK,
    )


def _safe(annotator: Annotator) -> Annotator:
    return replace(annotator, name=one_line(annotator.name, 60) or "(unprintable)")


def _reading(alpha: float | None) -> str:
    if alpha is None:
        return "nothing to tell: let two people or more grade the same artworks"
    if alpha >= RELIABLE:
        return "reliable"
    return "enough for tentative conclusions" if alpha >= TENTATIVE else "low: the grading guide leaves room for taste"


def _range(kappas: Sequence[float]) -> tuple[float, float] | None:
    return (min(kappas), max(kappas)) if kappas else None


def _lowest(pairs: Iterable[Pair]) -> list[Pair]:
    known = sorted((pair for pair in pairs if pair.kappa is not None), key=lambda pair: pair.kappa or 0.0)
    return [
        replace(pair, first=one_line(pair.first, 40), second=one_line(pair.second, 40)) for pair in known[:MOST_PAIRS]
    ]


def _balance(grades: Grades, aspect: str) -> Balance:
    likeliest = [int(np.argmax(graded[aspect])) for graded in grades.values() if aspect in graded]
    counts = np.bincount(likeliest, minlength=len(GRADES)).tolist()
    return Balance(aspect, list(zip(GRADES, counts, strict=True)))


def _disputes(collection: Collection, told: Ballots, image_ids: Sequence[str]) -> list[Dispute]:
    wanted = {told.artworks.index(image_id): image_id for image_id in image_ids}
    voters: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for vote in np.flatnonzero(np.isin(told.artwork, list(wanted))).tolist():
        name = one_line(told.annotators[told.annotator[vote]], 30) or "(unprintable)"
        voters[int(told.artwork[vote])].append((name, GRADES[told.grade[vote]]))
    disputes = []
    for place, image_id in wanted.items():
        named = sorted(voters[place], key=lambda voter: GRADES.index(voter[1]))
        counts = [(grade, sum(given == grade for _, given in named)) for grade in GRADES]
        disputes.append(
            Dispute(_picture(collection, image_id), counts, named[:MOST_VOTERS], max(0, len(named) - MOST_VOTERS))
        )
    return disputes


def _picture(collection: Collection, image_id: str) -> Picture:
    if image_id not in collection:
        return Picture(image_id, None, 1, 1, "")
    artwork = collection[image_id]
    prompt = one_line(artwork.provenance.prompt, 300)
    try:
        return Picture(image_id, *thumbnail(collection.image(artwork), SIDE), prompt)
    except UserError:  # gone or damaged since it was added
        return Picture(image_id, None, 1, 1, prompt)


def _points(levels: Sequence[float]) -> str:
    """The points of a line through the levels of blocks, in a drawing of the size `SPARK`, 0 in its middle."""
    width, height = SPARK
    top = max(LEAST_TOP, *map(abs, levels))
    step = (width - 16) / max(1, len(levels) - 1)
    heights = (height / 2 - level / top * (height / 2 - 6) for level in levels)
    return " ".join(f"{8 + place * step:.1f},{y:.1f}" for place, y in enumerate(heights))


def _cells(table: np.ndarray) -> list[list[float | None]]:
    """Each cell's share of its row; None where the row has nothing."""
    totals = table.sum(1, keepdims=True)
    shares = np.divide(table, totals, out=np.full(table.shape, np.nan), where=totals > 0)
    return [[None if np.isnan(share) else share for share in row] for row in shares.tolist()]
