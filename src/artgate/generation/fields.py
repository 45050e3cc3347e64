"""What lines of a ledger and sidecars hold, as JSON Schemas: anyone may have changed them by hand."""

import base64
import reprlib
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from artgate.generation.likeness import DIMENSIONS

Schema = dict[str, Any]
LARGEST = 2**63 - 1
HEX = "^[0-9a-f]{64}$"
SKETCH_LENGTH = len(base64.b64encode(bytes(DIMENSIONS)))


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"], "description": f"{schema['description']}, or null"}


def _whole(least: int, greatest: int = LARGEST, words: str = "") -> Schema:
    words = words or f"a whole number from {least} on"
    return {"type": "integer", "minimum": least, "maximum": greatest, "description": words}


def _listed(items: Schema, words: str) -> Schema:
    return {"type": "array", "items": items, "description": words}


def _object(
    fields: dict[str, Schema], words: str = "a JSON object", optional: dict[str, Schema] | None = None
) -> Schema:
    """With all of `fields`, and any others; what is `optional` fits where it is there."""
    properties = {**fields, **(optional or {})}
    return {"type": "object", "description": words, "properties": properties, "required": [*fields]}


def _object_of(values: Schema, words: str) -> Schema:
    return {"type": "object", "description": words, "additionalProperties": values}


# "description" says in a message what a value should be.
TEXT = {"type": "string", "description": "a text"}
NUMBER = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST, "description": "a number"}
DIGEST = {"type": "string", "pattern": HEX, "description": "64 hex digits"}
SKETCH = {
    "type": "string",
    "pattern": "^[A-Za-z0-9+/]+=*$",
    "minLength": SKETCH_LENGTH,
    "maxLength": SKETCH_LENGTH,
    "description": f"{DIMENSIONS} bytes in base64",
}
NUMBERS = _object_of(NUMBER, "a JSON object of numbers")
LOOK = _object({"step": _whole(0), "score": NUMBER}, "a JSON object with the numbers step and score")
MODEL = _object({"name": TEXT, "fingerprint": TEXT}, "a JSON object with name and fingerprint")
CANDIDATE = {
    "index": _whole(0),
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "seed": _whole(0, 2**32 - 1, "a whole number from 0 to 2^32 - 1"),
}
LINE = _object(
    {
        **CANDIDATE,
        "basemap": _or_null(TEXT),
        "template": _whole(0),
        "score": _or_null(NUMBER),
        "probabilities": _or_null(NUMBERS),
        "reason": _or_null(TEXT),
        "image_id": _or_null(DIGEST),
        "evaluations": _whole(0),
        "seconds": NUMBERS,
    },
    optional={
        "point": _or_null(_listed(NUMBER, "a list of numbers")),
        "previews": _or_null(_listed(LOOK, "a list of JSON objects")),
        "preview": LOOK,
        "sketch": _or_null(SKETCH),
        "pdq_quality": _whole(0),
        "pdq": DIGEST,
    },
) | {
    "dependentRequired": {"pdq_quality": ["pdq"]},
    "allOf": [
        {
            "if": {"properties": {"status": {"const": "accepted"}}},
            "then": {"properties": {"image_id": DIGEST}},
        },
        {
            "if": {"properties": {"score": {"type": "number"}}},
            "then": {"properties": {"probabilities": _object({"good": NUMBER}, "one number for each grade")}},
        },
    ],
}
SIDECAR = _object(
    {
        "candidate": _object(CANDIDATE, optional={"basemap": _or_null(TEXT), "template": _whole(0)}),
        "models": _object_of(MODEL, "a JSON object of models"),
        "config": _object({"diffusion": _object({})}),
    },
    optional={
        "sampler": _object({}, optional={"slots": _or_null(_whole(1)), "precision": _or_null(TEXT)}),
        "small": _object({"sha256": DIGEST}, "a JSON object with the sha256 of a picture"),
        "versions": _object_of(TEXT, "a JSON object of texts"),
    },
)


def misfit_in_line(line: Mapping[str, Any]) -> str | None:
    """What is wrong with a field of a ledger's line that generation could not use, None where it can use all."""
    return _told(next(_LINE.iter_errors(line), None))


def misfit_in_sidecar(told: Mapping[str, Any]) -> str | None:
    """What is wrong with a field of a sidecar that it could not be remade by, None where it could."""
    return _told(next(_SIDECAR.iter_errors(told), None))


def _told(error: ValidationError | None) -> str | None:
    if error is None:
        return None
    where = [str(part) for part in error.absolute_path]
    if error.validator in ("required", "dependentRequired"):
        wanted = error.validator_value
        names = wanted if isinstance(wanted, list) else sum(wanted.values(), [])
        missing = next(name for name in names if name not in error.instance)
        return f"has no {'.'.join([*where, missing])}"
    return f"has {'.'.join(where)} {reprlib.repr(error.instance)}, which is not {error.schema['description']}"


# JSON Schema takes 3.0 for a whole number, which counts and indices are not made of.
_TYPES = Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)
_Validator = extend(Draft202012Validator, type_checker=_TYPES)
_LINE, _SIDECAR = _Validator(LINE), _Validator(SIDECAR)
