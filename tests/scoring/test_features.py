import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scoring.encoder_samples import picture, save_timm_checkpoint, timm_config

from artgate.artworks.collection import Collection, NewArtwork
from artgate.errors import UserError
from artgate.scoring import features as features_module
from artgate.scoring.encoders import Encoder, build_encoder
from artgate.scoring.features import extract_features

SIZES = [48]


class Counting(Encoder):
    """Counts the images that go through the network."""

    images = 0

    def encode(self, minibatch):
        self.images += len(minibatch[0])
        return super().encode(minibatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_checkpoint(tmp_path_factory.mktemp("timm") / "weights.safetensors")


@pytest.fixture
def encoder(checkpoint: Path) -> Counting:
    built = build_encoder(timm_config(checkpoint, features="last+stages", sizes=SIZES))
    built.__class__ = Counting
    return built


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("features") / "collection", range(22))


def make_collection(root: Path, seeds: range) -> Collection:
    made = Collection(root, create=True)
    made.add_many([NewArtwork(png(seed)) for seed in seeds])
    return made


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed, 64 + seed, 64).save(file, "PNG")
    return file.getvalue()


def ids_of(collection: Collection) -> list[str]:
    return [artwork.image_id for artwork in collection]


def test_features_are_the_encoders_in_the_order_asked(
    collection: Collection, encoder: Counting, tmp_path: Path
) -> None:
    asked = ids_of(collection)[::-2]
    asked.append(asked[0])  # asked twice, computed once
    features = extract_features(collection, encoder, asked, tmp_path, minibatch=4)
    assert encoder.images == 12  # 11 and the padding to whole minibatches
    expected = encoder.encode_images([collection.image(collection[image_id]) for image_id in asked])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(features, axis=0).max() > 0.1


def test_a_second_call_computes_nothing(collection: Collection, encoder: Counting, tmp_path: Path) -> None:
    first = extract_features(collection, encoder, ids_of(collection), tmp_path)
    computed = encoder.images
    second = extract_features(collection, encoder, ids_of(collection)[::-1], tmp_path)
    assert encoder.images == computed > 0
    assert np.array_equal(first, second[::-1])


def test_only_what_a_collection_grew_by_is_computed(encoder: Counting, tmp_path: Path) -> None:
    grown = make_collection(tmp_path / "collection", range(5))
    before = extract_features(grown, encoder, ids_of(grown), tmp_path / "cache", minibatch=1)
    assert encoder.images == 5
    grown.add_many([NewArtwork(png(seed)) for seed in range(5, 8)])
    after = extract_features(grown, encoder, ids_of(grown), tmp_path / "cache", minibatch=1)
    assert encoder.images == 8
    assert np.array_equal(after[:5], before)


def test_features_do_not_depend_on_pieces_workers_or_order(
    collection: Collection, encoder: Counting, tmp_path: Path
) -> None:
    ids = ids_of(collection)
    at_once = extract_features(collection, encoder, ids, tmp_path / "at-once", workers=1, minibatch=8)
    for piece in (ids[3:8], ids[20:], ids[::-1]):
        extract_features(collection, encoder, piece, tmp_path / "pieces", workers=3, minibatch=8)
    computed = encoder.images
    in_pieces = extract_features(collection, encoder, ids, tmp_path / "pieces", minibatch=8)
    assert encoder.images == computed
    assert np.array_equal(at_once, in_pieces)


def test_another_encoder_has_another_cache(
    collection: Collection, encoder: Counting, checkpoint: Path, tmp_path: Path
) -> None:
    first = extract_features(collection, encoder, ids_of(collection), tmp_path)
    cropping = build_encoder(timm_config(checkpoint, features="last+stages", sizes=SIZES, fit="crop"))
    second = extract_features(collection, cropping, ids_of(collection), tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(
        e.fingerprint[:16] for e in (encoder, cropping)
    )
    assert not np.allclose(first, second, atol=1e-3)


def spoil_cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-7])


def spoil_flip(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[-1000] ^= 1
    shard.write_bytes(data)


def spoil_header(shard: Path) -> None:
    shard.write_bytes(b"\xff" * 64 + shard.read_bytes()[64:])


def spoil_empty(shard: Path) -> None:
    shard.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_flip, spoil_header, spoil_empty])
