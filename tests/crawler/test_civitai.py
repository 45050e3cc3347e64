import json
from collections import Counter

import pytest
from gallery_server import BASE_MODELS, Faults, Source, Synthetic, serving_source
from scrapy.http import Request, Response

from artcrawl.spiders.civitai import CivitaiSpider, provenance_of, read_answer
from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.artworks.serve import Reply
from artgate.errors import UserError

KEY = {"CIVITAI_API_KEY": Source.key}
ALL = {"sorts": "Most Reactions,Newest", "periods": "AllTime", "base_models": ",".join(BASE_MODELS), "limit": 7}


def numbers(collection: Collection) -> list[int]:
    """The numbers of the pictures that a crawl has kept."""
    return sorted(a.provenance.seed or int(a.provenance.image_url.rpartition("/")[2][:-4]) for a in collection)


@pytest.mark.slow
def test_an_api_is_collected_page_by_page_with_what_it_says(crawl_with, crawled, log) -> None:
    source = Source(Synthetic(60), levels={5: "Soft", 6: "X"}, kinds={7: "video"})
    with serving_source(source) as server:
        process = crawl_with("civitai", {**ALL, "base_url": server.url}, environment=KEY)
    assert process.returncode == 0
    collection = Collection(crawled)
    assert numbers(collection) == [n for n in range(60) if n not in (5, 6, 7)]
    for artwork in collection:
        n = int(artwork.provenance.source_id)
        told = artwork.provenance
        assert collection.path(artwork).read_bytes() == source.pictures.data(n)
        assert told.image_url == f"{server.url}/images/{n}.png"
        assert told.page_url == f"{server.url}/images/{n}"
        assert (told.source, told.creator, told.http_status) == ("civitai", f"painter {n % 10}", 200)
        assert "personal and non-commercial" in told.terms
        assert told.parameters["stats"] == {"likeCount": n % 7, "heartCount": 1, "cryCount": 0}
        if n % 3 < 2:  # meta is flat or nested
            assert told.prompt == f"picture {n}, in oil"
            assert (told.negative_prompt, told.seed, told.steps) == ("blurry", n, 20)
            assert (told.guidance, told.sampler, told.generator) == (7.5, "Euler a", "tiny")
            assert told.parameters["meta"] == {"Clip skip": 2.0}
        else:  # null
            assert (told.prompt, told.seed, told.generator) == (None, None, BASE_MODELS[n % 3])
    assert {drop["reason"] for drop in read_lines(crawled / "drops.jsonl")} == {"nsfw", "video"}
    assert not [path for path in source.images_asked() if path in ("/images/5.png", "/images/6.png", "/images/7.png")]
    assert max(source.images_asked().values()) == 1
    assert log.stat("artgate/kept") == 57
    # The API may be asked though robots.txt disallows /api/; no page of HTML is.
    assert {call.path.split("/")[1] for call in source.calls} <= {
        "api",
        "images",
        "robots.txt",
        ".well-known",
        "ai.txt",
    }


@pytest.mark.slow
def test_the_key_goes_to_the_api_alone_and_is_written_nowhere(crawl_with, crawled, tmp_path) -> None:
    source = Source(Synthetic(12), Faults(rate=0.15))
    elsewhere = Source(Synthetic(12))
    with serving_source(elsewhere) as other, serving_source(source) as server:
        # One image, and one page of the API, lead to another host.
        source.extra["/images/3.png"] = Reply(b"", status=302, headers={"Location": f"{other.url}/images/3.png"})
        arguments = {**ALL, "base_url": server.url}
        assert crawl_with("civitai", arguments, "LOG_LEVEL=DEBUG", environment=KEY).returncode == 0
        first = (tmp_path / "crawl.log").read_bytes()
        source.extra["/api/v1/images"] = Reply(b"", status=302, headers={"Location": f"{other.url}/api/v1/images"})
        assert crawl_with("civitai", arguments, "LOG_LEVEL=DEBUG", environment=KEY).returncode == 75
    assert len(Collection(crawled)) >= 9
    for call in source.calls:
        assert ("Authorization" in call.headers) == call.path.startswith("/api/")
        assert Source.key not in json.dumps(call.query)
    assert elsewhere.calls
    assert not any("Authorization" in call.headers or call.path.startswith("/api") for call in elsewhere.calls)
    written = [first, *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())]
    assert len(written) > 10
    assert not any(Source.key.encode() in data for data in written)


