import signal
from collections import Counter
from pathlib import Path

import pytest
from pictures import encoded, fork_killed_at, painting, png

from artgate.artworks.artwork import Provenance, image_id_of
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.files import read_lines
from artgate.artworks.merging import merge
from artgate.errors import UserError


def made(root: Path, numbers: range, source: str) -> Collection:
    collection = Collection(root, create=True)
    collection.add_many(
        [NewArtwork(png(i), Provenance(source=source, source_id=str(i), prompt=f"{i}")) for i in numbers]
    )
    return collection


def snapshot(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_all_artworks_of_the_sources_come_with_their_provenance_and_copies_once(tmp_path):
    target = made(tmp_path / "t", range(0, 3), "t")
    one, two = made(tmp_path / "a", range(2, 6), "a"), made(tmp_path / "b", range(5, 8), "b")
    before = snapshot(one.root) | snapshot(two.root)
    counts = merge(target, [one.root, two.root])
    assert counts == {"added": 5, "held already": 2}
    told = [(a.provenance.source, a.provenance.source_id) for a in Collection(target.root)]
    assert told == [*(("t", n) for n in "012"), *(("a", n) for n in "345"), *(("b", n) for n in "67")]
    for artwork in target:
        assert image_id_of(target.path(artwork).read_bytes()) == artwork.image_id
    for artwork in one:
        if artwork.provenance.source_id in "345":
            assert target[artwork.image_id].provenance == artwork.provenance, "time and prompt too"
    drops = [(d["reason"], d["source"], d["source_id"]) for d in read_lines(target.root / "drops.jsonl")]
    assert drops == [("same-bytes", "a", "2"), ("same-bytes", "b", "5")]
    assert snapshot(one.root) | snapshot(two.root) == before


def test_a_second_merge_changes_nothing(tmp_path):
    target, source = made(tmp_path / "t", range(0, 3), "t"), made(tmp_path / "a", range(2, 6), "a")
    merge(target, [source.root])
    lines = [(target.root / name).read_bytes() for name in ("metadata.jsonl", "drops.jsonl")]
    assert merge(target, [source.root]) == {"held already": 4}
    assert [(target.root / name).read_bytes() for name in ("metadata.jsonl", "drops.jsonl")] == lines


def test_what_the_target_has_purged_stays_out(tmp_path):
    target, source = made(tmp_path / "t", range(0, 2), "t"), made(tmp_path / "a", range(0, 4), "a")
    other = made(tmp_path / "b", range(6, 8), "b")
    target.purge([image_id_of(png(1))])
    target.purge_all(source="b")
    assert merge(target, [source.root, other.root]) == {"held already": 1, "purged": 3, "added": 2}
    assert [a.provenance.source_id for a in target] == ["0", "2", "3"]


def test_near_duplicates_are_marked_for_the_order_of_the_target(tmp_path):
    target, source = Collection(tmp_path / "t", create=True), Collection(tmp_path / "a", create=True)
    first = target.add(encoded(painting(1), "WEBP"))
    source.add_many([NewArtwork(encoded(painting(1))), NewArtwork(encoded(painting(1), "JPEG"))])
    merge(target, [source.root])
    assert [a.near_duplicate_of for a in target] == ["", first.image_id, first.image_id]


def test_damaged_files_of_a_source_are_counted_and_left(tmp_path):
    target, source = Collection(tmp_path / "t", create=True), made(tmp_path / "a", range(0, 3), "a")
    source.path(list(source)[1]).write_bytes(png(9))
    assert merge(target, [source.root]) == {"added": 2, "damaged": 1}
    assert [a.provenance.source_id for a in target] == ["0", "2"]


def test_a_source_that_is_the_target_or_no_collection_is_an_error(tmp_path):
    target = made(tmp_path / "t", range(0, 1), "t")
    with pytest.raises(UserError, match="is the target too"):
        merge(target, [tmp_path / "x" / ".." / "t"])
    with pytest.raises(UserError, match="nowhere is not a Collection"):
        merge(target, [tmp_path / "nowhere"])


def test_a_merge_killed_at_any_step_is_finished_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("artgate.artworks.merging.GROUP", 2)
    source = made(tmp_path / "a", range(0, 5), "a")
    killed = Counter()
    for step in range(1, 400, 9):
        root = tmp_path / str(step)
        made(root, range(4, 6), "t")

        status = fork_killed_at(lambda root=root: merge(Collection(root), [source.root]), step)
        killed[status] += 1
        merge(Collection(root), [source.root])
        told = [(a.provenance.source, a.provenance.source_id) for a in Collection(root)]
        assert told == [("t", "4"), ("t", "5"), *(("a", n) for n in "0123")]
        assert Counter(d["reason"] for d in read_lines(root / "drops.jsonl")) == {"same-bytes": 1}
        if status == 0:
            break
    assert killed[-signal.SIGKILL] >= 4
    assert killed[0] == 1
