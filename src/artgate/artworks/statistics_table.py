"""The statistics of a Collection as a table on a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from artgate.artworks.statistics import Statistics, Tally, by_period

WORDS = PERIODS = 12  # at most so many rows


def print_table(told: Statistics) -> None:
    """Print all counts. Names were cleaned where they were counted, and are no markup here."""
    table = Table("", "what", show_edge=False, pad_edge=False)
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    for title, tally in _tallies(told):
        _section(table, title, tally.top, tally.total, _remarks(tally))
    for title, pairs in (
        ("shorter side", told.sides),
        ("aspect", told.aspects),
        ("collected", by_period(told.times, PERIODS)),
    ):
        _section(table, title, [pair for pair in pairs if pair[1]], told.artworks, [])
    _section(table, "words in prompts", told.words.top[:WORDS], told.words.total, _remarks(told.words, WORDS))
    _section(table, "in all", _facts(told), told.artworks, [])
    Console().print(table)


def _tallies(told: Statistics) -> list[tuple[str, Tally]]:
    return [
        ("sources", told.sources),
        ("generators", told.generators),
        ("licences", told.licences),
        ("creators", told.creators),
        ("formats", told.formats),
        ("sizes", told.sizes),
        ("not kept", told.dropped),
    ]


def _facts(told: Statistics) -> list[tuple[str, int]]:
    return [
        ("artworks", told.artworks),
        ("with a prompt", told.prompted),
        ("different prompts", told.prompts),
        ("near-duplicates", told.near_duplicates),
        ("too flat to compare", told.flat),
        ("purged", told.purged),
        ("bytes", told.bytes),
    ]


def _remarks(tally: Tally, shown: int | None = None) -> list[tuple[str, int | None]]:
    others = tally.distinct - (len(tally.top) if shown is None else min(shown, len(tally.top)))
    remarks: list[tuple[str, int | None]] = [(f"and {others:,} others", None)] if others else []
    return remarks + ([("not known", tally.missing)] if tally.missing else [])


def _section(
    table: Table, title: str, pairs: Iterable[tuple[str, int]], total: int, remarks: list[tuple[str, int | None]]
) -> None:
    for place, (name, count) in enumerate([*pairs, *remarks]):
        share = "" if count is None or not total or count > total else f"{count / total:.1%}"
        table.add_row(title if place == 0 else "", Text(name), "" if count is None else f"{count:,}", share)
    table.add_section()
