import io
from collections import Counter

import numpy as np
import pdqhash
import pytest
from pictures import clusters, distance, encoded, painting
from PIL import Image, ImageOps

from artgate.artworks import hamming
from artgate.artworks.artwork import Artwork, file_name_of, image_id_of
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.duplicates import (
    MIN_QUALITY,
    RADIUS,
    group_artworks,
    group_duplicates,
    hash_and_quality,
    mirrored_hash,
    perceptual_hash,
)
from artgate.artworks.hamming import plan
from artgate.errors import UserError


def brute_force(hashes: np.ndarray, radius: int, mirrored: np.ndarray | None = None) -> list[int]:
    """The label of each hash by its definition: the lowest index that can be reached by near pairs."""
    bits = np.unpackbits(hashes, axis=1)
    near = (bits[:, None] != bits[None]).sum(-1) <= radius
    if mirrored is not None:
        near |= (np.unpackbits(mirrored, axis=1)[:, None] != bits[None]).sum(-1) <= radius
    near |= near.T
    labels = list(range(len(hashes)))
    for start in range(len(hashes)):
        waiting = [start] if labels[start] == start else []
        while waiting:
            i = waiting.pop()
            for j in np.flatnonzero(near[i]):
                if labels[j] > start:
                    labels[j] = start
                    waiting.append(j)
    return labels


def test_the_hash_is_pdq():
    """Within a few bits of the library's hash of the full picture; they differ in how they reduce it to 64 x 64."""
    for number in range(10):
        image = painting(number, (512, 512))
        bits, _ = pdqhash.compute(np.asarray(image))
        assert distance(perceptual_hash(image), np.packbits(bits.astype(np.uint8))) <= 24


def test_unlike_pictures_lie_about_128_bits_apart():
    hashes = [perceptual_hash(painting(number, (256, 256))) for number in range(40)]
    distances = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert 120 < np.mean(distances) < 136
    assert min(distances) > 2 * RADIUS


@pytest.mark.parametrize("size", [(512, 512), (300, 200), (64, 64), (129, 257)])
def test_mirroring_the_picture_mirrors_the_hash(size):
    for number in range(10):
        image = painting(number, size)
        assert distance(perceptual_hash(ImageOps.mirror(image)), mirrored_hash(perceptual_hash(image))) <= RADIUS // 2


def test_mirroring_is_its_own_inverse_and_keeps_distances_symmetric():
    a, b = clusters(0, 2, 0)
    assert (mirrored_hash(mirrored_hash(a)) == a).all()
    assert distance(mirrored_hash(a), b) == distance(a, mirrored_hash(b))


def test_flat_pictures_have_no_quality_and_busy_ones_do():
    assert hash_and_quality(Image.new("RGB", (256, 256), "navy"))[1] == 0
    assert hash_and_quality(painting(1))[1] == 100


@pytest.mark.parametrize("radius", [0, 1, 10, 15, 16, 31, 47, 63])
@pytest.mark.parametrize("with_mirrored", [False, True])
def test_groups_are_exactly_those_of_brute_force(radius, with_mirrored):
    hashes = clusters(radius, 300, spread=radius + 6)
    mirrored = mirrored_hash(hashes) if with_mirrored else None
    labels = group_duplicates(hashes, radius, mirrored)
    assert labels.dtype == np.int64
    assert labels.tolist() == brute_force(hashes, radius, mirrored)
    assert 1 < len(set(labels.tolist())) < 300


@pytest.mark.parametrize("words", [11, 12, 16, 20])
@pytest.mark.slow
def test_groups_are_exact_for_the_words_of_larger_collections(words, monkeypatch):
    """A few hashes are searched by many short words; a million by 11 words with two bits flipped."""
    monkeypatch.setattr(hamming, "plan", lambda n, radius: hamming._cut(radius, words))
    assert len(hamming._cut(31, words)) == words
    hashes = clusters(words, 300, spread=37)
    assert group_duplicates(hashes, 31, mirrored_hash(hashes)).tolist() == brute_force(
        hashes, 31, mirrored_hash(hashes)
    )


def test_mirrored_hashes_that_are_no_mirror_of_the_hashes_group_alike_in_any_order():
    rng = np.random.default_rng(5)
    hashes = clusters(1, 200, 20)
    mirrored = hashes[rng.permutation(200)]
    labels = group_duplicates(hashes, 12, mirrored)
    assert labels.tolist() == brute_force(hashes, 12, mirrored)
    order = rng.permutation(200)
    shuffled = group_duplicates(hashes[order], 12, mirrored[order])
    assert sorted(map(sorted, _members(labels, np.arange(200)))) == sorted(map(sorted, _members(shuffled, order)))


def _members(labels: np.ndarray, names: np.ndarray) -> list[list[int]]:
    return [names[labels == label].tolist() for label in set(labels.tolist())]


