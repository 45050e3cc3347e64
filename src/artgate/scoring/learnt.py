"""Which artworks a scorer has seen, kept beside it, so that nobody measures it on what it learnt.

`learnt.safetensors` in a scorer's folder tells of each artwork what it takes to know it, or one like it, again: the
first half of its image_id, its perceptual hash, digests of its prompt and creator, and its part. No prompt and no name
can be read from it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from artgate.artworks.artwork import Artwork, Provenance
from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.scoring.splits import leakage_groups, prompt_key

LEARNT = "learnt.safetensors"
# Of a split, the one part that neither training nor calibration looks at.
UNSEEN_PART = "test"
ID_BYTES, DIGEST_BYTES, HASH_BYTES = 16, 8, 32
WIDTHS = {"image_ids": ID_BYTES, "pdq": HASH_BYTES, "prompts": DIGEST_BYTES, "creators": DIGEST_BYTES}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Learnt:
    """N artworks that a scorer was made with: image_ids (N, 16), pdq (N, 32), prompts and creators (N, 8), zero where
    there is none, all uint8; pdq_quality (N,) uint8; parts (N,), the split or fold of each.
    """

    image_ids: Bytes
    pdq: Bytes
    prompts: Bytes
    creators: Bytes
    pdq_quality: Bytes
    parts: list[str]

    def __len__(self) -> int:
        return len(self.parts)

    def used(self) -> "Learnt":
        """Without the test split."""
        rows = [row for row, part in enumerate(self.parts) if part != UNSEEN_PART]
        return Learnt(
            self.image_ids[rows],
            self.pdq[rows],
            self.prompts[rows],
            self.creators[rows],
            self.pdq_quality[rows],
            [self.parts[row] for row in rows],
        )


def learnt_from(artworks: Sequence[Artwork], parts: Sequence[str]) -> Learnt:
    """What to keep of the artworks of a training run. parts: the split or fold of each; those of "" are left out."""
    kept = [(artwork, part) for artwork, part in zip(artworks, parts, strict=True) if part]
    return Learnt(
        _rows((bytes.fromhex(artwork.image_id)[:ID_BYTES] for artwork, _ in kept), ID_BYTES),
        _rows((bytes.fromhex(artwork.pdq) for artwork, _ in kept), HASH_BYTES),
        _rows((_digest(prompt_key(artwork.provenance.prompt)) for artwork, _ in kept), DIGEST_BYTES),
        _rows((_digest(artwork.provenance.creator) for artwork, _ in kept), DIGEST_BYTES),
        np.array([artwork.pdq_quality for artwork, _ in kept], np.uint8),
        [part for _, part in kept],
    )


def write_learnt(folder: Path, learnt: Learnt) -> dict[str, Any]:
    """Write the file into a scorer's folder; returns what metrics.json is to say of it under "learnt"."""
    columns = {name: getattr(learnt, name) for name in (*WIDTHS, "pdq_quality")}
    data = save(columns, metadata={"parts": json.dumps(learnt.parts)})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / LEARNT, data)
    return {"file": LEARNT, "artworks": len(learnt), "sha256": hashlib.sha256(data).hexdigest()}


def read_learnt(folder: Path, description: Mapping[str, Any]) -> Learnt:
    """What the scorer in `folder` was made with. description: of its `scorer.json`.

    Raises UserError where the scorer does not tell, and where the file is missing, damaged or another scorer's.
    """
    told = description.get("metrics", {}).get("learnt")
    if not isinstance(told, Mapping):
        raise UserError(
            f"{folder} does not tell which artworks it learnt from (an earlier artgate made it): train it again"
        )
    path = folder / LEARNT
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() == told.get("sha256"):
        try:
            return _parsed(path)
        except (SafetensorError, ValueError, KeyError, TypeError):
            pass
    raise UserError(f"{path} is missing or is not what the scorer's description names: copy the scorer's folder again")


def unseen_groups(artworks: Sequence[Artwork], learnt: Learnt, by: Sequence[str], radius: int) -> dict[str, str]:
    """image_id -> group of those artworks that share nothing with what was learnt; groups as of `leakage_groups`.

    Left out is what is in `learnt`, and whatever shares any of `by` with it, be it through others.
    """
    known = {row.tobytes() for row in learnt.image_ids}
    shadows = [_shadow(learnt, row) for row in range(len(learnt))]
    groups = leakage_groups([*shadows, *map(_veiled, artworks)], by, radius)
    seen = {groups[shadow.image_id] for shadow in shadows}
    seen |= {groups[a.image_id] for a in artworks if bytes.fromhex(a.image_id)[:ID_BYTES] in known}
    return {a.image_id: groups[a.image_id] for a in artworks if groups[a.image_id] not in seen}


def _parsed(path: Path) -> Learnt:
    with safe_open(path, framework="numpy") as file:
        parts = json.loads(file.metadata()["parts"])
        columns = {name: file.get_tensor(name) for name in (*WIDTHS, "pdq_quality")}
    shapes = {name: (len(parts), width) for name, width in WIDTHS.items()} | {"pdq_quality": (len(parts),)}
    if any(columns[name].shape != shape or columns[name].dtype != np.uint8 for name, shape in shapes.items()):
        raise ValueError("shapes")
    return Learnt(**columns, parts=parts)


def _shadow(learnt: Learnt, row: int) -> Artwork:
    """A learnt artwork as far as it is known, under a name that no image has."""
    provenance = Provenance(prompt=_told(learnt.prompts[row]), creator=_told(learnt.creators[row]))
    return _artwork(f"learnt-{row}", learnt.pdq[row].tobytes().hex(), int(learnt.pdq_quality[row]), provenance)


def _veiled(artwork: Artwork) -> Artwork:
    """An artwork whose prompt and creator are digests too, to be compared with shadows."""
    prompt, creator = _digest(prompt_key(artwork.provenance.prompt)), _digest(artwork.provenance.creator)
    provenance = Provenance(prompt=_told(prompt), creator=_told(creator))
    return _artwork(artwork.image_id, artwork.pdq, artwork.pdq_quality, provenance)


def _artwork(image_id: str, pdq: str, quality: int, provenance: Provenance) -> Artwork:
    return Artwork(
        image_id=image_id,
        file_name="",
        width=0,
        height=0,
        format="",
        pdq=pdq,
        pdq_quality=quality,
        provenance=provenance,
    )


def _digest(text: str | None) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES] if text else bytes(DIGEST_BYTES)


def _told(digest: Bytes | bytes) -> str | None:
    return bytes(digest).hex() if any(bytes(digest)) else None


def _rows(values: Iterable[bytes], width: int) -> Bytes:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)
