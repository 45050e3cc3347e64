import csv
import json
import os
import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from pictures import encoded, picture, png, run_in_fork

from artgate.artworks import importers
from artgate.artworks.artwork import Provenance, image_id_of
from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.artworks.importers import AGIQA3K_COLUMNS, import_agiqa3k, import_folder, import_imagefolder
from artgate.artworks.parameters import embed_png
from artgate.errors import UserError


@pytest.fixture
def small(tmp_path) -> Path:
    """A folder like AGIQA-3K of 9 names; the last has the bytes of the first."""
    folder = tmp_path / "agiqa"
    (folder / "images").mkdir(parents=True)
    names = [f"{generator}_normal_{i:03d}.jpg" for i, generator in enumerate(["AttnGAN", "sd1.5", "midjourney"] * 3)]
    rows = []
    for number, name in enumerate(names):
        (folder / "images" / name).write_bytes(encoded(picture(number % 8), "JPEG"))
        scores = [number / 2, 0.1 * number, 4 - number / 2, 0.5, 0]
        rows.append([name, f"prompt {number // 3}", "", "warm color" if number else "", "anime style", *scores])
    write_csv(folder, [*AGIQA3K_COLUMNS, "mos"], rows)
    return folder


def write_csv(folder: Path, header: list[str], rows: list[list]) -> None:
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def change_csv(folder: Path, old: str, new: str) -> None:
    path = folder / "data.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_agiqa3k_becomes_a_collection_with_all_its_ratings(small, tmp_path):
    collection = import_agiqa3k(small, tmp_path / "c")
    assert len(collection) == 8
    second = list(collection)[1]
    assert second.provenance.source_id == "sd1.5_normal_001.jpg"
    assert second.provenance.generator == "sd1.5"
    assert second.provenance.prompt == "prompt 0"
    assert second.provenance.parameters == {"adj2": "warm color", "style": "anime style"}
    assert second.provenance.licence.startswith("MIT")
    ratings = read_lines(tmp_path / "c" / "ratings.jsonl")
    assert len(ratings) == 18
    assert ratings[2] == {
        "image_id": second.image_id,
        "aspect": "quality",
        "mean": 0.5,
        "std": 0.1,
        "name": "sd1.5_normal_001.jpg",
    }
    assert (ratings[3]["aspect"], ratings[3]["mean"], ratings[3]["std"]) == ("alignment", 3.5, 0.5)


def test_files_of_the_same_bytes_are_one_artwork_with_the_ratings_of_both_names(small, tmp_path):
    import_agiqa3k(small, tmp_path / "c")
    twice = image_id_of((small / "images" / "AttnGAN_normal_000.jpg").read_bytes())
    ratings = read_lines(tmp_path / "c" / "ratings.jsonl")
    rated = [(r["name"], r["mean"]) for r in ratings if r["image_id"] == twice and r["aspect"] == "quality"]
    assert rated == [("AttnGAN_normal_000.jpg", 0.0), ("midjourney_normal_008.jpg", 4.0)]
    assert [d["reason"] for d in read_lines(tmp_path / "c" / "drops.jsonl")] == ["same-bytes"]


def test_a_second_import_changes_nothing_and_reads_no_image(small, tmp_path, monkeypatch):
    import_agiqa3k(small, tmp_path / "c")
    before = {p.name: p.read_bytes() for p in (tmp_path / "c").glob("*.jsonl")}
    monkeypatch.setattr(Collection, "add_many", lambda self, items: pytest.fail("added again"))
    shutil.rmtree(small / "images")
    (small / "images").mkdir()
    assert len(import_agiqa3k(small, tmp_path / "c")) == 8
    assert {p.name: p.read_bytes() for p in (tmp_path / "c").glob("*.jsonl")} == before


def test_new_rows_and_changed_ratings_are_taken_up(small, tmp_path):
    import_agiqa3k(small, tmp_path / "c")
    (small / "images" / "glide_normal_009.jpg").write_bytes(encoded(picture(50), "JPEG"))
    with (small / "data.csv").open("a") as file:
        file.write("glide_normal_009.jpg,new,,,,1.5,.2,2.5,.3,0\n")
    change_csv(small, ",0.5,0.1,", ",0.75,0.1,")
    assert len(import_agiqa3k(small, tmp_path / "c")) == 9
    ratings = read_lines(tmp_path / "c" / "ratings.jsonl")
    assert (len(ratings), ratings[2]["mean"], ratings[18]["mean"]) == (20, 0.75, 1.5)


