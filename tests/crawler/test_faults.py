"""Crawls of sources with a share of each kind of fault: they end with exactly the expected set, byte for byte."""

import csv
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from gallery_server import (
    BASE_MODELS,
    IN_PARTS,
    OF_PARTS,
    Faults,
    Files,
    Pictures,
    Source,
    Synthetic,
    serving_source,
    write_dump,
)
from PIL import Image

from artgate.artworks.artwork import image_id_of
from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines

FAST = ("CONCURRENT_REQUESTS=32", "CONCURRENT_REQUESTS_PER_DOMAIN=32", "LOG_LEVEL=INFO")


def number_of(address: str) -> int:
    return int(Path(address).stem)


def assert_as_served(collection: Collection, pictures: Pictures) -> None:
    for artwork in collection:
        assert collection.path(artwork).read_bytes() == pictures.data(number_of(artwork.provenance.image_url))


COUNT = int(os.environ.get("ARTGATE_CRAWL_COUNT", "20000"))


@pytest.mark.slow
def test_twenty_thousand_of_an_api(crawl_with, crawled, log) -> None:
    source = Source(Synthetic(COUNT), Faults(seed=1, rate=0.05))
    arguments = {"sorts": "Newest", "periods": "AllTime", "base_models": ",".join(BASE_MODELS), "limit": 200}
    arguments["target"] = COUNT
    started = time.monotonic()
    with serving_source(source) as server:
        arguments["base_url"] = server.url
        process = crawl_with("civitai", arguments, *FAST, environment={"CIVITAI_API_KEY": Source.key})
    seconds = time.monotonic() - started
    assert process.returncode == 0
    collection = Collection(crawled)
    assert {a.provenance.image_url.rpartition("/")[2] for a in collection} == {f"{n}.png" for n in source.expected()}
    assert_as_served(collection, source.pictures)
    kinds = Counter(map(source.faults.of, range(COUNT)))
    assert log.stat("artgate/dropped/opt-out") == kinds["opt-out"]
    assert log.stat("artgate/dropped/same-bytes") == kinds["duplicate"]
    assert log.stat("artgate/kept") == len(source.expected())
    assert "images/s" in log()
    print(f"{COUNT} artworks in {seconds:.0f} s")


@pytest.mark.slow
def test_four_thousand_of_a_gallery(crawl_with, crawled, tmp_path, log) -> None:
    source = Source(Synthetic(4000), Faults(seed=2, rate=0.05))
    with serving_source(source) as server:
        (tmp_path / "site.yaml").write_text(server.site)
        assert crawl_with("gallery", {"site": tmp_path / "site.yaml"}, *FAST).returncode == 0
    collection = Collection(crawled)
    assert sorted(number_of(a.provenance.image_url) for a in collection) == sorted(source.expected())
    assert_as_served(collection, source.pictures)
    kinds = Counter(map(source.faults.of, range(4000)))
    drops = Counter(drop["reason"] for drop in read_lines(crawled / "drops.jsonl"))
    assert drops == {"opt-out": kinds["opt-out"], "same-bytes": kinds["duplicate"]}
    assert log.stat("artgate/kept") == len(source.expected())


@pytest.mark.slow
def test_three_thousand_of_a_dump(crawl_with, crawled, tmp_path, log) -> None:
    """In 300 parts; what is wrong with a part costs its ten images, what is wrong with an image costs that alone."""
    pictures = Synthetic(3000)
    faults, part_faults = Faults(3, 0.05, IN_PARTS), Faults(4, 0.05, OF_PARTS)
    dump = write_dump(tmp_path / "dump", pictures, 10, None, faults, part_faults)
    source = Source(pictures, dump=dump, part_faults=part_faults)
    with serving_source(source) as server:
        assert crawl_with("diffusiondb", {"base": f"{server.url}/dump", "parts": "1-300"}, *FAST).returncode == 0
    lost = {part for part in range(1, 301) if part_faults.of(part) in ("missing", "no-archive")}
    there = [n for n in range(3000) if 1 + n // 10 not in lost]
    expected = [n for n in there if faults.of(n) in (None, "duplicate")]
    collection = Collection(crawled)
    assert sorted(artwork.provenance.seed for artwork in collection) == expected
    for artwork in collection:
        assert collection.path(artwork).read_bytes() == pictures.data(artwork.provenance.seed)
        assert artwork.provenance.prompt == pictures.prompt(artwork.provenance.seed)
    kinds, parts = Counter(map(faults.of, there)), Counter(map(part_faults.of, range(1, 301)))
    assert min(kinds[kind] for kind in IN_PARTS) > 50 and min(parts[kind] for kind in OF_PARTS) > 2
    assert Counter(drop["reason"] for drop in read_lines(crawled / "drops.jsonl")) == {
        "truncated": kinds["cut"],
        "not-an-image": kinds["page"],
        "damaged": kinds["damaged"],
        "no-metadata": kinds["no-row"],
        "nsfw": kinds["nsfw-image"] + kinds["nsfw-prompt"],
        "withdrawn": kinds["withdrawn"],
        "same-bytes": kinds["duplicate"],
        "http-404": parts["missing"],
        "unpack-failed": parts["no-archive"],
    }
    # Nothing fetched is left but the table.
    assert [path.name for path in (crawled / "crawl/.downloads").iterdir()] == ["metadata.parquet"]


@pytest.mark.slow
@pytest.mark.agiqa3k
def test_pictures_of_agiqa3k(agiqa3k, crawl_with, crawled, tmp_path) -> None:
    """Every sixth, from six generators."""
    with (agiqa3k / "data.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (agiqa3k / "images" / row["name"]).is_file()][::6]
    pictures = Files({agiqa3k / "images" / row["name"]: row["prompt"] for row in rows})
    source = Source(pictures, Faults(seed=5, rate=0.05))
    with serving_source(source) as server:
        (tmp_path / "site.yaml").write_text(server.site)
        assert crawl_with("gallery", {"site": tmp_path / "site.yaml"}, *FAST).returncode == 0
    collection = Collection(crawled)
    assert len(collection) > 300
    assert {a.image_id for a in collection} == {image_id_of(pictures.data(n)) for n in source.expected()}
    assert_as_served(collection, pictures)
    for artwork in collection:
        number = number_of(artwork.provenance.image_url)
        with Image.open(pictures.paths[number]) as original:
            assert (artwork.width, artwork.height, artwork.format) == (*original.size, original.format)
        assert artwork.provenance.prompt == pictures.prompt(number)
