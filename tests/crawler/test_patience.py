import itertools
import random
from pathlib import Path

import pytest
from hostile_server import answer, first, hostile, reset
from network_probe import probe

from artcrawl.network.breaker import Breaker
from artcrawl.network.patience import backoff_ceiling

NO_RULES = {"/robots.txt": answer(b"", status=404)}


def test_the_ceiling_doubles_up_to_the_limit() -> None:
    assert [backoff_ceiling(retry, 1.0, 60.0) for retry in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_ceiling(10**6, 1.0, 60.0) == 60.0
    assert backoff_ceiling(1, 0.0, 60.0) == 0.0


@pytest.mark.slow
def test_retries_wait_longer_each_time_and_not_all_the_same(tmp_path: Path) -> None:
    failing = answer(b"", status=503)
    plays = {f"/page{number}": first(failing, answer(b"page"), times=2) for number in range(8)}
    with hostile(NO_RULES | plays) as server:
        asks = [server.url + path for path in plays]
        told = probe(tmp_path, asks, RETRY_TIMES=3, RETRY_BACKOFF_BASE=0.5, CONCURRENT_REQUESTS_PER_DOMAIN=16)
    assert told.reasons() == [200] * 8
    gaps = [[later - earlier for earlier, later in itertools.pairwise(server.times(path))] for path in plays]
    # 8 draws each from [0, 0.5] and [0, 1]; a request takes some milliseconds itself.
    assert all(gap < ceiling + 1.0 for pair in gaps for gap, ceiling in zip(pair, (0.5, 1.0), strict=True))
    first_gaps, second_gaps = zip(*gaps, strict=True)
    assert max(first_gaps) - min(first_gaps) > 0.05
    assert sum(second_gaps) / 8 > 0.15


def test_all_kinds_of_failure_are_tried_again_and_no_others(tmp_path: Path) -> None:
    failures = {str(status): answer(b"", status=status) for status in (408, 429, 500, 502, 503, 504, 522)}
    final = {str(status): answer(b"", status=status) for status in (400, 401, 403, 404, 410, 501)}
    plays = {f"/{name}": first(play, answer(b"page")) for name, play in {**failures, **final, "reset": reset}.items()}
    with hostile(NO_RULES | plays) as server:
        told = probe(tmp_path, [server.url + path for path in plays], RETRY_TIMES=1, RETRY_BACKOFF_BASE=0)
    assert told.reasons() == [200] * 7 + [400, 401, 403, 404, 410, 501, 200]


def test_the_breaker_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(limit=3, rest=10.0)
    assert [breaker.failed(0.0), breaker.failed(1.0)] == [False, False]
    breaker.answered()  # a row is broken by one answer
    assert [breaker.failed(2.0), breaker.failed(3.0)] == [False, False]
    assert breaker.admit(4.0)
    assert breaker.failed(4.0)
    assert not breaker.admit(4.0)
    assert not breaker.admit(13.9)


def open_breaker() -> Breaker:
    """Opened at 0, resting until 10."""
    breaker = Breaker(limit=1, rest=10.0)
    assert breaker.failed(0.0)
    return breaker


def test_half_open_it_lets_one_probe_pass() -> None:
    breaker = open_breaker()
    assert breaker.admit(10.0)
    assert not breaker.admit(10.0)
    assert not breaker.admit(19.9)
    breaker.answered()
    assert breaker.admit(19.9)
    assert breaker.admit(19.9)


def test_a_failing_probe_opens_it_for_another_rest() -> None:
    breaker = open_breaker()
    assert breaker.admit(12.0)
    assert breaker.failed(15.0)
    assert not breaker.admit(24.9)
    assert breaker.admit(25.0)


def test_a_probe_that_says_nothing_leaves_its_place_to_the_next() -> None:
    breaker = open_breaker()
    assert breaker.admit(10.0)
    breaker.undecided()
    assert breaker.admit(10.1)
    # Nothing was heard of this one at all.
    assert not breaker.admit(20.0)
    assert breaker.admit(20.1)


def test_failures_of_requests_that_were_under_way_do_not_prolong_the_rest() -> None:
    breaker = open_breaker()
    assert not breaker.failed(9.0)
    assert breaker.admit(10.0)


def test_any_sequence_keeps_its_promises() -> None:
    """Closed it admits all; open none before the rest is over, and then at most one a rest."""
    rng = random.Random(0)
    breaker, now, admitted_since = Breaker(limit=3, rest=5.0), 0.0, []
    for _ in range(5000):
        now += rng.random()
        was_open, opened = breaker.opened_at is not None, breaker.opened_at
        match rng.choice(["admit", "admit", "failed", "failed", "answered", "undecided"]):
            case "admit":
                admitted = breaker.admit(now)
                assert admitted or was_open
                if admitted and opened is not None:
                    assert now - opened >= 5.0
                    admitted_since.append(now)
            case "failed":
                breaker.failed(now)
            case "answered":
                breaker.answered()
                assert breaker.admit(now)
            case "undecided":
                breaker.undecided()
    assert admitted_since


@pytest.mark.slow
def test_a_host_that_is_down_is_left_alone_and_tried_again_later(tmp_path: Path) -> None:
    down, page = answer(b"", status=500), answer(b"page")
    with (
        hostile(NO_RULES | {"/page": first(down, page, times=3)}) as failing,
        hostile(NO_RULES | {"/page": page}) as well,
    ):
        asks = [f"{failing.url}/page"] * 5 + [f"{well.url}/page"]
        settings = {"BREAKER_FAILURES": 3, "BREAKER_REST": 0.6, "BREAKER_HOLD": 0}
        later = [{"url": f"{failing.url}/page", "pause": 0.7}, f"{failing.url}/page"]
        told = probe(tmp_path, [*asks, *later], one_by_one=True, **settings)
    assert told.reasons() == [500, 500, 500, "host-down", "host-down", 200, 200, 200]
    assert failing.paths().count("/page") == 5
    assert "failed 3 times in a row, the limit is 3: run again later" in told.outcomes[3]["detail"]
    assert told.outcomes[3]["seconds"] < 0.5
    assert told.stats["artgate/host-down"] == 1


@pytest.mark.slow
def test_requests_can_wait_for_a_host_that_comes_back(tmp_path: Path) -> None:
    down, page = answer(b"", status=500), answer(b"page")
    with hostile(NO_RULES | {"/page": first(down, page, times=4)}) as server:
        settings = {"BREAKER_FAILURES": 3, "BREAKER_REST": 0.4, "BREAKER_HOLD": 20}
        told = probe(tmp_path, [f"{server.url}/page"] * 7, one_by_one=True, **settings)
    # What was sent to see whether the host is back has not lost its own try.
    assert told.reasons() == [500, 500, 500, 200, 200, 200, 200]
    times = server.times("/page")
    # Three failures, then one probe that fails, then one that does not: each after a rest.
    assert times[3] - times[2] >= 0.39
    assert times[4] - times[3] >= 0.39


@pytest.mark.slow
def test_an_outage_costs_no_request_that_can_wait(tmp_path: Path) -> None:
    """Two requests with three tries more each, and ten failures: those of probes cost none."""
    down, page = answer(b"", status=500), answer(b"page")
    with hostile(NO_RULES | {"/page": first(down, page, times=10)}) as server:
        settings = {"BREAKER_FAILURES": 3, "BREAKER_REST": 0.1, "BREAKER_HOLD": 30, "RETRY_BACKOFF_BASE": 0}
        asks = [{"url": f"{server.url}/page", "number": number} for number in range(2)]
        told = probe(tmp_path, asks, RETRY_TIMES=3, **settings)
    assert told.reasons() == [200] * 2
    assert server.paths().count("/page") == 12


@pytest.mark.slow
def test_a_host_that_stays_down_is_waited_for_once_and_not_by_each_request(tmp_path: Path) -> None:
    with hostile(NO_RULES | {"/page": answer(b"", status=500)}) as server:
        settings = {"BREAKER_FAILURES": 3, "BREAKER_REST": 0.4, "BREAKER_HOLD": 1.5}
        told = probe(tmp_path, [f"{server.url}/page"] * 8, one_by_one=True, **settings)
    assert told.reasons() == [500] * 3 + ["host-down"] * 5
    assert sum(outcome["seconds"] for outcome in told.outcomes) < 2 * 1.5 + 1


def test_a_host_that_says_when_to_come_back_is_not_down(tmp_path: Path) -> None:
    busy = answer(b"", status=503, Retry_After="0")
    with hostile(NO_RULES | {"/page": busy}) as server:
        told = probe(tmp_path, [f"{server.url}/page"] * 4, one_by_one=True, BREAKER_FAILURES=2)
    assert told.reasons() == [503] * 4
