from itertools import combinations

import numpy as np
import pytest

from artgate.errors import UserError
from artgate.labels import selection
from artgate.labels.selection import by_both, by_diversity, by_uncertainty, cold_start, random_order, uncertainty


def ids(count: int) -> list[str]:
    return [f"image {place:04d}" for place in range(count)]


def places(found: list[str]) -> list[int]:
    return [int(image_id.split()[1]) for image_id in found]


def radius(features: np.ndarray, centres: np.ndarray) -> float:
    """The largest distance of a row to its nearest centre."""
    return float(np.linalg.norm(features[:, None] - centres[None], axis=2).min(1).max())


def test_the_least_certain_grade_comes_first() -> None:
    probabilities = np.array([[1, 0, 0], [0.5, 0, 0.5], [0.9, 0.1, 0], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.5, 0.5]])
    assert uncertainty(probabilities) == pytest.approx([0, np.log(2), 0.3250830, np.log(3), np.log(2)])
    assert places(by_uncertainty(ids(5), probabilities)) == [3, 1, 4, 2, 0]  # 1 and 4 are as uncertain: by image_id
    assert places(by_uncertainty(ids(5), probabilities, 2)) == [3, 1]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("already", [0, 2])
def test_k_center_is_at_most_twice_as_far_as_the_best_choice(seed: int, already: int) -> None:
    rng = np.random.default_rng(seed)
    features, labelled = rng.normal(size=(12, 2)), rng.normal(size=(already, 2))
    chosen = places(by_diversity(ids(12), features, labelled, 3))
    assert len(set(chosen)) == 3
    best = min(radius(features, np.concatenate([features[list(c)], labelled])) for c in combinations(range(12), 3))
    assert radius(features, np.concatenate([features[chosen], labelled])) <= 2 * best + 1e-9


