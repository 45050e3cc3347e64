import csv
import shutil
from statistics import NormalDist

import numpy as np
import pytest
from graded_sample import graded_copy, one_hot
from simulated_votes import simulated

from artgate.artworks.collection import Collection
from artgate.errors import UserError
from artgate.labels.grades import Grades
from artgate.labels.ratings import Rating, write_ratings
from artgate.labels.votes import Vote, write_votes
from artgate.scoring.config import DataConfig, Fractions
from artgate.scoring.graded import read_graded


def config(folder, **changes):
    values = {
        "root": str(folder),
        "importer": None,
        "grades": "auto",
        "consensus": "majority",
        "cuts": {"quality": [2.25, 3.08], "alignment": [2.0, 3.5]},
        "soft": 0.0,
        "aspects": ["quality"],
        "fractions": Fractions(0.5, 0.15, 0.15, 0.2),
        "group_by": ["near_duplicates"],
        "duplicate_radius": 31,
        "folds": 5,
        "raters": None,
        "harmless": 0,
        "damaged": 0,
        "workers": 1,
        "minibatch": 4,
    }
    return DataConfig(**(values | changes))


@pytest.fixture(scope="module")
def own(sample, tmp_path_factory):
    return graded_copy(sample, tmp_path_factory.mktemp("graded") / "own")


def test_reads_grades_in_the_order_of_the_collection(own, tmp_path):
    graded = read_graded(config(own.root), tmp_path)
    assert graded.image_ids == [artwork.image_id for artwork in own]
    assert graded.graded_by == "grades"
    for artwork, target, opinion in zip(graded.artworks, graded.targets, graded.opinions, strict=True):
        expected = one_hot(artwork.provenance.parameters["planted_grade"])
        assert target[0].tolist() == expected.tolist()
        assert opinion == expected.argmax()


def test_only_graded_artworks_are_learnt_from_and_all_may_link_them(own, tmp_path):
    few = [artwork.image_id for artwork in own][:30]
    grades = Grades.load(own.root)
    folder = tmp_path / "partly"
    shutil.copytree(own.root, folder)
    Grades({image_id: grades[image_id] for image_id in few}).save(folder)
    graded = read_graded(config(folder), tmp_path)
    assert graded.image_ids == few
    assert len(graded.everything) == 48
    assert graded.digest != read_graded(config(own.root), tmp_path).digest


def test_grades_of_lost_images_are_counted(own, tmp_path):
    folder = tmp_path / "lost"
    shutil.copytree(own.root, folder)
    for artwork in list(own)[:3]:
        (folder / artwork.file_name).unlink()
    graded = read_graded(config(folder), tmp_path)
    assert (len(graded.artworks), graded.absent) == (45, 3)
    assert read_graded(config(own.root), tmp_path).absent == 0


def test_votes_become_their_consensus(sample, tmp_path):
    collection = graded_copy(sample, tmp_path / "votes")
    (collection.root / "grades.jsonl").unlink()
    first, *rest = collection
    votes = [
        Vote(first.image_id, name, "quality", grade)
        for name, grade in {"a": "good", "b": "good", "c": "good", "d": "poor"}.items()
    ]
    votes += [Vote(artwork.image_id, "a", "quality", "average") for artwork in rest]
    write_votes(collection.root, votes)
    graded = read_graded(config(collection.root), tmp_path)
    assert graded.graded_by == "votes"
    assert graded.targets[0, 0].tolist() == [0.25, 0, 0.75]
    assert graded.opinions[0] == pytest.approx(1.5)


def test_ratings_are_cut_into_grades_and_kept_as_opinions(sample, tmp_path):
    collection = graded_copy(sample, tmp_path / "ratings")
    means = dict(zip([artwork.image_id for artwork in collection], np.linspace(0.5, 4.5, 48), strict=True))
    write_ratings(
        collection.root / "ratings.jsonl",
        [Rating(image_id, "quality", mean, 0.5, f"{image_id}.png") for image_id, mean in means.items()]
        + [Rating(image_id, "alignment", 5 - mean, 0.5, f"{image_id}.png") for image_id, mean in means.items()],
    )
    graded = read_graded(config(collection.root, grades="ratings"), tmp_path)
    assert graded.opinions.tolist() == pytest.approx(list(means.values()))
    assert graded.targets[:, 0].argmax(1).tolist() == [int(m >= 2.25) + int(m >= 3.08) for m in means.values()]
    assert np.array_equal(graded.lessons, graded.targets)
    both = read_graded(config(collection.root, grades="ratings", aspects=["quality", "alignment"]), tmp_path)
    aligned = [5 - mean for mean in means.values()]
    assert both.aspect_opinions[:, 1].tolist() == pytest.approx(aligned), "each aspect its own rating"
    assert both.opinions.tolist() == graded.opinions.tolist()
    assert both.targets[:, 1].argmax(1).tolist() == [int(a >= 2.0) + int(a >= 3.5) for a in aligned], "and its own cuts"
    soft = read_graded(config(collection.root, grades="ratings", soft=0.5), tmp_path)
    assert np.array_equal(soft.targets, graded.targets), "what is measured stays sharp"
    middle = list(means.values())[24]
    assert soft.lessons[24, 0, 0] == pytest.approx(NormalDist(middle, 0.25).cdf(2.25), abs=1e-6)