def test_what_was_purged_stays_away_with_its_ratings(small, tmp_path):
    collection = import_agiqa3k(small, tmp_path / "c")
    victim = list(collection)[2].image_id
    collection.purge([victim])
    assert victim not in import_agiqa3k(small, tmp_path / "c")
    ratings = read_lines(tmp_path / "c" / "ratings.jsonl")
    assert len(ratings) == 16
    assert victim not in {r["image_id"] for r in ratings}


def import_killed_after(groups: int, source: Path, target: Path) -> None:
    add_many = Collection.add_many
    done = 0

    def killed(self, items):
        nonlocal done
        if done == groups:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return add_many(self, items)

    Collection.add_many = killed
    import_agiqa3k(source, target)


def test_an_import_killed_midway_goes_on_when_run_again(small, tmp_path, monkeypatch):
    monkeypatch.setattr(importers, "GROUP", 2)
    whole = import_agiqa3k(small, tmp_path / "whole")
    for groups in range(4):
        target = tmp_path / str(groups)
        assert run_in_fork(partial(import_killed_after, groups, small, target)) == -signal.SIGKILL
        assert len(Collection(target)) == 2 * groups
        assert not (target / "ratings.jsonl").exists()
        assert [a.image_id for a in import_agiqa3k(small, target)] == [a.image_id for a in whole]
        assert (target / "ratings.jsonl").read_bytes() == (tmp_path / "whole" / "ratings.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mos_quality", "quality", "lacks the column 'mos_quality'"),
        (",0.5,0.1,", ",high,0.1,", r"data.csv, line 3: mos_quality 'high' is not a number in \[0, 5\]"),
        (",0.5,0.1,", ",7,0.1,", "mos_quality '7'"),
        (",0.5,0.1,", ",,0.1,", "mos_quality ''"),
        ("sd1.5_normal_001.jpg", "../data.csv", "name '../data.csv' is not a file name"),
        ("sd1.5_normal_001.jpg", "sd1.5_normal_999.jpg", "sd1.5_normal_999.jpg is named in data.csv but missing"),
    ],
)
def test_a_bad_table_is_an_error_that_names_the_place(small, tmp_path, old, new, said):
    change_csv(small, old, new)
    with pytest.raises(UserError, match=said):
        import_agiqa3k(small, tmp_path / "c")


def test_a_row_cut_short_is_an_error_that_names_the_place(small, tmp_path):
    with (small / "data.csv").open("a") as file:
        file.write("glide_normal_009.jpg,new\n")
    with pytest.raises(UserError, match="line 11: mos_quality None"):
        import_agiqa3k(small, tmp_path / "c")


