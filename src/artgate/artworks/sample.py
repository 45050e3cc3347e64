"""A small painted Collection with known defects, for trying the line offline.

Landscapes, still lifes and flows of colour, painted by numpy and Pillow from a seed. A third is clean (good), a third
mildly and a third badly damaged (average, poor). The pictures are toys; the defects are real ones.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.decode import Refused
from artgate.errors import UserError

GROUP = 16
GRADES = ("good", "average", "poor")
SEVERITIES = {"good": (0.0, 0.0), "average": (0.2, 0.4), "poor": (0.7, 1.0)}
CREATORS = ("Ada", "Bo", "Chidi", "Dana", "Emre", "Fay", "Goro", "Hana", "Ines", "Jun", "Kofi", "Lena")
MOODS = ("calm", "stormy", "misty", "golden", "cold", "glowing", "faded", "bright", "solemn", "dreamy")

Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]


@dataclass(frozen=True)
class Palette:
    """Colours of one picture, each (3,) in [0, 1], from far to near."""

    far: Pixels
    middle: Pixels
    near: Pixels
    accent: Pixels


def make_sample(root: Path | str, n: int = 48, seed: int = 0, size: int = 256) -> Collection:
    """Paint `n` artworks of `size` x `size` pixels into a Collection in `root`; the same arguments, the same bytes.

    What was planted is in `provenance.parameters`: planted_grade, defect ("none" for good), severity in [0, 1].
    Raises UserError for n below 3 (one of each grade) or a size outside [64, 1024].
    """
    if n < 3:
        raise UserError(f"n {n} is below 3: a sample needs one artwork of each grade")
    if not 64 <= size <= 1024:
        raise UserError(f"size {size} is outside [64, 1024] pixels")
    collection = Collection(root, create=True)
    held = {artwork.provenance.source_id for artwork in collection}
    wanted = [index for index in range(n) if _source_id(index, seed, size) not in held]
    for start in range(0, len(wanted), GROUP):
        for result in collection.add_many([_painted(i, seed, size) for i in wanted[start : start + GROUP]]):
            if isinstance(result, Refused):
                raise result
    return collection


def planted_grades(collection: Collection) -> dict[str, str]:
    """image_id → the grade that was planted, for the artworks of a sample."""
    planted = {artwork.image_id: artwork.provenance.parameters.get("planted_grade") for artwork in collection}
    return {image_id: grade for image_id, grade in planted.items() if grade in GRADES}


def _painted(index: int, seed: int, size: int) -> NewArtwork:
    rng = np.random.default_rng([seed, index])
    grade = GRADES[index % 3]
    motif = list(MOTIFS)[index // 3 % len(MOTIFS)]
    defect = "none" if grade == "good" else list(DEFECTS)[rng.integers(len(DEFECTS))]
    severity = float(rng.uniform(*SEVERITIES[grade]))
    # Painted at twice the size: reducing it gives the clean edges that the defects then take away.
    clean = MOTIFS[motif](rng, 2 * size).resize((size, size), Image.Resampling.LANCZOS)
    picture = clean if defect == "none" else DEFECTS[defect](clean, severity, rng)
    mood = MOODS[int(rng.integers(len(MOODS)))]
    provenance = Provenance(
        source="sample",
        source_id=_source_id(index, seed, size),
        creator=CREATORS[int(rng.integers(len(CREATORS)))],
        licence="CC0-1.0",
        prompt=f"a {mood} {motif}, painting no. {index}",
        generator="artgate sample",
        seed=seed,
        parameters={"planted_grade": grade, "defect": defect, "severity": round(severity, 3)},
        collected_at="2024-01-01T00:00:00+00:00",
    )
    return NewArtwork(_png(picture), provenance, f"{index:05d}.png")


def _source_id(index: int, seed: int, size: int) -> str:
    return f"sample-{seed}-{size}-{index:05d}"


def _landscape(rng: np.random.Generator, size: int) -> Image.Image:
    colours = _palette(rng)
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]  # (H, 1, 1)
    sky = np.broadcast_to(colours.far * (1 - down) + colours.accent * down, (size, size, 3))
    clouds = _smooth_noise(rng, size, (3, 6, 12, 24))[..., None]  # (H, W, 1)
    picture = _image(sky * 0.75 + 0.25 * clouds)
    draw = ImageDraw.Draw(picture)
    x, y, r = rng.uniform(0.2, 0.8) * size, rng.uniform(0.12, 0.35) * size, rng.uniform(0.04, 0.09) * size
    draw.ellipse((x - r, y - r, x + r, y + r), fill=_rgb(np.minimum(colours.accent * 1.3 + 0.2, 1)))
    for layer in range(4):
        depth = (layer + 1) / 4
        ridge = (0.45 + 0.13 * layer) * size - _ridge(rng, size) * size * 0.22 * (1.1 - 0.6 * depth)
        outline = [(0, size), *zip(range(size), ridge.tolist(), strict=True), (size, size)]
        draw.polygon(outline, fill=_rgb(colours.middle * (1 - depth) + colours.near * depth))
    for _ in range(int(rng.integers(8, 25))):
        _tree(draw, rng, size, _rgb(colours.near * rng.uniform(0.3, 0.7)))
    return _textured(picture, rng, 0.05)


def _tree(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, colour: tuple[int, int, int]) -> None:
    x, foot = rng.uniform(0, 1) * size, rng.uniform(0.86, 0.99) * size
    height = rng.uniform(0.05, 0.14) * size
    for tier in range(3):
        top, wide = foot - height * (1 - tier * 0.27), height * (0.14 + 0.09 * tier)
        draw.polygon([(x, top), (x - wide, top + height * 0.42), (x + wide, top + height * 0.42)], fill=colour)


def _still_life(rng: np.random.Generator, size: int) -> Image.Image:
    colours = _palette(rng)
    table = int(rng.uniform(0.55, 0.7) * size)
    ground = np.empty((size, size, 3), np.float32)
    ground[:table] = colours.far
    ground[table:] = colours.middle
    pixels = ground * (0.7 + 0.3 * _smooth_noise(rng, size, (2, 4, 8)))[..., None]
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    for _ in range(int(rng.integers(3, 7))):
        r = rng.uniform(0.07, 0.16) * size
        x, y = rng.uniform(0.15, 0.85) * size, table + rng.uniform(-0.05, 0.2) * size
        _shade_ball(pixels, xs, ys, (x, y, r), _blend(colours, rng))
    return _textured(_image(pixels), rng, 0.04)


def _shade_ball(pixels: Pixels, xs: Pixels, ys: Pixels, ball: tuple[float, float, float], colour: Pixels) -> None:
    x, y, r = ball
    shadow = np.exp(-(((xs - x - 0.5 * r) / (1.3 * r)) ** 2) - ((ys - y - 0.9 * r) / (0.35 * r)) ** 2)
    pixels *= 1 - 0.6 * shadow[..., None]
    u, v = (xs - x) / r, (ys - y) / r  # (H, W)
    inside = u**2 + v**2 < 1
    z = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    light = np.clip(-0.5 * u - 0.6 * v + 0.62 * z, 0.08, 1)  # (H, W) Lambert, lit from the upper left
    shine = np.clip(light, 0, 1) ** 30
    pixels[inside] = np.clip(colour * light[inside, None] + 0.7 * shine[inside, None], 0, 1)


def _flow(rng: np.random.Generator, size: int) -> Image.Image:
    colours = _palette(rng)
    across, along = _smooth_noise(rng, size, (2, 4)), _smooth_noise(rng, size, (2, 4, 8))
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(3, 7) * across + rng.uniform(1, 3) * along))
    mix = waves[..., None].astype(np.float32)  # (H, W, 1)
    pixels = (colours.far * mix + colours.near * (1 - mix)) * 0.8 + 0.2 * colours.accent * along[..., None]
    picture = _image(pixels)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(60, 140))):
        x, y = rng.uniform(0, size, 2)
        angle = 2 * np.pi * along[int(y), int(x)]
        step = rng.uniform(0.03, 0.09) * size
        end = (x + step * np.cos(angle), y + step * np.sin(angle))
        draw.line([(x, y), end], fill=_rgb(_blend(colours, rng)), width=int(rng.integers(2, 7)))
    return _textured(picture, rng, 0.04)


MOTIFS: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "landscape": _landscape,
    "still life": _still_life,
    "flow of colour": _flow,
}


def _blurred(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(severity * image.width / 40))


def _noisy(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    return _image(_pixels(image) + severity * 0.35 * rng.standard_normal((image.height, image.width, 3)))


def _blocky(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    small = image.resize((int(image.width * (1 - 0.6 * severity)),) * 2)
    small.save(buffer, "JPEG", quality=int(28 - 26 * severity), subsampling=2)
    return Image.open(buffer).convert("RGB").resize(image.size, Image.Resampling.NEAREST)


def _posterised(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    levels = round(9 - 7 * severity)
    return _image(np.round(_pixels(image) * (levels - 1)) / (levels - 1))


def _broken(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Some of the picture's 64 tiles swapped, as by a decoder that lost its place."""
    tile = image.width // 8
    corners = [(x * tile, y * tile) for x in range(8) for y in range(8)]
    moved = rng.permutation(64)[: int(4 + 50 * severity)]
    result = image.copy()
    for here, there in zip(moved, np.roll(moved, 1), strict=True):
        x, y = corners[here]
        result.paste(image.crop((x, y, x + tile, y + tile)), corners[there])
    return result