def test_what_is_labelled_is_not_asked_about_again() -> None:
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    features = np.repeat(corners, 5, axis=0) + 0.1 * rng.normal(size=(20, 2))
    assert {place // 5 for place in places(by_diversity(ids(20), features, corners[:2], 2))} == {2, 3}
    assert {place // 5 for place in places(by_diversity(ids(20), features, corners[[0, 3]], 2))} == {1, 2}


def test_many_labelled_are_taken_block_by_block() -> None:
    rng = np.random.default_rng(1)
    features, labelled = rng.normal(size=(50, 3)), rng.normal(size=(700, 3))
    distance = np.linalg.norm(features[:, None] - labelled[None], axis=2).min(1)
    assert places(by_diversity(ids(50), features, labelled, 1)) == [distance.argmax()]


def test_both_prefers_neither_plain_outliers_nor_copies_of_one_uncertain_picture() -> None:
    features = np.array([[0.0, 0], [0, 0], [0.1, 0], [5, 0], [50, 0]])
    probabilities = np.array([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.5, 0.5, 0], [1, 0, 0]])
    labelled = np.array([[2.0, 0]])
    assert places(by_both(ids(5), probabilities, features, labelled, 2)) == [0, 3]
    assert places(by_uncertainty(ids(5), probabilities, 3)) == [0, 1, 2]
    assert places(by_diversity(ids(5), features, labelled, 1)) == [4]


def test_everything_is_ordered_once_where_copies_abound() -> None:
    features = np.repeat(np.eye(3), 4, axis=0)
    probabilities = np.full((12, 3), [1.0, 0, 0])
    for order in (
        by_diversity(ids(12), features),
        by_both(ids(12), probabilities, features),
        cold_start(ids(12), features),
    ):
        assert sorted(places(order)) == list(range(12))
    assert {place // 4 for place in places(by_diversity(ids(12), features, limit=3))} == {0, 1, 2}


def test_a_cold_start_covers_planted_clusters_the_largest_first() -> None:
    rng = np.random.default_rng(3)
    sizes = [40, 5, 80, 10, 20]
    centres = 20 * rng.normal(size=(5, 8))
    of = np.repeat(np.arange(5), sizes)
    features = centres[of] + rng.normal(size=(len(of), 8))
    chosen = places(cold_start(ids(len(of)), features, 5))
    assert of[chosen].tolist() == [2, 0, 4, 3, 1]
    for place in chosen:  # each of the nearest to its cluster's mean, which minibatches find nearly
        own = features[of == of[place]]
        distance = np.linalg.norm(own - own.mean(0), axis=1)
        assert (distance < np.linalg.norm(features[place] - own.mean(0)) - 1e-9).sum() <= len(own) / 10


def test_a_cold_start_goes_on_by_diversity_beyond_the_clusters(monkeypatch) -> None:
    monkeypatch.setattr(selection, "CLUSTERS", 3)
    features = np.concatenate([np.zeros((5, 2)), np.full((5, 2), 10.0), np.array([[0, 10.0]] * 5), [[100.0, 100]]])
    chosen = places(cold_start(ids(16), features, 4))
    assert len(set(chosen)) == 4
    assert {min(place // 5, 3) for place in chosen} == {0, 1, 2, 3}


def test_orders_depend_neither_on_the_order_of_rows_nor_on_the_run() -> None:
    rng = np.random.default_rng(5)
    features, probabilities, labelled = rng.normal(size=(60, 4)), rng.dirichlet(np.ones(3), 60), rng.normal(size=(9, 4))
    shuffled = rng.permutation(60)
    others = [ids(60)[row] for row in shuffled]
    for seed in (0, 1):
        assert cold_start(ids(60), features, 10, seed) == cold_start(others, features[shuffled], 10, seed)
        assert random_order(ids(60), seed) == random_order(others, seed)
    assert random_order(ids(60), 0) != random_order(ids(60), 1)
    assert by_uncertainty(ids(60), probabilities) == by_uncertainty(others, probabilities[shuffled])
    assert by_diversity(ids(60), features, labelled) == by_diversity(others, features[shuffled], labelled)
    assert by_both(ids(60), probabilities, features, labelled) == by_both(
        others, probabilities[shuffled], features[shuffled], labelled
    )


def test_a_limit_beyond_what_there_is_takes_all_and_of_nothing_comes_nothing() -> None:
    features = np.arange(6.0).reshape(3, 2)
    assert len(by_diversity(ids(3), features, limit=10)) == len(cold_start(ids(3), features, 10)) == 3
    assert cold_start([], np.empty((0, 2))) == by_diversity([], np.empty((0, 2))) == []
    assert by_uncertainty([], np.empty((0, 3))) == []


def broken(**changed: object) -> dict[str, object]:
    good = {
        "image_ids": ids(4),
        "probabilities": np.full((4, 3), 1 / 3),
        "features": np.eye(4),
        "labelled": np.eye(4)[:1],
        "limit": 2,
    }
    return good | changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (broken(limit=0), "limit 0 is below 1"),
        (broken(image_ids=["a", "b", "b", "c"]), "image_id 'b' is given more than once"),
        (broken(features=np.eye(3)), r"features \(3, 3\) do not fit 4 artworks"),
        (broken(features=np.full((4, 2), np.nan)), "4 of 4 rows of features are not finite"),
        (broken(labelled=np.eye(3)), r"the labelled \(3, 3\) do not fit those to choose from \(4, 4\)"),
        (broken(labelled=np.full((1, 4), np.inf)), "1 of 1 rows of features are not finite"),
        (broken(probabilities=np.full((4, 2), 0.5)), r"probabilities \(4, 2\) do not fit 4 artworks: give \(4, 3\)"),
        (broken(probabilities=np.full((4, 3), 0.5)), "sum to 1"),
        (broken(probabilities=np.full((4, 3), np.nan)), "finite"),
        (broken(probabilities=np.array([[1.5, -0.5, 0]] * 4)), "no value below 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        by_both(**arguments)
