import os

import numpy as np
import pytest
from pictures import clusters, distance, encoded, painting
from PIL import Image, ImageOps

from artgate.artworks import near
from artgate.artworks.artwork import Artwork, file_name_of, image_id_of
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.duplicates import MIN_QUALITY, RADIUS, mirrored_hash
from artgate.artworks.files import read_lines
from artgate.artworks.near import NearIndex, mark


def artwork(number: int, hash: np.ndarray, quality: int = 100) -> Artwork:
    image_id = image_id_of(str(number).encode())
    return Artwork(image_id, file_name_of(image_id, "PNG"), 64, 64, "PNG", hash.tobytes().hex(), quality)


def brute_force(artworks: list[Artwork], radius: int) -> list[str]:
    """The first earlier artwork within the radius, by the definition."""
    hashes = [np.frombuffer(bytes.fromhex(a.pdq), np.uint8) for a in artworks]
    found = []
    for i, new in enumerate(artworks):
        mirrored = mirrored_hash(hashes[i])
        near = [
            artworks[j].image_id
            for j in range(i)
            if min(distance(hashes[i], hashes[j]), distance(mirrored, hashes[j])) <= radius
            and min(new.pdq_quality, artworks[j].pdq_quality) >= MIN_QUALITY
        ]
        found.append(near[0] if near else "")
    return found


@pytest.mark.parametrize("radius", [0, 8, RADIUS, 63])
@pytest.mark.parametrize("group", [1, 7, 300])
def test_marks_are_exactly_those_of_brute_force_however_the_artworks_come(radius, group, monkeypatch):
    monkeypatch.setattr(near, "BLOCK", 64)
    rng = np.random.default_rng(radius)
    hashes = clusters(radius, 300, spread=radius + 6)
    artworks = [artwork(i, hash, int(rng.choice([100, 100, 100, MIN_QUALITY, 0]))) for i, hash in enumerate(hashes)]
    index = NearIndex(radius=radius)
    marks = []
    for start in range(0, 300, group):
        marks += mark(artworks[start : start + group], index)
        index.extend(artworks[start : start + group])
    assert marks == brute_force(artworks, radius)
    assert 5 < sum(map(bool, marks)) < 280


@pytest.mark.parametrize("apart", [30, 31, 32])
def test_the_radius_is_inclusive_wherever_the_bits_lie(apart):
    rng = np.random.default_rng(apart)
    for _ in range(50):
        one = rng.integers(0, 256, 32, dtype=np.uint8)
        bits = np.unpackbits(one)
        bits[rng.choice(256, apart, replace=False)] ^= 1
        index = NearIndex([artwork(1, one)], radius=31)
        assert bool(index.earliest(artwork(2, np.packbits(bits)))) == (apart <= 31)


def test_the_index_grows_past_its_room():
    hashes = np.random.default_rng(3).integers(0, 256, (5000, 32), dtype=np.uint8)
    artworks = [artwork(i, hash) for i, hash in enumerate(hashes)]
    index = NearIndex(artworks[:10])
    for start in range(10, 5000, 499):
        index.extend(artworks[start : start + 499])
    for number in (0, 9, 10, 1023, 1024, 4999):
        assert index.earliest(artworks[number]) == artworks[number].image_id


def copies(number: int) -> list[bytes]:
    original = painting(number)
    return [
        encoded(original),
        encoded(original, "JPEG", quality=30),
        encoded(ImageOps.mirror(original), "WEBP"),
        encoded(original.resize((100, 130))),
    ]


FLAT = [encoded(Image.new("RGB", (64 + i, 64), "navy")) for i in range(2)]


def marks_of(collection: Collection) -> list[str]:
    return [artwork.near_duplicate_of for artwork in collection]


@pytest.mark.parametrize("together", [True, False])
def test_near_duplicates_are_kept_and_marked_with_the_earliest_and_flat_pictures_never(tmp_path, together):
    data = [FLAT[0], *copies(1), encoded(painting(2)), *copies(2)[1:2], FLAT[1]]
    collection = Collection(tmp_path, create=True)
    if together:
        added = collection.add_many([NewArtwork(each) for each in data])
    else:
        added = [Collection(tmp_path).add(each) for each in data]
    one, two = added[1].image_id, added[5].image_id
    assert [artwork.near_duplicate_of for artwork in added] == ["", "", one, one, one, "", two, ""]
    assert marks_of(Collection(tmp_path)) == [artwork.near_duplicate_of for artwork in added]


def test_an_artwork_held_already_keeps_its_mark_and_is_not_its_own_near_duplicate(tmp_path):
    collection = Collection(tmp_path, create=True)
    first, copy = (collection.add(data) for data in copies(1)[:2])
    assert collection.add(copies(1)[0]) == first
    assert collection.add(copies(1)[1]) == copy
    assert marks_of(Collection(tmp_path)) == ["", first.image_id]


def test_the_index_follows_what_other_processes_add_and_purge(tmp_path):
    one = Collection(tmp_path, create=True)
    one.add(encoded(painting(9)))  # the index is made here
    child = os.fork()
    if child == 0:
        Collection(tmp_path).add(copies(1)[0])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    first = image_id_of(copies(1)[0])
    assert one.add(copies(1)[1]).near_duplicate_of == first
    Collection(tmp_path).purge([first])
    assert one.add(copies(1)[2]).near_duplicate_of == image_id_of(copies(1)[1])


def test_of_what_two_processes_add_at_once_all_but_the_first_line_are_marked_with_it(tmp_path):
    original = painting(1)
    data = [encoded(original.resize((200 + 5 * i, 200))) for i in range(12)]
    Collection(tmp_path, create=True)

    def add(own: list[bytes]) -> None:
        collection = Collection(tmp_path)
        for each in own:
            collection.add(each)

    child = os.fork()
    if child == 0:
        add(data[::2])
        os._exit(0)
    add(data[1::2])
    assert os.waitpid(child, 0)[1] == 0
    first, *others = Collection(tmp_path)
    assert [first.near_duplicate_of, *{artwork.near_duplicate_of for artwork in others}] == ["", first.image_id]
    assert len(others) == 11


def test_purging_an_original_leaves_its_copies_marked_with_the_earliest_of_them(tmp_path):
    collection = Collection(tmp_path, create=True)
    first, second, *_ = (collection.add(data) for data in [*copies(1), encoded(painting(2))])
    collection.purge([first.image_id])
    expected = ["", second.image_id, second.image_id, ""]
    assert marks_of(collection) == marks_of(Collection(tmp_path)) == expected


def test_what_an_interrupted_add_left_is_taken_up_in_its_order(tmp_path):
    """Images renamed, lines not yet written: the copies come after what they are marked with."""
    data = copies(1)
    Collection(tmp_path, create=True).add_many([NewArtwork(each) for each in data])
    lines = (tmp_path / "metadata.jsonl").read_bytes()
    (tmp_path / "metadata.jsonl").write_bytes(b"")
    (tmp_path / ".pending.jsonl").write_bytes(lines)
    assert [artwork.image_id for artwork in Collection(tmp_path)] == [image_id_of(each) for each in data]


def test_lines_of_before_the_mark_still_read_and_take_part(tmp_path):
    Collection(tmp_path, create=True).add(copies(1)[0])
    path = tmp_path / "metadata.jsonl"
    path.write_text(path.read_text().replace(', "near_duplicate_of": ""', ""))
    assert "near_duplicate_of" not in read_lines(path)[0]
    assert Collection(tmp_path).add(copies(1)[1]).near_duplicate_of == image_id_of(copies(1)[0])
