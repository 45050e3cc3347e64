"""The record of one artwork: what it is, where it came from and how it was made."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from artgate.errors import UserError

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
IMAGE_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Provenance:
    """Where an artwork came from, and how it was generated as far as that is known.

    source: the collector (`agiqa3k`, `civitai`, `artgate`); source_id: its name there.
    generator: the model that made it. guidance: classifier-free guidance scale. parameters: anything else, JSON-able.
    collected_at: ISO 8601, UTC; set by `Collection.add` where it is missing.
    """

    source: str = ""
    source_id: str | None = None
    page_url: str | None = None
    image_url: str | None = None
    creator: str | None = None
    licence: str | None = None
    terms: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    generator: str | None = None
    sampler: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    http_status: int | None = None
    collected_at: str | None = None


@dataclass(frozen=True)
class Artwork:
    """One image of a Collection.

    image_id: sha256 of the file's bytes, 64 hex digits. file_name: relative to the Collection's folder.
    width, height: pixels, after EXIF rotation. format: PNG, JPEG or WEBP.
    pdq: 256-bit perceptual hash, 64 hex digits; pdq_quality: 0 (flat, the hash says nothing) to 100.
    near_duplicate_of: the image_id of the earliest artwork of the Collection that looks the same (within
    `duplicates.RADIUS` bits, mirrored copies too), "" where there is none; set by `Collection.add`.
    """

    image_id: str
    file_name: str
    width: int
    height: int
    format: str
    pdq: str
    pdq_quality: int = 100
    provenance: Provenance = field(default_factory=Provenance)
    near_duplicate_of: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as a flat mapping whose every value is a string or an int, never null.

        `datasets` takes each column's type from the first lines of metadata.jsonl: a column that is null there
        and a number later cannot be read. So what may be missing is a string, "" where it is, and free-form
        parameters are a JSON string. (Strings also hold ComfyUI's unsigned 64-bit seeds.)
        """
        record: dict[str, Any] = {
            "file_name": self.file_name,
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("file_name", "provenance")},
        }
        for name in _PROVENANCE_FIELDS:
            value = getattr(self.provenance, name)
            record[name] = "" if value is None else str(value)
        record["parameters"] = json.dumps(self.provenance.parameters, ensure_ascii=False, sort_keys=True)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Artwork":
        """The inverse of `to_json`. Raises UserError naming the first field that is missing or wrong."""
        try:
            given = {name: record[name] for name in _PROVENANCE_FIELDS if record.get(name) not in (None, "")}
            for name, cast in _NUMBERS.items():
                if name in given:
                    given[name] = cast(given[name])
            parameters = json.loads(record.get("parameters") or "{}")
            # The name comes from a file that others may have made: it must not lead out of the folder.
            if record["file_name"] != file_name_of(record["image_id"], record["format"]):
                raise ValueError(f"file_name must be images/<image_id>.<suffix>, image_id {record['image_id']!r}")
            original = record.get("near_duplicate_of") or ""  # lines of before this field do without
            if original and not IMAGE_ID.fullmatch(original):
                raise ValueError(f"near_duplicate_of {original!r} is not an image_id")
            return cls(
                **{name: record[name] for name in _OWN_FIELDS},
                pdq_quality=record.get("pdq_quality", 100),
                near_duplicate_of=original,
                provenance=Provenance(**given, parameters=parameters),
            )
        except KeyError as error:
            raise UserError(
                f"a metadata line has no {error}: this is not a Collection; `artgate import` makes one of any folder"
            ) from None
        except (TypeError, ValueError) as error:
            raise UserError(f"the metadata line of {record.get('file_name')!r} is not valid: {error}") from None


def image_id_of(data: bytes) -> str:
    """Identity of an image file: sha256 of its bytes."""
    return hashlib.sha256(data).hexdigest()


def file_name_of(image_id: str, format: str) -> str:
    """Where a Collection keeps the image, relative to its folder. Raises ValueError for what is not an image_id."""
    if not IMAGE_ID.fullmatch(image_id) or format not in EXTENSIONS:
        raise ValueError(
            f"image_id {image_id!r} with format {format!r}: expected 64 hex digits and one of PNG, JPEG, WEBP"
        )
    return f"images/{image_id}.{EXTENSIONS[format]}"


_OWN_FIELDS = ("image_id", "file_name", "width", "height", "format", "pdq")
_PROVENANCE_FIELDS = tuple(f.name for f in fields(Provenance) if f.name != "parameters")
_NUMBERS: dict[str, type] = {"seed": int, "steps": int, "guidance": float, "http_status": int}
