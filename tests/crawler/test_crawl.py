import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gallery_server import (
    Faults,
    FaultyGallery,
    Held,
    Source,
    broken_off,
    cut,
    gone,
    page_instead,
    serving_source,
    unavailable,
    with_header,
)

from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.artworks.serve import serving


def ids(collection: Collection) -> set[str]:
    return {artwork.image_id for artwork in collection}


@pytest.mark.slow
def test_a_gallery_is_collected_byte_for_byte_with_its_provenance(gallery_collection, crawl, crawled, log) -> None:
    gallery = FaultyGallery(gallery_collection)
    with serving(gallery) as server:
        assert crawl(server.site).returncode == 0
        collection = Collection(crawled)
        assert ids(collection) == ids(gallery_collection)
        for artwork in collection:
            original = gallery_collection[artwork.image_id]
            assert collection.path(artwork).read_bytes() == gallery_collection.path(original).read_bytes()
            assert artwork.provenance.page_url == f"{server.url}artwork/{artwork.image_id}"
            assert artwork.provenance.image_url == f"{server.url}{original.file_name}"
            assert artwork.provenance.source == "loopback-gallery"
            assert artwork.provenance.http_status == 200
            assert artwork.provenance.collected_at
            assert artwork.provenance.creator == original.provenance.creator
            assert artwork.provenance.licence == original.provenance.licence
            if original.provenance.prompt:
                assert artwork.provenance.prompt == original.provenance.prompt
    last = list(gallery_collection)[-1]
    from_file = collection[last.image_id].provenance
    assert (from_file.prompt, from_file.negative_prompt) == ("a lighthouse", "fog")
    assert (from_file.steps, from_file.seed, from_file.guidance) == (20, 42, 7.5)
    assert (from_file.sampler, from_file.generator) == ("Euler a", "tiny")
    assert log.stat("artgate/kept") == 12
    # Whoever reads the log sees first what is crawled and how.
    assert "crawling loopback-gallery, all there is, into " in log().splitlines()[1]
    assert "(+tester@example.org)'" in log().splitlines()[1]
    assert "kept 12, held already 0, dropped 0 (nothing); the collection has 12" in log()
    assert {asked.path for asked in gallery.asked} >= {"/robots.txt", "/page/2", "/page/3"}
    assert all(asked.agent.startswith("artgate-crawler/") for asked in gallery.asked)
    assert all(asked.agent.endswith("(+tester@example.org)") for asked in gallery.asked)


@pytest.mark.slow
def test_crawling_again_fetches_no_image_and_changes_nothing(gallery_collection, crawl, crawled, log) -> None:
    copied = list(gallery_collection)[1]
    gallery = FaultyGallery(gallery_collection, copies=frozenset({copied.image_id}))
    with serving(gallery) as server:
        crawl(server.site)
        metadata = (crawled / "metadata.jsonl").read_bytes()
        gallery.asked.clear()
        crawl(server.site)
        asked = {asked.path for asked in gallery.asked}
    assert {path for path in asked if path.startswith(("/images/", "/copies/"))} == set()
    assert "/page/3" in asked
    assert (crawled / "metadata.jsonl").read_bytes() == metadata
    assert log.stat("artgate/held") == 13
    assert log.stat("artgate/kept") == 0


