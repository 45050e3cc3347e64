"""Files of this machine that an artwork is made with: its sidecar tells where they lie, and it is remade from there.

The configuration keeps them as they were given: a batch may go on from another folder, and it is compared then.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from artgate.errors import UserError
from artgate.generation.config import MovedConfig

# Where a sidecar names files → the setting below `moved` that tells where they lie by now.
NAMED = {
    ("config", "diffusion", "model"): "model",
    ("config", "diffusion", "lora"): "lora",
    ("config", "upscaler", "weights", "path"): "upscaler",
    ("config", "basemap", "files"): "basemap",
    ("candidate", "basemap"): "basemap",
}
NO_PATH = "embedded"  # the model that comes with the package

Sidecar = dict[str, Any]


def local_paths(told: Sidecar) -> dict[str, str]:
    """Files and folders as they are named → where they lie, those that are there: not what is on a hub.

    told: the "config" and "candidate" of a sidecar.
    """
    names = [name for holder, key, _ in _named(told) for name in _listed(holder[key]) if name != NO_PATH]
    return {name: str(_path(name).resolve()) for name in names if _path(name).exists()}


def relocated(told: Sidecar, moved: MovedConfig, sidecar: Path) -> Sidecar:
    """A copy of a sidecar that names files where they are now: as `moved` says, else where its "paths" have them, else
    where the same name leads from here.

    Raises UserError, with the setting that cures it, for what is nowhere, and for what is said to have moved and is not
    named.
    """
    told, given = copy.deepcopy(told), {key: value for key, value in vars(moved).items() if value is not None}
    paths = told["paths"] if isinstance(told.get("paths"), dict) else {}
    named = list(_named(told))
    unknown = given.keys() - {setting for _, _, setting in named}
    if unknown:
        raise UserError(f"moved.{min(unknown)} is given, and {sidecar} names nothing of the kind: leave it out")
    for holder, key, setting in named:
        found = [_found(name, paths, setting, given.get(setting), sidecar) for name in _listed(holder[key])]
        holder[key] = found if isinstance(holder[key], list) else found[0]
    return told


def _found(name: str, paths: Mapping[str, str], setting: str, now: str | None, sidecar: Path) -> str:
    if now is not None and not _path(now).exists():
        raise UserError(f"moved.{setting} {now} is not there: give where {name} lies by now")
    if now is not None:
        return str(_path(now) / _path(name).name) if setting == "basemap" else now
    noted = str(paths.get(name, name))
    if name not in paths or Path(noted).exists():
        return noted
    if _path(name).exists():
        return name
    raise UserError(
        f"{sidecar} was made with {noted}, which is not there any more: say where it lies by now, moved.{setting}=…"
    )


def _named(told: Sidecar) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(holder, its key, setting) of each place in a sidecar where files are named."""
    for (*outer, key), setting in NAMED.items():
        holder: Any = told
        for part in outer:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and holder.get(key):
            yield holder, key, setting


def _listed(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def _path(name: str) -> Path:
    return Path(name).expanduser()
