"""Where the server is, and who we are, as the environment tells it."""

import pytest

from artgate.errors import UserError
from artgate.labels.studio.connection import Connection, find_connection

TOKEN = "0123456789abcdef0123456789abcdef01234567"


def test_where_the_server_is_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTGATE_LABEL_STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    with pytest.raises(UserError, match=r"no Label Studio is running here: start one .*`artgate label serve`"):
        find_connection()
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://labels.example.org/")
    assert find_connection() == Connection("https://labels.example.org", TOKEN)
    assert TOKEN not in repr(find_connection())
    monkeypatch.setenv("LABEL_STUDIO_URL", "labels.example.org")
    with pytest.raises(UserError, match="is no address"):
        find_connection()
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://labels.example.org")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(UserError, match="LABEL_STUDIO_URL is set and LABEL_STUDIO_API_KEY is not"):
        find_connection()


def test_blanks_around_what_the_environment_says_are_no_part_of_it(monkeypatch):
    """As the end of the line of a file that a token was read from."""
    monkeypatch.setenv("LABEL_STUDIO_URL", " https://labels.example.org/studio/\n")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", f"{TOKEN}\n")
    assert find_connection() == Connection("https://labels.example.org/studio", TOKEN)


@pytest.mark.parametrize(
    "address",
    [
        "https://",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "ftp://x",
        "http://exa mple",
        "x\x1b[m",
    ],
)
def test_what_no_request_can_go_to_is_no_address(monkeypatch, address):
    monkeypatch.setenv("LABEL_STUDIO_URL", address)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    with pytest.raises(UserError, match="is no address: write it as https://labels.example.org"):
        find_connection()


@pytest.mark.parametrize("address", ["https://me:hush@x.org", "me:hush@x.org", "http://x.org/?t=hush", "x.org/#hush"])
def test_a_secret_in_the_address_is_refused_and_not_told(monkeypatch, address):
    monkeypatch.setenv("LABEL_STUDIO_URL", address)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    with pytest.raises(UserError, match="LABEL_STUDIO_URL holds more than an address") as raised:
        find_connection()
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("token", ["hush hush", "hush\nhush", "h\N{LATIN SMALL LETTER U WITH DIAERESIS}sh", "hush\x7f"])
def test_a_token_that_no_request_can_carry_is_refused_and_not_told(monkeypatch, token):
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://labels.example.org")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    with pytest.raises(UserError, match="LABEL_STUDIO_API_KEY is no token") as raised:
        find_connection()
    assert token not in str(raised.value) and "hush" not in str(raised.value)
