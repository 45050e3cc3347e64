"""The small pictures of the gallery: kept beside the batch when an artwork is accepted, made anew where they are not.

Decoding a finished 4K artwork takes a fifth of a second, and a batch may hold hundreds.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from artgate.artworks.files import write_atomic
from artgate.artworks.page import thumbnail
from artgate.generation.gallery_lines import Shown

THUMBNAILS = "thumbnails"
KEPT_SIDE = 480  # of the thumbnails kept beside a batch, in pixels
# A page of many pictures has to open at once as well: (up to so many, the side of each in pixels), 4 MB at most.
ACCEPTED_SIDES = ((96, 480), (240, 320), (1 << 62, 240))
OTHERS_SIDE = 168
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
WORKERS = 4


@dataclass(frozen=True)
class Picture:
    """A candidate's picture on the page. href: of the file, relative to it; source: the thumbnail as a data URI."""

    href: str
    source: str
    width: int
    height: int


def accepted_side(count: int) -> int:
    """The side of thumbnails, in pixels, where there are so many of them."""
    return next(side for most, side in ACCEPTED_SIDES if count <= most)


def keep_thumbnail(batch_dir: Path, image_id: str, image: Image.Image) -> None:
    """Keep a small picture of an accepted artwork beside its batch. Raises OSError where it cannot be written."""
    small = image.convert("RGB")
    small.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    small.save(data, "WEBP", quality=90, method=4)
    folder = batch_dir / THUMBNAILS
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{image_id}.webp", data.getvalue())


def pictures(batch_dir: Path, candidates: Sequence[Shown], side: int) -> list[Picture | None]:
    """The picture of each candidate, small; None where there is none, or one that cannot be shown."""
    with ThreadPoolExecutor(WORKERS) as pool:  # Pillow decodes outside of the interpreter's lock
        return list(pool.map(lambda told: _picture(batch_dir, told, side), candidates))


def _picture(batch_dir: Path, told: Shown, side: int) -> Picture | None:
    file = told.file or (told.preview.file if told.preview else None)
    path = _inside(batch_dir, file)
    if file is None or path is None or not path.is_file():  # what was purged is not shown by its thumbnail
        return None
    kept = _inside(batch_dir, f"{THUMBNAILS}/{told.image_id}.webp") if told.image_id else None
    for source in (kept, path):
        try:
            if source is not None and source.is_file():
                with Image.open(source, formats=PICTURE_FORMATS) as image:
                    return Picture(quote(file), *thumbnail(image.convert("RGB"), side))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
    return None


def _inside(batch_dir: Path, file: str | None) -> Path | None:
    """The path of a file of the batch; None for none, and for one that a tampered ledger puts outside."""
    path = batch_dir / file if file and "\0" not in file else None
    return path if path and path.resolve().is_relative_to(batch_dir.resolve()) else None
