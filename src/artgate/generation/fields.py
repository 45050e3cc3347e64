"""What lines of a ledger and sidecars hold, checked before it is used: anyone may have changed them by hand."""

import base64
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from artgate.generation.likeness import DIMENSIONS

Fits = Callable[[Any], bool]
LARGEST = 2**63


@dataclass(frozen=True)
class Kind:
    """Of a value. words: for messages, what it should be. fits: whether one is. may_miss: there may be none."""

    words: str
    fits: Fits
    may_miss: bool = False


def misfit_in_line(line: Mapping[str, Any]) -> str | None:
    """What is wrong with the first field of a ledger's line that generation could not use, None where it can all."""
    kinds = LINE
    if line.get("score") is not None:
        kinds = kinds | {"probabilities": PROBABILITIES}
    if line.get("status") == "accepted":
        kinds = kinds | {"image_id": DIGEST}
    if "pdq_quality" in line:
        kinds = kinds | {"pdq": DIGEST}
    return _misfit(line, kinds)


def misfit_in_sidecar(told: Mapping[str, Any]) -> str | None:
    """What is wrong with the first field of a sidecar that it could not be remade by, None where it could."""
    return _misfit(told, SIDECAR)


def _misfit(told: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str | None:
    for name, kind in kinds.items():
        *outer, key = name.split(".")
        holder: Any = told
        for part in outer:
            holder = holder.get(part, {})
        if key not in holder:
            if not kind.may_miss:
                return f"has no {name}"
        elif not kind.fits(holder[key]):
            return f"has {name} {reprlib.repr(holder[key])}, which is not {kind.words}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_sketch(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(base64.b64decode(value, validate=True)) == DIMENSIONS
    except ValueError:
        return False


def _is_look(value: Any) -> bool:
    return isinstance(value, dict) and _is_whole(0, LARGEST)(value.get("step")) and _is_number(value.get("score"))


def _is_picture(value: Any) -> bool:
    return isinstance(value, dict) and _is_digest(value.get("sha256"))


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and _is_text(value.get("fingerprint"))


def _is_whole(least: int, end: int) -> Fits:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < end


def _is_list_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_object_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _or_null(kind: Kind) -> Kind:
    return replace(kind, words=f"{kind.words}, or null", fits=lambda value: value is None or kind.fits(value))


def _if_there(kind: Kind) -> Kind:
    return replace(kind, may_miss=True)


TEXT = Kind("a text", _is_text)
COUNT = Kind("a whole number from 0 on", _is_whole(0, LARGEST))
SLOTS = Kind("a whole number from 1 on", _is_whole(1, LARGEST))
SEED = Kind("a whole number from 0 to 2^32 - 1", _is_whole(0, 2**32))
NUMBER = Kind("a number", _is_number)
OBJECT = Kind("a JSON object", _is_object)
TEXTS = Kind("a JSON object of texts", _is_object_of(_is_text))
NUMBERS = Kind("a JSON object of numbers", _is_object_of(_is_number))
PROBABILITIES = Kind("one number for each grade", lambda value: NUMBERS.fits(value) and "good" in value)
POINT = Kind("a list of numbers", _is_list_of(_is_number))
DIGEST = Kind("64 hex digits", _is_digest)
SKETCH = Kind(f"{DIMENSIONS} bytes in base64", _is_sketch)
LOOK = Kind("a JSON object with the numbers step and score", _is_look)
LOOKS = Kind("a list of JSON objects with the numbers step and score", _is_list_of(_is_look))
MODELS = Kind("a JSON object with name and fingerprint of each model", _is_object_of(_is_model))
PICTURE = Kind("a JSON object with the sha256 of a picture", _is_picture)

CANDIDATE = {"index": COUNT, "prompt": TEXT, "negative_prompt": TEXT, "seed": SEED}
LINE = {
    **CANDIDATE,
    "basemap": _or_null(TEXT),
    "template": COUNT,
    "score": _or_null(NUMBER),
    "probabilities": _or_null(PROBABILITIES),
    "reason": _or_null(TEXT),
    "image_id": _or_null(DIGEST),
    "evaluations": COUNT,
    "seconds": NUMBERS,
    "point": _if_there(_or_null(POINT)),
    "previews": _if_there(_or_null(LOOKS)),
    "preview": _if_there(LOOK),
    "sketch": _if_there(_or_null(SKETCH)),
    "pdq_quality": _if_there(COUNT),
}
SIDECAR = {
    "candidate": OBJECT,  # an object comes before what is in it
    **{f"candidate.{key}": kind for key, kind in CANDIDATE.items()},
    "candidate.basemap": _if_there(_or_null(TEXT)),
    "candidate.template": _if_there(COUNT),
    "models": MODELS,
    "config": OBJECT,
    "config.diffusion": OBJECT,
    "sampler": _if_there(OBJECT),
    "sampler.slots": _if_there(_or_null(SLOTS)),
    "sampler.precision": _if_there(_or_null(TEXT)),
    "small": _if_there(PICTURE),
    "versions": _if_there(TEXTS),
}
