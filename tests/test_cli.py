import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batches import build_scorer

from artgate.artworks.collection import Collection
from artgate.labels.grades import Grades


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Path:
    return build_scorer(tmp_path_factory.mktemp("scorer") / "scorer")


def test_help_imports_nothing_heavy():
    code = "import sys, artgate.cli; print([m for m in ('torch', 'pandas', 'diffusers', 'scrapy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_folder_is_imported_and_its_duplicates_are_listed(artgate, sample, tmp_path):
    artwork = next(iter(sample))
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    image = sample.image(artwork)
    image.save(source / "original.png")
    image.resize((180, 180)).save(source / "copy.jpg", quality=80)
    sample.image(list(sample)[1]).save(source / "other.png")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    status, out, _ = artgate("import", "folder", source, target)
    assert (status, len(Collection(target))) == (0, 3)
    assert out.startswith("3 artworks in ")
    status, out, _ = artgate("duplicates", target)
    groups = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [len(group) for group in groups] == [2]
    assert {Path(name).suffix for name in groups[0]} == {".png", ".jpg"}


def test_votes_of_an_export_become_grades(artgate, sample, tmp_path):
    target = tmp_path / "collection"
    Collection(target, create=True)
    artworks = [Collection(target).add(sample.path(artwork).read_bytes()) for artwork in list(sample)[:2]]
    tasks = [
        _task(artworks[0].image_id, {1: "good", 2: "good", 3: "poor"}),
        _task(artworks[1].image_id, {1: "average"}),
    ]
    (tmp_path / "export.json").write_text(json.dumps([*tasks, _task("f" * 64, {1: "good"})]))
    for _ in range(2):  # the same export again changes nothing
        status, out, _ = artgate("label", "import", tmp_path / "export.json", target)
        assert status == 0
        assert "4 now in" in out
        assert "1 not-in-collection" in out
    assert artgate("label", "consensus", target)[0] == 0
    grades = Grades.load(target)
    np.testing.assert_allclose(grades[artworks[0].image_id]["quality"], [1 / 3, 0, 2 / 3])
    np.testing.assert_allclose(grades[artworks[1].image_id]["quality"], [0, 1, 0])


def test_scores_are_json_lines_where_there_is_no_terminal(artgate, sample, scorer, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, artwork in enumerate(list(sample)[:3]):
        sample.image(artwork).save(pictures / f"{number}.png")
    (pictures / "page.png").write_text("<html>")
    status, out, err = artgate("score", pictures, "--scorer", scorer)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert "1 files could not be scored" in err
    assert [Path(line["file"]).name for line in lines] == ["0.png", "1.png", "2.png", "page.png"]
    assert lines[3]["error"].startswith("not-an-image")
    for line in lines[:3]:
        assert list(line) == ["file", "image_id", "score", "grade", "probabilities"]
        shares = line["probabilities"]
        assert sum(shares.values()) == pytest.approx(1)
        assert line["score"] == pytest.approx((shares["average"] + 2 * shares["good"]) / 2)
    alone = artgate("score", pictures / "1.png", "--scorer", scorer, "--out", tmp_path / "scores.jsonl")
    assert alone[0] == 0
    written = json.loads((tmp_path / "scores.jsonl").read_text())
    assert written["score"] == pytest.approx(lines[1]["score"], abs=1e-5)


def test_a_folder_that_cannot_be_made_is_one_message(artgate, sample, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = artgate("import", "folder", sample.root / "images", tmp_path / "file" / "collection")
    assert (status, out) == (2, "")
    assert err == (
        f"error: {tmp_path / 'file' / 'collection' / 'images'}: Not a directory: "
        "check the path, the access to it and the room on its disk\n"
    )


def test_features_are_written_for_every_artwork(artgate, sample, scorer, tmp_path):
    out = tmp_path / "features.npz"
    status, told, _ = artgate("embed", sample.root, "--out", out, "--scorer", scorer, "--cache", tmp_path / "cache")
    kept = np.load(out)
    assert status == 0
    assert kept["features"].shape[0] == len(sample) == len(kept["image_ids"])
    assert f"{len(sample)} x {kept['features'].shape[1]} features" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["score", "no/such/file.png"], "no/such/file.png does not exist"),
        (["score", __file__, "--scorer", "no/scorer"], "no/scorer"),
        (["score", "."], ". holds 0 PNG, JPEG or WebP files"),
        (["score", __file__, "--out", "no/such/scores.jsonl"], "the folder no/such does not exist; make it first"),
        (["score", __file__, "--out", "/"], "cannot write /: it is a folder; name a file in it"),
        (["embed", "no/such/folder", "--out", "features"], "features ends in '': name a file that ends in .npz"),
        (["embed", "no/such/folder", "--out", "no/such/features.npz"], "the folder no/such does not exist"),
        (["label", "consensus", "no/such/folder"], "`artgate label import`"),
        (["duplicates", "no/such/folder"], "no/such/folder"),
        (["gallery", "no/such/batch"], "no/such/batch"),
        (["label", "import", "no.json", "no/such/folder"], "no/such/folder"),
        (["import", "agiqa3k", "no/such/folder", "target"], "no/such/folder"),
    ],
)
def test_bad_input_is_one_message_with_status_2(artgate, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = artgate(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def _task(image_id: str, grades: dict[int, str]) -> dict:
    return {
        "data": {"image_id": image_id},
        "annotations": [
            {
                "completed_by": annotator,
                "was_cancelled": False,
                "result": [{"from_name": "quality", "type": "choices", "value": {"choices": [grade]}}],
            }
            for annotator, grade in grades.items()
        ],
    }