@pytest.mark.parametrize("radius", range(64))
@pytest.mark.parametrize("n", [10, 20_000, 1_000_000])
def test_no_pair_within_the_radius_can_escape_every_word(n, radius):
    """Pigeonhole: the fewest differing bits that evade every word are more than the radius."""
    words = plan(n, radius)
    assert sum(word.flips + 1 for word in words) > radius
    covered = [bit for word in words for bit in range(word.start, word.stop)]
    assert len(covered) == len(set(covered))
    assert max(word.stop - word.start for word in words) <= 24


@pytest.mark.parametrize("apart", [30, 31, 32])
def test_the_radius_is_inclusive_wherever_the_bits_lie(apart):
    rng = np.random.default_rng(apart)
    for _ in range(50):
        pair = np.repeat(rng.integers(0, 256, (1, 32), dtype=np.uint8), 2, axis=0)
        for bit in rng.choice(256, apart, replace=False):
            pair[1, bit // 8] ^= 1 << (bit % 8)
        assert group_duplicates(pair, 31).tolist() == ([0, 0] if apart <= 31 else [0, 1])


def test_ten_thousand_copies_of_one_hash_are_one_group_at_once():
    hashes = np.concatenate([np.zeros((10_000, 32), np.uint8), np.full((1, 32), 255, np.uint8)])
    assert Counter(group_duplicates(hashes, 31).tolist()) == {0: 10_000, 10_000: 1}


def test_no_hashes_no_groups():
    assert group_duplicates(np.zeros((0, 32), np.uint8)).shape == (0,)


@pytest.mark.parametrize(
    ("hashes", "radius", "said"),
    [
        (np.zeros((3, 32), np.uint8), -1, r"radius -1 is outside \[0, 63\]"),
        (np.zeros((3, 32), np.uint8), 64, r"radius 64 is outside \[0, 63\]"),
        (np.zeros((3, 16), np.uint8), 31, r"shape \(3, 16\)"),
        (np.zeros((3, 32), np.int64), 31, "int64"),
    ],
)
def test_bad_input_is_named(hashes, radius, said):
    with pytest.raises(UserError, match=said):
        group_duplicates(hashes, radius)
    with pytest.raises(UserError, match="mirrored has shape"):
        group_duplicates(np.zeros((3, 32), np.uint8), 31, np.zeros((2, 32), np.uint8))


def test_copies_in_a_collection_are_grouped_and_flat_pictures_are_not(tmp_path):
    original = painting(1)
    copies = [
        encoded(original),
        encoded(original, "JPEG", quality=30),
        encoded(ImageOps.mirror(original), "WEBP"),
        encoded(original.resize((100, 130))),
        encoded(painting(2)),
        encoded(Image.new("RGB", (64, 64), "black")),
        encoded(Image.new("RGB", (80, 64), "navy")),
    ]
    collection = Collection(tmp_path, create=True)
    collection.add_many([NewArtwork(data) for data in copies])
    assert [a.pdq_quality >= MIN_QUALITY for a in collection] == [True] * 5 + [False] * 2
    assert group_artworks(list(collection)).tolist() == [0, 0, 0, 0, 4, 5, 6]
    assert group_artworks([]).tolist() == []


def test_a_label_is_an_index_into_the_artworks_also_behind_flat_ones():
    def artwork(number: int, quality: int) -> Artwork:
        image_id = image_id_of(bytes([number]))
        pdq = perceptual_hash(painting(7)).tobytes().hex()
        return Artwork(image_id, file_name_of(image_id, "PNG"), 64, 64, "PNG", pdq, quality)

    assert group_artworks([artwork(i, q) for i, q in enumerate([0, 0, 100, 0, 100])]).tolist() == [0, 1, 2, 3, 2]


@pytest.mark.slow
@pytest.mark.agiqa3k
def test_copies_of_agiqa3k_are_found_and_no_two_different_pictures_merged(agiqa3k):
    """Every tenth image and five copies of it: >= 99 % of each kind found, no two of the originals merged."""
    paths = sorted((agiqa3k / "images").iterdir())[::10]
    kinds = {
        "rescaled": lambda image: image.resize((200, 256), Image.Resampling.LANCZOS),
        "jpeg 30": lambda image: _jpeg(image, 30),
        "jpeg 95": lambda image: _jpeg(image, 95),
        "mirrored": ImageOps.mirror,
        "cropped 1 %": lambda image: ImageOps.crop(image, round(image.width * 0.005)),
    }
    hashes = {kind: [] for kind in ("original", *kinds)}
    telling = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        value, quality = hash_and_quality(image)
        hashes["original"].append(value)
        telling.append(quality >= MIN_QUALITY)
        for kind, change in kinds.items():
            hashes[kind].append(perceptual_hash(change(image)))
    stacked = np.concatenate([np.stack(rows) for rows in hashes.values()])
    labels = group_duplicates(stacked, RADIUS, mirrored_hash(stacked)).reshape(len(hashes), -1)  # (kinds, images)
    assert len(set(labels[0].tolist())) == len(paths)
    found = {kind: np.mean((row == labels[0]) & telling) for kind, row in zip(hashes, labels, strict=True)}
    assert min(found.values()) >= 0.99, found


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality)))
