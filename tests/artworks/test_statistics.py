import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import encoded, painting, picture, png

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection, NewArtwork
from artgate.artworks.statistics import SIDES, Statistics, by_period, statistics, tally
from artgate.artworks.statistics_page import COPIES, SAMPLE, render, write_page
from artgate.artworks.statistics_table import print_table
from artgate.artworks.text import one_line
from artgate.errors import UserError

EVIL = "\x1b]0;owned\x07\x1b[31m<script>alert(1)</script>\u202e\"'&"


@pytest.fixture
def mixed(tmp_path) -> Collection:
    collection = Collection(tmp_path / "c", create=True)
    day = "2026-11-0{}T10:00:00+00:00".format
    one = Provenance(source="web", generator="sd", licence="CC0", creator="ann", prompt="A red fox, red fox in snow")
    collection.add_many(
        [
            NewArtwork(encoded(painting(1, (300, 300))), replace(one, collected_at=day(1))),
            NewArtwork(encoded(painting(1, (260, 300)), "WEBP"), replace(one, collected_at=day(1))),
            NewArtwork(encoded(painting(2, (64, 160)), "JPEG"), replace(one, prompt="the owl", collected_at=day(3))),
            NewArtwork(png(5), Provenance(source=EVIL, generator=EVIL, creator=EVIL, prompt=EVIL, collected_at=EVIL)),
            NewArtwork(b"<html>"),
        ]
    )
    collection.purge([collection.add(png(6)).image_id])
    return collection


def test_everything_is_counted(mixed):
    told = statistics(mixed)
    assert (told.artworks, told.near_duplicates, told.purged, told.prompted, told.prompts) == (4, 1, 1, 4, 3)
    assert told.bytes == sum(mixed.path(artwork).stat().st_size for artwork in mixed)
    assert told.sources.top[0] == ("web", 3)
    assert told.licences == tally(["CC0", "CC0", "CC0", None])
    assert dict(told.formats.top) == {"PNG": 2, "WEBP": 1, "JPEG": 1}
    assert dict(told.sides) == dict.fromkeys(dict(told.sides), 0) | {"below 256 px": 2, "256 to 511 px": 2}
    assert len(told.sides) == len(SIDES)
    assert [name for name, count in told.aspects if count] == [
        "tall, below 1:2",
        "portrait",
        "about square",
        "landscape",
    ]
    assert sum(count for _, count in told.aspects) == 4
    assert told.dropped.top == (("not-an-image", 1),)
    assert told.times == (("2026-11-01", 2), ("2026-11-03", 1))
    assert dict(told.words.top)["fox"] == 2, "a word counts once a prompt"
    assert "the" not in dict(told.words.top)
    assert json.loads(json.dumps(told.to_json()))["sources"]["top"][0] == ["web", 3]


def test_a_tally_ranks_and_says_what_it_leaves_out():
    told = tally([*"bbbaac", None, ""], top=2)
    assert (told.top, told.total, told.distinct, told.others, told.missing) == ((("b", 3), ("a", 2)), 8, 3, 1, 2)


def test_times_become_coarser_until_they_fit():
    days = [(f"20{year:02}-{month:02}-0{day}", 1) for year in range(3) for month in (1, 2) for day in (1, 2)]
    assert len(by_period(days, 12)) == 12
    assert by_period(days, 6)[0] == ("2000-01", 2)
    assert by_period(days, 3) == (("2000", 4), ("2001", 4), ("2002", 4))
    assert by_period(days, 2) == (("2001", 4), ("2002", 4))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a\n\tb  c ", "a b c"),
        ("\x1b[31mred\x07\x9b0m\u202e", "[31mred0m"),
        ("x" * 300, "x" * 199 + "…"),
        (None, ""),
        ("\ud800\x00", ""),
    ],
)
def test_a_line_that_is_shown_is_one_line_and_steers_nothing(text, shown):
    assert one_line(text) == shown


def test_an_empty_collection_has_statistics_a_table_and_a_page(tmp_path, capsys):
    collection = Collection(tmp_path, create=True)
    told = statistics(collection)
    assert told.artworks == told.bytes == told.sources.total == 0
    print_table(told)
    assert "0 artworks" in render(collection, told)


def test_the_table_holds_no_character_that_steers_a_terminal(mixed, capsys):
    print_table(statistics(mixed))
    printed = capsys.readouterr().out
    assert "<script>alert(1)</script>" in printed
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed)
    assert "near-duplicates" in printed


def test_the_page_stands_alone_and_escapes_all_text(mixed):
    page = render(mixed, statistics(mixed))
    assert "<script" not in page.lower()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert not re.search(r'(src|href)="(?!data:image/webp;base64,)', page)
    assert "default-src 'none'" in page
    assert page.count('<img src="data:') == 4 + 4 + 2  # the sample, those by generator, a pair of near-duplicates
    assert "not stated for 1 artwork<" in page


def test_a_picture_that_cannot_be_read_leaves_its_place(mixed, tmp_path):
    for artwork in list(mixed)[:2]:
        mixed.path(artwork).write_bytes(b"no image")
    write_page(mixed, statistics(mixed), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("the file cannot be read") == 2 + 2 + 2
    with pytest.raises(UserError, match="folder .* does not exist"):
        write_page(mixed, statistics(mixed), Path("no/such/page.html"))


def test_the_page_of_many_artworks_shows_samples_only(tmp_path):
    collection = Collection(tmp_path, create=True)
    copies = [encoded(picture(1, (64 + i, 64))) for i in range(12)]
    others = [png(i) for i in range(100, 130)]
    collection.add_many([NewArtwork(data, Provenance(generator="g", prompt="x" * 5000)) for data in copies + others])
    told: Statistics = statistics(collection)
    assert told.near_duplicates == 11
    page = render(collection, told)
    assert page.count('<img src="data:') == SAMPLE + 8 + 1 + COPIES
    assert "x" * 500 not in page
    assert render(collection, told) == page, "the same sample each time"
