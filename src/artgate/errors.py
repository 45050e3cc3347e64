"""The error that a user can act on, and how it ends an entry point."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from artgate.artworks.text import clean_text

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """Bad input. The message names the value, the limit and the cure; entry points print it without a traceback."""


def exits_cleanly(main: Callable[P, R]) -> Callable[P, R]:
    """Wrap an entry point: a `UserError`, or a file that cannot be used, becomes one message and exit status 2."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            told = str(error)
        except BrokenPipeError:  # whoever read along, as `| head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
            raise SystemExit(1) from None
        except OSError as error:
            told = _of_a_file(error)
        # A message may quote what came from outside, which must not steer the terminal.
        print(f"error: {clean_text(told)}", file=sys.stderr)
        raise SystemExit(2)

    return wrapped


def _of_a_file(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}: check the path, the access to it and the room on its disk"
