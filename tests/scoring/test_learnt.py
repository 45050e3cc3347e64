"""What a scorer has seen is known again, and so is what is like it."""

from dataclasses import replace

import numpy as np
import pytest

from artgate.artworks.artwork import Artwork, Provenance
from artgate.artworks.duplicates import RADIUS
from artgate.errors import UserError
from artgate.scoring.learnt import LEARNT, learnt_from, read_learnt, unseen_groups, write_learnt

KEYS = ("near_duplicates", "prompt", "creator")


def artwork(number: int, prompt: str | None = None, creator: str | None = None) -> Artwork:
    random = np.random.default_rng(number)
    return Artwork(
        image_id=random.bytes(32).hex(),
        file_name="",
        width=8,
        height=8,
        format="PNG",
        pdq=random.bytes(32).hex(),
        provenance=Provenance(prompt=prompt, creator=creator),
    )


def flipped(pdq: str, bits: int) -> str:
    data = bytearray.fromhex(pdq)
    for bit in range(bits):
        data[bit // 8 * 3 % 32] ^= 1 << bit % 8
    return data.hex()


SEEN = [artwork(0, "a  Frog"), artwork(1, creator="ann"), artwork(2), artwork(3, "a test")]
PARTS = ["train", "val", "calibration", "test"]


def test_what_was_seen_or_is_like_it_is_left_out():
    learnt = learnt_from(SEEN, PARTS).used()
    copy = replace(artwork(10), pdq=flipped(SEEN[2].pdq, 12))
    through_another = [replace(artwork(11, "chain"), pdq=flipped(SEEN[0].pdq, 12)), artwork(12, "chain")]
    fresh = [artwork(20, "a toad"), artwork(21, creator="bob"), artwork(22), artwork(23, "A TOAD")]
    others = [artwork(30, "A frog"), artwork(31, creator="ann"), copy, *through_another]
    found = unseen_groups([*SEEN, *others, *fresh], learnt, KEYS, RADIUS)
    # the test split was not learnt from
    assert set(found) == {SEEN[3].image_id, *(a.image_id for a in fresh)}
    assert found[fresh[0].image_id] == found[fresh[3].image_id] != found[fresh[1].image_id]


def test_prompts_of_another_scorers_data_may_be_shared_where_they_are_not_asked_about():
    learnt = learnt_from(SEEN, PARTS).used()
    found = unseen_groups([artwork(30, "A frog"), SEEN[0]], learnt, ("near_duplicates",), RADIUS)
    assert set(found) == {artwork(30).image_id}


def test_a_final_scorer_has_seen_every_fold_and_what_was_left_out_was_not_seen():
    learnt = learnt_from(SEEN, ["0", "1", "", "4"])
    assert len(learnt.used()) == 3
    assert set(unseen_groups(SEEN, learnt.used(), KEYS, RADIUS)) == {SEEN[2].image_id}


def test_the_file_tells_neither_prompts_nor_names_and_comes_back(tmp_path):
    written = learnt_from(SEEN, PARTS)
    told = write_learnt(tmp_path, written)
    data = (tmp_path / LEARNT).read_bytes()
    assert b"frog" not in data.lower() and b"ann" not in data
    back = read_learnt(tmp_path, {"metrics": {"learnt": told}})
    assert back.parts == PARTS and told["artworks"] == 4
    for name in ("image_ids", "pdq", "prompts", "creators", "pdq_quality"):
        np.testing.assert_array_equal(getattr(back, name), getattr(written, name))


def test_a_file_that_is_missing_changed_or_was_never_there_is_told(tmp_path):
    told = write_learnt(tmp_path, learnt_from(SEEN, PARTS))
    with pytest.raises(UserError, match="does not tell which artworks it learnt from"):
        read_learnt(tmp_path, {"metrics": {}})
    write_learnt(tmp_path, learnt_from(SEEN[:2], PARTS[:2]))
    with pytest.raises(UserError, match="is missing or is not what the scorer's description names"):
        read_learnt(tmp_path, {"metrics": {"learnt": told}})
    (tmp_path / LEARNT).unlink()
    with pytest.raises(UserError, match="is missing or is not"):
        read_learnt(tmp_path, {"metrics": {"learnt": told}})
