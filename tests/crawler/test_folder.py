import os
import zipfile
from pathlib import Path

import pytest
from gallery_server import Synthetic
from pictures import picture

from artcrawl.ledger import hold
from artcrawl.spiders.folder import FolderSpider
from artcrawl.spiders.gallery import GallerySpider
from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.artworks.parameters import embed_png
from artgate.errors import UserError

PICTURES = Synthetic(30)
A1111 = "a lighthouse\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 42, Model: tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for n in range(5):
        (folder / f"below/{n}.png").write_bytes(PICTURES.data(n))
    (folder / "told.png").write_bytes(embed_png(picture(7), A1111))
    (folder / "copy.png").write_bytes(PICTURES.data(0))
    (folder / "broken.png").write_bytes(PICTURES.data(9)[:100])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(PICTURES.data(10))
    return folder


@pytest.mark.slow
def test_a_folder_is_taken_once(folder, crawl_with, crawled, log) -> None:
    arguments = {"path": folder, "creator": "the studio", "licence": "own work"}
    assert crawl_with("folder", arguments, contact="").returncode == 0
    collection = Collection(crawled)
    assert len(collection) == 6
    told = {artwork.provenance.source_id: artwork.provenance for artwork in collection}
    assert told["told.png"].prompt == "a lighthouse"
    assert told["below/1.png"].creator == "the studio"
    assert {(p.source, p.licence, p.image_url) for p in told.values()} == {("folder", "own work", None)}
    assert sorted(drop["reason"] for drop in read_lines(crawled / "drops.jsonl")) == ["same-bytes", "truncated"]
    # Nothing that others may see says where on this disk it lay.
    assert str(folder.parent) not in (crawled / "metadata.jsonl").read_text()
    before = (crawled / "metadata.jsonl").read_bytes()
    (folder / "new.png").write_bytes(PICTURES.data(11))
    assert crawl_with("folder", arguments, contact="").returncode == 0
    assert (crawled / "metadata.jsonl").read_bytes().startswith(before)
    assert log.stat("artgate/kept") == 1
    assert log.stat("artgate/held") == 8
    assert "progress: kept" in log() or "kept 1, held already 8" in log()


@pytest.mark.slow
def test_a_zip_archive_is_taken_up_to_the_target(tmp_path, crawl_with, crawled, log) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(30):
            archive.writestr(f"set/{n:02d}.png", PICTURES.data(n))
        archive.writestr("../up.png", PICTURES.data(0))
        archive.writestr("set/99.png", bytes(70 * 2**20))
        archive.writestr("set/readme.txt", "no picture")
    arguments = {"path": tmp_path / "pictures.zip", "target": 20}
    assert crawl_with("folder", arguments, contact="").returncode == 0
    assert len(Collection(crawled)) == 20
    assert "'finish_reason': 'target-reached'" in log()
    assert crawl_with("folder", arguments | {"target": ""}, contact="").returncode == 0
    assert len(Collection(crawled)) == 30
    reasons = {drop["source_id"]: drop["reason"] for drop in read_lines(crawled / "drops.jsonl")}
    assert reasons == {"../up.png": "bad-name", "set/99.png": "too-many-bytes"}
    assert not (tmp_path.parent / "up.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "path and collection are needed"),
        ({"path": "nowhere"}, "path nowhere is neither a folder nor a .zip file"),
        ({"path": "nowhere.zip"}, "path nowhere.zip is neither a folder nor a .zip file"),
        ({"path": "text.zip"}, "text.zip is not a zip archive (it has no end record): fetch it again"),
        ({"path": "papers", "source": "\x07"}, "source '' is no name: give -a source=NAME"),
        ({"path": "."}, "lies in ., and would be read as well"),
        ({"path": ".", "collection": "text.zip"}, "collection text.zip is a file: name a folder"),
        ({"path": ".", "collection": "papers"}, "papers is no Collection and holds other things (1, the first 'thesis"),
    ],
)
def test_wrong_arguments_are_named_with_the_cure(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.zip").write_text("no archive")
    Path("papers").mkdir()
    Path("papers/thesis.txt").touch()
    with pytest.raises(UserError) as raised:
        FolderSpider(**{"collection": "c", **arguments})
    assert message in str(raised.value)


@pytest.mark.slow
def test_names_that_are_not_utf8_cost_nothing(tmp_path, crawl_with, crawled, log) -> None:
    (tmp_path / "names").mkdir()
    for name, data in {b"a\xff.png": PICTURES.data(0), b"b\xff.png": b"broken", b"c.png": PICTURES.data(1)}.items():
        (tmp_path / "names" / os.fsdecode(name)).write_bytes(data)
    assert crawl_with("folder", {"path": tmp_path / "names"}).returncode == 0
    assert {artwork.provenance.source_id for artwork in Collection(crawled)} == {"a.png", "c.png"}
    assert [drop["reason"] for drop in read_lines(crawled / "drops.jsonl")] == ["not-an-image"]
    assert "Traceback" not in log()


def test_arguments_that_a_spider_does_not_take_are_named() -> None:
    FolderSpider.check_names(("path", "collection", "source", "licence", "target", "min_side", "formats"))
    GallerySpider.check_names(("site", "collection", "max_bytes"))
    with pytest.raises(UserError, match="argument 'targt' is unknown: folder takes path, collection, source, target"):
        FolderSpider.check_names(("path", "targt"))
    with pytest.raises(UserError, match="argument 'source' is unknown: gallery takes site, collection"):
        GallerySpider.check_names(("source",))  # the description's `name` is


def test_a_collection_that_has_lost_its_lines_is_not_gone_on_with(crawled, folder) -> None:
    (crawled / "images").mkdir(parents=True)
    FolderSpider(collection=str(crawled), path=str(folder))  # killed at its very start
    (crawled / "images/1.png").touch()
    with pytest.raises(UserError, match=r"metadata\.jsonl, which says where they came from, is gone: put a copy"):
        FolderSpider(collection=str(crawled), path=str(folder))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.jsonl", '{"file_name": "1.png", "text": "a cat"}\n', "a metadata line has no 'image_id'"),
        ("crawl/folder.jsonl", "{broken\n{}\n", "crawl/folder.jsonl, line 1 is not JSON"),
        ("purged.jsonl", "[1]\n", "purged.jsonl, line 1 is a JSON list, not an object"),
        ("images", "a file", "File exists"),
    ],
)
def test_a_collection_that_cannot_be_opened_ends_it_with_one_message(
    folder, crawl_with, crawled, log, name, text, message
) -> None:
    (crawled / name).parent.mkdir(parents=True)
    (crawled / "metadata.jsonl").touch()
    (crawled / name).write_text(text)
    assert crawl_with("folder", {"path": folder}).returncode == 1
    (line,) = [line for line in log().splitlines() if "ERROR" in line]
    assert "the collection cannot be opened" in line and message in line
    assert "Traceback" not in log()
    assert (crawled / name).read_text() == text


@pytest.mark.slow
def test_a_second_crawl_of_the_same_source_is_refused_while_the_first_runs(folder, crawl_with, crawled, log) -> None:
    Collection(crawled, create=True)
    lock = hold(crawled / "crawl" / "folder.jsonl")
    assert crawl_with("folder", {"path": folder}).returncode == 1
    assert "folder.jsonl is being written by another crawl of this source: wait for it, or end it" in log()
    assert crawl_with("folder", {"path": folder, "source": "another"}).returncode == 0
    lock.release()
    assert crawl_with("folder", {"path": folder}).returncode == 0
    assert len(Collection(crawled)) == 6
