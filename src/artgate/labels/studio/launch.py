"""Run by the Python of Label Studio's environment: the server, which ends when the process that started it does."""

import logging
import os
import sys
import threading


def main() -> None:
    """As the command `label-studio`, whose arguments these are; stdin is a pipe that the starter holds open."""
    logging.disable(logging.INFO)  # a line for each request, and in its address perhaps an invitation's token
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    from label_studio.server import main as label_studio  # type: ignore[import-not-found]

    label_studio()


def _end_with_the_starter() -> None:
    # However the starter ends, even by SIGKILL, its end of the pipe is closed. SQLite bears a sudden end.
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
