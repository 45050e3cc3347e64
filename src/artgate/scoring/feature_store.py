"""Features on the disk by image_id: a folder an encoder fingerprint, which grows until artworks are purged.

    <cache_dir>/<fingerprint, 16 digits>/encoder.json           what made them
                                         <random>.safetensors   a shard: (n, D) features, image_ids and a checksum

A shard is written to a temporary file, fsynced and renamed, so that any number of processes may write at once and a
kill loses no shard. A shard that is torn or whose checksum fails is left out, and its features are computed again.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from artgate.artworks.files import write_atomic
from artgate.errors import UserError

log = logging.getLogger(__name__)

Features = NDArray[np.float32]


class FeatureStore:
    """The features that one encoder gave. dim: D; description: of the encoder, for people, in encoder.json."""

    def __init__(self, cache_dir: Path | str, fingerprint: str, dim: int, description: Mapping[str, Any]):
        self.folder = Path(cache_dir) / fingerprint[:16]
        self.dim = dim
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "encoder.json").is_file():
                write_atomic(self.folder / "encoder.json", json.dumps(dict(description), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"features cannot be kept in {cache_dir} ({error}): name a folder that can be") from error

    def write(self, image_ids: Sequence[str], features: Features) -> None:
        """Append a shard; when this returns, it is on the disk. features: (n, D) float32."""
        write_atomic(self.folder / f"{uuid.uuid4().hex}.safetensors", _shard(image_ids, features))

    def read(self, image_ids: Sequence[str]) -> dict[str, Features]:
        """The (D,) features of those of `image_ids` that are there; shards without any of them are not read."""
        wanted = set(image_ids)
        found: dict[str, Features] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            found |= self._read_shard(path, wanted - found.keys())
        return found

    def _read_shard(self, path: Path, wanted: set[str]) -> dict[str, Features]:
        try:
            with safe_open(path, framework="numpy") as shard:
                metadata = shard.metadata()
                rows = {i: row for row, i in enumerate(json.loads(metadata["image_ids"])) if i in wanted}
                features: Features = shard.get_tensor("features") if rows else np.empty((0, self.dim), np.float32)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s): its features are computed again", path, error)
            return {}
        if rows and (features.shape[1:] != (self.dim,) or _checksum(features) != metadata["sha256"]):
            log.warning("%s is damaged (its checksum fails): its features are computed again", path)
            return {}
        return {image_id: features[row] for image_id, row in rows.items()}


def remove_features(cache_dir: Path | str, image_ids: Collection[str]) -> int:
    """Take artworks' features out of the stores of all encoders in a cache folder; returns how many rows went.

    Each shard is replaced as a whole, or deleted where nothing is left of it. A damaged shard is deleted: nobody can
    tell whose features it holds, and they are computed again. A folder that is not there holds nothing.
    """
    removed = 0
    for path in sorted(Path(cache_dir).glob("*/*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as shard:
                held = json.loads(shard.metadata()["image_ids"])
                rows = [row for row, key in enumerate(held) if key.partition("/")[0] not in image_ids]
                features = shard.get_tensor("features")[rows] if len(rows) < len(held) else None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("%s is damaged (%s): it is deleted", path, error)
            path.unlink()
            continue
        if features is not None:
            _replace_shard(path, [held[row] for row in rows], features)
            removed += len(held) - len(rows)
    return removed


def _replace_shard(path: Path, image_ids: Sequence[str], features: Features) -> None:
    if image_ids:
        write_atomic(path, _shard(image_ids, features))
    else:
        path.unlink()


def _shard(image_ids: Sequence[str], features: Features) -> bytes:
    metadata = {"image_ids": json.dumps(list(image_ids)), "sha256": _checksum(features)}
    return save({"features": features}, metadata=metadata)


def _checksum(features: Features) -> str:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
