"""The command that makes an accepted artwork again, as one types it in a shell."""

import os
import re
import shlex
from pathlib import Path

# What Hydra's grammar of overrides takes as it is.
PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")


def remake_command(sidecar: Path) -> str:
    """`python generate.py mode=remake sidecar=…`, the path relative to the working folder, quoted for Hydra and then
    for the shell.
    """
    relative = os.path.relpath(sidecar)
    return shlex.join(["python", "generate.py", "mode=remake", f"sidecar={_hydra_value(relative)}"])


def _hydra_value(text: str) -> str:
    """A text as a value of an override. Source: OverrideLexer.g4 of hydra-core 1.3.

    Within single quotes a backslash matters only before a quote and at the end; `${` would begin an interpolation.
    """
    if PLAIN.fullmatch(text):
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), literal)
    return f"'{escaped}'"