def test_each_fault_costs_its_own_artwork_only_and_is_noted(gallery_collection, crawl, crawled, log) -> None:
    artworks = list(gallery_collection)
    broken, damaged, page, missing, page_missing, reserved, in_head, elsewhere, copied = artworks[:9]
    gallery = FaultyGallery(
        gallery_collection,
        faults={
            f"/{broken.file_name}": broken_off,
            f"/{damaged.file_name}": cut,
            f"/{page.file_name}": page_instead,
            f"/{missing.file_name}": gone,
            f"/artwork/{page_missing.image_id}": gone,
            f"/{reserved.file_name}": with_header("X-Robots-Tag", "noai, noimageai"),
            f"/artwork/{in_head.image_id}": with_header("tdm-reservation", "1"),
        },
        elsewhere=frozenset({elsewhere.image_id}),
        copies=frozenset({copied.image_id}),
    )
    with serving(gallery) as server:
        assert crawl(server.site, "RETRY_TIMES=1").returncode == 0
        url = server.url

    collection = Collection(crawled)
    assert ids(collection) == {artwork.image_id for artwork in artworks[8:]}
    drops = read_lines(crawled / "drops.jsonl")
    noted = {drop.get("image_url", drop["page_url"]).removeprefix(url): drop["reason"] for drop in drops}
    copy = {drop for drop in noted if drop.endswith(copied.file_name.removeprefix("images"))}
    assert {path: reason for path, reason in noted.items() if path not in copy} == {
        broken.file_name: "download-failed",
        damaged.file_name: "truncated",
        page.file_name: "not-an-image",
        missing.file_name: "http-404",
        f"artwork/{page_missing.image_id}": "http-404",
        reserved.file_name: "opt-out",
        f"artwork/{in_head.image_id}": "opt-out",
        elsewhere.file_name.replace("images/", "private/"): "not-allowed",
    }
    # Whichever of the two addresses of the same bytes came second is the one that was dropped.
    assert [noted[path] for path in copy] == ["same-bytes"]
    assert len(drops) == 9
    assert log.stat("artgate/dropped/http-404") == 2
    assert log.stat("artgate/dropped/opt-out") == 2
    assert log.stat("artgate/dropped/same-bytes") == 1
    asked = gallery.images_asked()
    assert asked.count(f"/{broken.file_name}") == 2  # once, and one retry
    assert f"/{elsewhere.file_name.replace('images/', 'private/')}" not in {asked.path for asked in gallery.asked}
    assert "Traceback" not in log()


