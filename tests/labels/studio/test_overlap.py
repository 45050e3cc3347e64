import hashlib

import pytest

from artgate.errors import UserError
from artgate.labels.selection import random_order
from artgate.labels.studio.overlap import Overlap

IDS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5000)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_is_kept(share):
    several = sum(Overlap(3, share).of(image_id) == 3 for image_id in IDS) / len(IDS)
    assert several == pytest.approx(share, abs=0.03)


def test_the_plan_depends_on_the_artwork_and_the_seed_alone():
    plan = {image_id: Overlap(2, 0.5, seed=1).of(image_id) for image_id in IDS}
    assert plan == {image_id: Overlap(2, 0.5, seed=1).of(image_id) for image_id in reversed(IDS)}
    assert plan != {image_id: Overlap(2, 0.5, seed=2).of(image_id) for image_id in IDS}


def test_a_larger_share_has_the_smaller_one_within_it():
    assert all(Overlap(2, 0.6).of(i) == 2 for i in IDS if Overlap(2, 0.3).of(i) == 2)


def test_the_plan_has_nothing_to_do_with_the_order():
    """Else the first to be sent by chance would all be graded several times."""
    first = random_order(IDS, seed=4)[:1000]
    assert sum(Overlap(2, 0.3, seed=4).of(i) == 2 for i in first) / 1000 == pytest.approx(0.3, abs=0.05)


def test_order_by_chance_keeps_what_was_there_among_itself():
    few, many = random_order(IDS[:2000], seed=1), random_order(reversed(IDS), seed=1)
    assert sorted(few) == sorted(IDS[:2000]) and few != IDS[:2000]
    assert [image_id for image_id in many if image_id in set(few)] == few
    assert random_order(IDS, seed=1) != random_order(IDS, seed=2)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 0.5), r"overlap 0 is outside \[1, 20\]"),
        ((21, 0.5), r"overlap 21 is outside \[1, 20\]"),
        ((2, 1.5), r"share 1.5 is outside \[0, 1\]"),
        ((2, float("nan")), r"share nan is outside \[0, 1\]"),
    ],
)
def test_numbers_outside_the_limits_are_refused(numbers, message):
    with pytest.raises(UserError, match=message):
        Overlap(*numbers)
