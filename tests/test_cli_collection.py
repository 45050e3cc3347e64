import json
import re
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pictures import fork_killed_at, png

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.files import as_lines, read_lines
from artgate.scoring.feature_store import FeatureStore

EVIL = "\x1b]0;owned\x07\x1b[2J[bold]fox\nline\u202e"
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def made(root: Path) -> list[str]:
    """Six artworks, by ann and bob in turn; votes, splits and features of each. Returns the image_ids."""
    collection = Collection(root / "c", create=True)
    collection.add_many(
        [
            NewArtwork(
                png(i),
                Provenance(
                    source="web" if i < 4 else "dump",
                    creator="bob" if i % 2 else "ann",
                    image_url=f"http://x/{i}",
                    prompt=EVIL,
                    licence="CC0" if i else None,
                ),
            )
            for i in range(6)
        ]
    )
    ids = [artwork.image_id for artwork in collection]
    votes = [{"image_id": i, "annotator": "1", "aspect": "quality", "grade": "good"} for i in ids]
    (root / "c" / "votes.jsonl").write_text(as_lines(votes))
    (root / "c" / "splits").mkdir()
    splits = {"seed": 1, "splits": dict.fromkeys(ids, "train")}
    (root / "c" / "splits" / "seed-1-x.json").write_text(json.dumps(splits))
    store = FeatureStore(root / "cache", "f" * 64, 2, {})
    store.write(ids[:3], np.ones((3, 2), np.float32))
    store.write(ids[3:], np.ones((3, 2), np.float32))
    return ids


def held(root: Path) -> dict[str, set[str]]:
    """Which artworks each place knows."""
    splits = json.loads((root / "c" / "splits" / "seed-1-x.json").read_text())["splits"]
    collection = Collection(root / "c", read_only=True)
    ids = {path.stem for path in (root / "c" / "images").iterdir()}
    return {
        "lines": {line["image_id"] for line in read_lines(root / "c" / "metadata.jsonl")},
        "images": ids,
        "collection": {artwork.image_id for artwork in collection},
        "votes": {line["image_id"] for line in read_lines(root / "c" / "votes.jsonl")},
        "splits": set(splits),
        "features": set(FeatureStore(root / "cache", "f" * 64, 2, {}).read(_ALL)),
    }


_ALL: list[str] = []


@pytest.fixture
def ids(tmp_path) -> list[str]:
    _ALL[:] = made(tmp_path)
    return list(_ALL)


def test_stats_are_a_table_json_or_a_page(artgate, ids, tmp_path):
    root, page = tmp_path / "c", tmp_path / "page.html"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    status, out, _ = artgate("collection", "stats", root)
    assert status == 0
    assert "generators" in out
    assert not STEERS.search(out)
    told = json.loads(artgate("collection", "stats", root, "--json")[1])
    assert (told["artworks"], told["sources"]["top"]) == (6, [["web", 4], ["dump", 2]])
    assert artgate("collection", "stats", root, "--html", page)[:2] == (0, f"{page}\n")
    assert "6 artworks" in page.read_text()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--creator", "ann"], (0, 2, 4)),
        (["--source", "dump"], (4, 5)),
        (["--creator", "ann", "--source", "web"], (0, 2)),
    ],
)
def test_a_purge_takes_artworks_out_of_everything(artgate, ids, tmp_path, options, gone):
    status, out, err = artgate("collection", "purge", tmp_path / "c", *options, "--cache", tmp_path / "cache", "--yes")
    left = {image_id for place, image_id in enumerate(ids) if place not in gone}
    assert (status, err) == (0, "")
    assert held(tmp_path) == dict.fromkeys(held(tmp_path), left)
    assert f"{len(gone)} artworks purged, {len(left)} left; {len(gone)} rows of features" in out
    assert not STEERS.search(out)
    collection = Collection(tmp_path / "c")
    assert collection.purged_addresses == {f"http://x/{place}" for place in gone}
    assert (
        collection.refusal(Provenance(creator="ann", source="web", image_url="http://x/new")) != "" or "dump" in options
    )


def test_a_purge_by_id_takes_just_these(artgate, ids, tmp_path):
    options = ["--id", ids[1], "--id", ids[3], "--cache", tmp_path / "cache", "--yes"]
    assert artgate("collection", "purge", tmp_path / "c", *options)[0] == 0
    assert held(tmp_path) == dict.fromkeys(held(tmp_path), {ids[0], ids[2], ids[4], ids[5]})
    again = artgate("collection", "purge", tmp_path / "c", *options)
    assert again[0] == 0, "a second time changes nothing"
    assert "0 artworks purged, 4 left; 0 rows" in again[1]


