import json

import pytest
from pictures import png

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.files import read_lines
from artgate.errors import UserError
from artgate.labels.grades import Grades
from artgate.labels.ratings import Rating, write_ratings
from artgate.labels.sharing import export_metadata
from artgate.labels.votes import Vote, write_votes


@pytest.fixture
def collection(tmp_path) -> Collection:
    collection = Collection(tmp_path / "c", create=True)
    known = Provenance(source="web", image_url="http://x/1", creator="ann", licence="CC0", prompt="secret", seed=7)
    full = Provenance(source="web", negative_prompt="secret", parameters={"template": "secret"})
    collection.add_many([NewArtwork(png(0), known), NewArtwork(png(1), full), NewArtwork(png(2))])
    return collection


def test_a_line_has_address_hash_provenance_and_licence_and_nothing_of_prompts(collection, tmp_path):
    out = tmp_path / "out.jsonl"
    assert export_metadata(collection, out) == 3
    lines = read_lines(out)
    assert "secret" not in out.read_text()
    assert [line["image_id"] for line in lines] == [artwork.image_id for artwork in collection]
    assert (lines[0]["image_url"], lines[0]["creator"], lines[0]["seed"]) == ("http://x/1", "ann", "7")
    assert [line["licence"] for line in lines] == ["CC0", "unknown", "unknown"]
    assert not {"prompt", "negative_prompt", "parameters", "file_name", "image"} & lines[0].keys()
    export_metadata(collection, out, with_prompts=True)
    assert out.read_text().count("secret") == 3


def test_grades_votes_and_ratings_become_columns(collection, tmp_path):
    one, two, _ = (artwork.image_id for artwork in collection)
    out = tmp_path / "out.jsonl"
    path = Grades({one: {"quality": [0.1, 0.2, 0.7]}}, {one: 4}).save(tmp_path / "team.jsonl")
    export_metadata(collection, out, path)
    lines = read_lines(out)
    assert lines[0]["quality"] == pytest.approx([0.1, 0.2, 0.7])
    assert (lines[0]["votes"], lines[0]["attributes"], lines[1]["quality"], lines[1]["votes"]) == (4, None, None, None)
    votes = [Vote(two, "ann", "quality", "good"), Vote(two, "bob", "quality", "poor")]
    for name in ("votes.parquet", "votes.jsonl"):
        export_metadata(collection, out, write_votes(tmp_path / name, votes))
        lines = read_lines(out)
        assert (lines[0]["quality"], lines[1]["quality"], lines[1]["votes"]) == (None, [0.5, 0.0, 0.5], 2)
        assert "bob" not in out.read_text(), "annotators are not named"
    ratings = [Rating(one, "quality", 3.5, 0.5, "a.png"), Rating(one, "alignment", 1.0, 0.1, "a.png")]
    export_metadata(collection, out, write_ratings(tmp_path / "ratings.jsonl", ratings))
    assert [line["quality_mean"] for line in read_lines(out)] == [3.5, None, None]
    assert read_lines(out)[0]["alignment_std"] == 0.1


def test_parquet_holds_what_the_lines_hold(collection, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    one = next(iter(collection)).image_id
    path = Grades({one: {"quality": [0.5, 0.25, 0.25]}}).save(tmp_path / "grades.jsonl")
    for name in ("out.jsonl", "out.parquet"):
        export_metadata(collection, tmp_path / name, path)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == read_lines(tmp_path / "out.jsonl")
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["width"], types["seed"], types["votes"]) == ("int64", "string", "int64")
    assert types["rationality"] == types["quality"] == "list<element: double>"
    export_metadata(Collection(tmp_path / "empty", create=True), tmp_path / "none.parquet")
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_a_large_collection_is_written_in_groups(collection, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("artgate.labels.sharing.GROUP", 2)
    for name in ("out.jsonl", "out.parquet"):
        assert export_metadata(collection, tmp_path / name) == 3
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 2
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == read_lines(tmp_path / "out.jsonl")


def test_bad_names_are_errors_and_write_nothing(collection, tmp_path):
    with pytest.raises(UserError, match=r"ends in '.csv': .*jsonl or .parquet"):
        export_metadata(collection, tmp_path / "out.csv")
    with pytest.raises(UserError, match="no.jsonl does not exist"):
        export_metadata(collection, tmp_path / "out.jsonl", tmp_path / "no.jsonl")
    (tmp_path / "odd.jsonl").write_text(json.dumps({"image_id": "x", "stars": 5}) + "\n")
    with pytest.raises(UserError, match="stars is unknown"):
        export_metadata(collection, tmp_path / "out.jsonl", tmp_path / "odd.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