def test_a_damaged_shard_is_computed_again(
    spoil, collection: Collection, encoder: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = ids_of(collection)
    extract_features(collection, encoder, ids[:10], tmp_path, minibatch=2)
    (shard,) = tmp_path.rglob("*.safetensors")
    expected = extract_features(collection, encoder, ids, tmp_path, minibatch=2)
    spoil(shard)
    encoder.images = 0
    assert np.array_equal(extract_features(collection, encoder, ids, tmp_path, minibatch=2), expected)
    assert encoder.images == 10
    assert f"{shard} is damaged" in caplog.text


def test_leftovers_of_a_killed_write_do_no_harm(collection: Collection, encoder: Counting, tmp_path: Path) -> None:
    ids = ids_of(collection)
    expected = extract_features(collection, encoder, ids, tmp_path)
    (shard,) = tmp_path.rglob("*.safetensors")
    (shard.parent / f".{shard.name}.abc.tmp").write_bytes(b"half a shard")
    encoder.images = 0
    assert np.array_equal(extract_features(collection, encoder, ids, tmp_path), expected)
    assert encoder.images == 0


def test_bad_input_is_named(encoder: Counting, tmp_path: Path) -> None:
    damaged = make_collection(tmp_path / "collection", range(3))
    with pytest.raises(UserError, match="image_id 'no-such' is not in .*collection"):
        extract_features(damaged, encoder, ["no-such"], tmp_path / "cache")
    for key, value in (("workers", -1), ("minibatch", 0)):
        with pytest.raises(UserError, match=f"{key} {value} is"):
            extract_features(damaged, encoder, [], tmp_path / "cache", **{key: value})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="features cannot be kept in .*file"):
        extract_features(damaged, encoder, [], tmp_path / "file")
    path = damaged.path(next(iter(damaged)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        extract_features(damaged, encoder, ids_of(damaged), tmp_path / "cache")


def test_no_artworks_have_no_features(collection: Collection, encoder: Counting, tmp_path: Path) -> None:
    assert extract_features(collection, encoder, [], tmp_path).shape == (0, encoder.dim)


def test_progress_is_silent_where_nobody_watches(
    collection: Collection, encoder: Counting, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extract_features(collection, encoder, ids_of(collection), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_progress_tells_images_a_second(
    collection: Collection, encoder: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    extract_features(collection, encoder, ids_of(collection), tmp_path)
    assert "22/22" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()


SLOW_EXTRACTION = """
import sys, time
from artgate.artworks.collection import Collection
from artgate.scoring import features
from artgate.scoring.encoders import Encoder, build_encoder

class Slow(Encoder):
    def encode(self, minibatch):
        time.sleep(0.05)
        return super().encode(minibatch)

root, cache, checkpoint = sys.argv[1:]
features.SHARD_SECONDS = 0.0  # a shard a minibatch
collection = Collection(root)
config = {"kind": "timm", "model": "test_resnet", "checkpoint": checkpoint, "features": "last+stages", "sizes": [48]}
encoder = build_encoder(config)
encoder.__class__ = Slow
features.extract_features(collection, encoder, [a.image_id for a in collection], cache, minibatch=1)
"""


@pytest.mark.slow
def test_two_processes_at_once_one_of_them_killed(
    collection: Collection, encoder: Counting, checkpoint: Path, tmp_path: Path
) -> None:
    """Three rounds: a process killed at a random moment after its first shard loses no shard and leaves no damage."""
    ids = ids_of(collection)
    expected = extract_features(collection, encoder, ids, tmp_path / "expected", minibatch=1)
    for round_ in range(3):
        cache = tmp_path / f"cache-{round_}"
        arguments = [sys.executable, "-c", SLOW_EXTRACTION, str(collection.root), str(cache), str(checkpoint)]
        killed = subprocess.Popen(arguments)
        rival = subprocess.Popen(arguments) if round_ == 2 else None
        wait_for_a_shard(cache, killed)
        time.sleep(random.random() * 0.5)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        if rival:
            assert rival.wait(300) == 0
        shards = len(list(cache.rglob("*.safetensors")))
        encoder.images = 0
        assert np.array_equal(extract_features(collection, encoder, ids, cache, minibatch=1), expected)
        assert encoder.images == (0 if rival else len(ids) - shards)


def wait_for_a_shard(cache: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not list(cache.rglob("*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shard_is_written_as_time_passes_and_not_only_at_the_end(
    collection: Collection, encoder: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "SHARD_SECONDS", 0.0)
    broken = ids_of(collection)
    extract_features(collection, encoder, broken, tmp_path, minibatch=8)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
