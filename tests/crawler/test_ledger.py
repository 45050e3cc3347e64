import asyncio
import itertools
import random
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
from crawl_process import start_crawl
from gallery_server import BASE_MODELS, Faults, Source, Synthetic, serving_source

from artcrawl.ledger import FOR_GOOD, Ledger, is_undecided, ledger_name, ledger_path
from artcrawl.pages import Page, Quotas
from artcrawl.progress import duration, line
from artgate.artworks.collection import Collection
from artgate.artworks.decode import Limits
from artgate.artworks.files import append_lines, read_lines

KEY = {"CIVITAI_API_KEY": Source.key}
QUICK = ("DOWNLOAD_DELAY=0", "AUTOTHROTTLE_ENABLED=0", "RETRY_BACKOFF_BASE=0", "CRAWL_ALLOW_PRIVATE=127.0.0.1")
QUICK += ("CRAWL_CONTACT=tester@example.org", "CONCURRENT_REQUESTS=4", "CONCURRENT_REQUESTS_PER_DOMAIN=4")
# Being asked for, or waiting to be written: twice CONCURRENT_REQUESTS.
IN_HAND = 8
CIVITAI = {"sorts": "Newest", "periods": "AllTime", "base_models": ",".join(BASE_MODELS)}


def test_pages_that_are_done_are_passed_over(tmp_path) -> None:
    path = tmp_path / "crawl" / "a.jsonl"
    ledger = Ledger(path, set())
    assert ledger.frontier("s") == ""
    ledger.append([{"stratum": "s", "done": "", "next": "2"}, {"stratum": "s", "done": "3", "next": None}])
    assert ledger.frontier("s") == "2"
    again = Ledger(path, set())
    assert (again.frontier("s"), again.is_done("s", "3"), again.is_done("s", "2")) == ("2", True, False)
    again.append([{"stratum": "s", "done": "2", "next": "3"}])
    assert again.frontier("s") is None
    again.begin(["s", "other"])
    assert again.frontier("s") is None  # the other stratum is not done yet
    again.begin(["s"])
    assert again.frontier("s") == ""
    assert Ledger(path, set()).frontier("s") == ""


def test_cursors_in_a_circle_end(tmp_path) -> None:
    ledger = Ledger(tmp_path / "crawl" / "a.jsonl", set())
    ledger.append([{"stratum": "s", "done": "", "next": "2"}, {"stratum": "s", "done": "2", "next": ""}])
    assert ledger.frontier("s") is None


def test_a_torn_line_is_cut_and_only_what_is_held_counts_as_kept(tmp_path) -> None:
    path = tmp_path / "crawl" / "a.jsonl"
    ledger = Ledger(path, set())
    ledger.append([{"address": "a", "kept": "1", "stratum": "s"}, {"address": "b", "kept": "2", "stratum": "s"}])
    ledger.append([{"address": "c", "dropped": "http-404"}])
    with path.open("ab") as file:
        file.write(b'{"address": "d", "kep')
    again = Ledger(path, {"2"})
    assert again.known == {"a", "b", "c"}
    assert again.kept == {"s": 1}


def test_a_ledger_on_a_disk_that_was_full_for_a_while_goes_on(tmp_path) -> None:
    path = tmp_path / "crawl" / "a.jsonl"
    ledger = Ledger(path, set())
    ledger.append([{"address": "a", "dropped": "http-404"}])
    with path.open("ab") as file:
        file.write(b'{"address": "b", "dro')  # all that there was room for
    ledger.append([{"address": "c", "dropped": "http-404"}])
    assert Ledger(path, set()).known == {"a", "c"}


@pytest.mark.parametrize(
    "reason",
    ["http-500", "http-503", "http-429", "http-403", "download-failed", "host-down", "timeout", "robots-failed"],
)
def test_what_may_pass_is_tried_again(reason: str) -> None:
    assert is_undecided(reason)


def test_what_is_for_good_is_not() -> None:
    assert not [reason for reason in FOR_GOOD if is_undecided(reason)]
    assert not is_undecided("truncated")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("civitai", "civitai.jsonl"),
        ("../up", "%2E.%2Fup.jsonl"),
        ("a/b c", "a%2Fb%20c.jsonl"),
        ("a_b_c", "a_b_c.jsonl"),
        ("a%2Fb", "a%252Fb.jsonl"),
        ("café", "café.jsonl"),
        ("\0", "%00.jsonl"),
    ],
)
def test_a_ledgers_name_stays_in_its_folder(source: str, name: str) -> None:
    assert ledger_name(source) == name


