"""Sketches keep distances, near-duplicates are found by hash and by features, and the accepted tell how they spread."""

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from artgate.artworks.duplicates import hash_and_quality
from artgate.errors import UserError
from artgate.generation.batch import Line, Outcome
from artgate.generation.config import NearDuplicatesConfig
from artgate.generation.gate import Verdict
from artgate.generation.likeness import Likeness, diversity, read_sketch, sketch, spread, typical_distance
from artgate.generation.prompts import Candidate

PASSED = Verdict(True, "score 0.90 >= threshold 0.50")
DRAW = np.random.default_rng(0)
# Features as encoders give them: far more alike than not.
FEATURES = 1 + 0.5 * DRAW.standard_normal((40, 3000))


def painted(seed: int) -> Image.Image:
    """A picture of soft patches: unlike any of another seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)


def outcome(index: int, picture: Image.Image, features: np.ndarray) -> Outcome:
    return Outcome(Candidate(index, "a frog", "", index), picture, sketch=sketch(features))


def line(likeness: Likeness, made: Outcome, verdict: Verdict) -> Line:
    told = {"index": made.candidate.index, "status": "accepted" if verdict.accepted else "rejected"}
    return told | likeness.noted(made, told)


def decided(likeness: Likeness, made: Outcome) -> tuple[Line, str]:
    verdict = likeness.checked(made, PASSED)
    assert verdict is not None
    written = line(likeness, made, verdict)
    likeness.observe(written)
    return written, verdict.reason


def test_sketches_keep_distances_of_directions_and_do_not_change():
    units = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    sketches = np.stack([read_sketch({"sketch": sketch(features)}) for features in FEATURES])
    first, second = np.triu_indices(len(units), 1)
    ratio = np.linalg.norm(sketches[first] - sketches[second], axis=1) / np.linalg.norm(
        units[first] - units[second], axis=1
    )
    assert ratio.mean() == pytest.approx(1, abs=0.02) and ratio.std() < 0.06
    assert sketch(7 * FEATURES[0]) == sketch(FEATURES[0])
    assert len(sketch(FEATURES[0])) == 344
    # Written down once: a batch that is resumed by a later version compares with what is in its ledger.
    assert sketch(np.arange(5.0))[:12] == "0gDS0t0ADPT0"
    assert np.isfinite(read_sketch({"sketch": sketch(np.zeros(5))})).all()


@pytest.mark.parametrize("copy", [lambda p: p, ImageOps.mirror, lambda p: p.filter(ImageFilter.GaussianBlur(1))])
def test_a_copy_of_an_accepted_picture_is_found_by_its_hash(copy):
    likeness = Likeness(NearDuplicatesConfig(radius=31, distance=None))
    for k in range(6):
        assert decided(likeness, outcome(k, painted(k), FEATURES[k]))[1] == PASSED.reason
    found, reason = decided(likeness, outcome(9, copy(painted(4)), FEATURES[9]))
    assert found["status"] == "rejected" and reason.startswith("near-duplicate of candidate 4: ")
    assert "bits of their hashes differ" in reason and "pdq" not in found
    off = Likeness(NearDuplicatesConfig(radius=None, distance=None), [found])
    assert decided(off, outcome(10, painted(4), FEATURES[9]))[1] == PASSED.reason


def test_a_picture_with_features_of_an_accepted_one_is_found_once_the_usual_distance_is_known():
    likeness = Likeness(NearDuplicatesConfig(radius=None, distance=0.4))
    close = FEATURES[0] + 0.1 * (FEATURES[20] - FEATURES[0])
    assert decided(likeness, outcome(0, painted(0), FEATURES[0]))[1] == PASSED.reason
    assert decided(likeness, outcome(1, painted(1), close))[1] == PASSED.reason  # no usual distance yet
    for k in range(2, 12):
        assert decided(likeness, outcome(k, painted(k), FEATURES[k]))[1] == PASSED.reason
    _, reason = decided(likeness, outcome(12, painted(12), close))
    assert reason.startswith("near-duplicate of candidate 1: features 0.00 of the usual distance apart")


def test_what_the_gate_rejects_and_what_is_flat_is_left_alone():
    likeness = Likeness(NearDuplicatesConfig())
    grey = Image.new("RGB", (64, 64), (90, 90, 91))
    assert hash_and_quality(grey)[1] < 5
    for k in range(2):
        assert decided(likeness, outcome(k, grey, FEATURES[k]))[1] == PASSED.reason
    poor = Verdict(False, "score 0.10 < threshold 0.50")
    assert likeness.checked(outcome(3, painted(1), FEATURES[0]), poor) is poor
    assert likeness.checked(Outcome(Candidate(4, "", "", 4), error="decode: it broke"), None) is None


def test_a_resumed_batch_knows_what_the_first_run_knew():
    pictures = [painted(k % 9) for k in range(30)]
    lines: list[Line] = []
    whole = likeness = Likeness(NearDuplicatesConfig())
    for k, picture in enumerate(pictures):
        if k % 4 == 0:
            likeness = Likeness(NearDuplicatesConfig(), lines)
        at_once, resumed = (decided(held, outcome(k, picture, FEATURES[k % 13])) for held in (whole, likeness))
        assert at_once == resumed
        lines.append(resumed[0])
    assert sum(line["status"] == "accepted" for line in lines) == 9


def test_the_spread_is_that_of_all_pairs():
    vectors = DRAW.standard_normal((12, 5)).astype(np.float32)
    first, second = np.triu_indices(12, 1)
    squares = ((vectors[first] - vectors[second]) ** 2).sum(axis=1)
    assert spread(vectors) == pytest.approx(np.sqrt(squares.mean()), rel=1e-6)
    assert typical_distance(vectors) == pytest.approx(np.median(np.sqrt(squares)), rel=1e-6)


def told(accepted: list[int]) -> list[Line]:
    return [
        {"index": k, "status": "accepted" if k in accepted else "rejected", "sketch": sketch(FEATURES[k])}
        for k in range(len(FEATURES))
    ]


def test_accepted_that_are_less_diverse_than_what_was_made_are_warned_of():
    middle = FEATURES.mean(axis=0)
    nearest = np.argsort(np.linalg.norm(FEATURES - middle, axis=1))
    FEATURES[nearest[:5]] = middle + 0.3 * (FEATURES[nearest[:5]] - middle)
    alike, random = diversity(told(nearest[:5].tolist())), diversity(told(nearest[5::3].tolist()))
    assert alike is not None and random is not None
    assert alike["ratio"] < 0.5 < alike["by_chance"] and alike["accepted"] < alike["candidates"]
    assert "the 5 accepted lie only" in alike["warning"] and "40 candidates" in alike["warning"]
    assert "look whether they are too alike" in alike["warning"]
    assert random["ratio"] > 0.95 and random["warning"] is None
    two = diversity(told(nearest[4:6].tolist()))  # of two, nearly anything is within chance
    assert two is not None and two["by_chance"] < two["ratio"] < 0.95
    assert "that may be chance" in two["warning"] and "too alike" not in two["warning"]
    assert diversity(told([3])) is None and diversity([{"index": 0, "status": "failed"}]) is None


@pytest.mark.parametrize(("key", "value"), [("radius", 64), ("radius", -1), ("distance", 1.5)])
def test_a_wrong_setting_is_told(key: str, value: float):
    with pytest.raises(UserError, match=rf"near_duplicates.{key} {value} is outside"):
        NearDuplicatesConfig(**{key: value})
