import json
import os
import random
import signal
import time
from collections import Counter
from itertools import count, islice
from pathlib import Path

import pytest
from pictures import encoded, fork_killed_at, picture, png

from artgate.artworks import storage
from artgate.artworks.artwork import Artwork, Provenance, image_id_of
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.decode import Limits, Refused
from artgate.artworks.files import read_lines
from artgate.errors import UserError


def made(root: Path, n: int = 5) -> Collection:
    collection = Collection(root, create=True)
    collection.add_many([item(i) for i in range(n)])
    return collection


def item(number: int) -> NewArtwork:
    return NewArtwork(png(number), Provenance(source="test", source_id=str(number), prompt=f"picture {number}"))


def assert_sound(root: Path) -> Collection:
    """Open, and hold what must hold after anything: lines, images and ids agree, nothing is left over."""
    collection = Collection(root)
    names = [line["file_name"] for line in read_lines(root / "metadata.jsonl")]
    assert max(Counter(names).values(), default=1) == 1, "an artwork is there twice"
    assert (root / "metadata.jsonl").read_bytes()[-1:] in (b"\n", b"")
    assert names == [artwork.file_name for artwork in collection]
    assert {f"images/{p.name}" for p in (root / "images").iterdir()} == set(names), "images and lines differ"
    assert not (root / ".pending.jsonl").exists() or not (root / ".pending.jsonl").read_bytes()
    kept = {"images", "metadata.jsonl", "drops.jsonl", "purged.jsonl", ".lock", ".pending.jsonl"}
    leftovers = {p.name for p in root.iterdir()} - kept
    assert not leftovers
    for artwork in collection:
        assert image_id_of(collection.path(artwork).read_bytes()) == artwork.image_id
        assert artwork.provenance.prompt == f"picture {artwork.provenance.source_id}", "provenance was lost"
    return collection


def test_an_added_artwork_is_described_kept_and_found_again(tmp_path):
    collection = Collection(tmp_path / "c", create=True)
    data = encoded(picture(1, (80, 60)), "JPEG")
    artwork = collection.add(data, Provenance(source="test", seed=5), "fox.jpg")
    assert (artwork.width, artwork.height, artwork.format) == (80, 60, "JPEG")
    assert artwork.image_id == image_id_of(data)
    assert len(artwork.pdq) == 64
    assert artwork.provenance.seed == 5
    assert artwork.provenance.collected_at
    again = Collection(tmp_path / "c")
    assert list(again) == [artwork]
    assert artwork.image_id in again
    assert again[artwork.image_id] == artwork
    assert again.path(artwork).read_bytes() == data
    assert again.image(artwork).size == (80, 60)


def test_iteration_is_in_the_order_of_adding(tmp_path):
    collection = made(tmp_path, 7)
    collection.add(*item(99))
    assert [a.provenance.source_id for a in Collection(tmp_path)] == [*"0123456", "99"]


def test_the_same_bytes_twice_are_one_artwork_with_its_first_provenance(tmp_path):
    collection = made(tmp_path, 1)
    (first,) = collection
    assert collection.add(png(0), Provenance(source="elsewhere")) == first
    assert collection.add_many([item(0), item(3), item(3)])[1:] == [collection[image_id_of(png(3))]] * 2
    assert [a.provenance.source_id for a in assert_sound(tmp_path)] == ["0", "3"]
    (drop,) = read_lines(tmp_path / "drops.jsonl")
    assert (drop["reason"], drop["source"]) == ("same-bytes", "elsewhere")


def test_what_is_refused_is_noted_with_its_reason_and_raised(tmp_path):
    collection = Collection(tmp_path, create=True)
    with pytest.raises(Refused) as caught:
        collection.add(b"<html>", Provenance(source="web", page_url="http://x/1"), "a.png")
    assert caught.value.reason == "not-an-image"
    results = collection.add_many([item(0), NewArtwork(b"", Provenance(source="web")), item(1)])
    assert [type(r) for r in results] == [Artwork, Refused, Artwork]
    drops = read_lines(tmp_path / "drops.jsonl")
    assert [(d["reason"], d.get("name"), d.get("page_url")) for d in drops] == [
        ("not-an-image", "a.png", "http://x/1"),
        ("empty", None, None),
    ]
    assert len(assert_sound(tmp_path)) == 2


def test_a_folder_that_is_no_collection_is_an_error_that_names_the_cure(tmp_path):
    with pytest.raises(UserError, match=r"nothing is not a Collection.*artgate import"):
        Collection(tmp_path / "nothing")


