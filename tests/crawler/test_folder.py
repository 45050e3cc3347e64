import zipfile
from pathlib import Path

import pytest
from gallery_server import Synthetic
from pictures import picture

from artcrawl.spiders.folder import FolderSpider
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
        ({"path": "."}, "lies in ., and would be read as well"),
    ],
)
def test_wrong_arguments_are_named_with_the_cure(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        FolderSpider(**{"collection": "c", **arguments})
    assert message in str(raised.value)
