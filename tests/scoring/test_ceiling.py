import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from artgate.scoring.ceiling import human_ceiling, read_opinions
from artgate.scoring.intervals import Resamples
from artgate.scoring.metrics import macro_f1, quadratic_kappa

CUTS = (2.1, 3.0)


def rated(artworks, raters, seed=0, spread=0.7):
    """What endless raters think of each artwork, and the ratings of `raters` of them."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(2.5, 1.0, artworks)
    own = truth[:, None] + spread * rng.uniform(0.5, 1.5, artworks)[:, None] * rng.normal(size=(artworks, raters))
    return truth, own


def opinions_of(own, tmp_path):
    lines = [
        {"image_id": f"{place:064x}", "aspect": "quality", "mean": row.mean(), "std": row.std(ddof=1), "name": "n"}
        for place, row in enumerate(own)
    ]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_opinions(tmp_path, "quality", [line["image_id"] for line in lines])


@pytest.mark.parametrize("raters", [4, 21])
def test_is_what_the_raters_themselves_reach(raters, tmp_path):
    """From means and spreads alone it must find what truth, fresh panels and fresh persons reach where all is known.

    Four raters tell their own spread badly, and with it how far their mean may be off.
    """
    close = 0.035 if raters < 10 else 0.012
    truth, own = rated(3000, raters)
    mean = own.mean(1)
    rng = np.random.default_rng(9)
    ceiling = human_ceiling(
        opinions_of(own, tmp_path), raters, CUTS, Resamples([str(place) for place in range(3000)], 200, 0)
    )
    assert ceiling["raters"] == raters
    assert ceiling["perfect"]["srcc"] == pytest.approx(spearmanr(truth, mean).statistic, abs=close)
    graded = np.digitize(mean, CUTS)
    assert ceiling["perfect"]["qwk"] == pytest.approx(quadratic_kappa(graded, np.digitize(truth, CUTS)), abs=close)
    assert ceiling["perfect"]["macro_f1"] == pytest.approx(macro_f1(graded, np.digitize(truth, CUTS)), abs=close)
    noise = own.std(1, ddof=1)
    panel = truth + noise / raters**0.5 * rng.normal(size=3000)
    person = truth + noise * rng.normal(size=3000)
    assert ceiling["panel"]["srcc"] == pytest.approx(spearmanr(panel, mean).statistic, abs=close)
    assert ceiling["person"]["srcc"] == pytest.approx(spearmanr(person, mean).statistic, abs=0.03)
    assert ceiling["person"]["srcc"] < ceiling["panel"]["srcc"] < ceiling["perfect"]["srcc"] < 1
    for judge in ("perfect", "panel", "person"):
        low, high = ceiling[judge]["intervals"]["qwk"]
        assert low < ceiling[judge]["qwk"] < high < low + 0.1


def test_untruth_raters_leave_only_one_person(tmp_path):
    _, own = rated(200, 10)
    ceiling = human_ceiling(opinions_of(own, tmp_path), None, CUTS, Resamples([str(p) for p in range(200)], 100, 0))
    assert ceiling.keys() == {"raters", "person"}
    assert ceiling["raters"] is None


def test_an_artwork_rated_twice_has_the_mean_of_its_means(tmp_path):
    lines = [
        {"image_id": "a" * 64, "aspect": "quality", "mean": 2.0, "std": 0.6, "name": "x"},
        {"image_id": "a" * 64, "aspect": "quality", "mean": 3.0, "std": 0.8, "name": "y"},
        {"image_id": "a" * 64, "aspect": "alignment", "mean": 1.0, "std": 0.1, "name": "x"},
        {"image_id": "b" * 64, "aspect": "quality", "mean": 4.0, "std": 0.5, "name": "z"},
    ]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_opinions(tmp_path, "quality", ["b" * 64, "a" * 64])
    assert found.mean.tolist() == [4.0, 2.5]
    assert found.std.tolist() == pytest.approx([0.5, 0.5**0.5])
    assert found.times.tolist() == [1, 2]