def test_an_image_deleted_by_hand_is_left_out_until_it_is_back(tmp_path):
    collection = made(tmp_path, 3)
    victim = list(collection)[1]
    data = collection.path(victim).read_bytes()
    collection.path(victim).unlink()
    with pytest.raises(UserError, match="is gone"):
        collection.image(victim)
    assert victim.image_id not in Collection(tmp_path)
    reopened = Collection(tmp_path)
    assert reopened.add(data) == victim
    assert len(read_lines(tmp_path / "metadata.jsonl")) == 3
    assert len(assert_sound(tmp_path)) == 3


def test_what_is_held_is_read_whatever_the_limits_for_adding_are(tmp_path):
    loose = Collection(tmp_path, create=True, limits=Limits(min_side=1, max_aspect=75))
    artwork = loose.add(encoded(picture(1, (2, 150))))
    for limits in (Limits(), Limits(max_bytes=1, min_side=1000), Limits(formats=("JPEG",))):
        collection = Collection(tmp_path, limits=limits)
        assert collection.image(artwork).size == (2, 150)
        with pytest.raises(Refused):
            collection.add(encoded(picture(2, (2, 150))))
    for size in ((3, 100), (49, 1000), (150, 7)):
        assert loose.image(loose.add(encoded(picture(3, size)))).size == size
    loose.path(artwork).write_bytes(encoded(picture(1, (20, 150))))
    with pytest.raises(UserError, match="too-many-pixels"):
        loose.image(artwork)


def test_a_damaged_image_is_an_error_that_names_the_file(tmp_path):
    collection = made(tmp_path, 1)
    (artwork,) = collection
    collection.path(artwork).write_bytes(png(0)[:-20])
    with pytest.raises(UserError, match=rf"{artwork.image_id}.png cannot be read \(truncated"):
        collection.image(artwork)


def test_opening_a_read_only_folder_reads_it_and_changes_nothing(tmp_path, monkeypatch):
    made(tmp_path, 2)
    with (tmp_path / "metadata.jsonl").open("ab") as file:
        file.write(b'{"file_na')
    before = (tmp_path / "metadata.jsonl").read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(Collection(tmp_path)) == 2
    assert (tmp_path / "metadata.jsonl").read_bytes() == before