def test_a_key_that_is_refused_ends_it_with_one_message(crawl_with, crawled, log) -> None:
    source = Source(Synthetic(12))
    with serving_source(source) as server:
        environment = {"CIVITAI_API_KEY": "a-key-of-yesterday"}
        ended = crawl_with("civitai", {"base_url": server.url}, "CONCURRENT_REQUESTS=1", environment=environment)
    assert ended.returncode == 1
    assert log().count("refuses the key (status 401): put one that is valid into CIVITAI_API_KEY") == 1
    assert "a-key-of-yesterday" not in log() and "Traceback" not in log()
    assert len(source.calls) < 5  # of 30 strata


@pytest.mark.slow
def test_the_target_is_met_exactly_and_shared_by_the_strata(crawl_with, crawled, log) -> None:
    source = Source(Synthetic(90), Faults(rate=0.05, kinds=("opt-out",)))
    arguments = {**ALL, "target": 30}
    with serving_source(source) as server:
        crawl_with("civitai", {**arguments, "base_url": server.url}, environment=KEY)
        strata = Counter(artwork.provenance.parameters["stratum"] for artwork in Collection(crawled))
        assert len(strata) == 6
        assert set(strata.values()) == {5}
        # The same command goes on: nothing is left to do, and a higher target is shared in its turn.
        asked = len(source.images_asked())
        crawl_with("civitai", {**arguments, "base_url": server.url}, environment=KEY)
        assert len(source.images_asked()) == asked
        crawl_with("civitai", {**arguments, "target": 48, "base_url": server.url}, environment=KEY)
    strata = Counter(artwork.provenance.parameters["stratum"] for artwork in Collection(crawled))
    assert set(strata.values()) == {8}
    assert "'finish_reason': 'target-reached'" in log()
    assert max(source.images_asked().values()) == 1


@pytest.mark.slow
def test_what_an_exhausted_stratum_cannot_give_others_do(crawl_with, crawled) -> None:
    # Of the month there are 8 images of each base model, of all time 30; each stratum's share would be 14.
    source = Source(Synthetic(90))
    arguments = {"sorts": "Newest", "periods": "Month,AllTime", "base_models": "Pony,SD 1.5", "target": 56, "limit": 5}
    with serving_source(source) as server:
        crawl_with("civitai", {**arguments, "base_url": server.url}, environment=KEY)
    collection = Collection(crawled)
    assert len(collection) == 56
    periods = Counter(artwork.provenance.parameters["stratum"].split(" / ")[1] for artwork in collection)
    assert periods["AllTime"] > 2 * 14