def test_an_aspect_of_some_artworks_is_unknown_of_the_others_and_of_none_an_error(own, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(own.root, folder)
    grades = Grades.load(own.root)
    first, *_ = ids = list(grades)
    Grades({i: dict(grades[i]) | ({"alignment": [0, 0.5, 0.5]} if i == first else {}) for i in ids}).save(folder)
    graded = read_graded(config(folder, aspects=["quality", "alignment"]), tmp_path)
    row = graded.image_ids.index(first)
    assert graded.aspect_opinions[row, 1] == 1.5
    assert np.isnan(np.delete(graded.aspect_opinions[:, 1], row)).all()
    assert not np.isnan(graded.opinions).any()
    with pytest.raises(UserError, match="0 artworks with a grade of rationality .*leave it out of data.aspects"):
        read_graded(config(folder, aspects=["quality", "rationality"]), tmp_path)


def test_missing_grades_are_told_with_their_cure(sample, own, tmp_path):
    with pytest.raises(UserError, match=r"none of grades.jsonl, votes.parquet, votes.jsonl, ratings.jsonl: label"):
        read_graded(config(sample.root), tmp_path)
    with pytest.raises(UserError, match=r"votes.parquet does not exist"):
        read_graded(config(own.root, grades="votes"), tmp_path)
    with pytest.raises(UserError, match="is not a Collection"):
        read_graded(config(tmp_path), tmp_path)


def test_too_few_or_one_sided_grades_are_told_with_numbers(sample, tmp_path):
    collection = graded_copy(sample, tmp_path / "own")
    ids = [artwork.image_id for artwork in collection]
    Grades({image_id: {"quality": one_hot("good")} for image_id in ids[:7]}).save(collection.root)
    with pytest.raises(UserError, match="has 7 artworks .* needs 20"):
        read_graded(config(collection.root), tmp_path)
    Grades({image_id: {"quality": one_hot("good")} for image_id in ids}).save(collection.root)
    with pytest.raises(UserError, match="all 48 graded artworks .* are good"):
        read_graded(config(collection.root), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": "/nowhere"}, "'/nowhere' is not a folder"),
        ({"grades": "stars"}, "'stars' is not one of auto, grades, votes, ratings"),
        ({"aspects": ["attributes"]}, "must begin with quality"),
        ({"aspects": ["quality", "beauty"]}, "'beauty' is not one of"),
        ({"group_by": ["style"]}, "'style' is not one of"),
        ({"cuts": {"quality": [3.0, 2.0]}}, "data.cuts.quality .* two rising ratings"),
        ({"cuts": {"beauty": [2.0, 3.0]}}, "'beauty' is not one of"),
        ({"duplicate_radius": 99}, r"99 is outside \[0, 40\]"),
        ({"folds": 2}, r"2 is outside \[3, 50\]"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        config(tmp_path, **changes)


def test_fractions_must_sum_to_one():
    with pytest.raises(UserError, match=r"sum to 1\.2: .* must sum to 1"):
        Fractions(0.5, 0.2, 0.2, 0.3)
    with pytest.raises(UserError, match=r"data.fractions.val 0 is outside"):
        Fractions(0.7, 0.0, 0.1, 0.2)


@pytest.mark.agiqa3k
def test_a_raw_database_is_imported_once(agiqa3k, tmp_path):
    raw = raw_part(agiqa3k, tmp_path / "raw", 24)
    with pytest.raises(UserError, match="experiment=agiqa3k"):
        read_graded(config(raw), tmp_path)
    graded = read_graded(config(raw, importer="agiqa3k", grades="ratings"), tmp_path / "collections")
    assert len(graded.artworks) == 24
    assert set(graded.generators) == {"AttnGAN", "glide", "DALLE2", "sd1.5"}
    with (raw / "data.csv").open(newline="") as file:
        rated = {row["name"]: float(row["mos_quality"]) for row in csv.DictReader(file)}
    for artwork, opinion, target in zip(graded.artworks, graded.opinions, graded.targets, strict=True):
        mean = rated[artwork.provenance.source_id]
        assert opinion == pytest.approx(mean)
        assert target[0].argmax() == int(mean >= 2.25) + int(mean >= 3.08)
    again = read_graded(config(raw, importer="agiqa3k", grades="ratings"), tmp_path / "collections")
    assert again.digest == graded.digest
    assert len(Collection(graded.collection.root)) == 24


def raw_part(agiqa3k, folder, count):
    """Every so many of AGIQA-3K's rows, laid out as the database is."""
    (folder / "images").mkdir(parents=True)
    with (agiqa3k / "data.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        by_generator = {}
        for row in reader:
            by_generator.setdefault(row["name"].partition("_")[0], []).append(row)
    rows = [row for name in ("AttnGAN", "glide", "DALLE2", "sd1.5") for row in by_generator[name][::40][: count // 4]]
    for row in rows:
        (folder / "images" / row["name"]).write_bytes((agiqa3k / "images" / row["name"]).read_bytes())
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_votes_are_read_whatever_grades_the_artworks(sample, tmp_path):
    own = graded_copy(sample, tmp_path / "own")
    assert read_graded(config(own.root), tmp_path).votes is None
    write_votes(own.root, simulated(10, (0.9, 0.9), seed=0))
    graded = read_graded(config(own.root), tmp_path)
    assert graded.graded_by == "grades"
    assert len(graded.votes) == 20
