"""Where Label Studio is, and who we are there: by the environment, else the server of this machine."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from artgate.errors import UserError
from artgate.labels.studio.server import credentials, data_folder, running

URL_VARIABLE, KEY_VARIABLE = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"


@dataclass(frozen=True)
class Connection:
    """An address and a token. data: the data folder of the server, where it is the local one."""

    url: str
    token: str = field(repr=False)
    data: Path | None = None


def find_connection() -> Connection:
    """Of the environment, else of the local server. Raises UserError if there is neither."""
    url, key = os.environ.get(URL_VARIABLE, "").strip(), os.environ.get(KEY_VARIABLE, "").strip()
    if url:
        address = _checked_address(url)
        if not key:
            raise UserError(
                f"{URL_VARIABLE} is set and {KEY_VARIABLE} is not: set both, or neither for the local server"
            )
        return Connection(address, _checked_token(key))
    data = data_folder()
    local = running(data)
    if local is None:
        raise UserError(
            "no Label Studio is running here: start one in another terminal with `artgate label serve`, or set "
            f"{URL_VARIABLE} and {KEY_VARIABLE} to use your team's"
        )
    return Connection(local, credentials(data).token, data)


def _checked_address(url: str) -> str:
    """Without a slash at its end. Raises UserError for one that no request can go to, or that has secrets in it."""
    if any(mark in url for mark in "@?#"):  # what stands there is not told: it may be a password, or a token
        raise UserError(
            f"{URL_VARIABLE} holds more than an address (one of @ ? # is in it): write it as "
            f"https://labels.example.org; who you are is told by {KEY_VARIABLE} alone"
        )
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port that is none
        whole = False
    if not whole or not url.isprintable() or " " in url:
        raise UserError(f"{URL_VARIABLE} {url!r} is no address: write it as https://labels.example.org")
    return url.rstrip("/")


def _checked_token(key: str) -> str:
    """Raises UserError, which does not tell it, for one that no request can carry."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"{KEY_VARIABLE} is no token (it has blanks, line ends or letters that no token has): copy it anew from "
            "Account & Settings in Label Studio"
        )
    return key
