"""How far people agree, as a table on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from artgate.artworks.text import one_line
from artgate.labels.agreement import Agreement
from artgate.labels.annotators import Annotator

MOST_NAMED = 10  # remarks on so many annotators; the report has all


def print_agreement(found: Sequence[Agreement], annotators: Sequence[Annotator]) -> None:
    """One row an aspect, then whom to look at and why. twice: artworks with two votes or more.

    annotators: of the first aspect.
    """
    table = Table("aspect", show_edge=False, pad_edge=False)
    for name in ("votes", "artworks", "twice", "people", "alpha", "95 %", "kappa of pairs"):
        table.add_column(name, justify="right")
    for aspect in found:
        table.add_row(*_cells(aspect))
    console = Console()
    console.print(table)
    for line in _remarks(found, annotators):
        console.print(Text(line), soft_wrap=True)


def _cells(found: Agreement) -> list[str]:
    kappas = [pair.kappa for pair in found.pairs if pair.kappa is not None]
    return [
        found.aspect,
        f"{found.votes:,}",
        f"{found.artworks:,}",
        f"{found.overlapping:,}",
        f"{found.annotators:,}",
        "–" if found.alpha is None else f"{found.alpha:.2f}",
        "–" if found.interval is None else "{:.2f}–{:.2f}".format(*found.interval),
        f"{min(kappas):.2f}–{max(kappas):.2f} ({len(kappas)})" if kappas else "–",
    ]


def _remarks(found: Sequence[Agreement], annotators: Sequence[Annotator]) -> list[str]:
    """Names were chosen by strangers: one safe line each, and no markup."""
    blamed = [annotator for annotator in annotators if annotator.remarks]
    lines = [
        f"look at {one_line(annotator.name, 60)}: {'; '.join(annotator.remarks)}" for annotator in blamed[:MOST_NAMED]
    ]
    if len(blamed) > MOST_NAMED:
        lines.append(f"and at {len(blamed) - MOST_NAMED} others: `artgate label report` has them")
    anchors = sum(aspect.anchors for aspect in found)
    contradicted = sum(aspect.contradicted for aspect in found)
    if anchors:
        lines.append(f"{anchors} grades are fixed by ground-truth votes")
    if contradicted:
        lines.append(f"{contradicted} have ground-truth votes that contradict each other and count as votes: mend them")
    if all(aspect.alpha is None for aspect in found):
        lines.append("no agreement to tell: let two people or more grade the same artworks")
    return lines
