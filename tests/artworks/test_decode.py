import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture, run_in_fork, within_memory
from PIL import Image, ImageFile

from artgate.artworks.decode import Limits, Refused, decode, open_image, sketch, sniff
from artgate.artworks.duplicates import perceptual_hash
from artgate.errors import UserError

FORMATS = ["PNG", "JPEG", "WEBP"]


def reason(data: bytes, name: str | None = None, limits: Limits | None = None) -> str:
    """Why it is refused: whole and as a sketch alike."""
    with pytest.raises(Refused) as caught:
        decode(data, name, limits or Limits())
    with pytest.raises(Refused) as sketched:
        sketch(data, name, limits or Limits())
    assert caught.value.detail
    assert sketched.value.reason == caught.value.reason
    return caught.value.reason


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_file(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def webp_claiming(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + encoded(picture(1), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(1), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


BOMBS = {
    "PNG": png_file(60_000, 60_000, 8, 2, png_chunk(b"IDAT", zlib.compress(bytes(10_000)))),
    "JPEG": jpeg_claiming(60_000, 60_000),
    "WEBP": webp_claiming(13_000, 13_000),  # below Pillow's own limit
}


@pytest.mark.parametrize("format", FORMATS)
def test_an_ordinary_file_comes_back_as_8_bit_rgb(format):
    image = decode(encoded(picture(1), format, **({} if format == "PNG" else {"quality": 95})), f"a.{format.lower()}")
    assert (image.mode, image.size) == ("RGB", (64, 48))
    difference = np.abs(np.asarray(image, int) - np.asarray(picture(1), int)).mean()
    assert difference == 0 if format == "PNG" else difference < 5


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA"])
def test_every_8_bit_opaque_mode_is_taken(mode):
    source = picture(1).convert(mode)
    image = decode(encoded(source))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(source.convert("RGB")))


def test_an_empty_file():
    assert reason(b"") == "empty"


@pytest.mark.parametrize(
    "data",
    [b"<svg xmlns='x'></svg>", b"<!DOCTYPE html><html>", b"\xef\xbb\xbf <html>", b"hello", b"\x89PNG", bytes(99)],
)
def test_what_is_no_image_though_named_png(data):
    assert reason(data, "a.png") == "not-an-image"


def test_svg_and_html_are_named_in_the_detail():
    for data, kind in [(b"<svg/>", "SVG"), (b"<html/>", "HTML")]:
        with pytest.raises(Refused, match=kind):
            decode(data)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "AVIF"])
def test_image_formats_that_are_not_taken(format):
    assert reason(encoded(picture(1), format)) == "unsupported-format"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_short_anywhere_is_refused(format):
    data = encoded(picture(1), format)
    reasons = {length: reason(data[:length]) for length in range(1, len(data))}
    assert set(reasons.values()) <= {"truncated", "not-an-image"}
    assert {r for length, r in reasons.items() if length >= 16} == {"truncated"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_header_that_claims_an_enormous_picture_is_refused_at_once_and_without_memory(format):
    def work() -> None:
        started = time.process_time()
        for attempt in (decode, open_image):
            with pytest.raises(Refused, match="too-many-pixels: .* limit") as caught:
                attempt(BOMBS[format])
            assert caught.value.reason == "too-many-pixels"
        assert time.process_time() - started < 2

    decode(encoded(picture(1), format))  # Pillow's plugins are loaded before the memory is counted
    assert run_in_fork(within_memory(48, work)) == 0


@pytest.mark.parametrize(("kind", "before"), [(b"zTXt", b"parameters\0\0"), (b"iCCP", b"x\0\0")])
def test_a_bomb_in_a_png_chunk_takes_no_memory(kind, before):
    bomb = png_chunk(kind, before + zlib.compress(bytes(100 * 2**20), 1))
    data = png_file(64, 64, 8, 2, bomb, png_chunk(b"IDAT", zlib.compress(bytes(64 * 193))))

    def work() -> None:
        assert reason(data) == "corrupt"

    assert run_in_fork(within_memory(48, work)) == 0


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_beyond_the_limits(format):
    assert reason(encoded(picture(1, (1, 1)), format)) == "too-small"
    assert reason(encoded(picture(1, (400, 31)), format)) == "too-small"
    assert reason(encoded(picture(1, (40, 400)), format)) == "aspect"
    assert reason(encoded(picture(1), format), limits=Limits(max_pixels=64 * 48 - 1)) == "too-many-pixels"
    assert decode(encoded(picture(1), format), limits=Limits(max_pixels=64 * 48, min_side=48)).size == (64, 48)


def test_a_format_that_the_limits_leave_out_is_refused_with_its_own_reason():
    limits = Limits(formats=("png", "JPEG"))
    assert limits.formats == ("PNG", "JPEG")
    assert reason(encoded(picture(1), "WEBP"), limits=limits) == "excluded-format"
    assert decode(encoded(picture(1), "JPEG"), limits=limits).size == (64, 48)
    with pytest.raises(Refused, match="the file is WEBP, wanted are PNG, JPEG: add it to formats"):
        decode(encoded(picture(1), "WEBP"), limits=limits)


def test_each_refusal_for_size_names_value_limit_and_cure():
    for size, said in [((400, 31), "31 pixels, .* 32: .*min_side"), ((40, 400), "10.0:1, the limit is 8:1: .*max_asp")]:
        with pytest.raises(Refused, match=said):
            decode(encoded(picture(1, size)))
    with pytest.raises(Refused, match="the limit is 9: .*max_bytes"):
        decode(encoded(picture(1)), limits=Limits(max_bytes=9))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_bytes": 0}, "max_bytes 0 is not a whole number of at least 1"),
        ({"max_pixels": 1e6}, "max_pixels 1000000.0"),
        ({"min_side": True}, "min_side True"),
        ({"max_aspect": 0.5}, "max_aspect 0.5 is not a number of at least 1"),
        ({"max_aspect": float("nan")}, "max_aspect nan"),
        ({"max_aspect": float("inf")}, "max_aspect inf"),
        ({"min_side": 100, "max_pixels": 9999}, "min_side 100 asks for 10000 pixels and max_pixels allows 9999"),
        ({"formats": ()}, "one or more of PNG, JPEG, WEBP"),
        ({"formats": ("PNG", "GIF")}, "GIF"),
        ({"formats": "PNG"}, "give a list"),
    ],
)
def test_limits_that_nothing_could_pass_are_errors(given, said):
    with pytest.raises(UserError, match=said):
        Limits(**given)


