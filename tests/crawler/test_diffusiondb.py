import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gallery_server import Call, Source, Synthetic, ranged, serving_source, write_dump
from PIL import Image

from artcrawl.archives import Archive
from artcrawl.spiders.diffusiondb import DiffusionDBSpider, part_path, read_rows
from artgate.artworks.collection import Collection
from artgate.artworks.decode import Refused
from artgate.artworks.files import read_lines
from artgate.artworks.serve import Reply
from artgate.errors import UserError

PICTURES = Synthetic(20)
ORIGIN = "https://huggingface.co/datasets/poloclub/diffusiondb/resolve/main"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Three parts of 8, 8 and 4; picture 3 and a prompt are not safe, a user has deleted picture 5, and one all."""
    images = [0.05] * 3 + [0.9] + [0.05] * 16
    prompts = [0.01] * 9 + [0.5] + [0.01] * 10
    users = [f"{n % 5:064x}" for n in range(20)]
    users[5], users[6] = None, "deleted_account"
    columns = {"image_nsfw": pa.array(images, pa.float32()), "prompt_nsfw": pa.array(prompts, pa.float32())}
    return write_dump(tmp_path / "dump", PICTURES, 8, {**columns, "user_name": users})


@pytest.mark.slow
def test_a_local_dump_is_collected_with_what_its_table_says(dump, crawl_with, crawled, log) -> None:
    assert crawl_with("diffusiondb", {"base": dump, "parts": "1-3"}).returncode == 0
    collection = Collection(crawled)
    assert sorted(artwork.provenance.seed for artwork in collection) == [n for n in range(20) if n not in (3, 5, 9)]
    for artwork in collection:
        n, told = artwork.provenance.seed, artwork.provenance
        assert collection.path(artwork).read_bytes() == PICTURES.data(n)
        assert told.image_url == f"{ORIGIN}/images/part-{1 + n // 8:06d}.zip#{told.source_id}"
        assert (told.source, told.licence, told.http_status) == ("diffusiondb", "CC0-1.0", None)
        assert told.creator == (None if n == 6 else f"{n % 5:064x}")
        assert (told.prompt, told.steps, told.guidance) == (f"picture {n}, in oil", 50, 7.0)
        assert told.parameters["created_at"] == "2022-08-11T09:05:00+00:00"
        assert told.parameters["image_nsfw"] == pytest.approx(0.05)
    samplers = [artwork.provenance.sampler for artwork in collection if artwork.provenance.seed in (0, 7, 8)]
    assert samplers == ["ddim", "k_lms", "others"]
    drops = read_lines(crawled / "drops.jsonl")
    assert sorted(drop["reason"] for drop in drops) == ["nsfw", "nsfw", "withdrawn"]
    assert "'finish_reason': 'finished'" in log()
    # Local files stay, and nothing is left beside them.
    assert len(list(dump.rglob("*.zip"))) == 3
    assert not list(crawled.rglob("*.zip*"))


def downloads(root: Path) -> set[str]:
    return {path.name for path in (root / "crawl/.downloads").iterdir()}


@pytest.mark.slow
def test_a_mirror_is_fetched_in_pieces_and_a_copy_on_the_disk_is_the_same(dump, crawl_with, crawled, log) -> None:
    source = Source(PICTURES, dump=dump)
    with serving_source(source) as server:
        arguments = {"base": f"{server.url}/dump", "parts": "1-2", "target": 9}
        assert crawl_with("diffusiondb", arguments).returncode == 0
        assert len(Collection(crawled)) == 9
        # The part that is not done stays for the next crawl, and the table for all.
        assert {path.name for path in (crawled / "crawl/.downloads").iterdir()} == {
            "part-000002.zip",
            "metadata.parquet",
        }
        source.calls.clear()
        assert crawl_with("diffusiondb", arguments | {"target": ""}).returncode == 0
        assert {call.path for call in source.calls} == set()
        assert len(Collection(crawled)) == 13
        # Nor is a part that is done fetched again for one more.
        assert crawl_with("diffusiondb", arguments | {"target": "", "parts": "1-3"}).returncode == 0
        assert {call.path.rpartition("/")[2] for call in source.calls if "dump" in call.path} == {"part-000003.zip"}
    assert downloads(crawled) == {"metadata.parquet"}
    assert next(iter(Collection(crawled))).provenance.parameters["mirror"] == f"{server.url}/dump"
    # The same images from the disk, by other scores, are held already.
    assert crawl_with("diffusiondb", {"base": dump, "parts": "1-3", "max_image_nsfw": 0.95}).returncode == 0
    assert len(Collection(crawled)) == 18
    assert (log.stat("artgate/kept"), log.stat("artgate/held")) == (1, 17 + 1)


class Noise(Synthetic):
    """Pictures of 3 MB. seed: other pictures, in files of the same size."""

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__(count)
        self.seed = seed

    def data(self, number: int) -> bytes:
        buffer = io.BytesIO()
        pixels = np.random.default_rng((self.seed, number)).integers(0, 256, (1024, 1024, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()


@pytest.fixture
def noisy(tmp_path: Path) -> Source:
    """One part of 12 MB, that is two pieces."""
    source = Source(Noise(4), dump=write_dump(tmp_path / "dump", Noise(4), 4))
    assert 8 * 2**20 < (source.dump / PART).stat().st_size < 16 * 2**20
    return source


PART = "images/part-000001.zip"


def begun(crawled: Path, data: bytes, version: dict[str, object] | None) -> None:
    """What a crawl that was killed has left of the part."""
    partial = crawled / "crawl/.downloads/part-000001.zip.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[: 5 * 2**20])
    if version is not None:
        partial.with_name(f"{partial.name}.version").write_text(json.dumps(version))


def ranges(source: Source) -> list[tuple[int, str | None]]:
    """Where the pieces of the part that were asked for began, each with the version that it was to be of."""
    calls = [call.headers for call in source.calls if call.path.endswith(".zip")]
    return [(int(headers["Range"][6:].split("-")[0]), headers.get("If-Range")) for headers in calls]


@pytest.mark.slow
def test_downloads_go_on_by_ranges_where_they_were_cut(noisy, crawl_with, crawled) -> None:
    data = (noisy.dump / PART).read_bytes()
    tag = f'"{zlib.crc32(data):08x}"'
    begun(crawled, data, {"tag": tag, "total": len(data)})
    with serving_source(noisy) as server:
        crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1"})
    assert ranges(noisy) == [(5 * 2**20, tag)]
    assert len(Collection(crawled)) == 4
    assert downloads(crawled) == {"metadata.parquet"}


@pytest.mark.slow
@pytest.mark.parametrize("version", [{"tag": '"old"', "total": 12_000_000}, None])
def test_pieces_of_an_older_part_or_of_an_unknown_one_are_not_gone_on_with(
    noisy, crawl_with, crawled, version, tmp_path
) -> None:
    old = write_dump(tmp_path / "old", Noise(4, seed=1), 4)
    begun(crawled, (old / PART).read_bytes(), version)
    with serving_source(noisy) as server:
        crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1"})
    asked = [first for first, _ in ranges(noisy)]
    assert asked == ([5 * 2**20] if version and "total" in version else []) + [0, 8 * 2**20]
    assert {Collection(crawled).path(a).read_bytes() for a in Collection(crawled)} == {
        Noise(4).data(n) for n in range(4)
    }


@pytest.mark.slow
@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_part_that_changes_while_it_is_fetched_is_begun_anew(
    noisy, crawl_with, crawled, heeds_if_range, tmp_path
) -> None:
    """Into one of the same size."""
    new = write_dump(tmp_path / "new", Noise(4, seed=1), 4)
    assert (new / PART).stat().st_size == (noisy.dump / PART).stat().st_size
    served: list[bool] = []

    def changing(call: Call) -> Reply:
        served.append(True)
        headers = {name: value for name, value in call.headers.items() if heeds_if_range or name != "If-Range"}
        return ranged((noisy.dump if len(served) == 1 else new) / PART, headers)

    noisy.extra[f"/dump/{PART}"] = changing
    with serving_source(noisy) as server:
        crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1"})
    assert [first for first, _ in ranges(noisy)] == [0, 8 * 2**20, 0, 8 * 2**20]
    pictures = {Noise(4, seed=1).data(n) for n in range(4)}
    assert {Collection(crawled).path(a).read_bytes() for a in Collection(crawled)} == pictures


@pytest.mark.slow
def test_a_mirror_that_sends_parts_only_as_a_whole_is_said_to(noisy, crawl_with, crawled) -> None:
    noisy.extra[f"/dump/{PART}"] = Reply((noisy.dump / PART).read_bytes(), "application/zip")
    with serving_source(noisy) as server:
        crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1"})
    (drop,) = read_lines(crawled / "drops.jsonl")
    assert drop["reason"] == "ranges-failed" and "is sent only as a whole" in drop["detail"]
    noisy.extra.clear()
    with serving_source(noisy) as server:
        crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1"})
    assert len(Collection(crawled)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/ai.txt", Reply(b"User-agent: *\nDisallow: *.zip\n", "text/plain")),
        (f"/dump/{PART}", Reply(b"PK", "application/zip", headers={"tdm-reservation": "1"})),
    ],
)
def test_a_mirror_that_reserves_the_parts_is_heeded(dump, crawl_with, crawled, path, reply) -> None:
    source = Source(PICTURES, dump=dump)
    source.extra[path] = reply
    with serving_source(source) as server:
        assert crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1"}).returncode == 0
    assert [drop["reason"] for drop in read_lines(crawled / "drops.jsonl")] == ["opt-out"]
    assert not len(Collection(crawled))


@pytest.mark.slow
def test_parts_that_are_missing_damaged_or_unpacked(dump, crawl_with, crawled) -> None:
    (dump / part_path("2m", 1)).write_bytes(b"PK nothing")
    second = dump / part_path("2m", 2)
    with zipfile.ZipFile(second) as archive:
        archive.extractall(second.with_suffix(""))
    second.unlink()
    (dump / part_path("2m", 3)).unlink()
    crawl_with("diffusiondb", {"base": dump, "parts": "1-3"})
    assert len(Collection(crawled)) == 7
    reasons = {drop["page_url"][-10:-4]: drop["reason"] for drop in read_lines(crawled / "drops.jsonl")}
    assert reasons["000001"] == "unpack-failed"
    assert reasons["000003"] == "no-part"
    # The damaged part is looked at again by the next crawl.
    write_dump(dump.parent / "again", PICTURES, 8)
    crawl_with("diffusiondb", {"base": dump.parent / "again", "parts": "1-3"})
    assert len(Collection(crawled)) == 15


def test_what_is_not_diffusiondbs_table_is_named(tmp_path) -> None:
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(UserError, match="is not DiffusionDB's table"):
        read_rows(tmp_path / "metadata.parquet", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "nowhere"}, "base 'nowhere' is neither a web address nor a folder with metadata.parquet"),
        ({"subset": "small"}, "subset 'small' is not one of 2m, large"),
        ({"parts": "0-3"}, "'0-3' is not a range in [1, 2000]"),
        ({"parts": "5-3"}, "'5-3' is not a range"),
        ({"parts": "1999-2001"}, "is not a range in [1, 2000]"),
        ({"max_image_nsfw": "low"}, "max_image_nsfw 'low' is not a number"),
    ],
)
def test_wrong_arguments_are_named_with_the_cure(tmp_path, arguments, message) -> None:
    with pytest.raises(UserError) as raised:
        DiffusionDBSpider(**{"collection": str(tmp_path / "c"), **arguments})
    assert message in str(raised.value)


def test_where_the_parts_lie() -> None:
    assert part_path("2m", 7) == "images/part-000007.zip"
    assert part_path("large", 10_000) == "diffusiondb-large-part-1/part-010000.zip"
    assert part_path("large", 10_001) == "diffusiondb-large-part-2/part-010001.zip"


@pytest.mark.parametrize("name", ["../up.png", "/etc/passwd", "a\\..\\b.png", "C:x.png", "a/../../b.png", " "])
def test_members_whose_names_lead_out_are_refused(tmp_path, name) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(Refused) as refused:
        Archive(tmp_path / "a.zip").read(name, 100)
    assert refused.value.reason == "bad-name"


def test_bombs_and_lies_about_sizes_are_refused(tmp_path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", bytes(50 * 2**20))
        archive.writestr("lie.png", bytes(1000))
        archive.writestr("good.png", b"good")
    # The header of lie.png says 4 bytes; its thousand zeros are then not read beyond these.
    data = path.read_bytes()
    at = data.rindex(b"lie.png") - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    path.write_bytes(data[: at + 24] + (4).to_bytes(4, "little") + data[at + 28 :])
    archive = Archive(path)
    reasons = {}
    for name in ("big.png", "lie.png", "none.png"):
        with pytest.raises(Refused) as refused:
            archive.read(name, 2**20)
        reasons[name] = refused.value.reason
    assert reasons == {"big.png": "too-many-bytes", "lie.png": "damaged", "none.png": "no-such-member"}
    assert archive.read("good.png", 4) == b"good"


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"no zip at all" * 100, b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive_is_said_to_be_none(tmp_path, data) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match="is not a zip archive"):
        Archive(tmp_path / "a.zip")


def test_a_disk_that_takes_no_downloads_ends_it_with_one_message(tmp_path, crawl_with, log) -> None:
    (tmp_path / "file").touch()
    arguments = {"base": "http://127.0.0.1:9", "downloads": tmp_path / "file" / "below"}
    assert crawl_with("diffusiondb", arguments).returncode == 1
    assert log().count("the files of DiffusionDB cannot be kept or read ([Errno 20] Not a directory") == 1
    assert "Traceback" not in log()
