"""Base pictures for img2img: what the sampler paints over, so that colours and composition are chosen.

`build_basemap` turns a `BasemapConfig` into a function candidate → picture. Pictures depend on the candidate alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image, ImageColor, ImageOps

from artgate.artworks.decode import Refused, decode
from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.prompts import Candidate

KINDS = ("none", "colour", "tone", "background", "noise")
DIRECTIONS = ("down", "right", "out")
Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]


@dataclass
class BasemapConfig:
    """`conf/basemap/*.yaml`.

    kind: none (begin from noise), colour (one colour), tone (a gradient through the colours), background (pictures from
    files), noise (smooth noise, coloured from the first colour to the last).
    colours: names or #rrggbb. direction: of a tone, down, right, or out from the middle.
    files: pictures of a background, or folders of them; each candidate's seed takes one. What sticks out is cut.
    cells: of the noise along the longer side, the coarsest octave; octaves: each twice as fine and half as strong.
    strength: share of the sampler's steps that are taken, in (0, 1]; small keeps the base picture, 1 nearly forgets it.
    """

    kind: str = "none"
    colours: list[str] = field(default_factory=list)
    direction: str = "down"
    files: list[str] = field(default_factory=list)
    cells: int = 4
    octaves: int = 4
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"basemap.kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.direction not in DIRECTIONS:
            raise UserError(f"basemap.direction {self.direction!r} is not one of {', '.join(DIRECTIONS)}")
        if not 0 < self.strength <= 1:
            raise UserError(f"basemap.strength {self.strength} is outside (0, 1]: 0.6 keeps the composition")
        needed = {"colour": 1, "tone": 2, "noise": 2}.get(self.kind, 0)
        if len(self.colours) < needed:
            raise UserError(f"basemap.kind {self.kind} needs {needed} or more basemap.colours, not {len(self.colours)}")
        if self.kind == "background" and not self.files:
            raise UserError("basemap.kind background needs basemap.files: give a picture or a folder of pictures")
        for key, low, high in (("cells", 1, 256), ("octaves", 1, 10)):
            if not low <= getattr(self, key) <= high:
                raise UserError(f"basemap.{key} {getattr(self, key)} is outside [{low}, {high}]")


def build_basemap(
    cfg: Mapping[str, Any] | DictConfig | BasemapConfig, width: int, height: int
) -> Callable[[Candidate], Image.Image | None]:
    """A function: candidate → RGB picture of width x height pixels, or None where it should begin from noise.

    A candidate that names its own picture file gets that one, whatever the kind. Raises UserError for colours and files
    that cannot be used.
    """
    config = cfg if isinstance(cfg, BasemapConfig) else validated(BasemapConfig, cfg, "basemap")
    painter = _painter(config, width, height)

    def basemap(candidate: Candidate) -> Image.Image | None:
        if candidate.basemap is not None:
            return fit(open_picture(Path(candidate.basemap).expanduser()), width, height)
        return painter(candidate)

    return basemap


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture scaled to cover width x height and cut around its middle."""
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def open_picture(path: Path) -> Image.Image:
    """A picture file as RGB; UserError, with the reason, where it cannot be read."""
    try:
        return decode(path.read_bytes(), path.name)
    except (OSError, Refused) as error:
        raise UserError(f"base picture {path} cannot be used: {error}") from None


def tone(colours: Pixels, width: int, height: int, direction: str) -> Pixels:
    """Gradient (H, W, 3) through the colours (K, 3), evenly spaced."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    along = {"right": x, "down": y, "out": np.hypot(2 * x - 1, 2 * y - 1) / np.sqrt(2)}[direction]
    return _coloured(along, colours)


def smooth_noise(
    generator: np.random.Generator, width: int, height: int, cells: int, octaves: int
) -> NDArray[np.float32]:
    """Fractal gradient noise (H, W) in [0, 1] (Perlin, "An image synthesizer", SIGGRAPH 1985)."""
    total = np.zeros((height, width))
    for octave in range(octaves):
        cell = max(width, height) / (cells * 2**octave)  # pixels
        total += _gradient_noise(generator, width, height, cell) / 2**octave
    low, high = total.min(), total.max()
    return ((total - low) / max(high - low, 1e-9)).astype(np.float32)


def _painter(config: BasemapConfig, width: int, height: int) -> Callable[[Candidate], Image.Image | None]:
    colours = np.array([_colour(name) for name in config.colours], dtype=np.float32).reshape(-1, 3)
    if config.kind == "none":
        return lambda candidate: None
    if config.kind == "colour":
        flat = _picture(np.broadcast_to(colours[0], (height, width, 3)))
        return lambda candidate: flat
    if config.kind == "tone":
        gradient = _picture(tone(colours, width, height, config.direction))
        return lambda candidate: gradient
    if config.kind == "background":
        files = [file for name in config.files for file in _picture_files(name)]
        return lambda candidate: fit(open_picture(files[candidate.seed % len(files)]), width, height)

    def noise(candidate: Candidate) -> Image.Image:
        generator = np.random.default_rng(candidate.seed)
        return _picture(_coloured(smooth_noise(generator, width, height, config.cells, config.octaves), colours))

    return noise


def _gradient_noise(generator: np.random.Generator, width: int, height: int, cell: float) -> NDArray[np.float64]:
    """One octave (H, W): at each grid point a random direction, in between smooth."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / cell, (np.arange(height) + 0.5) / cell)
    column, row = x.astype(int), y.astype(int)
    angles = generator.uniform(0, 2 * np.pi, (row.max() + 2, column.max() + 2))

    def slope(down: int, right: int) -> NDArray[np.float64]:
        angle = angles[row + down, column + right]
        return np.cos(angle) * (x - column - right) + np.sin(angle) * (y - row - down)

    across, along = _eased(x - column), _eased(y - row)
    top = slope(0, 0) + across * (slope(0, 1) - slope(0, 0))
    bottom = slope(1, 0) + across * (slope(1, 1) - slope(1, 0))
    mixed: NDArray[np.float64] = top + along * (bottom - top)
    return mixed


def _eased(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return t**3 * (t * (6 * t - 15) + 10)


def _coloured(values: NDArray[Any], colours: Pixels) -> Pixels:
    """(H, W) in [0, 1] → (H, W, 3), interpolated between the colours (K, 3)."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, stops, colours[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def _colour(name: str) -> list[float]:
    try:
        return [channel / 255 for channel in ImageColor.getcolor(name, "RGB")]  # type: ignore[union-attr]
    except ValueError:
        raise UserError(f"basemap colour {name!r} is not known: give a name such as teal, or #rrggbb") from None


def _picture(pixels: NDArray[Any]) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _picture_files(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        suffixes = {".png", ".jpg", ".jpeg", ".webp"}
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    else:
        files = [path]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"basemap.files {name!r}: no picture there; give a PNG, JPEG or WebP file or a folder of them")
    return files