def test_no_two_sources_share_a_ledger() -> None:
    signs = ["", ".", "/", "_", "%", "2", "F", " ", "\n", "é", "a"]
    sources = {"".join(three) for three in itertools.product(signs, repeat=3)} | {"x" * 300, "x" * 301, "é" * 150}
    names = {ledger_name(source) for source in sources}
    assert len(names) == len(sources)
    assert max(len(name.encode()) for name in names) < 240


def test_a_ledger_of_an_earlier_release_is_taken_over_without_what_another_source_gave(
    gallery_collection, tmp_path
) -> None:
    own, other = list(gallery_collection)[:2]
    collection = Collection(tmp_path / "two", create=True)
    for artwork, source in ((own, "a/b"), (other, "a_b")):
        collection.add(gallery_collection.path(artwork).read_bytes(), replace(artwork.provenance, source=source))
    shared = collection.root / "crawl" / "a_b.jsonl"
    shared.parent.mkdir()
    kept = [{"address": name, "kept": a.image_id, "stratum": "s"} for name, a in (("1", own), ("2", other))]
    append_lines(shared, [*kept, {"address": "3", "dropped": "http-404"}])
    path = ledger_path(collection, "a/b")
    assert path.name == "a%2Fb.jsonl"
    ledger = Ledger(path, collection)
    assert (ledger.known, ledger.kept) == ({"1", "3"}, {"s": 1})
    ledger.append([{"address": "4", "dropped": "http-404"}])
    assert Ledger(ledger_path(collection, "a/b"), collection).known == {"1", "3", "4"}
    assert ledger_path(collection, "a_b") == shared
    assert Ledger(shared, collection).known == {"1", "2", "3"}


def test_what_was_dropped_by_limits_is_tried_again_under_others(tmp_path) -> None:
    path = tmp_path / "crawl" / "a.jsonl"
    strict = Limits(min_side=1024)
    drops = {"small": "too-small", "long": "aspect", "broken": "corrupt"}
    Ledger(path, set(), strict).append([{"address": a, "dropped": reason} for a, reason in drops.items()])
    assert Ledger(path, set(), strict).known == {"small", "long", "broken"}
    assert Ledger(path, set(), Limits()).known == {"broken"}


@pytest.mark.slow
def test_a_ledger_of_a_million_addresses_knows_them_all(tmp_path) -> None:
    path = tmp_path / "crawl" / "a.jsonl"
    path.parent.mkdir()
    lines = (
        {"address": f"https://image.example/{n:036d}.png", "kept": f"{n:064x}", "stratum": "s"} for n in range(10**6)
    )
    append_lines(path, lines)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ledger = Ledger(path, set())
    assert len(ledger.known) == 10**6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
    assert sum(f"https://image.example/{n:036d}.png" in ledger.known for n in range(0, 10**6, 10)) == 10**5


def test_a_page_is_done_with_its_last_item_unless_one_is_to_be_tried_again() -> None:
    page = Page("s")
    page.hold().hold()
    assert [page.settle(True), page.settle(True), page.settle(True)] == [False, False, True]
    assert not page.again
    page = Page("s")
    page.hold()
    assert [page.settle(False), page.settle(True)] == [False, True]
    assert page.again


def test_quotas_share_the_target_and_give_on_what_is_left() -> None:
    quotas = Quotas(20, ["a", "b", "c", "d"], {"a": 1, "gone": 4})
    assert [quotas.share(s) for s in "abcd"] == [4, 4, 4, 4]
    quotas.exhaust("a")
    assert quotas.share("b") == 5
    assert not quotas.reached
    assert Quotas(5, ["a"], {"a": 5}).reached
    assert not Quotas(None, ["a"], {"a": 10**6}).full("a")


def test_places_are_reserved_so_that_the_target_is_never_exceeded() -> None:
    async def crawl() -> tuple[int, int]:
        quotas, most = Quotas(10, ["a"], {}), 0

        async def item(number: int) -> None:
            nonlocal most
            if await quotas.take("a"):
                most = max(most, quotas.kept.total() + quotas.flying.total())
                await asyncio.sleep(0.001 * (number % 3))
                quotas.give_back("a", kept=number % 4 > 0)

        await asyncio.gather(*map(item, range(100)))
        return quotas.kept.total(), most

    assert asyncio.run(crawl()) == (10, 10)