def test_an_artwork_whose_file_was_deleted_by_hand_can_be_purged_too(artgate, ids, tmp_path):
    (tmp_path / "c" / "images" / f"{ids[0]}.png").unlink()
    options = ["--id", ids[0], "--cache", tmp_path / "cache", "--yes"]
    assert "1 artworks purged" in artgate("collection", "purge", tmp_path / "c", *options)[1]
    assert held(tmp_path) == dict.fromkeys(held(tmp_path), set(ids[1:]))


def test_without_yes_a_purge_shows_what_it_would_delete_and_asks(artgate, ids, tmp_path, monkeypatch):
    answers = iter([False, True])
    asked = []
    monkeypatch.setattr("typer.confirm", lambda question: asked.append(question) or next(answers))
    arguments = ["collection", "purge", tmp_path / "c", "--creator", "ann", "--cache", tmp_path / "cache"]
    before = held(tmp_path)
    status, out, _ = artgate(*arguments)
    assert (status, held(tmp_path), asked) == (1, before, ["Delete them for good?"])
    assert "3 artworks to delete" in out
    assert ids[0][:12] in out
    assert "What comes later of creator 'ann' is refused too." in out
    assert not STEERS.search(out)
    assert not (tmp_path / "c" / "purged.jsonl").exists()
    assert artgate(*arguments)[0] == 0
    assert len(Collection(tmp_path / "c")) == 3


@pytest.mark.slow
def test_a_purge_killed_at_any_step_is_finished_by_the_same_command(artgate, tmp_path):
    def arguments(root: Path) -> list[object]:
        return ["collection", "purge", root / "c", "--creator", "ann", "--cache", root / "cache", "--yes"]

    _ALL[:] = made(tmp_path / "warm")
    artgate(*arguments(tmp_path / "warm"))  # all modules are loaded before the steps are counted
    statuses = Counter()
    for step in range(1, 400, 5):
        root = tmp_path / str(step)
        made(root)

        status = fork_killed_at(partial(artgate, *arguments(root)), step)
        statuses[status] += 1
        assert artgate(*arguments(root))[0] == 0
        assert held(root) == dict.fromkeys(held(root), {_ALL[1], _ALL[3], _ALL[5]})
        if status == 0:
            break
    assert statuses[-signal.SIGKILL] >= 4
    assert statuses[0] == 1


def test_collections_are_merged(artgate, ids, tmp_path):
    made(tmp_path / "other")
    other = Collection(tmp_path / "other" / "c")
    other.add(png(9))
    status, out, _ = artgate("collection", "merge", tmp_path / "new", tmp_path / "c", tmp_path / "other" / "c")
    assert status == 0
    assert out == f"7 added, 6 held already; 7 artworks in {tmp_path / 'new'}\n"
    assert [artwork.image_id for artwork in Collection(tmp_path / "new")][:6] == ids


def test_metadata_is_exported_without_images(artgate, ids, tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = ["collection", "export", tmp_path / "c", out, "--metadata-only", "--labels", tmp_path / "c/votes.jsonl"]
    status, told, _ = artgate(*arguments)
    assert (status, told) == (0, f"6 lines in {out}; the licence of 1 is unknown\n")
    assert [line["quality"] for line in read_lines(out)] == [[0, 0, 1]] * 6
    assert "prompt" not in read_lines(out)[0]
    assert artgate(*arguments, "--with-prompts")[0] == 0
    assert "prompt" in read_lines(out)[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["stats", "no/such"], "no/such is not a Collection"),
        (["purge", "no/such", "--creator", "x"], "no/such is not a Collection"),
        (["purge", "{c}"], "give either --creator, --source or both, or --id"),
        (["purge", "{c}", "--id", "abc", "--creator", "x"], "give either"),
        (["purge", "{c}", "--id", "abc"], "image_id 'abc' is not in"),
        (["merge", "new", "no/such"], "no/such is not a Collection"),
        (["merge", "{c}", "{c}"], "is the target too"),
        (["export", "{c}", "out.jsonl"], "say --metadata-only"),
        (["export", "{c}", "out.csv", "--metadata-only"], "ends in '.csv'"),
        (["export", "{c}", "{c}/metadata.jsonl", "--metadata-only"], "among its own files: name a file elsewhere"),
        (["stats", "{c}", "--html", "{c}/metadata.jsonl"], "ends in '.jsonl': name a file that ends in .html"),
        (["purge", "{c}", "--creator", "bob", "--yes", "--labels", "none.jsonl"], "none.jsonl does not exist"),
        (["purge", "{c}", "--creator", "bob", "--yes", "--cache", "{c}/votes.jsonl"], "is a file: give the folder"),
    ],
)
def test_bad_input_is_one_message_and_changes_nothing(artgate, tmp_path, monkeypatch, arguments, told):
    made(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    status, out, err = artgate("collection", *(argument.format(c=tmp_path / "c") for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {tmp_path / "c" / ".lock"}
