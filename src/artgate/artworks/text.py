"""Text and numbers from elsewhere, made safe to keep: bounded, and without characters that act."""

import math
import unicodedata

MAX_TEXT = 20_000
# These reverse or hide what is shown around them; joiners, which emoji need, stay.
_DIRECTION_MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_text(value: object, limit: int = MAX_TEXT) -> str:
    """`value` without control characters (newline and tab stay), surrogates and direction marks; "" if not a string."""
    if not isinstance(value, str):
        return ""
    text = value[: 2 * limit].replace("\r\n", "\n")
    return "".join(character for character in text if _is_kept(character))[:limit].strip()


def one_line(value: object, limit: int = 200) -> str:
    """`value` as one line that a terminal or a table may show: cleaned, spaces and line ends joined, long text cut."""
    text = " ".join(clean_text(value, 4 * limit).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clean_int(value: object, low: int, high: int) -> int | None:
    """`value`, an int or its decimal digits, if it lies in [low, high]; else None."""
    if isinstance(value, str) and len(value) <= 20 and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if low <= value <= high else None


def clean_float(value: object, low: float, high: float) -> float | None:
    """`value`, a number or its text, if it is finite and lies in [low, high]; else None."""
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | float)
        or (isinstance(value, str) and len(value) > 30)
    ):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def _is_kept(character: str) -> bool:
    return character in "\n\t" or (
        unicodedata.category(character) not in ("Cc", "Cs") and character not in _DIRECTION_MARKS
    )
