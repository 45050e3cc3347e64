"""Generation parameters inside PNG, JPEG and WebP files: AUTOMATIC1111 text and ComfyUI graphs, read and written.

Everything in a file from elsewhere is hostile until checked: text is capped and stripped of control characters,
numbers are bounded, and what cannot be understood counts as no parameters, never as an error.
"""

import io
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from artgate.artworks.artwork import Provenance
from artgate.artworks.comfyui import read_graph
from artgate.artworks.decode import Refused, open_image
from artgate.artworks.text import clean_float, clean_int, clean_text

MAX_COMMENT = 2 * 2**20
MAX_EXTRAS = 64

EXIF_IFD, USER_COMMENT, CAMERA_MAKE, CAMERA_MODEL = 0x8769, 0x9286, 0x010F, 0x0110


@dataclass(frozen=True)
class GenerationParameters:
    """How an image was generated, as its file says.

    guidance: classifier-free guidance scale. size: (width, height) in pixels as generated. model: checkpoint's name.
    extras: all further settings, as text. tool: whose way of writing it was, `a1111` or `comfyui`.
    """

    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    seed: int | None = None
    size: tuple[int, int] | None = None
    model: str | None = None
    extras: dict[str, str] = field(default_factory=dict)
    tool: str = "a1111"


def read_parameters(data: bytes) -> GenerationParameters | None:
    """The parameters in an image file's metadata: PNG text, or EXIF UserComment, of A1111 or ComfyUI; None without."""
    for text in _texts(data):
        parsed = _from_graph(text) if text.lstrip().startswith("{") else parse_a1111(text)
        if parsed:
            return parsed
    return None


def parse_a1111(text: str) -> GenerationParameters | None:
    """Parameters from AUTOMATIC1111's text: prompt, `Negative prompt: …`, one last line of `Key: value` settings."""
    lines = clean_text(text).split("\n")
    settings = _settings(lines[-1])
    if not settings:
        return None
    prompt, _, negative = "\n".join(lines[:-1]).partition("Negative prompt:")
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", settings.pop("Size", ""))
    return GenerationParameters(
        prompt=prompt.strip(),
        negative_prompt=negative.strip(),
        steps=_steps(settings.pop("Steps", None)),
        sampler=settings.pop("Sampler", None),
        guidance=_guidance(settings.pop("CFG scale", None)),
        seed=_seed(settings.pop("Seed", None)),
        size=(int(size[1]), int(size[2])) if size else None,
        model=settings.pop("Model", None),
        extras=settings,
    )


def format_a1111(parameters: GenerationParameters) -> str:
    """The text that AUTOMATIC1111 and the galleries after it read; the inverse of `parse_a1111`."""
    size = f"{parameters.size[0]}x{parameters.size[1]}" if parameters.size else None
    settings = {
        "Steps": parameters.steps,
        "Sampler": parameters.sampler,
        "CFG scale": parameters.guidance,
        "Seed": parameters.seed,
        "Size": size,
        "Model": parameters.model,
        **parameters.extras,
    }
    lines = [parameters.prompt]
    if parameters.negative_prompt:
        lines.append(f"Negative prompt: {parameters.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def embed(image: Image.Image, text: str, format: str = "PNG", quality: int = 95) -> bytes:
    """An image file of `image` with `text` as its generation parameters, where AUTOMATIC1111 keeps them.

    format: PNG (its `parameters` text; quality is not for it), JPEG or WEBP (EXIF UserComment, in UTF-16).
    quality: 1 to 100. A JPEG's colours are as fine as its light: saturated edges are what half of them blurs.
    Raises ValueError for a text that the format has no room for: JPEG takes 32,000 characters.
    """
    if format == "PNG":
        return embed_png(image, text)
    formats: dict[str, dict[str, Any]] = {"JPEG": {"subsampling": "4:4:4", "optimize": True}, "WEBP": {"method": 4}}
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality, exif=_exif(text), **formats[format])
    return buffer.getvalue()


