"""Renditions of an image: the same picture in another file, or the picture with damage to it.

A head is taught to tell damaged renditions from the picture as it is, and from harmless ones, lest it takes another
file for damage. Every image is RGB. A rendition can be made again: all choices come from its name and the image_id.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

# Raised when a name comes to mean another rendition: it is part of the key that its features are kept by.
RECIPE = 1
ORIGINAL, HARMLESS, DAMAGED = "original", "harmless-", "damaged-"
# Shorter sides, in pixels, that a harmless rendition may have.
HARMLESS_SIDES = (384, 1024)
# Width / height.
HARMLESS_ASPECTS = (0.5, 2.0)
HARMLESS_QUALITIES = {"JPEG": (60, 95), "WEBP": (60, 95)}
FILTERS = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
# What damage in pixels (blur, shifts) is told for: a picture with this shorter side.
REFERENCE_SIDE = 512


def rendition(image: Image.Image, image_id: str, name: str) -> Image.Image:
    """One of `rendition_names`: the same every time for an image_id and a name."""
    if name == ORIGINAL:
        return image
    if name.startswith(HARMLESS):
        return harmless(image, _draw(image_id, name))
    kind, strength, draw = _damage(image_id, name)
    return DAMAGES[kind](image, strength, draw)


def rendition_names(of_harmless: int, of_damaged: int) -> list[str]:
    """The original, then so many harmless and so many damaged ones."""
    return [
        ORIGINAL,
        *(f"{HARMLESS}{number}" for number in range(1, of_harmless + 1)),
        *(f"{DAMAGED}{number}" for number in range(1, of_damaged + 1)),
    ]


def is_damaged(name: str) -> bool:
    """Whether a rendition of this name has damage."""
    return name.startswith(DAMAGED)


def _damage(image_id: str, name: str) -> tuple[str, float, np.random.Generator]:
    draw = _draw(image_id, name)
    return tuple(DAMAGES)[draw.integers(len(DAMAGES))], float(draw.uniform(0.05, 1)), draw


def _draw(image_id: str, name: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(f"{image_id} {name}".encode()).digest()))


def harmless(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """The picture at another size, resampled and compressed as pictures on the way to a viewer are.

    Maybe mirrored, and maybe cropped to another aspect.
    """
    if draw.random() < 0.5:
        image = ImageOps.mirror(image)
    if draw.random() < 0.4:
        image = cropped(image, float(np.exp(draw.uniform(*np.log(HARMLESS_ASPECTS)))), draw)
    if draw.random() < 0.75:
        # Even steps of the logarithm: as often half the size as twice.
        side = round(float(np.exp(draw.uniform(*np.log(HARMLESS_SIDES)))))
        image = resized(image, side, FILTERS[draw.integers(len(FILTERS))])
    format = ("PNG", "JPEG", "JPEG", "WEBP")[draw.integers(4)]
    if format == "PNG":
        return image
    return recompressed(image, format, int(draw.integers(*HARMLESS_QUALITIES[format], endpoint=True)))


def cropped(image: Image.Image, aspect: float, draw: np.random.Generator) -> Image.Image:
    """The largest part of this width / height, anywhere in the picture."""
    wide = min(image.width, round(image.height * aspect))
    high = min(image.height, round(image.width / aspect))
    left = int(draw.integers(image.width - wide, endpoint=True))
    top = int(draw.integers(image.height - high, endpoint=True))
    return image.crop((left, top, left + wide, top + high))


def resized(image: Image.Image, side: int, filter: Image.Resampling) -> Image.Image:
    """With a shorter side of `side` pixels."""
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), filter)


def recompressed(image: Image.Image, format: str, quality: int) -> Image.Image:
    """As it comes out of a JPEG or WebP file of this quality (1 to 95)."""
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality)
    return Image.open(buffer, formats=(format,)).convert("RGB")


def blurred(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """Out of focus, by up to 5 pixels."""
    return image.filter(ImageFilter.GaussianBlur((0.6 + 4.4 * severity) * _scale(image)))


def overcompressed(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """A JPEG of quality 25 down to 3."""
    return recompressed(image, "JPEG", round(25 - 22 * severity))


def noisy(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """Normal noise of 8 to 60 levels, finer than the picture."""
    noise = draw.standard_normal((image.height, image.width, 3), dtype=np.float32) * (8 + 52 * severity)
    return Image.fromarray((np.asarray(image, np.float32) + noise).clip(0, 255).astype(np.uint8))


def banded(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """Smooth changes of brightness in 16 to 3 steps, with the hues kept."""
    step = 256 / (16 - 13 * severity)
    pixels = np.asarray(image, np.float32)
    brightness = pixels.mean(2, keepdims=True)
    stepped = (np.floor(brightness / step) + 0.5) * step
    return Image.fromarray((pixels + stepped - brightness).clip(0, 255).astype(np.uint8))


def posterised(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """Each channel in 10 to 2 levels."""
    levels = round(10 - 8 * severity)
    pixels = np.round(np.asarray(image, np.float32) / 255 * (levels - 1)) * (255 / (levels - 1))
    return Image.fromarray(pixels.astype(np.uint8))


def ghosted(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """A shifted copy over it, by 6 to 40 pixels in any direction."""
    angle, far = draw.uniform(0, 2 * np.pi), (6 + 34 * severity) * _scale(image)
    copy = ImageChops.offset(image, round(far * np.cos(angle)), round(far * np.sin(angle)))
    return Image.blend(image, copy, 0.3 + 0.2 * severity)


def tiled(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """A share of an 8 x 8 grid of cells overwritten by one of them."""
    cells = _cells(image)
    source = image.crop(cells[draw.integers(len(cells))])
    damaged = image.copy()
    for place in _some(cells, severity, draw):
        damaged.paste(source, place[:2])
    return damaged


def shuffled(image: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    """A share of an 8 x 8 grid of cells in each other's places."""
    places = _some(_cells(image), severity, draw)
    damaged = image.copy()
    for place, other in zip(places, [*places[1:], places[0]], strict=True):
        damaged.paste(image.crop(other), place[:2])
    return damaged


# name -> (RGB image, severity in (0, 1], generator) -> RGB image of the same size
DAMAGES: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "blur": blurred,
    "jpeg": overcompressed,
    "noise": noisy,
    "banding": banded,
    "posterised": posterised,
    "ghosting": ghosted,
    "tiled": tiled,
    "shuffled": shuffled,
}


def _scale(image: Image.Image) -> float:
    return min(image.size) / REFERENCE_SIDE


def _cells(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Boxes of one size in 8 rows and 8 columns, from the upper left; a rest at the edges is in none."""
    wide, high = image.width // 8, image.height // 8
    return [(x * wide, y * high, (x + 1) * wide, (y + 1) * high) for y in range(8) for x in range(8)]


def _some(
    cells: list[tuple[int, int, int, int]], severity: float, draw: np.random.Generator
) -> list[tuple[int, int, int, int]]:
    """4 to 48 of the 64 cells, in a random order."""
    return [cells[cell] for cell in draw.permutation(len(cells))[: round(4 + 44 * severity)]]
