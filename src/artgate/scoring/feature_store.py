"""Features on the disk by image_id: a folder an encoder fingerprint, which only grows.

    <cache_dir>/<fingerprint, 16 digits>/encoder.json           what made them
                                         <random>.safetensors   a shard: (n, D) features, image_ids and a checksum

A shard is written to a temporary file, fsynced and renamed, so that any number of processes may write at once and a
kill loses no shard. A shard that is torn or whose checksum fails is left out, and its features are computed again.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
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
        metadata = {"image_ids": json.dumps(list(image_ids)), "sha256": _checksum(features)}
        write_atomic(self.folder / f"{uuid.uuid4().hex}.safetensors", save({"features": features}, metadata=metadata))

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


def _checksum(features: Features) -> str:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
