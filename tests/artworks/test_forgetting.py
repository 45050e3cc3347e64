import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artgate.artworks.files import as_lines, read_lines
from artgate.artworks.forgetting import forget
from artgate.errors import UserError

GONE, KEPT = "a" * 64, "b" * 64


def written(root) -> None:
    for name in ("votes.jsonl", "grades.jsonl", "metadata.jsonl", "purged.jsonl"):
        (root / name).write_text(as_lines([{"image_id": GONE, "x": 1}, {"image_id": KEPT}, {"image_id": GONE}]))
    (root / "notes.jsonl").write_text('{"text": "no id"}\n')
    for folder in ("splits", "sidecars"):
        (root / folder).mkdir()
    splits = {"settings": [1], "seed": 7, "splits": {GONE: "train", KEPT: "test"}}
    (root / "splits" / "seed-7-x.json").write_text(json.dumps(splits))
    for image_id in (GONE, KEPT):
        (root / "sidecars" / f"{image_id}.json").write_text("{}")


def test_labels_splits_and_sidecars_go_and_all_else_stays(tmp_path):
    root = tmp_path / "c"
    root.mkdir()
    written(root)
    elsewhere = tmp_path / "team.jsonl"
    elsewhere.write_text(as_lines([{"image_id": GONE}, {"image_id": KEPT}]))
    own = (root / "metadata.jsonl").read_bytes()
    removed = forget(root, {GONE}, [elsewhere])
    assert {path.rpartition("/")[2]: count for path, count in removed.items()} == {
        "votes.jsonl": 2,
        "grades.jsonl": 2,
        "team.jsonl": 1,
        "seed-7-x.json": 1,
        "sidecars": 1,
    }
    for path in (root / "votes.jsonl", root / "grades.jsonl", elsewhere):
        assert [line["image_id"] for line in read_lines(path)] == [KEPT]
    kept = json.loads((root / "splits" / "seed-7-x.json").read_text())
    assert kept == {"settings": [1], "seed": 7, "splits": {KEPT: "test"}}
    assert [path.stem for path in (root / "sidecars").iterdir()] == [KEPT]
    assert (root / "metadata.jsonl").read_bytes() == (root / "purged.jsonl").read_bytes() == own
    assert forget(root, {GONE}, [elsewhere]) == {}


def test_what_a_batch_keeps_of_an_artwork_goes_with_it(tmp_path):
    accepted = tmp_path / "batch" / "accepted"
    for folder in (accepted, *(accepted.parent / name for name in ("small", "signed", "thumbnails"))):
        folder.mkdir(parents=True)
        for image_id in (GONE, KEPT):
            (folder / f"{image_id}.png").write_bytes(b"a picture")
    assert forget(accepted, {GONE}) == {}  # folders of such names that are nobody's batch
    (accepted.parent / "candidates.jsonl").write_text("")
    assert set(forget(accepted, {GONE}).values()) == {1}
    assert {path.stem for path in accepted.parent.glob("[!a]*/*")} == {KEPT}
    assert len(list(accepted.iterdir())) == 2


def test_rows_of_a_parquet_file_go_and_its_notes_stay(tmp_path):
    schema = pa.schema([("image_id", pa.string()), ("grade", pa.string())], metadata={b"noted": b"yes"})
    rows = [{"image_id": GONE, "grade": "good"}, {"image_id": KEPT, "grade": "poor"}]
    path, other = tmp_path / "votes.parquet", tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    pq.write_table(pa.table({"x": [1]}), other)
    untouched = other.read_bytes()
    assert forget(tmp_path, {GONE}) == {str(path): 1}
    table = pq.read_table(path)
    assert table.to_pylist() == rows[1:]
    assert table.schema.metadata[b"noted"] == b"yes"
    assert other.read_bytes() == untouched
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"votes.parquet is not a whole parquet file: restore it"):
        forget(tmp_path, {GONE})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl does not exist"):
        forget(tmp_path, {GONE}, [tmp_path / "none.jsonl"])
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "seed.json").write_text("[]")
    with pytest.raises(UserError, match=r"seed.json is not a file of splits"):
        forget(tmp_path, {GONE})
