"""Which artworks are graded next, chosen from a Collection as `artgate label push` does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from batches import build_scorer

from artgate.artworks.collection import Collection
from artgate.artworks.sample import planted_grades
from artgate.choosing import By, choose
from artgate.errors import UserError
from artgate.labels.grades import Grades
from artgate.labels.selection import random_order, uncertainty
from artgate.labels.suspects import Suspect, write_suspects
from artgate.labels.votes import Vote, write_votes


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Path:
    return build_scorer(tmp_path_factory.mktemp("scorer") / "scorer")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Features are computed once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def collection(sample: Collection, tmp_path: Path) -> Collection:
    root = tmp_path / "collection"
    shutil.copytree(sample.root, root)
    return Collection(root)


def all_ids(collection: Collection) -> list[str]:
    return [artwork.image_id for artwork in collection]


def vote(collection: Collection, image_ids: list[str]) -> None:
    planted = planted_grades(collection)
    write_votes(collection.root, [Vote(image_id, "a", "quality", planted[image_id]) for image_id in image_ids])


def test_random_needs_no_scorer(collection: Collection, tmp_path: Path) -> None:
    found = choose(collection, By.RANDOM, 5, 3, tmp_path / "no scorer", tmp_path / "cache")
    assert found == random_order(all_ids(collection), 3)[:5]


@pytest.mark.parametrize("by", [By.UNCERTAINTY, By.DIVERSITY, By.MIXED])
def test_what_has_votes_or_grades_is_not_chosen(collection: Collection, by: By, scorer: Path, cache: Path) -> None:
    ids = all_ids(collection)
    vote(collection, ids[:10])
    Grades({image_id: {"quality": [1, 0, 0]} for image_id in ids[10:20]}).save(collection.root)
    found = choose(collection, by, None, 0, scorer, cache)
    assert sorted(found) == sorted(ids[20:])
    assert choose(collection, by, 7, 0, scorer, cache) == found[:7]


def test_the_named_scorer_tells_what_is_uncertain(collection: Collection, scorer: Path, cache: Path) -> None:
    from artgate.scoring.features import extract_features
    from artgate.scoring.scorer import Scorer

    loaded = Scorer.load(scorer)
    ids = sorted(all_ids(collection))
    scores = loaded.score_features(extract_features(collection, loaded.encoder, ids, cache))
    shares = np.array([list(score.probabilities.values()) for score in scores])
    entropy = uncertainty(shares)
    vote(collection, ids[:30])  # enough to teach a quick model, which a named scorer goes before
    expected = [ids[row] for row in np.argsort(-entropy, kind="stable") if row >= 30]
    assert entropy.max() > 0.3  # a scorer of random taste is in no doubt of most
    assert choose(collection, By.UNCERTAINTY, 5, 0, scorer, cache) == expected[:5]


@pytest.mark.parametrize("by", [By.DIVERSITY, By.MIXED])
@pytest.mark.slow
def test_without_grades_and_a_named_scorer_it_is_a_cold_start(collection: Collection, by: By, cache: Path) -> None:
    """Of the shipped scorer's features; the planted defects and grades are all met in a few."""
    found = choose(collection, by, 12, 0, None, cache)
    planted = planted_grades(collection)
    assert len(set(found)) == 12
    assert {planted[image_id] for image_id in found} == {"poor", "average", "good"}
    assert found == choose(collection, By.DIVERSITY, 12, 0, None, cache)
    assert found != choose(collection, By.DIVERSITY, 12, 1, None, cache)


@pytest.mark.slow
def test_enough_votes_teach_what_is_uncertain(collection: Collection, cache: Path) -> None:
    """Without a scorer named: votes on half of the artworks change the order of the others."""
    ids = all_ids(collection)
    before = [i for i in choose(collection, By.UNCERTAINTY, None, 0, None, cache) if i not in ids[:24]]
    vote(collection, ids[:24])
    after = choose(collection, By.UNCERTAINTY, None, 0, None, cache)
    assert sorted(after) == sorted(ids[24:]) and after != before


def test_disputed_and_suspect_artworks_are_asked_about_again(collection: Collection, tmp_path: Path) -> None:
    first, second, third, *_ = all_ids(collection)
    votes = [Vote(i, "a", "quality", "poor") for i in (first, second, third)]
    votes += [Vote(first, "b", "quality", "average"), Vote(second, "b", "quality", "good")]
    votes += [Vote("purged", who, "quality", grade) for who, grade in (("a", "poor"), ("b", "good"))]
    write_votes(collection.root, votes)
    assert choose(collection, By.DISAGREEMENT, None, 0, None, tmp_path) == [second, first]
    assert choose(collection, By.DISAGREEMENT, 1, 0, None, tmp_path) == [second]
    found = [
        Suspect(image_id, "quality", "good", "poor", 0.1, rank, "it looks poor")
        for rank, image_id in enumerate([third, "purged", first], start=1)
    ]
    write_suspects(collection.root, found)
    assert choose(collection, By.SUSPECTS, None, 0, None, tmp_path) == [third, first]


def test_nothing_to_choose_is_told_with_its_cure(collection: Collection, scorer: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="votes.parquet does not exist"):
        choose(collection, By.DISAGREEMENT, None, 0, None, cache)
    with pytest.raises(UserError, match="suspects.jsonl does not exist"):
        choose(collection, By.SUSPECTS, None, 0, None, cache)
    vote(collection, all_ids(collection))
    with pytest.raises(UserError, match="0 artworks of .* have votes that differ: let several people"):
        choose(collection, By.DISAGREEMENT, None, 0, None, cache)
    with pytest.raises(UserError, match="all 48 artworks of .* have a grade"):
        choose(collection, By.MIXED, None, 0, scorer, cache)
