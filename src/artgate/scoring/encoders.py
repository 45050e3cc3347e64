"""Frozen image encoders and their fingerprint.

`build_encoder(config)` makes one of three kinds: `open_clip`, `timm`, or `embedded`, EfficientNets-Lite that come in
wheels, for use without a network.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from artgate.config import validated
from artgate.errors import UserError
from artgate.scoring.backbones import FEATURES, NORMALISATIONS, Backbone, embedded_backbone, timm_backbone
from artgate.scoring.preprocessing import FITS, Preprocessing
from artgate.scoring.weights import first_line, weights_sha256

KINDS = ("open_clip", "timm", "embedded")
PRECISIONS = ("float32", "bfloat16")
MINIBATCH = 16
# To a forward pass on a CPU, of all images together: beyond, activations leave its caches, and a pass over 8 images of
# 448 x 448 costs 1.5 times what 8 passes over one do. Below, networks of few tokens read their weights too often.
CPU_PIXELS = 4 * 224 * 224
# Raised when the code that turns images into features changes what it computes.
RECIPE = 1
_CUDNN = threading.Lock()


@dataclass
class EncoderConfig:
    """What there is to set.

    model: name in open_clip or timm. pretrained: open_clip's tag. checkpoint: a local weights file instead of a
    download. tokenizer: a local folder with the tokenizer's files instead of a download, where open_clip's does not
    come with it; of use only where prompts are read. features: `last` pooled layer, mean and std of all `stages`, or
    `last+stages` (not open_clip). normalisation: of stages, `power` takes signed square roots; `none`.
    sizes: sides of the square views in pixels; None is the model's own. fit: `squash` or `crop` to a square; None is
    open_clip's own way, and squash otherwise. precision: bfloat16 is faster where the hardware has it.
    device: `auto`, or torch's name of one.
    """

    kind: str
    model: str | None = None
    pretrained: str | None = None
    checkpoint: str | None = None
    tokenizer: str | None = None
    features: str | None = None
    sizes: list[int] | None = None
    fit: str | None = None
    normalisation: str = "none"
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, KINDS)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("normalisation", self.normalisation, NORMALISATIONS)
        if self.fit is not None:
            _check_choice("fit", self.fit, FITS)
        if self.features is not None:
            _check_choice("features", self.features, FEATURES)
        if self.kind != "embedded" and not self.model:
            raise UserError(f"encoder.model is missing: name a model of {self.kind}")
        if self.kind == "open_clip" and (self.features or "last") != "last":
            raise UserError(
                f"encoder.features {self.features} is for timm models: open_clip's feature is its last layer"
            )
        if self.kind == "open_clip" and self.normalisation != "none":
            raise UserError(
                f"encoder.normalisation {self.normalisation} is for timm models: leave it out for open_clip"
            )
        if self.sizes is not None and not (self.sizes and all(32 <= size <= 2048 for size in self.sizes)):
            raise UserError(
                f"encoder.sizes {self.sizes} are not one or more sides in [32, 2048] pixels: set them within"
            )


def build_encoder(config: Mapping[str, Any], tuned: Mapping[str, Tensor] | None = None) -> "Encoder":
    """The encoder that `config` (the keys of `EncoderConfig`) describes, with real weights, ready on its device.

    tuned: all weights of its network (`Encoder.network`) as fine-tuning left them, instead of those it began from,
    which then need not be there.
    Raises UserError, with the cure, for a wrong setting and for weights that are missing or do not fit.
    """
    settings = validated(EncoderConfig, config, "encoder")
    backbone = _backbone(settings, bare=tuned is not None)
    if tuned is not None:
        backbone = _tuned(backbone, tuned)
    sizes = settings.sizes or ([224, 448] if settings.kind == "embedded" else [backbone.size])
    preprocessing = Preprocessing(
        tuple(sizes), backbone.mean, backbone.std, backbone.interpolation, settings.fit or backbone.fit
    )
    # A key that came later stays out where it says nothing: what holds the configs of older scorers still fits them.
    later = {"tokenizer": None, "normalisation": "none"}
    known = {key: value for key, value in asdict(settings).items() if key not in later or value != later[key]}
    return Encoder(backbone, preprocessing, known, tuned=tuned is not None)


class Encoder:
    """Images → (N, D) float32 features, always in inference mode.

    An image's features do not depend on what else is in its minibatch (to 1e-5).
    name: the model and its tag. dim: D. config: rebuilds the encoder. fingerprint: hex sha256 over all that features
    depend on (name, weights, preprocessing, sizes, feature recipe, normalisation, precision), and not on where the
    weights came from, nor on the device. tuned: whether fine-tuning changed the weights, which then go with the scorer.
    """

    def __init__(self, backbone: Backbone, preprocessing: Preprocessing, config: dict[str, Any], tuned: bool = False):
        self.name = backbone.name
        self.tuned = tuned
        self.preprocessing = preprocessing
        self.config = config
        self.device = torch_device(config["device"])
        self.fingerprint = _fingerprint(backbone, preprocessing, config["precision"])
        self._network = backbone.network.eval().requires_grad_(False).to(self.device)
        self._network.to(memory_format=torch.channels_last)
        self.dim = self._measure_dim()

    @property
    def network(self) -> torch.nn.Module:
        """What turns normalised (B, 3, size, size) float32 views of one size into their part of the features."""
        return self._network

    def tuned_weights(self) -> bytes:
        """All weights as the bytes of a .safetensors file: float16 where that is exact, else float32."""
        state = {key: value.detach().cpu().contiguous() for key, value in self._network.state_dict().items()}
        halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        exact = all(torch.equal(halved[key].to(value.dtype), value) for key, value in state.items())
        return save(halved if exact else state)

    def preprocess(self, image: Image.Image) -> tuple[Tensor, ...]:
        """One (size, size, 3) uint8 tensor a size, on the CPU: safe and meant to run in a loader's workers."""
        return self.preprocessing(image)

    @staticmethod
    def collate(items: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Preprocessed images → the minibatch that `encode` takes: one (B, size, size, 3) uint8 tensor a size."""
        return tuple(torch.stack(views) for views in zip(*items, strict=True))

    @torch.inference_mode()
    def encode(self, minibatch: Sequence[Tensor]) -> Tensor:
        """minibatch: one (B, size, size, 3) uint8 tensor a size. Returns (B, D) float32 on the CPU."""
        with self._arithmetic():
            return self.features(minibatch, self._network).cpu()  # (B, D)

    def features(self, minibatch: Sequence[Tensor], network: torch.nn.Module) -> Tensor:
        """What `encode` does, with a network of the same shape in place of its own, on the encoder's device.

        Differentiable, under whatever arithmetic the caller sets: it is what fine-tuning calls.
        """
        views = [self.preprocessing.normalise(view.to(self.device, non_blocking=True)) for view in minibatch]
        features = [torch.cat([network(part).float() for part in self._passes(view)]) for view in views]
        return torch.cat(features, dim=1)  # (B, D)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) float32 features of RGB images, on the CPU; no images give (0, D)."""
        parts = [torch.empty(0, self.dim)]
        for start in range(0, len(images), MINIBATCH):
            parts.append(self.encode(self.collate([self.preprocess(i) for i in images[start : start + MINIBATCH]])))
        return torch.cat(parts)  # (N, D)

    def _passes(self, view: Tensor) -> Sequence[Tensor]:
        return view.split(max(1, CPU_PIXELS // view.shape[-1] ** 2)) if self.device.type == "cpu" else (view,)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        half = self.config["precision"] == "bfloat16"
        with ExitStack() as settings:
            if self.device.type == "cuda":
                # float32 means float32: cuDNN would round to 10 bits. Its settings are global, so one thread at a time.
                settings.enter_context(_CUDNN)
                settings.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=half))
            settings.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=half))
            yield

    def _measure_dim(self) -> int:
        black = [torch.zeros(1, size, size, 3, dtype=torch.uint8) for size in self.preprocessing.sizes]
        try:
            return self.encode(black).shape[1]
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"encoder.sizes {list(self.preprocessing.sizes)} do not suit {self.name} ({error}): "
                "leave sizes out for the model's own"
            ) from error


