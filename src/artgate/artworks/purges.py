"""What was purged from a Collection and may not return: `purged.jsonl`, and what it says of an artwork on offer.

A line names an artwork (`image_id`, and of its provenance `image_url`, `source`, `source_id`) or, in `refuse`, all of
one creator or source: {"refuse": {"creator": "…"}}, {"refuse": {"source": "…"}}, or both, which then must both fit.
Deleting a line lets what it names return.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artgate.artworks.artwork import Artwork, Provenance
from artgate.artworks.files import read_lines
from artgate.artworks.text import clean_text
from artgate.errors import UserError

REMEMBERED = ("source", "source_id", "image_url")


@dataclass(frozen=True)
class Rule:
    """Artworks of one creator, of one source, or of that creator at that source; names are compared letter by letter.

    Raises UserError where neither is named.
    """

    creator: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.creator and not self.source:
            raise UserError("a rule of what to purge names neither a creator nor a source: name one")

    def fits(self, provenance: Provenance) -> bool:
        """Whether the rule speaks of an artwork of this provenance."""
        return (not self.creator or self.creator == provenance.creator) and (
            not self.source or self.source == provenance.source
        )

    def __str__(self) -> str:
        parts = [f"{name} {clean_text(value)!r}" for name, value in self.as_mapping().items()]
        return " and ".join(parts)

    def as_mapping(self) -> dict[str, str]:
        """The names that are given, by what they name."""
        return {name: value for name, value in (("creator", self.creator), ("source", self.source)) if value}


@dataclass(frozen=True)
class Purges:
    """image_ids, addresses (of images) and rules of what may not return."""

    image_ids: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Purges":
        """Of a `purged.jsonl`; none where it is missing. Raises UserError for a line that names nothing."""
        lines = read_lines(path)
        rules = [_rule(line["refuse"], path) for line in lines if "refuse" in line]
        return cls(
            frozenset(line["image_id"] for line in lines if "image_id" in line),
            frozenset(line["image_url"] for line in lines if line.get("image_url")),
            tuple(dict.fromkeys(rules)),
        )

    def refusal(self, provenance: Provenance, image_id: str = "") -> str:
        """Why an artwork may not return, "" if it may. Without an image_id: what is known before it is fetched."""
        if image_id in self.image_ids:
            return f"{image_id} was purged from this Collection and may not return"
        if provenance.image_url in self.addresses:
            return f"the image at {provenance.image_url} was purged from this Collection and may not return"
        for rule in self.rules:
            if rule.fits(provenance):
                return f"all of {rule} was purged from this Collection and may not return"
        return ""


def purge_lines(artworks: Iterable[Artwork], rule: Rule | None, at: str) -> list[dict[str, Any]]:
    """The lines that remember a purge of `artworks`, and of all to come that a rule fits. at: ISO 8601 time."""
    lines: list[dict[str, Any]] = [{"refuse": rule.as_mapping(), "purged_at": at}] if rule else []
    for artwork in artworks:
        known = {name: value for name in REMEMBERED if (value := getattr(artwork.provenance, name))}
        lines.append({"image_id": artwork.image_id, "purged_at": at, **known})
    return lines


def _rule(value: object, path: Path) -> Rule:
    if not isinstance(value, Mapping) or not value.keys() <= {"creator", "source"}:
        raise UserError(f'{path}: refuse {value!r} is not {{"creator": …, "source": …}}: mend or delete that line')
    return Rule(**value)