@pytest.mark.parametrize("what", ["image", pytest.param("page", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_retry_after_is_waited_for_by_the_whole_host(gallery_collection, crawl, crawled, log, what) -> None:
    busy = list(gallery_collection)[4]  # among the first to be asked for
    path = f"/{busy.file_name}" if what == "image" else f"/artwork/{busy.image_id}"
    gallery = FaultyGallery(gallery_collection, faults={path: unavailable(1, "2")})
    with serving(gallery) as server:
        crawl(server.site, "CONCURRENT_REQUESTS=2")
    assert ids(Collection(crawled)) == ids(gallery_collection)
    first, second = [asked.at for asked in gallery.asked if asked.path == path]
    assert second - first >= 2.0
    # Not that request alone: most of the crawl was still to come, and waited too.
    assert len([asked for asked in gallery.asked if asked.at >= first + 2.0]) > 3
    assert log.stat("artgate/retry-after") == 1


@pytest.mark.slow
def test_a_host_that_asks_for_hours_ends_the_crawl_and_keeps_what_there_is(
    gallery_collection, crawl, crawled, log
) -> None:
    busy = list(gallery_collection)[6]
    gallery = FaultyGallery(gallery_collection, faults={f"/artwork/{busy.image_id}": unavailable(99, "86400")})
    started = time.monotonic()
    with serving(gallery) as server:
        assert crawl(server.site).returncode == 75
    assert time.monotonic() - started < 60
    assert "'finish_reason': 'host-asks-to-wait'" in log()
    said = "asks to wait 86400 s, the limit is 600 s: run the same command again after that, it goes on (status 75)"
    assert log().splitlines()[-1].endswith(said)
    assert busy.image_id not in Collection(crawled)
    gallery.faults.clear()
    with serving(gallery) as server:
        assert crawl(server.site).returncode == 0
    assert ids(Collection(crawled)) == ids(gallery_collection)


@pytest.mark.slow
def test_a_list_that_breaks_off_is_told_by_the_status(gallery_collection, crawl, crawled, log) -> None:
    gallery = FaultyGallery(gallery_collection, faults={"/page/2": unavailable(99, "0")})
    with serving(gallery) as server:
        assert crawl(server.site, "RETRY_TIMES=1").returncode == 75
        assert len(Collection(crawled)) == 5
        said = "1 lists were not followed to their end (drops.jsonl says why): run the same command again, it goes on"
        assert log().splitlines()[-1].endswith(f"{said} (status 75)")
        gallery.faults.clear()
        assert crawl(server.site).returncode == 0
    assert ids(Collection(crawled)) == ids(gallery_collection)


@pytest.mark.slow
def test_json_pages_whose_entries_say_it_all(gallery_collection, crawl, crawled) -> None:
    gallery = FaultyGallery(gallery_collection)
    with serving(gallery) as server:
        site = f"""
            name: api
            start_urls: {server.url}api/artworks/1
            selectors: jmespath
            items: items
            next: next
            image: url
            prompt: meta.prompt
            creator: user.id
            terms: for tests
            defaults: {{licence: CC0-1.0}}
        """
        crawl(site)
    collection = Collection(crawled)
    assert ids(collection) == ids(gallery_collection)
    first = collection[list(gallery_collection)[0].image_id].provenance
    assert first.prompt == "<b>café</b> & “storm” 0"
    assert (first.creator, first.licence, first.terms, first.source) == ("7", "CC0-1.0", "for tests", "api")


@pytest.mark.slow
def test_a_gallery_up_to_a_target_with_limits(sample, crawl, crawl_with, crawled, tmp_path, log) -> None:
    source = Source(Held(sample), Faults(rate=0.1))
    with serving_source(source) as server:
        (tmp_path / "site.yaml").write_text(server.site)
        crawl_with("gallery", {"site": tmp_path / "site.yaml", "target": 11, "formats": "PNG", "min_side": 64})
    collection = Collection(crawled)
    assert len(collection) == 11
    assert ids(collection) <= ids(sample)
    assert {artwork.format for artwork in collection} == {"PNG"}
    assert "'finish_reason': 'target-reached'" in log()


@pytest.mark.slow
def test_a_crawl_killed_at_any_moment_goes_on_without_loss_or_waste(gallery_collection, crawl, crawled, log) -> None:
    gallery = FaultyGallery(gallery_collection, delay=0.15)
    with serving(gallery) as server:
        for kept in (2, 5, 9):
            process = crawl(server.site, "CONCURRENT_REQUESTS=2", wait=False)
            wait_until_kept(crawled, kept, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            held = {f"/{artwork.file_name}" for artwork in Collection(crawled)}
            assert len(held) >= kept
            gallery.asked.clear()
        assert crawl(server.site).returncode == 0
    assert ids(Collection(crawled)) == ids(gallery_collection)
    assert len(read_lines(crawled / "metadata.jsonl")) == 12
    assert held.isdisjoint(gallery.images_asked())
    # Of pages that were done, not even the list was asked for again.
    assert log.stat("artgate/held") <= len(held)


def wait_until_kept(root: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    metadata = root / "metadata.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if metadata.exists() and metadata.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the crawl ended, or took a minute, before it kept {count} artworks")


@pytest.mark.slow
def test_it_runs_from_anywhere_with_the_project_on_the_path(gallery_collection, crawled, tmp_path) -> None:
    root = Path(__file__).parents[2]
    with serving(FaultyGallery(gallery_collection)) as server:
        (tmp_path / "site.yaml").write_text(server.site)
        environment = {
            "PYTHONPATH": str(root / "crawler"),
            "SCRAPY_SETTINGS_MODULE": "artcrawl.settings",
            "ARTGATE_CRAWL_CONTACT": "https://example.org/contact",
            "ARTGATE_CRAWL_ALLOW_PRIVATE": "127.0.0.1",
        }
        subprocess.run(
            [sys.executable, "-m", "scrapy", "crawl", "gallery", "-a", f"site={tmp_path / 'site.yaml'}"]
            + ["-a", f"collection={crawled}", "-s", "DOWNLOAD_DELAY=0", "-s", "AUTOTHROTTLE_ENABLED=0"],
            cwd=root,
            env=os.environ | environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
    assert len(Collection(crawled)) == 12


@pytest.mark.parametrize(
    ("site", "contact", "message"),
    [
        ("name: x\nstart_urls: http://127.0.0.1/\nitems: li\nimage: 'img['", "a@b", "image: 'img[' is not"),
        ("name: x", "a@b", "key 'start_urls' is missing"),
        ("name: x\nstart_urls: http://127.0.0.1/\nitems: li\nimage: img::attr(src)", "", "contact '' is neither"),
    ],
)
def test_wrong_arguments_end_it_at_once_with_one_message(crawl, crawled, log, site, contact, message) -> None:
    assert crawl(site, contact=contact).returncode == 2
    assert message in log()
    assert "Traceback" not in log()
    assert not crawled.exists()