def test_more_bytes_than_the_limit():
    data = encoded(picture(1))
    assert reason(data, limits=Limits(max_bytes=len(data) - 1)) == "too-many-bytes"


@pytest.mark.parametrize(
    ("format", "name", "taken"),
    [
        ("PNG", "a.png", True),
        ("PNG", "a.PNG", True),
        ("PNG", "a.jpg", False),
        ("JPEG", "a.jpeg", True),
        ("JPEG", "a.png", False),
        ("WEBP", "a.webp", True),
        ("WEBP", "dir/a.b.png", False),
        ("JPEG", "without-suffix", True),
        ("JPEG", None, True),
    ],
)
def test_a_name_must_not_lie_about_the_format(format, name, taken):
    data = encoded(picture(1), format)
    if taken:
        assert decode(data, name).size == (64, 48)
    else:
        assert reason(data, name) == "wrong-extension"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format):
    data = encoded(picture(1), format, save_all=True, append_images=[picture(2)], duration=50)
    assert reason(data) == "animated"


def test_cmyk():
    assert reason(encoded(picture(1).convert("CMYK"), "JPEG")) == "cmyk"


def test_sixteen_bits_grey_and_rgb():
    grey = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20)
    assert reason(encoded(grey)) == "sixteen-bit"
    rows = b"".join(b"\0" + bytes(64 * 6) for _ in range(48))
    assert reason(png_file(64, 48, 16, 2, png_chunk(b"IDAT", zlib.compress(rows)))) == "sixteen-bit"


def test_transparency_of_every_kind_is_refused_and_full_opacity_is_not():
    clear = picture(1).convert("RGBA")
    clear.putpixel((5, 5), (0, 0, 0, 254))
    assert reason(encoded(clear)) == "transparency"
    assert reason(encoded(clear, "WEBP", lossless=True)) == "transparency"
    palette = picture(1).convert("P")
    used = palette.getpixel((0, 0))
    assert reason(encoded(palette, transparency=used)) == "transparency"
    assert reason(encoded(picture(1), transparency=picture(1).getpixel((0, 0)))) == "transparency"
    grey = picture(1).convert("LA")
    grey.putpixel((1, 1), (0, 0))
    assert reason(encoded(grey)) == "transparency"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(format, orientation):
    upright = Image.new("RGB", (96, 64))
    upright.paste((255, 255, 255), (0, 0, 32, 32))  # white upper left corner
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, format, exif=exif))
    assert image.size == (96, 64)
    corner = np.asarray(image.convert("L"), int)[8:24, 8:24].mean()
    assert corner > 230
    assert np.asarray(image.convert("L"), int)[40:, 40:].mean() < 25


def test_unreadable_exif_does_not_cost_the_picture():
    data = encoded(picture(1), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decode(data).size == (64, 48)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_a_picture_or_a_reason_and_nothing_else(data):
    format = data.draw(st.sampled_from(FORMATS))
    blob = bytearray(encoded(picture(1), format))
    for _ in range(data.draw(st.integers(1, 8))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(blob))
        assert image.mode == "RGB"
    except Refused as refused:
        assert refused.reason


@given(st.binary(max_size=64))
def test_sniffing_never_fails(data):
    assert sniff(data) in (*FORMATS, None)


def test_limits_are_judged_before_pixels_are_decoded(monkeypatch):
    data = encoded(picture(1))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert reason(data, limits=Limits(max_pixels=100, min_side=1)) == "too-many-pixels"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (600, 300)), (6, (300, 600))])
def test_a_sketch_tells_the_whole_size_and_the_same_hash(format: str, orientation: int, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 18, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((600, 300), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, format, exif=exif)
    drawn = sketch(file.getvalue())
    assert (drawn.width, drawn.height) == size
    assert drawn.picture.size == ((size[0] // 2, size[1] // 2) if format == "JPEG" else size)
    whole = decode(file.getvalue())
    assert int(np.unpackbits(perceptual_hash(drawn.picture) ^ perceptual_hash(whole)).sum()) <= 4
