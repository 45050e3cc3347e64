"""What our HTML pages share: they stand alone, with pictures inside them, and all text in them is escaped."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image


def environment(folder: Path) -> Environment:
    """Templates of `folder`, and the style that all pages begin with (`page_style.html.j2`)."""
    made = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, figure=figure, interval=interval)
    return made


def thumbnail(image: Image.Image, side: int) -> tuple[str, int, int]:
    """(data URI of a WebP, width, height) of an RGB image shrunk to fit a square of `side` pixels; never enlarged."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    small.save(data, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode(), small.width, small.height


def figure(value: float | None, digits: int = 2) -> str:
    """A number, – for none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def interval(values: Sequence[float] | None, digits: int = 2) -> str:
    """`low to high`, – for none."""
    return "–" if values is None else f"{figure(values[0], digits)} to {figure(values[1], digits)}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share in [0, 1] as a percentage, – for none."""
    return "–" if share is None else f"{share:.{digits}%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")
