"""mode=remake: an accepted artwork is made again from its sidecar, and compared with the one that was kept.

On the machine that made it, with the same libraries, every bit before the enlargement is the same. Elsewhere the order
of a sum may be another, and PSNR (peak signal-to-noise ratio) tells what comes of that: from 50 dB on nobody sees it.
Other weights make another picture: they are refused.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from artgate.artworks.artwork import EXTENSIONS, IMAGE_ID
from artgate.artworks.decode import SUFFIXES, Refused, decode
from artgate.artworks.files import write_atomic
from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.batch import read_json
from artgate.generation.config import GenerateConfig, MovedConfig
from artgate.generation.fields import misfit_in_sidecar
from artgate.generation.local_paths import relocated
from artgate.generation.prompts import Candidate

if TYPE_CHECKING:
    from artgate.generation.stages import Painter

SMALL = "small"  # beside `accepted`: each accepted picture as it was before the enlargement
ALIKE = 50.0  # dB


@dataclass(frozen=True)
class Remade:
    """An artwork made again. data: its file. small: before the enlargement. notes: what is not as it was."""

    data: bytes
    format: str
    small: Image.Image
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Likeness:
    """How like the former picture the remade one is: decibels (inf: bit-identical), None where it cannot be told.

    differs: whether it is known not to be bit-identical, be it by the digest alone.
    """

    decibels: float | None
    told: str
    differs: bool = False


def remake_artwork(settings: GenerateConfig) -> Path:
    """Make the artwork of `settings.sidecar` again, write it to `settings.out`, say how like it is; returns its path.

    Raises UserError for a sidecar that cannot be used and for other models; and, once it is written, for a picture that
    is less like the former one than ALIKE, or differs from it where nothing accounts for that.
    """
    sidecar = Path(str(settings.sidecar)).expanduser()
    told = read_sidecar(sidecar)
    path = _destination(settings, sidecar, told)
    remade = remake(sidecar, settings.moved)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, remade.data)
    before, after = compare(sidecar, remade)
    print(f"remade {path}")
    print(f"before enlargement: {before.told}")
    print(f"as delivered: {after.told}", flush=True)
    for note in remade.notes:
        print(f"warning: {note}", flush=True)
    _refuse_another(path, sidecar, before, after, remade.notes)
    return path


def _refuse_another(path: Path, sidecar: Path, before: Likeness, after: Likeness, notes: tuple[str, ...]) -> None:
    """UserError where what was made is another picture; a warning where that cannot be told."""
    if before.decibels is not None and before.decibels < ALIKE:
        raise UserError(
            f"{path} is not the picture that {sidecar} tells of ({before.told}): on another machine it should be like "
            f"it by {ALIKE:g} dB or more; "
            + ("bring back the libraries that the warnings name" if notes else "restore the sidecar")
        )
    if before.decibels is not None or (after.decibels is not None and after.decibels >= ALIKE):
        return
    if before.differs and not notes:
        raise UserError(
            f"{path} is not the picture that {sidecar} tells of: the sha256 of its pixels before the enlargement is "
            "another, though libraries and processor are the same, and that makes the same picture: restore the sidecar"
        )
    print(
        f"warning: whether {path} is like the picture that {sidecar} tells of cannot be told: put the sidecar back "
        f"into accepted/sidecars of its batch, whose accepted/images and {SMALL} have what it is compared with",
        flush=True,
    )


def remake(sidecar: Path, moved: MovedConfig | None = None) -> Remade:
    """Make the artwork that a sidecar tells of again: with the slots, threads and precision that it was made with.

    moved: what lies elsewhere by now. Raises UserError where the sidecar is not one, a model is not found or no longer
    the one that made it, or the candidate fails.
    """
    from artgate.generation.artwork_file import artwork_file, versions
    from artgate.generation.stages import load_painter

    told = relocated(read_sidecar(sidecar), moved or MovedConfig(), sidecar)
    settings = _settings(told, sidecar)
    candidate = _candidate(told)
    with _threads(told), _beginning_of_paths(told, sidecar):
        painter = load_painter(settings)
        _refuse_other_models(painter.models, told["models"], sidecar)
        small = _painted(painter, candidate, sidecar)
        large = painter.enlarged(small)
        notes = _differences(told.get("versions", {}), versions(painter.sampler.model.device))
    data = artwork_file(painter, candidate, large, settings.image)
    return Remade(data, settings.image.format, small, tuple(notes))


def read_sidecar(sidecar: Path) -> dict[str, Any]:
    """What a sidecar tells. Raises UserError where the file is missing or something else."""
    if not sidecar.is_file():
        raise UserError(f"sidecar {sidecar} is not there: give the JSON of an accepted artwork, of accepted/sidecars")
    told = read_json(sidecar)
    missing = [key for key in ("image_id", "candidate", "models", "config") if key not in told]
    if missing:
        raise UserError(f"{sidecar} is no sidecar of an accepted artwork: it has no {missing[0]}")
    # The name of a file is made of it: it must not lead elsewhere.
    if not isinstance(told["image_id"], str) or not IMAGE_ID.fullmatch(told["image_id"]):
        raise UserError(f"{sidecar} has image_id {told['image_id']!r}, which is not 64 hex digits: restore the sidecar")
    if misfit := misfit_in_sidecar(told):
        raise UserError(f"{sidecar} {misfit}: the sidecar was changed by hand; restore it")
    return told


def compare(sidecar: Path, remade: Remade) -> tuple[Likeness, Likeness]:
    """The likeness before the enlargement, and of the picture as it is delivered, to what lies beside the sidecar."""
    told = read_sidecar(sidecar)
    artwork = _artwork(sidecar, told["image_id"])
    delivered = None if artwork is None else _decoded(artwork.read_bytes())
    former = _former_small(sidecar, told, delivered)
    return _likeness_before(told, former, remade.small), _likeness(delivered, _decoded(remade.data))


def psnr(former: Image.Image, now: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size in dB; inf where they are the same."""
    import numpy as np

    difference = np.asarray(former, np.float64) - np.asarray(now, np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _painted(painter: "Painter", candidate: Candidate, sidecar: Path) -> Image.Image:
    from artgate.generation.sampler import Finished

    (item,) = painter.sampler.run([candidate], painter.basemap)
    if not isinstance(item, Finished):
        raise UserError(f"{sidecar}: the candidate failed this time: {getattr(item, 'error', item)}")
    picture: Image.Image = painter.sampler.model.decode(item.latents[None])[0]
    return picture


def _settings(told: dict[str, Any], sidecar: Path) -> GenerateConfig:
    """The configuration that it was made with, at the precision and with the slots that this came to then."""
    config = {**told["config"], "mode": "generate", "sidecar": None, "out": None}
    sampler = told.get("sampler", {})
    came_to = {"dtype": sampler.get("precision"), "slots": sampler.get("slots")}
    config["diffusion"] = {**config["diffusion"], **{key: value for key, value in came_to.items() if value}}
    try:
        return validated(GenerateConfig, config)
    except UserError as error:
        raise UserError(f"{sidecar}: {error}") from None


def _candidate(told: dict[str, Any]) -> Candidate:
    known = Candidate.__dataclass_fields__
    return Candidate(**{key: value for key, value in told["candidate"].items() if key in known})


def _refuse_other_models(now: dict[str, Any], before: dict[str, Any], sidecar: Path) -> None:
    """Refuse other weights where the picture depends on them; a scorer judged it, and may have learned since."""
    for stage, model in now.items():
        former = before.get(stage, {"name": "none", "fingerprint": "none"})
        if model["fingerprint"] != former["fingerprint"]:
            raise UserError(
                f"{sidecar} was made with {stage} {former['name']} {former['fingerprint'][:12]}, and what is loaded "
                f"now is {model['name']} {model['fingerprint'][:12]}: bring the former weights and settings back"
            )


def _differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [
        f"made with {name} {before.get(name, 'unknown')}, and here is {version}: the last bits may differ"
        for name, version in now.items()
        if before.get(name) != version and name not in ("artgate",)
    ]


@contextlib.contextmanager
def _beginning_of_paths(told: dict[str, Any], sidecar: Path) -> Iterator[None]:
    """Sidecars of former versions have relative paths, and do not tell from where."""
    try:
        yield
    except UserError as error:
        if "paths" in told:
            raise
        raise UserError(
            f"{error} ({sidecar} does not tell where relative paths begin: run it where generate.py ran then, or say "
            "where things lie by now, as moved.model=FOLDER)"
        ) from None


@contextlib.contextmanager
def _threads(told: dict[str, Any]) -> Iterator[None]:
    """Compute on as many threads as then: how a sum is cut among them decides its last bit."""
    import torch

    here = torch.get_num_threads()
    then = str(told.get("versions", {}).get("threads", ""))
    torch.set_num_threads(int(then) if then.isdecimal() and 0 < int(then) <= 1024 else here)
    try:
        yield
    finally:
        torch.set_num_threads(here)


def _destination(settings: GenerateConfig, sidecar: Path, told: dict[str, Any]) -> Path:
    format = _settings(told, sidecar).image.format.upper()
    suffix = f".{EXTENSIONS[format]}"
    name = f"{told['image_id']}{suffix}"
    if settings.out is None:
        return Path(settings.outputs) / "remade" / name
    out = Path(settings.out).expanduser()
    path = out / name if out.is_dir() else out
    if path.suffix.lower() not in SUFFIXES[format]:
        raise UserError(
            f"out {path} does not end as a {format} file does, which the artwork is: give "
            f"{path.with_suffix(suffix).name}"
        )
    artwork = _artwork(sidecar, told["image_id"])
    if artwork is not None and path.exists() and path.samefile(artwork):
        raise UserError(f"out {path} is the artwork itself, which is kept as it is: give another file")
    return path


def _artwork(sidecar: Path, image_id: str) -> Path | None:
    """The artwork's file in the Collection that the sidecar lies in."""
    images = sidecar.resolve().parent.parent / "images"
    files = (images / f"{image_id}.{suffix}" for suffix in EXTENSIONS.values())
    return next((file for file in files if file.is_file()), None)


def _former_small(sidecar: Path, told: dict[str, Any], delivered: Image.Image | None) -> Image.Image | None:
    """The picture before its enlargement, where it was kept; where there was none to keep, the artwork itself."""
    kept = sidecar.resolve().parent.parent.parent / SMALL / f"{told['image_id']}.png"
    if kept.is_file():
        return _decoded(kept.read_bytes())
    enlarged = delivered is None or told.get("small", {}).get("sha256") != _digest(delivered)
    return None if enlarged else delivered


def _digest(picture: Image.Image) -> str:
    from artgate.generation.artwork_file import picture_digest

    return str(picture_digest(picture)["sha256"])


def _decoded(data: bytes) -> Image.Image | None:
    try:
        return decode(data)
    except Refused:
        return None


def _likeness_before(told: dict[str, Any], former: Image.Image | None, now: Image.Image) -> Likeness:
    if "small" in told and told["small"]["sha256"] == _digest(now):
        return Likeness(math.inf, "bit-identical")
    if former is None:
        differs = "small" in told
        changed = "not bit-identical" if differs else "not known to be the same"
        return Likeness(None, f"{changed}; how like, cannot be told: the former picture was not kept", differs)
    return _likeness(former, now)


def _likeness(former: Image.Image | None, now: Image.Image | None) -> Likeness:
    if former is None or now is None:
        return Likeness(None, "nothing to compare with: the artwork does not lie beside the sidecar")
    if former.size != now.size:
        return Likeness(0.0, f"another size: {now.width}x{now.height} instead of {former.width}x{former.height} pixels")
    decibels = psnr(former, now)
    return Likeness(decibels, "bit-identical" if math.isinf(decibels) else f"PSNR {decibels:.1f} dB")
