import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hostile_server import HostileServer, Play, answer, dripping_body, endless_body, first, hostile, redirect, reset
from network_probe import probe

PAGE = answer(b"page")


CASES: dict[str, tuple[Play, object]] = {
    "other paths": (answer(b"User-agent: *\nDisallow: /private/", "text/plain"), 200),
    "all paths": (answer(b"User-agent: *\nDisallow: /", "text/plain"), "not-allowed"),
    "us alone": (answer(b"User-agent: artgate-crawler\nDisallow: /\n\nUser-agent: *\nAllow: /"), "not-allowed"),
    "rules under a 404": (answer(b"User-agent: *\nDisallow: /", "text/plain", status=404), 200),
    "403": (answer(b"", status=403), 200),
    "410": (answer(b"", status=410), 200),
    "redirect": (redirect("/moved"), "not-allowed"),
    "500": (answer(b"", status=500), "robots-failed"),
    "503": (answer(b"", status=503), "robots-failed"),
    "429": (answer(b"", status=429), "robots-failed"),
    "loop": (redirect("/robots.txt"), "robots-failed"),
    "reset": (reset, "robots-failed"),
    "drip": (dripping_body, "robots-failed"),
    "endless": (endless_body, "robots-failed"),
    "long": (answer(b"User-agent: *\nDisallow: /" + b"\n#" * 300_000 + b"\nAllow: /page"), "not-allowed"),
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[HostileServer, list[dict[str, Any]]]]:
    """A host for each case, all asked for two pages in one crawl."""
    moved = answer(b"User-agent: *\nDisallow: /page", "text/plain")
    common = {"/moved": moved, "/page/1": PAGE, "/page/2": PAGE}
    with ExitStack() as stack:
        servers = [stack.enter_context(hostile({"/robots.txt": play} | common)) for play, _ in CASES.values()]
        asks = [f"{server.url}/page/{number}" for server in servers for number in (1, 2)]
        outcomes = probe(tmp_path_factory.mktemp("robots"), asks, DOWNLOAD_TIMEOUT=2).outcomes
        return {
            case: (server, outcomes[2 * i : 2 * i + 2])
            for i, (case, server) in enumerate(zip(CASES, servers, strict=True))
        }


@pytest.mark.parametrize("case", CASES)
def test_what_a_robots_txt_means(answered: dict[str, tuple[HostileServer, list[dict[str, Any]]]], case: str) -> None:
    """RFC 9309, 2.3.1: 4xx is a host without rules; what cannot be had might forbid all."""
    expected = CASES[case][1]
    server, outcomes = answered[case]
    assert [outcome.get("reason", outcome.get("status")) for outcome in outcomes] == [expected] * 2
    assert ("/page/1" in server.paths()) == ("/page/2" in server.paths()) == (expected == 200)
    assert server.paths().count("/robots.txt") == (11 if case == "loop" else 1)
    if expected == "robots-failed":
        assert outcomes[0]["detail"].startswith(f"{server.url}/robots.txt cannot be had (")
        assert outcomes[0]["detail"].endswith("run again later")


def test_a_robots_txt_that_comes_late_is_asked_for_again(tmp_path: Path) -> None:
    plays = {"/robots.txt": first(answer(b"", status=500), answer(b"", status=404), times=3), "/page": PAGE}
    with hostile(plays) as server:
        told = probe(tmp_path, [f"{server.url}/page"], RETRY_TIMES=5, RETRY_BACKOFF_BASE=0.1)
    assert told.reasons() == [200]


def test_another_hosts_robots_txt_is_needed_after_a_redirect(tmp_path: Path) -> None:
    forbidding = {"/robots.txt": answer(b"User-agent: *\nDisallow: /", "text/plain"), "/page": PAGE}
    with hostile(forbidding) as closed, hostile({"/page": redirect(f"{closed.url}/page")}) as open_:
        asks = [{"url": f"{open_.url}/page"}, {"url": f"{open_.url}/page", "dont_obey_robotstxt": True}]
        told = probe(tmp_path, [*asks, {"url": f"{closed.url}/page", "dont_obey_robotstxt": True}])
    # An API's own exemption does not travel.
    assert told.reasons() == ["not-allowed", "not-allowed", 200]


@pytest.mark.slow
def test_crawl_delay_is_kept_whatever_autothrottle_and_jitter_want(tmp_path: Path) -> None:
    robots = answer(b"User-agent: *\nCrawl-delay: 0.4", "text/plain")
    pages = [f"/page{number}" for number in range(7)]
    with hostile({"/robots.txt": robots} | dict.fromkeys(pages, PAGE)) as server:
        asks = [server.url + page for page in pages]
        settings = {"AUTOTHROTTLE_ENABLED": True, "AUTOTHROTTLE_START_DELAY": 0.0, "EXTENSIONS": {}}
        told = probe(tmp_path, asks, **settings)
    assert told.reasons() == [200] * 7
    times = sorted(server.times(page)[0] for page in pages)
    assert all(later - earlier > 0.39 for earlier, later in itertools.pairwise(times))


def test_a_host_that_wants_a_day_between_requests_is_given_up(tmp_path: Path) -> None:
    robots = answer(b"User-agent: *\nCrawl-delay: 86400", "text/plain")
    with hostile({"/robots.txt": robots, "/page": PAGE}) as server:
        told = probe(tmp_path, [f"{server.url}/page"])
    assert told.reasons() == ["host-crawl-delay"]
    assert "asks for 86400 s between requests, the limit is 60 s" in told.outcomes[0]["detail"]
    assert server.paths() == ["/robots.txt"]


@pytest.mark.slow
def test_what_was_read_is_read_again_in_time(tmp_path: Path) -> None:
    """Rules after a day; what could not be had, sooner."""
    script = "from artcrawl.network import hostfiles as h; h.LIFETIME_SECONDS, h.AGAIN_SECONDS = 1.5, 0.8"
    first_down = {"/robots.txt": first(answer(b"", status=500), answer(b"", status=404)), "/page": PAGE}
    with hostile(first_down) as down, hostile({"/page": PAGE}) as steady:
        pauses = [(down, 0), (down, 0), (down, 0.9), (steady, 0), (steady, 0.1), (steady, 1.6)]
        asks = [{"url": f"{server.url}/page", "pause": pause} for server, pause in pauses]
        told = probe(tmp_path, asks, one_by_one=True, prelude=script)
    assert told.reasons() == ["robots-failed", "robots-failed", 200, 200, 200, 200]
    assert [server.paths().count("/robots.txt") for server in (down, steady)] == [2, 2]


def test_no_more_hosts_files_are_kept_than_the_memory_takes(tmp_path: Path) -> None:
    script = "from artcrawl.network import hostfiles; hostfiles.MOST_HOSTS = 1"
    with hostile({"/page": PAGE}) as one, hostile({"/page": PAGE}) as other:
        told = probe(tmp_path, [f"{s.url}/page" for s in (one, one, other, one)], one_by_one=True, prelude=script)
    assert told.reasons() == [200] * 4
    assert [server.paths().count("/robots.txt") for server in (one, other)] == [2, 1]
