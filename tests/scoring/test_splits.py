import hashlib
import json
from collections import Counter

import pytest

from artgate.artworks.artwork import Artwork, Provenance
from artgate.errors import UserError
from artgate.scoring.splits import frozen_splits, leakage_groups, make_folds, make_splits

FRACTIONS = {"train": 0.64, "val": 0.08, "calibration": 0.1, "test": 0.18}
FLAT = "0" * 64


def artwork(number, pdq=None, **provenance):
    image_id = f"{number:064x}"
    # Hashes 256 bits apart from each other's neighbourhood: the digits of the id's own digest.
    pdq = pdq or hashlib.sha256(image_id.encode()).hexdigest()
    return Artwork(image_id, f"images/{image_id}.png", 64, 64, "PNG", pdq, provenance=Provenance(**provenance))


def grouped(count, size, prefix="g"):
    """image_id -> group, `count` groups of `size`."""
    return {f"{prefix}{group}-{member}": f"{prefix}{group}" for group in range(count) for member in range(size)}


def test_a_group_lies_in_one_split_and_shares_are_met():
    groups = grouped(100, 7)
    splits = make_splits(groups, FRACTIONS, seed=3)
    assert splits.keys() == groups.keys()
    for group in set(groups.values()):
        assert len({splits[i] for i in groups if groups[i] == group}) == 1
    counts = Counter(splits.values())
    for split, share in FRACTIONS.items():
        assert abs(counts[split] - share * 700) <= 7


def test_seed_changes_the_split_and_order_does_not():
    groups = grouped(50, 4)
    once = make_splits(groups, FRACTIONS, seed=1)
    assert make_splits(dict(reversed(groups.items())), FRACTIONS, seed=1) == once
    assert make_splits(groups, FRACTIONS, seed=2) != once


def test_splits_stay_as_the_collection_grows(tmp_path):
    before = grouped(30, 5)
    first = frozen_splits(tmp_path, before, FRACTIONS, 1, {})
    # Two of the new artworks join an old group; the rest are groups of their own.
    after = before | {"new-a": "g3", "new-b": "g3"} | grouped(30, 5, prefix="later")
    second = frozen_splits(tmp_path, after, FRACTIONS, 1, {})
    assert {image_id: second[image_id] for image_id in before} == first
    assert second["new-a"] == second["new-b"] == first["g3-0"]
    counts = Counter(second.values())
    for split, share in FRACTIONS.items():
        assert abs(counts[split] - share * 302) <= 5
    # What is gone for a while comes back to its split.
    fewer = {image_id: group for image_id, group in before.items() if group != "g3"}
    assert frozen_splits(tmp_path, fewer, FRACTIONS, 1, {}).items() <= first.items()
    assert frozen_splits(tmp_path, before, FRACTIONS, 1, {}) == first


def test_an_artwork_between_two_frozen_splits_is_in_none():
    frozen = {"a": "train", "b": "test"}
    splits = make_splits({"a": "g", "b": "g", "bridge": "g", "c": "h"}, FRACTIONS, 1, frozen)
    assert splits["a"] == "train"
    assert splits["b"] == "test"
    assert "bridge" not in splits
    assert "c" in splits


def test_other_settings_have_their_own_file(tmp_path):
    groups = grouped(30, 2)
    frozen_splits(tmp_path, groups, FRACTIONS, 1, {"radius": 31})
    frozen_splits(tmp_path, groups, FRACTIONS, 2, {"radius": 31})
    frozen_splits(tmp_path, groups, FRACTIONS, 1, {"radius": 10})
    assert len(list(tmp_path.glob("seed-*.json"))) == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": {"a": "elsewhere"}}'])
def test_a_damaged_file_of_splits_is_refused(tmp_path, content):
    groups = grouped(30, 2)
    frozen_splits(tmp_path, groups, FRACTIONS, 1, {})
    (path,) = tmp_path.glob("seed-1-*.json")
    assert json.loads(path.read_text())["seed"] == 1
    path.write_text(content)
    with pytest.raises(UserError, match="seed-1"):
        frozen_splits(tmp_path, groups, FRACTIONS, 1, {})


def test_folds_are_even_and_whole():
    groups = grouped(40, 6)
    folds = make_folds(groups, 5, seed=1)
    assert Counter(folds.values()) == dict.fromkeys(range(5), 48)
    assert len({(groups[image_id], fold) for image_id, fold in folds.items()}) == 40


def test_groups_join_by_prompt_creator_and_near_duplicate():
    pdq = artwork(99).pdq
    near = f"{int(pdq, 16) ^ 0b111:064x}"  # 3 bits of 256 away
    artworks = [
        artwork(0, prompt="A red  Fox"),
        artwork(1, prompt="a red fox ", creator="ann"),
        artwork(2, creator="ann", pdq=pdq),
        artwork(3, pdq=near),
        artwork(4, prompt=""),
        artwork(5, prompt=""),
    ]
    keys = ("near_duplicates", "prompt", "creator")
    groups = list(leakage_groups(artworks, keys, radius=31).values())
    assert groups[0] == groups[1] == groups[2] == groups[3] == artworks[0].image_id
    assert len({*groups[3:]}) == 3, "artworks without prompt and creator share neither"
    by_prompt = list(leakage_groups(artworks, ("prompt",), radius=31).values())
    assert by_prompt[0] == by_prompt[1]
    assert len(set(by_prompt)) == 5
    tight = list(leakage_groups(artworks, ("near_duplicates",), radius=2).values())
    assert len(set(tight)) == 6


@pytest.mark.agiqa3k
def test_no_prompt_and_no_near_duplicate_of_agiqa3k_crosses_splits(agiqa3k, tmp_path):
    """Prompts and duplicates joined over the real prompts (images' hashes come with the import's own tests)."""
    import csv

    with (agiqa3k / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    artworks = [artwork(number, prompt=row["prompt"]) for number, row in enumerate(rows)]
    groups = leakage_groups(artworks, ("near_duplicates", "prompt", "creator"), radius=31)
    splits = make_splits(groups, FRACTIONS, seed=1)
    sides = {}
    for row, work in zip(rows, artworks, strict=True):
        sides.setdefault(row["prompt"], set()).add(splits[work.image_id])
    assert len(sides) == 245
    assert all(len(side) == 1 for side in sides.values())