DEFECTS: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "blur": _blurred,
    "noise": _noisy,
    "blocks": _blocky,
    "posterised": _posterised,
    "broken tiles": _broken,
}


def _palette(rng: np.random.Generator) -> Palette:
    """Four colours around one hue: saturated, dark near and light far."""
    hue = rng.uniform(0, 1)
    spread = rng.uniform(0.08, 0.3)

    def colour(turn: float, value: float) -> Pixels:
        angle = 2 * np.pi * (hue + turn + np.array([0, 1 / 3, 2 / 3]))
        return np.clip(value * (0.62 + 0.38 * np.cos(angle)), 0, 1).astype(np.float32)

    return Palette(colour(0, 0.95), colour(spread, 0.65), colour(2 * spread, 0.35), colour(0.5, 1.0))


def _blend(colours: Palette, rng: np.random.Generator) -> Pixels:
    weights = rng.dirichlet(np.full(4, 0.5)).astype(np.float32)
    return weights @ np.stack([colours.far, colours.middle, colours.near, colours.accent])


def _smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, ...]) -> Pixels:
    """(size, size) in [0, 1]: value noise, each octave of half the weight of the one before."""
    total = np.zeros((size, size), np.float32)
    for octave, count in enumerate(cells):
        coarse = Image.fromarray(rng.uniform(0, 1, (count + 1, count + 1)).astype(np.float32))
        total += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 2**octave
    return ((total - total.min()) / (total.max() - total.min())).astype(np.float32)


def _ridge(rng: np.random.Generator, size: int) -> Pixels:
    return _smooth_noise(rng, size, (3, 7, 15, 40))[size // 2]


def _textured(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    grain = _smooth_noise(rng, image.width, (image.width // 6, image.width // 3))[..., None] - 0.5  # (H, W, 1)
    return _image(_pixels(image) * (1 + 4 * strength * grain))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, np.float32) / np.float32(255)


def _image(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _rgb(colour: Pixels) -> tuple[int, int, int]:
    red, green, blue = (int(255 * value) for value in np.clip(colour, 0, 1))
    return red, green, blue


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