def test_a_missing_folder_or_image_is_an_error_that_names_the_cure(small, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder: check the path"):
        import_agiqa3k(tmp_path / "nowhere", tmp_path / "c")
    with pytest.raises(UserError, match="is not AGIQA-3K: expected data.csv and images/"):
        import_agiqa3k(tmp_path, tmp_path / "c")
    (small / "images" / "sd1.5_normal_001.jpg").write_bytes(encoded(picture(1), "JPEG")[:-50])
    with pytest.raises(UserError, match=r"sd1.5_normal_001.jpg cannot be taken \(truncated.*fetch the database again"):
        import_agiqa3k(small, tmp_path / "c")


def test_a_plain_folder_is_searched_through_and_generation_parameters_are_read(tmp_path):
    source = tmp_path / "pictures"
    (source / "deep" / "er").mkdir(parents=True)
    (source / ".hidden").mkdir()
    (source / "a.png").write_bytes(embed_png(picture(1), "a fox\nSteps: 20, Sampler: Euler, Seed: 7, Model: sd15"))
    (source / "deep" / "er" / "b.JPG").write_bytes(encoded(picture(2), "JPEG"))
    (source / "deep" / "bad.webp").write_bytes(b"RIFF")
    (source / ".hidden" / "c.png").write_bytes(png(3))
    (source / "notes.txt").write_text("not an image")
    for _ in range(2):
        collection = import_folder(source, tmp_path / "c", Provenance(source="mine", creator="me"))
        first, second = collection
        assert (first.provenance.prompt, first.provenance.seed, first.provenance.generator) == ("a fox", 7, "sd15")
        assert (first.provenance.source, first.provenance.creator) == ("mine", "me")
        assert [a.provenance.source_id for a in (first, second)] == ["a.png", "deep/er/b.JPG"]
    drops = read_lines(tmp_path / "c" / "drops.jsonl")
    assert {(d["reason"], d["source_id"]) for d in drops} == {("not-an-image", "deep/bad.webp")}


def test_a_file_whose_name_is_not_utf8_is_imported(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / os.fsdecode(b"a\xff.png")).write_bytes(png(1))
    (tmp_path / "plain" / os.fsdecode(b"b\xff.png")).write_bytes(b"broken")
    collection = import_folder(tmp_path / "plain", tmp_path / "collection")
    assert [artwork.provenance.source_id for artwork in collection] == ["a.png"]
    (drop,) = read_lines(tmp_path / "collection/drops.jsonl")
    assert (drop["reason"], drop["name"]) == ("not-an-image", os.fsdecode(b"b\xff.png"))


def test_an_empty_or_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no file ending in .*\.png"):
        import_folder(tmp_path, tmp_path / "c")
    with pytest.raises(UserError, match="is not a folder"):
        import_folder(tmp_path / "nowhere", tmp_path / "c")


def imagefolder(tmp_path: Path, n: int = 3) -> Path:
    source = tmp_path / "hf"
    (source / "train").mkdir(parents=True)
    for number in range(n):
        (source / "train" / f"{number}.png").write_bytes(png(number))
    return source


def test_an_imagefolder_keeps_what_its_metadata_says(tmp_path):
    source = imagefolder(tmp_path)
    rows = [
        {"file_name": "0.png", "text": "a fox", "score": 0.5},
        {"file_name": "1.png", "prompt": "a hen", "seed": 5, "steps": "20", "creator": "Ada\u202e", "guidance": 7},
        {"file_name": "2.png", "seed": "many", "source": "elsewhere"},
    ]
    (source / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = (a.provenance for a in import_imagefolder(source, tmp_path / "c"))
    assert (first.source, first.prompt, first.parameters) == ("imagefolder", "a fox", {"score": 0.5})
    assert (second.prompt, second.seed, second.steps, second.creator, second.guidance) == ("a hen", 5, 20, "Ada", 7.0)
    assert (third.source, third.seed, third.prompt) == ("elsewhere", None, None)


def test_an_imagefolder_with_a_csv_and_one_with_class_folders(tmp_path):
    source = imagefolder(tmp_path, 2)
    unlabelled = import_imagefolder(source, tmp_path / "labels")
    assert [a.provenance.parameters for a in unlabelled] == [{"label": "train"}] * 2
    (source / "train" / "metadata.csv").write_text("file_name,caption,seed\n1.png,a fox,9\n")
    (only,) = import_imagefolder(source, tmp_path / "c")
    assert (only.provenance.prompt, only.provenance.seed) == ("a fox", 9)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"file_name": "../../secret.png"}, "outside its folder"),
        ({"file_name": "/etc/passwd"}, "outside its folder"),
        ({"text": "a fox"}, "without file_name"),
        ({"file_name": "9.png"}, "9.png cannot be read"),
    ],
)
def test_crafted_or_broken_imagefolder_metadata_is_an_error(tmp_path, row, said):
    source = imagefolder(tmp_path, 1)
    (tmp_path / "secret.png").write_bytes(png(9))
    (source / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=said):
        import_imagefolder(source, tmp_path / "c")


def test_a_collection_is_an_imagefolder_that_can_be_imported(tmp_path, small):
    original = import_agiqa3k(small, tmp_path / "c")
    copy = import_imagefolder(tmp_path / "c", tmp_path / "copy")
    assert [a.image_id for a in copy] == [a.image_id for a in original]
    assert [a.provenance.prompt for a in copy] == [a.provenance.prompt for a in original]


@pytest.mark.slow
@pytest.mark.agiqa3k
def test_the_real_database_is_imported_whole_and_a_second_import_is_quick(agiqa3k, tmp_path):
    collection = import_agiqa3k(agiqa3k, tmp_path / "c")
    assert len(collection) == 2427
    ratings = read_lines(tmp_path / "c" / "ratings.jsonl")
    assert Counter(r["aspect"] for r in ratings) == {"quality": 2434, "alignment": 2434}
    assert Counter(a.provenance.generator for a in collection)["AttnGAN"] == 245
    quality = [r["mean"] for r in ratings if r["aspect"] == "quality"]
    assert sum(mean < 2.25 for mean in quality) / 2434 == pytest.approx(1 / 3, abs=0.06)
    assert sum(mean > 3.08 for mean in quality) / 2434 == pytest.approx(1 / 3, abs=0.06)
    started = time.process_time()
    import_agiqa3k(agiqa3k, tmp_path / "c")
    assert time.process_time() - started < 1.0
