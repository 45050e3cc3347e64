"""The error that a user can act on, and how it ends an entry point."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from artgate.artworks.text import clean_text

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """Bad input. The message names the value, the limit and the cure; entry points print it without a traceback."""


def exits_cleanly(main: Callable[P, R]) -> Callable[P, R]:
    """Wrap an entry point: a `UserError` becomes one message on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # A message may quote what came from outside, which must not steer the terminal.
            print(f"error: {clean_text(str(error))}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped
