"""Which artworks the head learns from, which choose its epoch, calibrate it and test it: nothing leaks.

Artworks that share a near-duplicate, a prompt or a creator form a group, and a group lies in one split. A split once
given stays: the assignment is kept in a file by image_id, and a collection that grows only adds to it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from artgate.artworks.artwork import Artwork
from artgate.artworks.duplicates import group_artworks
from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.scoring.config import SPLITS


def frozen_splits(
    folder: Path,
    groups: Mapping[str, str],
    fractions: Mapping[str, float],
    seed: int,
    rule: Mapping[str, object],
) -> dict[str, str]:
    """Read the splits that earlier runs froze, add the artworks that are new, and keep the result.

    folder: where the files lie, one for each seed, fractions and `rule` (how `groups` were made, by value).
    groups: image_id -> group, of the artworks to divide. Returns image_id -> split (see `make_splits`).
    Raises UserError for a file that was damaged.
    """
    settings = json.dumps([dict(fractions), dict(rule)], sort_keys=True)
    path = folder / f"seed-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}.json"
    frozen = _read(path)
    chosen = make_splits(groups, fractions, seed, frozen)
    if not chosen.keys() <= frozen.keys():
        folder.mkdir(parents=True, exist_ok=True)
        kept = {"settings": json.loads(settings), "seed": seed, "splits": dict(sorted((frozen | chosen).items()))}
        write_atomic(path, json.dumps(kept, indent=1) + "\n")
    return chosen


def make_splits(
    groups: Mapping[str, str], fractions: Mapping[str, float], seed: int, frozen: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Divide artworks into splits, whole groups at a time.

    groups: image_id -> group. fractions: split -> share of the artworks, summing to 1.
    frozen: image_id -> split of earlier times; it is kept.
    Returns image_id -> split. A new artwork joins its group's frozen split; one whose group spans two frozen splits
    (it resembles artworks on both sides) is in none, for on either side it would leak. Other groups go, in an order
    drawn by the seed, where the most artworks are missing.
    """
    frozen = frozen or {}
    members: dict[str, list[str]] = defaultdict(list)
    for image_id in sorted(groups):
        members[groups[image_id]].append(image_id)

    chosen = {image_id: frozen[image_id] for image_id in groups if image_id in frozen}
    unplaced = []
    for group, image_ids in members.items():
        sides = {chosen[image_id] for image_id in image_ids if image_id in chosen}
        if not sides:
            unplaced.append(group)
        elif len(sides) == 1:
            (side,) = sides
            chosen.update(dict.fromkeys(image_ids, side))

    sizes = dict.fromkeys(fractions, 0)
    for split in chosen.values():
        sizes[split] += 1
    total = sum(sizes.values()) + sum(len(members[group]) for group in unplaced)
    for group in sorted(unplaced, key=lambda group: _draw(seed, group)):
        split = max(fractions, key=lambda split: fractions[split] * total - sizes[split])
        chosen.update(dict.fromkeys(members[group], split))
        sizes[split] += len(members[group])
    return chosen


def make_folds(groups: Mapping[str, str], folds: int, seed: int) -> dict[str, int]:
    """Divide artworks into equal folds, whole groups at a time: image_id -> fold in [0, folds)."""
    equal = {str(fold): 1 / folds for fold in range(folds)}
    return {image_id: int(fold) for image_id, fold in make_splits(groups, equal, seed).items()}


def leakage_groups(artworks: Sequence[Artwork], by: Sequence[str], radius: int) -> dict[str, str]:
    """Connected components of artworks that share any of `by`: image_id -> group, named by its first image_id.

    by: of `near_duplicates` (perceptual hashes within `radius` bits of 256, mirror images too), `prompt` (letter case
    and spacing aside) and `creator`. An artwork without a prompt or creator shares none.
    """
    labels: list[list[Hashable]] = []
    if "near_duplicates" in by:
        labels.append(group_artworks(artworks, radius).tolist())
    if "prompt" in by:
        labels.append([prompt_key(artwork.provenance.prompt) for artwork in artworks])
    if "creator" in by:
        labels.append([artwork.provenance.creator or None for artwork in artworks])
    component = _components(len(artworks), labels)
    names: dict[int, str] = {}
    for artwork, number in zip(artworks, component, strict=True):
        names[number] = min(names.get(number, artwork.image_id), artwork.image_id)
    return {artwork.image_id: names[number] for artwork, number in zip(artworks, component, strict=True)}


def prompt_key(prompt: str | None) -> str | None:
    """What two prompts share that are one; None where there is none."""
    return " ".join((prompt or "").casefold().split()) or None


def _components(count: int, labels: Iterable[Sequence[Hashable]]) -> list[int]:
    """The number of each row's component, where rows that share a label are joined (None joins nothing)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges: list[tuple[int, int]] = []
    for column in labels:
        first: dict[Hashable, int] = {}
        edges += [(row, first.setdefault(label, row)) for row, label in enumerate(column) if label is not None]
    rows, others = np.array(edges, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), dtype=bool), (rows, others)), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()


def _draw(seed: int, group: str) -> bytes:
    """A group's place in the seed's order: its own digest, so that neither file order nor other groups matter."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        splits = json.loads(path.read_text())["splits"]
        unknown = set(splits.values()) - set(SPLITS)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a file of splits: restore it, or delete it to divide anew") from None
    if unknown:
        raise UserError(f"{path} names the split {min(unknown)!r}, which is not one of {', '.join(SPLITS)}: correct it")
    return splits
