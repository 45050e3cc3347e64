"""Bytes from anywhere → an RGB image, or the reason why not."""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from PIL import Image, ImageOps

from artgate.errors import UserError

SUFFIXES = {"PNG": {".png", ".apng"}, "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "WEBP": {".webp"}}

# Twice the side that perceptual hashes are made from: they move by at most 4 of 256 bits.
SKETCH_SIDE = 128


@dataclass(frozen=True)
class Limits:
    """What is taken. max_pixels: width x height; min_side: the shorter, in pixels; max_aspect: long / short side.

    formats: of PNG, JPEG and WEBP those that are wanted, in any letter case.
    Raises UserError for a limit that nothing could pass.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 8192 * 8192
    min_side: int = 32
    max_aspect: float = 8.0
    formats: tuple[str, ...] = tuple(SUFFIXES)

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "min_side", "max_aspect"):
            _check_limit(name, getattr(self, name))
        if self.min_side**2 > self.max_pixels:
            raise UserError(
                f"min_side {self.min_side} asks for {self.min_side**2} pixels and max_pixels allows {self.max_pixels}: "
                "lower the one or raise the other"
            )
        formats = [str(format).upper() for format in self.formats]
        if not formats or not set(formats) <= set(SUFFIXES):
            raise UserError(f"formats {self.formats!r}: give a list of one or more of {', '.join(SUFFIXES)}")
        object.__setattr__(self, "formats", tuple(formats))


def _check_limit(name: str, value: object) -> None:
    whole = name != "max_aspect"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 1 <= value < math.inf:
        raise UserError(f"{name} {value!r} is not a {'whole ' if whole else ''}number of at least 1: give one")


LIMITS = Limits()


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An image that is not taken. reason: a code to count by; detail: the value, the limit and what was expected."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes, name: str | None = None, limits: Limits = LIMITS) -> Image.Image:
    """Decode a still PNG, JPEG or WebP file to 8-bit RGB, upright (EXIF rotation applied).

    name: a file name or URL path; where it has a suffix, the suffix must be that of the format.
    Raises Refused with reason empty, too-many-bytes, not-an-image, unsupported-format (one that is not read here),
    excluded-format (one that the limits leave out), wrong-extension, truncated, corrupt, too-small, too-many-pixels,
    aspect, animated (a grade of one frame says nothing of the others), cmyk, sixteen-bit or transparency. The header
    is judged before anything is allocated for the pixels.
    """
    with _judged(data, name, limits) as image:
        image.load()
        return _opaque_rgb(_upright(image))


class Sketch(NamedTuple):
    """What there is to know of an image file: its size once upright, and the picture (RGB or L), maybe smaller."""

    width: int
    height: int
    picture: Image.Image


def sketch(data: bytes, name: str | None = None, limits: Limits = LIMITS) -> Sketch:
    """Judge a file exactly as `decode` does, at a quarter of the cost for a JPEG.

    A JPEG is read to its last byte, but drawn at the smallest of 1, 1/2, 1/4 and 1/8 of its size that keeps both sides
    at SKETCH_SIDE or more (libjpeg's scaled inverse cosine transform), and of its luminance alone.
    """
    with _judged(data, name, limits) as image:
        size = image.size
        image.draft("L", (SKETCH_SIDE, SKETCH_SIDE))
        image.load()
        upright = _upright(image)
        turned = upright.size == image.size[::-1]
        return Sketch(*(size[::-1] if turned else size), upright if upright.mode == "L" else _opaque_rgb(upright))


@contextmanager
def _judged(data: bytes, name: str | None, limits: Limits) -> Iterator[Image.Image]:
    """The image, still to be loaded, of a file whose header says that it is taken."""
    if not data:
        raise Refused("empty", "the file has 0 bytes")
    if len(data) > limits.max_bytes:
        raise Refused(
            "too-many-bytes",
            f"the file has {len(data)} bytes, the limit is {limits.max_bytes}: take a smaller one, or raise max_bytes",
        )
    format = sniff(data)
    if format is None:
        raise _not_taken(data)
    if format not in limits.formats:
        raise Refused(
            "excluded-format", f"the file is {format}, wanted are {', '.join(limits.formats)}: add it to formats"
        )
    _check_suffix(format, name)
    if _is_cut_short(data, format):
        raise Refused("truncated", f"the {format} data ends before its end marker")
    with open_image(data, limits) as image, _corrupt_if_it_raises(format):
        _check_kind(image, data, format)
        yield image


def open_image(data: bytes, limits: Limits = LIMITS) -> Image.Image:
    """A PNG, JPEG or WebP image with its header read and its size judged, its pixels not yet decoded."""
    format = sniff(data)
    if format is None:
        raise _not_taken(data)
    if format == "WEBP":
        # Pillow's WebP reader allocates the canvas when it opens the file, so the size is read here first.
        _check_size(_webp_size(data), limits)
    with _corrupt_if_it_raises(format):
        image = Image.open(io.BytesIO(data), formats=(format,))
    _check_size(image.size, limits)
    return image


def sniff(data: bytes) -> str | None:
    """The format by its first bytes, PNG, JPEG or WEBP; None for all else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


@contextmanager
def _corrupt_if_it_raises(format: str) -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, which it applies before ours
        raise Refused("too-many-pixels", str(error)) from None
    except MemoryError:
        raise Refused("too-many-pixels", "there was not enough memory to decode it") from None
    # A hostile file can make a decoder raise nearly anything; nothing but this file is at stake.
    except Exception as error:
        raise Refused("corrupt", f"the {format} data cannot be decoded: {error}") from None


def _not_taken(data: bytes) -> Refused:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml", b"<!doctype", b"<html")):
        kind = "SVG" if b"<svg" in head else "HTML or XML"
        return Refused("not-an-image", f"the file is {kind} text, expected PNG, JPEG or WebP")
    for format, magic in _OTHER_FORMATS.items():
        if any(data[offset:].startswith(signature) for offset, signature in magic):
            return Refused("unsupported-format", f"the file is {format}, expected PNG, JPEG or WebP")
    return Refused("not-an-image", f"the file starts with {data[:8].hex(' ')}, which is not PNG, JPEG or WebP")


_OTHER_FORMATS = {
    "GIF": [(0, b"GIF8")],
    "TIFF": [(0, b"II*\0"), (0, b"MM\0*")],
    "BMP": [(0, b"BM")],
    "AVIF or HEIC": [(4, b"ftyp")],
    "JPEG XL": [(0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL ")],
}


def _check_suffix(format: str, name: str | None) -> None:
    suffix = PurePath(name).suffix.lower() if name else ""
    if suffix and suffix not in SUFFIXES[format]:
        expected = " or ".join(sorted(SUFFIXES[format]))
        raise Refused("wrong-extension", f"{name!r} holds {format} data, whose suffix is {expected}")


def _is_cut_short(data: bytes, format: str) -> bool:
    if format == "PNG":
        return _png_ends_early(data)
    if format == "WEBP":
        return len(data) < 12 or len(data) < 8 + struct.unpack("<I", data[4:8])[0]
    # Entropy-coded JPEG data never holds the end marker, so no start of scan may come after the last of them.
    end = data.rfind(b"\xff\xd9")
    return end < 0 or data.find(b"\xff\xda", end) >= 0


def _png_ends_early(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        position += 12 + length
        if kind == b"IEND":
            return position > len(data)
    return True


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file's canvas (RFC 9649)."""
    kind, body = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise Refused("corrupt", f"the WEBP data starts with a chunk {kind!r}, expected VP8, VP8L or VP8X")


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    short, long = min(size), max(size)
    if width * height > limits.max_pixels:
        raise Refused(
            "too-many-pixels",
            f"{width} x {height} pixels, the limit is {limits.max_pixels} in all: reduce it, or raise max_pixels",
        )
    if short < limits.min_side:
        raise Refused(
            "too-small",
            f"{width} x {height} pixels, the shorter side must have {limits.min_side}: "
            "take a larger one, or lower min_side",
        )
    if long > limits.max_aspect * short:
        raise Refused(
            "aspect",
            f"{width} x {height} pixels is {long / short:.1f}:1, the limit is {limits.max_aspect:g}:1: "
            "crop it, or raise max_aspect",
        )


def _check_kind(image: Image.Image, data: bytes, format: str) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise Refused("animated", f"{image.n_frames} frames, expected 1")  # type: ignore[attr-defined]
    if image.mode in ("CMYK", "YCCK"):
        raise Refused("cmyk", "the colours are CMYK, expected RGB: convert it with its colour profile")
    # Pillow reads 16-bit RGB as 8-bit without a word, so the depth comes from the PNG header itself.
    if image.mode.startswith(("I", "F")) or (format == "PNG" and data[24] == 16):
        raise Refused("sixteen-bit", "16 bits a channel, expected 8")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:
        return image  # unreadable EXIF cannot say which way is up


def _opaque_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = image.getchannel("A").histogram()[255]
        if opaque < image.width * image.height:
            share = 1 - opaque / (image.width * image.height)
            raise Refused(
                "transparency", f"{share:.2%} of the pixels have alpha below 255: lay it on a background first"
            )
    return image.convert("RGB")
