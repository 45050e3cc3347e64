from datetime import UTC, datetime

import pytest
from parsel import Selector
from scrapy.http import Response

from artcrawl.network.patience import retry_after
from artcrawl.optout import opt_out, page_opt_out

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2026 14:00:00 +0100", 3600.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(header: str | None, seconds: float | None) -> None:
    headers = {} if header is None else {"Retry-After": header}
    assert retry_after(Response("http://example.org/", headers=headers), NOW) == seconds


@pytest.mark.parametrize(
    ("tags", "reservation", "expected"),
    [
        (["noai"], "", "robots: noai"),
        (["nofollow, NoImageAI"], "", "robots: NoImageAI"),
        (["nofollow", "noindex"], "", "robots: noindex"),
        (["none"], "", "robots: none"),
        (["artgate-crawler: noindex"], "", "robots: noindex"),
        (["otherbot: noindex"], "", None),
        (["index, follow", "max-image-preview:large"], "", None),
        ([], "1", "tdm-reservation: 1"),
        ([], "0", None),
        ([], "", None),
    ],
)
def test_signals_that_say_no(tags: list[str], reservation: str, expected: str | None) -> None:
    assert opt_out(tags, reservation, "artgate-crawler") == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('<meta name="robots" content="noai">', "robots: noai"),
        ('<META NAME="ROBOTS" CONTENT="index, NOINDEX">', "robots: NOINDEX"),
        ('<meta name="Artgate-Crawler" content="noimageai">', "robots: noimageai"),
        ('<meta name="otherbot" content="noindex">', None),
        ('<meta name="tdm-reservation" content=" 1 ">', "tdm-reservation: 1"),
        ('<meta name="tdm-reservation" content="0">', None),
        ('<meta name="robots"><meta content="noai">', None),
    ],
)
def test_what_a_page_says_of_itself(head: str, expected: str | None) -> None:
    page = Selector(f"<html><head>{head}</head></html>", type="html")
    assert page_opt_out(page, Response("http://example.org/"), "artgate-crawler") == expected
    reserved = Response("http://example.org/", headers={"X-Robots-Tag": "none"})
    assert page_opt_out(page, reserved, "artgate-crawler") is not None


def test_a_json_page_speaks_by_its_headers_alone() -> None:
    page = Selector('{"meta": "noai"}', type="json")
    assert page_opt_out(page, Response("http://example.org/"), "artgate-crawler") is None