def test_a_torn_last_line_is_cut_and_its_image_adopted(tmp_path):
    made(tmp_path, 3)
    whole = (tmp_path / "metadata.jsonl").read_bytes()
    last = len(whole.splitlines()[-1]) + 1
    for cut in (2, last // 2, last - 1):
        (tmp_path / "metadata.jsonl").write_bytes(whole[:-cut])
        (tmp_path / "drops.jsonl").write_bytes(b'{"reason": "x"}\n{"re')
        adopted = list(Collection(tmp_path))[-1]
        assert adopted.image_id == image_id_of(png(2))
        assert (adopted.width, adopted.height, adopted.provenance.source) == (64, 48, "adopted")
        assert read_lines(tmp_path / "metadata.jsonl")[-1]["image_id"] == adopted.image_id
        assert read_lines(tmp_path / "drops.jsonl") == [{"reason": "x"}]


def test_images_whose_lines_are_lost_are_adopted_with_a_warning(tmp_path, caplog):
    collection = Collection(tmp_path, create=True)
    for number in range(3):
        collection.add(png(number), Provenance(source="web"))
    Collection(tmp_path)
    assert not caplog.records
    (tmp_path / "metadata.jsonl").write_bytes(b"")
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl/web.jsonl").touch()
    assert {artwork.provenance.source for artwork in Collection(tmp_path)} == {"adopted"}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "3 images had no line in metadata.jsonl" in record.getMessage()
    assert "put a copy of it back, or delete images/, metadata.jsonl and crawl/*.jsonl" in record.getMessage()
    Collection(tmp_path)
    assert len(caplog.records) == 1


def test_torn_ends_are_cut_off_every_file_by_opening(tmp_path):
    """Also where nothing is adopted: other readers of these files do not know about torn lines."""
    made(tmp_path, 2).purge([image_id_of(png(1))])
    for name in ("metadata.jsonl", "drops.jsonl", "purged.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"image_')
    Collection(tmp_path)
    for name, lines in (("metadata.jsonl", 1), ("drops.jsonl", 0), ("purged.jsonl", 1)):
        data = (tmp_path / name).read_bytes()
        assert data.count(b"\n") == lines
        assert data[-1:] in (b"\n", b"")


def test_an_image_without_a_line_that_is_not_what_its_name_says_is_removed_with_a_note(tmp_path):
    made(tmp_path, 1)
    liar = tmp_path / "images" / f"{'0' * 64}.png"
    liar.write_bytes(png(5))
    assert len(assert_sound(tmp_path)) == 1
    (drop,) = read_lines(tmp_path / "drops.jsonl")
    assert (drop["reason"], drop["file_name"]) == ("damaged", f"images/{liar.name}")


def test_temporary_files_of_other_writers_in_the_folder_are_litter_only_when_they_are_old(tmp_path):
    made(tmp_path, 1)
    names = [".ratings.jsonl.abc.tmp", ".grades.jsonl.def.tmp", ".metadata.jsonl.ghi.tmp"]
    for name in names:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / names[0], (0, 0))
    Collection(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == [names[1]]


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    made(tmp_path, 1)
    (tmp_path / "images" / "holiday.jpg").write_bytes(b"mine")
    Collection(tmp_path)
    assert (tmp_path / "images" / "holiday.jpg").read_bytes() == b"mine"


def test_purged_artworks_are_gone_and_may_not_return(tmp_path):
    collection = made(tmp_path, 5)
    victims = [a.image_id for a in collection][1:3]
    with pytest.raises(UserError, match=r"ffff.* is not in .*nothing was purged"):
        collection.purge([*victims, "f" * 64])
    assert len(collection) == 5
    assert collection.purge(victims) == 2
    for c in (collection, assert_sound(tmp_path)):
        assert [a.provenance.source_id for a in c] == ["0", "3", "4"]
        with pytest.raises(Refused, match="purged"):
            c.add(*item(1))
    assert Counter(d["reason"] for d in read_lines(tmp_path / "drops.jsonl")) == {"purged": 2}


def crawled(number: int, creator: str, source: str = "web") -> NewArtwork:
    return NewArtwork(png(number), Provenance(source=source, creator=creator, image_url=f"http://x/{number}.png"))


def test_a_purged_address_is_remembered_and_refused_under_other_bytes(tmp_path):
    collection = Collection(tmp_path, create=True)
    one, _ = collection.add_many([crawled(1, "ann"), crawled(2, "bob")])
    collection.purge([one.image_id])
    (line,) = read_lines(tmp_path / "purged.jsonl")
    assert (line["image_id"], line["image_url"], line["source"]) == (one.image_id, "http://x/1.png", "web")
    for c in (collection, Collection(tmp_path)):
        assert c.purged_addresses == {"http://x/1.png"}
        assert c.purged_ids == {one.image_id}
        assert "http://x/1.png" in c.refusal(Provenance(image_url="http://x/1.png"))
        assert c.refusal(Provenance(image_url="http://x/3.png", creator="ann")) == ""
        with pytest.raises(Refused, match="purged: the image at http://x/1.png"):
            c.add(png(7), Provenance(image_url="http://x/1.png"))


@pytest.mark.parametrize(
    ("rule", "left"),
    [({"creator": "ann"}, "23"), ({"source": "web"}, "13"), ({"creator": "ann", "source": "web"}, "123")],
)
def test_a_purge_by_creator_or_source_keeps_out_what_comes_later(tmp_path, rule, left):
    collection = Collection(tmp_path, create=True)
    items = [crawled(0, "ann"), crawled(1, "ann", "dump"), crawled(2, "bob"), crawled(3, "bob", "dump")]
    collection.add_many(items)
    waiting = Collection(tmp_path)
    assert collection.purge_all(**rule) == 4 - len(left)
    for c in (waiting, Collection(tmp_path)):
        with pytest.raises(Refused, match="purged: all of .* was purged"):
            c.add(png(9), Provenance(source="web", creator="ann"))
        assert [a.provenance.image_url[9] for a in c] == list(left)
    assert waiting.purge_all(**rule) == 0


def test_a_rule_that_met_nothing_yet_is_seen_by_whoever_has_the_collection_open(tmp_path):
    waiting = made(tmp_path, 1)
    Collection(tmp_path).purge_all(creator="ann")
    with pytest.raises(Refused, match="creator 'ann'"):
        waiting.add(*crawled(5, "ann"))
    Collection(tmp_path).purge_all(creator="bob")
    with pytest.raises(Refused, match="creator 'bob'"):
        waiting.add(*crawled(5, "bob"))
    with pytest.raises(UserError, match="neither a creator nor a source"):
        waiting.purge_all()


def test_purged_lines_of_before_the_addresses_still_count_and_odd_ones_are_named(tmp_path):
    made(tmp_path, 1)
    path = tmp_path / "purged.jsonl"
    path.write_text(json.dumps({"image_id": image_id_of(png(1)), "purged_at": "2026-01-01"}) + "\n")
    with pytest.raises(Refused, match="purged"):
        Collection(tmp_path).add(*item(1))
    path.write_text('{"refuse": {"prompt": "x"}}\n')
    with pytest.raises(UserError, match=r"purged.jsonl: refuse .'prompt'"):
        Collection(tmp_path)


def test_read_only_changes_nothing_and_hides_what_a_killed_purge_had_named(tmp_path):
    collection = made(tmp_path, 3)
    victim = list(collection)[1].image_id
    (tmp_path / "purged.jsonl").write_text(json.dumps({"image_id": victim}) + "\n")
    (tmp_path / ".lock").unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert victim not in Collection(tmp_path, read_only=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_open_collections_see_each_others_adds_and_purges(tmp_path):
    one, two = made(tmp_path, 2), Collection(tmp_path)
    one.add(*item(2))
    two.add(*item(3))
    assert len(two) == 4
    one.purge([image_id_of(png(3))])
    two.add(*item(4))
    assert [a.provenance.source_id for a in two] == ["0", "1", "2", "4"]
    assert_sound(tmp_path)


def test_lines_that_two_purges_put_into_a_file_of_the_same_inode_are_read_from_the_start(tmp_path, monkeypatch):
    """A file system gives the inode of a deleted file to the next one: here it gives the same to all."""
    collection, other = made(tmp_path / "c", 3), Collection(tmp_path / "c")
    of = storage._Seen.of
    monkeypatch.setattr(storage._Seen, "of", lambda path: storage._Seen(1 if path.exists() else 0, of(path).size))
    ids = [artwork.image_id for artwork in other]
    collection._storage._seen = storage._Seen.of(tmp_path / "c" / "metadata.jsonl")
    other.purge(ids[:1])
    other._storage._seen = storage._Seen(0, 0)
    other.add_many([item(number) for number in range(3, 9)])
    added = collection.add(*item(9))
    assert added.image_id in collection
    assert len(collection) == 9
    assert ids[0] not in collection


def test_processes_that_add_at_once_lose_nothing_and_double_nothing(tmp_path):
    made(tmp_path, 0)

    def add(numbers: range) -> None:
        collection = Collection(tmp_path)
        for number in numbers:
            collection.add(*item(number))

    children = [os.fork() for _ in range(1)]
    if 0 in children:
        add(range(0, 20))
        os._exit(0)
    add(range(10, 30))
    assert os.waitpid(children[0], 0)[1] == 0
    assert {a.provenance.source_id for a in assert_sound(tmp_path)} == {str(i) for i in range(30)}


def test_a_lock_held_by_another_process_is_an_error_after_a_while(tmp_path, monkeypatch):
    made(tmp_path, 1)
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.2)
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with Collection(tmp_path)._storage.up_to_date():
            os.write(ready[1], b"!")
            os.read(wait[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        with pytest.raises(UserError, match="locked by another process"):
            Collection(tmp_path)
    finally:
        os.write(wait[1], b"!")
        os.waitpid(child, 0)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_that_add_returned_for(tmp_path):
    """30 SIGKILLs, each of a process that adds one by one or in groups; ids come through a pipe as `add` returns."""
    made(tmp_path, 0)
    rng = random.Random(0)
    acknowledged: set[str] = set()
    numbers = count()
    killed = 0
    for attempt in range(30):
        reader, writer = os.pipe()
        batch = list(islice(numbers, 400))
        child = os.fork()
        if child == 0:
            os.close(reader)
            _add_for_ever(tmp_path, batch, group=1 if attempt % 2 else 5, acknowledge=writer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            # However slow the machine, the kill falls somewhere in the add after so many.
            seen = [pipe.readline().strip() for _ in range(rng.randint(0, 5))]
            time.sleep(rng.uniform(0, 0.04))
            os.kill(child, signal.SIGKILL)
            killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            acknowledged |= {*seen, *pipe.read().split()}
        lost = acknowledged - {artwork.image_id for artwork in assert_sound(tmp_path)}
        assert not lost
    assert killed >= 20
    assert len(acknowledged) >= 40, "too few adds for the kills to mean anything"
    assert len(Collection(tmp_path)) <= len(acknowledged) + 5 * killed


def _add_for_ever(root: Path, numbers: list[int], group: int, acknowledge: int) -> None:
    collection = Collection(root)
    for start in range(0, len(numbers), group):
        results = collection.add_many([item(n) for n in numbers[start : start + group]])
        os.write(acknowledge, "".join(f"{r.image_id}\n" for r in results).encode())


def killed_at(work, number: int) -> bool:
    return fork_killed_at(work, number) == -signal.SIGKILL


@pytest.mark.slow
def test_a_kill_at_every_single_step_of_an_add_leaves_each_artwork_whole_or_absent(tmp_path):
    png(0)  # Pillow's plugins are loaded before the steps are counted
    for step in range(1, 200):
        root = tmp_path / str(step)
        made(root, 2)
        killed = killed_at(lambda root=root: Collection(root).add_many([item(2), item(3), item(4)]), step)
        kept = [a.provenance.source_id for a in assert_sound(root)]
        assert kept[:2] == ["0", "1"]
        assert set(kept[2:]) <= {"2", "3", "4"}
        assert len(made(root, 5)) == 5
        assert len(assert_sound(root)) == 5
        if not killed:
            break
    assert not killed
    assert step > 15, "the steps were not counted"


@pytest.mark.slow
def test_a_kill_at_every_single_step_of_a_purge_is_finished_by_the_next_open(tmp_path):
    outcomes = Counter()
    for step in range(1, 200):
        root = tmp_path / str(step)
        victims = [a.image_id for a in made(root, 4)][1:3]
        killed = killed_at(lambda root=root, victims=victims: Collection(root).purge(victims), step)
        kept = [a.provenance.source_id for a in assert_sound(root)]
        assert kept in (["0", "1", "2", "3"], ["0", "3"])
        outcomes[len(kept)] += 1
        if not killed:
            break
    assert not killed
    assert kept == ["0", "3"]
    assert min(outcomes[2], outcomes[4]) > 2


@pytest.mark.slow
def test_a_kill_at_every_single_step_of_a_purge_by_creator_leaves_all_or_nothing_of_it(tmp_path):
    outcomes = Counter()
    for step in range(1, 200):
        root = tmp_path / str(step)
        Collection(root, create=True).add_many([crawled(i, "ann" if i % 2 else "bob") for i in range(4)])
        killed = killed_at(lambda root=root: Collection(root).purge_all(creator="ann"), step)
        collection = Collection(root)
        urls = [a.provenance.image_url[9] for a in collection]
        assert urls in (list("0123"), list("02"))
        assert len(list((root / "images").iterdir())) == len(urls)
        assert collection.purged_addresses == ({"http://x/1.png", "http://x/3.png"} if len(urls) == 2 else set())
        assert bool(collection.refusal(Provenance(creator="ann"))) == (len(urls) == 2)
        assert not list(root.glob(".*.tmp"))
        outcomes[len(urls)] += 1
        if not killed:
            break
    assert not killed
    assert min(outcomes[2], outcomes[4]) > 2


def test_a_line_that_is_not_an_artwork_is_named(tmp_path):
    made(tmp_path, 1)
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "images/a.png"}) + "\n")
    with pytest.raises(UserError, match="image_id"):
        Collection(tmp_path)


def test_datasets_reads_a_collection_as_an_imagefolder(tmp_path):
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "c"
    collection = Collection(root, create=True)
    bare = [NewArtwork(png(i)) for i in range(3)]
    rich = [
        NewArtwork(encoded(picture(i), "WEBP"), Provenance(source="x", prompt="a fox", seed=2**64 - 1, guidance=7.5))
        for i in range(3, 6)
    ]
    collection.add_many([*bare, *rich, NewArtwork(b"no image", name="a.png")])
    collection.purge([list(collection)[0].image_id])
    data = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache"), split="train")
    assert data["image_id"] == [artwork.image_id for artwork in collection]
    assert data["seed"] == ["", ""] + ["18446744073709551615"] * 3
    assert data["guidance"] == ["", ""] + ["7.5"] * 3
    assert data["width"] == [64] * 5
    assert [row["image"].size for row in data] == [(64, 48)] * 5
    assert data[4]["image"].convert("RGB").tobytes() == collection.image(list(collection)[4]).tobytes()


def test_datasets_reads_numbers_that_only_come_after_its_first_ten_megabytes(tmp_path):
    """`datasets` fixes the columns' types by the first 10 MB of metadata.jsonl; later lines must not contradict."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "c"
    collection = Collection(root, create=True)
    (template,) = collection.add_many([NewArtwork(png(0), Provenance(prompt="x" * 20_000))])
    line = json.dumps(template.to_json())
    with (root / "metadata.jsonl").open("a") as file:
        file.write(f"{line}\n" * 600)
    assert len(Collection(root)) == 1
    Collection(root).add(png(1), Provenance(steps=20, seed=7, guidance=5.0, parameters={"a": 1}, http_status=200))
    data = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache"), split="train")
    assert (len(data), data[601]["steps"], data[601]["seed"]) == (602, "20", "7")