def embed_png(image: Image.Image, text: str) -> bytes:
    """A PNG file of `image` with `text` as its `parameters`, where every gallery and tool looks for them."""
    info = PngInfo()
    if text.isascii():
        info.add_text("parameters", text)
    else:
        info.add_itxt("parameters", text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _exif(text: str) -> bytes:
    exif = Image.Exif()
    # As AUTOMATIC1111 writes it, and all who read it after: the standard's name of the encoding, then big-endian UTF-16
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be", errors="replace")
    return exif.tobytes()


def with_parameters(provenance: Provenance, data: bytes) -> Provenance:
    """`provenance` with what it lacks filled in from the file's own generation parameters."""
    found = read_parameters(data)
    if found is None:
        return provenance
    facts = {
        "prompt": found.prompt or None,
        "negative_prompt": found.negative_prompt or None,
        "generator": found.model,
        "sampler": found.sampler,
        "seed": found.seed,
        "steps": found.steps,
        "guidance": found.guidance,
    }
    missing: dict[str, Any] = {name: value for name, value in facts.items() if getattr(provenance, name) is None}
    extras = {"tool": found.tool, **found.extras}
    return replace(provenance, **missing, parameters={**extras, **provenance.parameters})


def _from_graph(text: str) -> GenerationParameters | None:
    graph = read_graph(text)
    if graph is None:
        return None
    settings = graph.settings
    scheduler = clean_text(settings["scheduler"], 100)
    return GenerationParameters(
        prompt=graph.prompt,
        negative_prompt=graph.negative_prompt,
        steps=_steps(settings["steps"]),
        sampler=clean_text(settings["sampler"], 100) or None,
        guidance=_guidance(settings["guidance"]),
        seed=_seed(settings["seed"]),
        model=settings["model"] or None,
        extras={"scheduler": scheduler} if scheduler else {},
        tool="comfyui",
    )


def _texts(data: bytes) -> list[str]:
    """Every text in the file's metadata that may hold parameters, the likeliest first."""
    try:
        with open_image(data) as image:
            from_exif = _exif_texts(image)  # first: it reads a PNG to its end, where text may stand as well
            texts = [image.info.get("parameters"), image.info.get("prompt"), *from_exif]
    except Refused:
        return []
    return [text for text in texts if isinstance(text, str) and text.strip() and len(text) <= MAX_COMMENT]


def _exif_texts(image: Image.Image) -> list[str]:
    # Pillow parses EXIF lazily and in Python; a crafted block raises whatever it runs into.
    try:
        exif = image.getexif()
        comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
        tags = [exif.get(CAMERA_MODEL), exif.get(CAMERA_MAKE)]
    except Exception:
        return []
    # ComfyUI's own WebP writer keeps the graph in a camera tag, as `prompt:{…}`.
    graphs = [tag[len("prompt:") :] for tag in tags if isinstance(tag, str) and tag[:7].lower() == "prompt:"]
    return [_user_comment(comment), *graphs]


def _user_comment(value: object) -> str:
    """Text of an EXIF UserComment: 8 bytes name the encoding, by the standard; many writers take it loosely."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes) or len(value) > MAX_COMMENT:
        return ""
    code, body = value[:8], value[8:]
    if code == b"UNICODE\0":
        return _utf16(body)
    if code in (b"ASCII\0\0\0", bytes(8)):
        return body.decode("utf-8", errors="replace")
    return value.decode("utf-8", errors="replace")


def _utf16(body: bytes) -> str:
    """UTF-16 of unstated byte order: the settings are ASCII, whose high byte is 0, so the zeros' side tells."""
    big_endian = body[0::2].count(0) >= body[1::2].count(0)
    return body.decode("utf-16-be" if big_endian else "utf-16-le", errors="replace")


# AUTOMATIC1111's own pattern, with the key's length bounded so that no text takes quadratic time.
_SETTING = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def _settings(line: str) -> dict[str, str]:
    """The `Key: value` pairs of the last line; {} if, as AUTOMATIC1111 judges, it is part of the prompt."""
    found = _SETTING.findall(line)
    if len(found) < 3 and not line.startswith("Steps: "):
        return {}
    return {key.strip(): _unquoted(value.strip()) for key, value in found[:MAX_EXTRAS]}


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def _unquoted(text: str) -> str:
    if not (len(text) > 1 and text.startswith('"') and text.endswith('"')):
        return text
    try:
        return clean_text(json.loads(text))
    except ValueError:
        return text


def _steps(value: object) -> int | None:
    return clean_int(value, 1, 10_000)


def _guidance(value: object) -> float | None:
    return clean_float(value, 0.0, 1000.0)


def _seed(value: object) -> int | None:
    return clean_int(value, 0, 2**64 - 1)