def _backbone(settings: EncoderConfig, bare: bool) -> Backbone:
    """The network of `settings`; bare: without weights, for tuned ones to be laid in."""
    if settings.kind == "open_clip":
        # open_clip takes seconds to import, and the other kinds do without it.
        from artgate.scoring.clip_backbones import open_clip_backbone

        return open_clip_backbone(str(settings.model), settings.pretrained, settings.checkpoint, bare)
    if settings.kind == "timm":
        features = settings.features or "last"
        return timm_backbone(str(settings.model), settings.checkpoint, features, settings.normalisation, bare)
    features = settings.features or "last+stages"
    return embedded_backbone(settings.model, settings.checkpoint, features, settings.normalisation, bare)


def _tuned(backbone: Backbone, weights: Mapping[str, Tensor]) -> Backbone:
    try:
        backbone.network.load_state_dict({key: value.float() for key, value in weights.items()})
    except RuntimeError as error:
        raise UserError(
            f"the tuned weights are not those of {backbone.name} ({first_line(error)}): copy the scorer again"
        ) from None
    return replace(backbone, weights_sha256=weights_sha256(backbone.network))


def _fingerprint(backbone: Backbone, preprocessing: Preprocessing, precision: str) -> str:
    identity = {
        "recipe": RECIPE,
        "name": backbone.name,
        "weights": backbone.weights_sha256,
        "preprocessing": asdict(preprocessing),
        "features": backbone.features,
        "normalisation": backbone.normalisation,
        "precision": precision,
        # Two activations share weights and names in open_clip.
        "quick_gelu": any(type(module).__name__ == "QuickGELU" for module in backbone.network.modules()),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def torch_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU where torch finds one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is no device: use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name}: torch finds no CUDA GPU here; use auto or cpu")
    return device


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"encoder.{key} {value!r} is not one of {', '.join(choices)}: choose from these")
