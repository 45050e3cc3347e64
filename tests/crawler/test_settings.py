import pytest
from scrapy.settings import Settings

from artcrawl import settings
from artcrawl.commands.crawl import WHOLE, check_settings
from artgate.errors import UserError


def given(**changes: str) -> Settings:
    made = Settings()
    made.setmodule(settings, priority="project")
    made.setdict(changes, priority="cmdline")
    return made


def test_what_the_settings_say_passes_and_so_do_texts_of_numbers_and_switches() -> None:
    check_settings(given())
    check_settings(given(DOWNLOAD_DELAY="0", BREAKER_REST="0.5", CONCURRENT_REQUESTS="1", ROBOTSTXT_OBEY="false"))
    assert all(isinstance(getattr(settings, name), int) for name in WHOLE)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("DOWNLOAD_DELAY", "abc", "a number of 0 or more: give -s DOWNLOAD_DELAY=0.5, for example"),
        ("DOWNLOAD_DELAY", "-1", "a number of 0 or more"),
        ("DOWNLOAD_DELAY", "nan", "a number of 0 or more"),
        ("DOWNLOAD_TIMEOUT", "inf", "a number of 0 or more"),
        # It would wait for ever.
        ("CONCURRENT_REQUESTS", "0", "a whole number of 1 or more: give -s CONCURRENT_REQUESTS=16, for example"),
        ("RETRY_TIMES", "1.5", "a whole number of 0 or more"),
        ("RETRY_TIMES", "", "a whole number of 0 or more"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_limit(name: str, value: str, limit: str) -> None:
    with pytest.raises(UserError) as raised:
        check_settings(given(**{name: value}))
    assert f"setting {name} {value!r} is not {limit}" in str(raised.value)


def test_a_switch_that_is_none_is_named() -> None:
    with pytest.raises(UserError, match="setting ROBOTSTXT_OBEY 'maybe' is neither 0 nor 1"):
        check_settings(given(ROBOTSTXT_OBEY="maybe"))