@pytest.mark.slow
def test_a_cursor_that_is_no_longer_understood_begins_its_list_anew(crawl_with, crawled) -> None:
    source = Source(Synthetic(40))
    arguments = {"sorts": "Newest", "periods": "AllTime", "base_models": "SD 1.5", "limit": 4, "target": 6}
    with serving_source(source) as server:
        crawl_with("civitai", {**arguments, "base_url": server.url}, environment=KEY)
        assert len(Collection(crawled)) == 6
        source.forgotten = {call.query["cursor"] for call in source.calls if "cursor" in call.query}
        assert source.forgotten
        source.calls.clear()
        crawl_with("civitai", {**arguments, "limit": 5, "target": 9, "base_url": server.url}, environment=KEY)
    assert len(Collection(crawled)) == 9
    assert max(source.images_asked().values()) == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({}, {"CIVITAI_API_KEY": ""}, "CIVITAI_API_KEY is not set: make a key of your own"),
        ({}, {"CIVITAI_API_KEY": "two words-secret"}, "CIVITAI_API_KEY is no API key"),
        ({"nsfw": "Explicit"}, KEY, "nsfw 'Explicit' is not one of None, Soft, Mature, X"),
        ({"sorts": "Best"}, KEY, "sorts 'Best' is not one of Most Reactions"),
        ({"limit": "0"}, KEY, "limit '0' is not a whole number in [1, 200]"),
        ({"target": "many"}, KEY, "target 'many' is not a whole number"),
        ({"base_url": "http://civitai.com"}, KEY, "the key must not go out unencrypted"),
        ({"min_side": "wide"}, KEY, "min_side 'wide' is not a number"),
        ({"formats": "GIF"}, KEY, "formats ('GIF',)"),
    ],
)
def test_wrong_arguments_are_named_with_the_cure(tmp_path, monkeypatch, arguments, environment, message) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as raised:
        CivitaiSpider(**{"collection": str(tmp_path / "c"), **arguments})
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"id": 1, "url": "https://image.example/1.png"}, "nsfw"),  # says nothing of its level
        ({"id": 1, "url": "https://image.example/1.png", "nsfwLevel": True}, "nsfw"),
        ({"id": 1, "url": "https://image.example/1.png", "nsfwLevel": ["None"]}, "nsfw"),
        ({"id": 1, "url": "file:///etc/passwd", "nsfwLevel": "None"}, "no-image"),
        ({"id": 1, "url": {"a": 1}, "nsfwLevel": "None"}, "no-image"),
        ({"nsfwLevel": "None"}, "no-image"),
        ({"id": 1, "url": "https://image.example/1.mp4", "nsfwLevel": "None", "type": "video"}, "video"),
    ],
)
def test_items_that_are_not_taken(tmp_path, monkeypatch, entry, reason) -> None:
    from artcrawl.pages import Page

    monkeypatch.setenv("CIVITAI_API_KEY", Source.key)
    spider = CivitaiSpider(collection=str(tmp_path / "c"))
    response = Response("https://civitai.com/api/v1/images", body=json.dumps({"items": [entry]}).encode())
    (item,) = spider.read_page(response, Page(""))
    assert item.reason == reason


def test_the_request_names_the_stratum_and_asks_for_the_parameters(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", Source.key)
    spider = CivitaiSpider(collection=str(tmp_path / "c"), sorts="Newest", periods="Day", base_models="SDXL 1.0")
    (stratum,) = spider.strata
    request: Request = spider.page_request(stratum, "1|a&b")
    assert request.url == (
        "https://civitai.com/api/v1/images?limit=100&sort=Newest&period=Day&baseModels=SDXL+1.0&type=image&nsfw=None"
        "&withMeta=true&cursor=1%7Ca%26b"
    )
    assert Source.key not in repr(request) + str(vars(spider) | {"_authorization": ""})


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"items": 3}', b"<html>", b"[" * 100_000, b'{"items": null}'])
def test_what_is_no_answer_of_the_api_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_answer(body)


@pytest.mark.parametrize(("cursor", "expected"), [(None, None), ("", None), (12, "12"), ("1|2", "1|2"), ([1], None)])
def test_cursors(cursor: object, expected: str | None) -> None:
    answer = json.dumps({"items": [], "metadata": {"nextCursor": cursor}}).encode()
    assert read_answer(answer) == ([], expected)


def test_hostile_texts_and_numbers_are_cleaned() -> None:
    meta = {"prompt": "a\x00b\u202ec\ud800", "seed": -1, "steps": "9" * 50, "cfgScale": float("inf"), "sampler": 5}
    meta |= {f"key {i}": i for i in range(500)} | {"nested": {"a": 1}, "long": "x" * 10_000}
    entry = {"id": "7", "meta": meta, "username": "a\x1b[31mb", "stats": {"likeCount": "many", "cryCount": 2}}
    told = provenance_of(entry, None, "https://image.example/7.png", "Newest")
    assert told.prompt == "abc"
    assert (told.seed, told.steps, told.guidance, told.sampler) == (None, None, None, None)
    assert told.creator == "a[31mb"
    assert told.parameters["stats"] == {"cryCount": 2}
    assert len(told.parameters["meta"]) == 64
    assert len(json.dumps(told.parameters)) < 5000
