import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import ImageFilter

from artgate.artworks.duplicates import group_artworks
from artgate.artworks.sample import DEFECTS, make_sample, planted_grades
from artgate.errors import UserError


def test_a_third_of_each_grade_with_defects_as_planted(sample):
    assert len(sample) == 48
    assert Counter(planted_grades(sample).values()) == {"good": 16, "average": 16, "poor": 16}
    for artwork in sample:
        planted = artwork.provenance.parameters
        low, high = {"good": (0, 0), "average": (0.2, 0.4), "poor": (0.7, 1.0)}[planted["planted_grade"]]
        assert low <= planted["severity"] <= high
        assert (planted["defect"] == "none") == (planted["planted_grade"] == "good")
        assert (artwork.width, artwork.height, artwork.format) == (256, 256, "PNG")
        assert artwork.provenance.creator
    assert {a.provenance.parameters["defect"] for a in sample} == {"none", *DEFECTS}


def test_each_picture_is_another_and_no_prompt_or_creator_gives_its_grade_away(sample):
    artworks = list(sample)
    assert len(set(group_artworks(artworks).tolist())) == 48
    assert len({a.provenance.prompt for a in artworks}) == 48
    grades_of_creator = {}
    for artwork in artworks:
        grades_of_creator.setdefault(artwork.provenance.creator, set()).add(planted_grades(sample)[artwork.image_id])
    assert sum(len(grades) > 1 for grades in grades_of_creator.values()) > len(grades_of_creator) / 2


def test_the_same_arguments_give_the_same_bytes_in_any_process(tmp_path):
    here = make_sample(tmp_path / "a", n=6, seed=3, size=64)
    code = "import sys; from artgate.artworks.sample import make_sample as m; m(sys.argv[1], n=6, seed=3, size=64)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True)
    assert (tmp_path / "a" / "metadata.jsonl").read_bytes() == (tmp_path / "b" / "metadata.jsonl").read_bytes()
    other = make_sample(tmp_path / "c", n=6, seed=4, size=64)
    assert {a.image_id for a in here}.isdisjoint(a.image_id for a in other)


def test_making_it_again_or_larger_keeps_what_is_there(tmp_path):
    first = [a.image_id for a in make_sample(tmp_path, n=3, size=64)]
    assert [a.image_id for a in make_sample(tmp_path, n=3, size=64)] == first
    assert [a.image_id for a in make_sample(tmp_path, n=5, size=64)][:3] == first


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_grows_with_its_severity(sample, defect):
    clean = sample.image(next(iter(sample)))
    pixels = np.asarray(clean, float)

    def damage(severity: float) -> float:
        damaged = DEFECTS[defect](clean, severity, np.random.default_rng(0))
        assert damaged.size == clean.size
        return float(np.abs(np.asarray(damaged, float) - pixels).mean())

    mild, bad = damage(0.3), damage(0.9)
    assert 0.2 < mild < bad / 1.5


def test_good_pictures_are_sharp_and_blurred_ones_are_not(sample):
    def sharpness(artwork) -> float:
        image = sample.image(artwork).convert("L")
        return float(np.asarray(image.filter(ImageFilter.FIND_EDGES), float)[2:-2, 2:-2].mean())

    by_defect = {}
    for artwork in sample:
        planted = artwork.provenance.parameters
        by_defect.setdefault((planted["defect"], planted["planted_grade"]), []).append(sharpness(artwork))
    assert np.median(by_defect["blur", "poor"]) < 0.5 * np.median(by_defect["none", "good"])


@pytest.mark.parametrize(
    ("arguments", "said"), [({"n": 2}, "n 2 is below 3"), ({"size": 32}, r"size 32 is outside \[64")]
)
def test_bad_arguments_are_named(tmp_path, arguments, said):
    with pytest.raises(UserError, match=said):
        make_sample(tmp_path, **arguments)


def test_the_picture_bytes_are_those_of_the_record(sample):
    for artwork in sample:
        assert hashlib.sha256(sample.path(artwork).read_bytes()).hexdigest() == artwork.image_id
