"""Where a diffusion checkpoint lies: in a local folder, in the hub's cache, or on the hub.

A checkpoint is a folder in diffusers' layout (`model_index.json` and a folder a component), its weights in safetensors.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import artgate
from artgate.errors import UserError

log = logging.getLogger(__name__)

EMBEDDED = Path(artgate.__file__).parent / "assets" / "diffusion"
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
SAFETY = {"safety_checker": "model"}  # read unless it is switched off
SAFETY_FILES = ("safety_checker/", "feature_extractor/")
UNCHECKED = "say diffusion.safety_checker=off to have the pictures unchecked"
CONVERSION = "`StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)` of diffusers"
HUB_PATIENCE = 5.0  # seconds for the hub's first answer: an error should come while the user still looks


def checkpoint_folder(
    model: str, revision: str | None, variant: str | None, gigabytes: float | None, safety: bool = True
) -> Path:
    """The folder of a checkpoint, downloaded if need be.

    model: `embedded` (the package's own), a local folder, or a hub repository `owner/name`.
    variant: prefer the weight files of this name (`fp16`); gigabytes: the size of the download, for messages.
    safety: the safety checker that its model_index.json names has to be there too.
    Raises UserError with the cure for anything that keeps the checkpoint from being used.
    """
    return local_checkpoint(model, safety) or _from_hub(model, revision, variant, gigabytes, safety)


def local_checkpoint(model: str, safety: bool = True) -> Path | None:
    """The folder of a checkpoint that no download is needed for; None for a hub repository.

    Raises UserError with the cure where it is not there, or lacks something.
    """
    if model == "embedded":
        missing = f"the embedded model is missing from this installation ({EMBEDDED}): reinstall artgate"
        return _local(EMBEDDED, missing, safety)
    if Path(model).expanduser().is_dir():
        return _local(Path(model).expanduser(), "", safety)
    if _reads_as_path(model):
        raise UserError(_no_such_folder(model))
    return None


def carries_safety_checker(folder: Path) -> bool:
    """Whether the checkpoint's model_index.json names a safety checker."""
    return json.loads((folder / "model_index.json").read_text()).get("safety_checker", [None])[0] is not None


def lora_file(lora: str, weight_name: str) -> Path:
    """The safetensors file of a LoRA: a local file, a local folder that holds `weight_name`, or a hub repository."""
    path = Path(lora).expanduser()
    if path.is_dir():
        path = path / weight_name
    if path.suffix == ".safetensors" or _reads_as_path(lora):
        if path.suffix != ".safetensors" or not path.is_file():
            raise UserError(f"LoRA {lora}: no safetensors file at {path}; give the file, or the folder it lies in")
        return path
    return _cached_or_fetched(
        lambda offline: hf_hub_download(
            lora, weight_name, local_files_only=offline, etag_timeout=HUB_PATIENCE, library_name="artgate"
        ),
        lacking=lambda path: None if path.is_file() else weight_name,
        repository=lora,
        gigabytes=None,
    )


def variant_of(folder: Path, variant: str | None, component: str = "unet") -> str | None:
    """The variant to load: the one asked for if the checkpoint has it, else the plain weights, else what there is."""
    stem = (WEIGHTS | SAFETY)[component]
    files = (folder / component).glob(f"{stem}*.safetensors*")
    weights = [file.name.removeprefix(stem).removesuffix(".safetensors") for file in files]
    found = [name[1:].split("-")[0] for name in weights if name.startswith(".") and not name.endswith(".json")]
    if variant in found:
        return variant
    plain = any(not name.startswith(".") for name in weights)
    return None if plain or not found else sorted(found)[0]


def _local(folder: Path, if_missing: str, safety: bool) -> Path:
    if if_missing and not folder.is_dir():
        raise UserError(if_missing)
    lacking = _lacking(folder)
    if not lacking and safety and (unchecked := _lacking_for_safety(folder)):
        raise UserError(f"{folder} names a safety checker and lacks {unchecked}: bring it there, or {UNCHECKED}")
    if lacking:
        raise UserError(
            f"{folder} is no diffusers checkpoint with safetensors weights: it lacks {lacking}. "
            f"A single-file or pickled checkpoint is converted by {CONVERSION}"
        )
    return folder


def _lacking(folder: Path) -> str | None:
    """The first part that a checkpoint needs and the folder does not have, or None."""
    index = folder / "model_index.json"
    if not index.is_file():
        return "model_index.json"
    try:
        components = json.loads(index.read_text())
    except ValueError:
        return "a readable model_index.json"
    for component, stem in WEIGHTS.items():
        if components.get(component, [None])[0] is None:
            continue
        if not (folder / component / "config.json").is_file():
            return f"{component}/config.json"
        # is_file follows the cache's links, which dangle after an interrupted download
        if not any(file.is_file() for file in (folder / component).glob(f"{stem}*.safetensors")):
            return f"{component}/{stem}.safetensors"
    return None


def _lacking_for_safety(folder: Path) -> str | None:
    """The first part that the safety checker needs and the folder does not have; None, too, where it names none."""
    if not carries_safety_checker(folder):
        return None
    needed = ("safety_checker/config.json", "feature_extractor/preprocessor_config.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    if not any(file.is_file() for file in (folder / "safety_checker").glob("model*.safetensors")):
        missing.append("safety_checker/model.safetensors")
    return missing[0] if missing else None


def _from_hub(
    repository: str, revision: str | None, variant: str | None, gigabytes: float | None, safety: bool
) -> Path:
    def snapshot(weights: str | None, offline: bool) -> str:
        return snapshot_download(
            repository,
            revision=revision,
            allow_patterns=_needed_files(weights, safety),
            local_files_only=offline,
            etag_timeout=HUB_PATIENCE,
            library_name="artgate",
        )

    def fetch(offline: bool) -> str:
        folder = snapshot(variant, offline)
        if variant and not offline and lacking(Path(folder)):
            return snapshot(None, offline)  # a repository without that variant
        return folder

    def lacking(folder: Path) -> str | None:
        return _lacking(folder) or (_lacking_for_safety(folder) if safety else None)

    return _cached_or_fetched(fetch, lacking, repository, gigabytes)


def _cached_or_fetched(
    fetch: Callable[[bool], str], lacking: Callable[[Path], str | None], repository: str, gigabytes: float | None
) -> Path:
    """`fetch(offline=True)` if that lacks nothing: a cached model needs no network; else fetch it from the hub."""
    size = f" ({gigabytes:g} GB)" if gigabytes else ""
    cure = (
        f"`hf download {repository}` where there is a network{size}, or name a local folder, "
        "or try `experiment=demo`, which needs no download"
    )
    try:
        cached = Path(fetch(True))
        missing = lacking(cached)
        if missing is None:
            return cached
        if missing.startswith(SAFETY_FILES):
            cure = f"{cure}; without {missing}, {UNCHECKED}"
    except HFValidationError:
        raise UserError(_no_such_folder(repository)) from None
    except LocalEntryNotFoundError:
        pass
    try:
        # The download itself waits for a silent network without end: ask first, with a limit
        HfApi(library_name="artgate").model_info(repository, timeout=HUB_PATIENCE)
        log.warning("downloading %s%s into the Hugging Face cache", repository, size)
        fetched = Path(fetch(False))
    except Exception as error:  # of the hub, of its HTTP library (which changes with its version), of the disk
        raise _explained(error, repository, cure) from error
    missing = lacking(fetched)
    if missing and missing.startswith(SAFETY_FILES):
        raise UserError(f"{repository} names a safety checker and has no {missing}: {UNCHECKED}")
    if missing:
        raise UserError(f"{repository} is no diffusers checkpoint with safetensors weights: choose another repository")
    return fetched


def _explained(error: Exception, repository: str, cure: str) -> UserError:
    """What kept the repository from being downloaded, and what to do."""
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{repository} wants its licence accepted: on https://huggingface.co/{repository}, then `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return UserError(
            f"{repository} is not on the hub: check the name and the revision (if it is private, `hf auth login`)"
        )
    reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{repository} is not in the cache and cannot be downloaded ({reason}): {cure}")


def _needed_files(variant: str | None, safety: bool) -> list[str]:
    """Patterns of the files that are read: repositories also hold pickles, ONNX, Flax and other precisions."""
    name = f".{variant}" if variant else ""
    components = WEIGHTS | SAFETY if safety else WEIGHTS
    weights = [
        f"{component}/{stem}{file}"
        for component, stem in components.items()
        for file in (
            f"{name}.safetensors",
            f"{name}-0*.safetensors",
            f"-0*{name}.safetensors",
            f".safetensors.index{name}.json",
        )
    ]
    configs = [f"{component}/config.json" for component in components]
    if safety:
        configs.append("feature_extractor/*.json")
    return ["model_index.json", "scheduler/*.json", "tokenizer/*", "tokenizer_2/*", *configs, *weights]


def _reads_as_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or model.count("/") > 1 or "\\" in model or Path(model).exists()


def _no_such_folder(model: str) -> str:
    single = Path(model).expanduser().is_file()
    kind = f"a file, not a folder: convert it by {CONVERSION}" if single else "not there"
    return f"diffusion.model {model!r} is {kind}; give a folder in diffusers' layout or a hub repository `owner/name`"