def test_progress_is_one_line_for_a_person() -> None:
    stats = {"artgate/kept": 120, "artgate/held": 3, "artgate/dropped/nsfw": 7, "artgate/dropped/http-404": 1, "x": 5}
    assert line(stats, 12.34, 880.0) == (
        "progress: kept 120, held already 3, dropped 8 (http-404 1, nsfw 7); 12.3 images/s; 880 to go, about 1 min 11 s"
    )
    assert line({}, 0.0, float("inf")) == "progress: kept 0, held already 0, dropped 0; 0.0 images/s"
    assert [duration(s) for s in (12.4, 249, 7500)] == ["12 s", "4 min 09 s", "2 h 05 min"]


@pytest.mark.slow
def test_what_failed_for_now_is_tried_again_and_what_is_for_good_is_not(crawl_with, crawled, log) -> None:
    from artgate.artworks.serve import Reply

    source = Source(Synthetic(12))
    source.extra["/images/3.png"] = Reply(b"down", status=503)
    source.extra["/images/4.png"] = Reply(b"gone", status=410)
    source.extra["/images/5.png"] = Reply(b"<html>log in</html>", "image/png")
    arguments = CIVITAI | {"limit": 5}
    with serving_source(source) as server:
        arguments["base_url"] = server.url
        crawl_with("civitai", arguments, "RETRY_TIMES=1", environment=KEY)
        assert len(Collection(crawled)) == 9
        source.extra.clear()
        source.calls.clear()
        crawl_with("civitai", arguments, environment=KEY)
        assert set(source.images_asked()) == {"/images/3.png"}
        source.calls.clear()
        Collection(crawled).purge([next(iter(Collection(crawled))).image_id])
        crawl_with("civitai", arguments, environment=KEY)
        assert not source.images_asked()
    assert len(Collection(crawled)) == 9


@pytest.mark.slow
def test_twenty_kills_lose_no_image_and_fetch_none_twice_but_those_in_hand(crawled, tmp_path, monkeypatch) -> None:
    """Killed at random moments, so often that each run gets a part of the way."""
    monkeypatch.setenv("CIVITAI_API_KEY", Source.key)
    source = Source(Synthetic(600), Faults(seed=3, rate=0.03), delay=0.02)
    rng = random.Random(0)
    in_hand: list[int] = []
    with serving_source(source) as server:
        arguments = CIVITAI | {"limit": 20, "base_url": server.url, "collection": crawled}
        command = ["civitai", *(part for item in arguments.items() for part in ("-a", "=".join(map(str, item))))]
        command += [part for setting in QUICK for part in ("-s", setting)]
        for run in range(21):
            before, done = decided(crawled, server.url), len(source.calls)
            process = start_crawl(command, tmp_path / "crawl.log")
            if run < 20:
                until = time.monotonic() + 60
                while len(source.calls) < done + 3 and process.is_alive() and time.monotonic() < until:
                    time.sleep(0.005)
                time.sleep(rng.uniform(0.0, 0.3))
                process.kill()
            process.join()
            while source.connected:  # requests that the killed process had sent arrive yet
                time.sleep(0.005)
            assert len(Collection(crawled)) == len(read_lines(crawled / "metadata.jsonl"))
            asked = set(source.images_asked(done))
            # What was on the disk at a kill is never asked for again; of what was not there are no more than in hand.
            assert asked.isdisjoint(before)
            in_hand.append(len(asked - decided(crawled, server.url)))
            assert in_hand[-1] <= IN_HAND
    collection = Collection(crawled)
    expected = {source.pictures.data(n) for n in source.expected()}
    assert {collection.path(artwork).read_bytes() for artwork in collection} == expected
    assert len(collection) == len(expected)
    asked_in_all = source.images_asked()
    again = asked_in_all.total() - len(asked_in_all) - transient(source)
    print(
        f"{asked_in_all.total()} requests for {len(asked_in_all)} addresses, {again} of them again; in hand {in_hand}"
    )
    assert in_hand[-1] == 0 and any(in_hand)
    assert again <= sum(in_hand)


def decided(crawled: Path, url: str) -> set[str]:
    """The paths of the images that a crawl has decided by what is on the disk: kept, or dropped for good."""
    ledger = read_lines(crawled / "crawl" / "civitai.jsonl")
    kept = Collection(crawled, read_only=True) if (crawled / "metadata.jsonl").exists() else ()
    addresses = {line.get("address") for line in ledger} | {artwork.provenance.image_url for artwork in kept}
    return {address.removeprefix(url) for address in addresses if address}


def transient(source: Source) -> int:
    """How many first answers the server spoilt on purpose."""
    return sum(source.faults.of(n) in ("429", "503", "reset", "truncated") for n in range(len(source.pictures)))
