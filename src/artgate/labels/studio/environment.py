"""Label Studio's own environment: installed once, with pinned versions, apart from artgate's.

The server needs Django and some 150 packages, a gigabyte, with pins that would bind everything else.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from artgate.artworks.files import write_atomic
from artgate.errors import UserError

VERSION = "1.23.2"
HOME_VARIABLE = "ARTGATE_LABEL_STUDIO_HOME"
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
# Another process may be installing: three minutes on a slow line are usual.
LOCK_SECONDS = 1800.0
LAST_LINES = 4

Tell = Callable[[str], object]


def installed(tell: Tell = lambda _: None) -> Path:
    """The Python of an environment that has the server; installed first where it is not, which takes some minutes.

    tell: is given one line before an installation begins. Whole or not at all: what a kill leaves is made anew.
    Raises UserError with the end of pip's output if it cannot be installed here.
    """
    root = home()
    root.mkdir(parents=True, exist_ok=True)
    # Named after what it is made of: other pins, or another Python, make another.
    environment = root / f"environment-{hashlib.sha256(_wanted()).hexdigest()[:12]}"
    ready = environment / "ready.txt"
    with FileLock(root / ".lock", timeout=LOCK_SECONDS):
        if not ready.is_file():
            tell(f"Installing Label Studio {VERSION} into {root}: about 1 GB, some minutes, once.")
            for earlier in root.glob("environment-*"):
                shutil.rmtree(earlier, ignore_errors=True)
            _install(environment, root / "install.log")
            write_atomic(ready, f"Label Studio {VERSION}\n")
    return _python(environment)


def home() -> Path:
    """Where the environment lies: $ARTGATE_LABEL_STUDIO_HOME, or a folder of this version in the user's cache."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "artgate" / f"label-studio-{VERSION}"


def _install(environment: Path, log: Path) -> None:
    commands = (
        [sys.executable, "-m", "venv", str(environment)],
        [str(_python(environment)), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
        + ["--constraint", str(CONSTRAINTS), f"label-studio=={VERSION}"],
    )
    with log.open("wb") as out:
        for command in commands:
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT).returncode:
                out.flush()
                lines = log.read_text(errors="replace").splitlines()
                end = "\n".join([line for line in lines if "ERROR" in line][:LAST_LINES] or lines[-LAST_LINES:])
                raise UserError(
                    f"Label Studio {VERSION} cannot be installed (all of it in {log}):\n{end}\n"
                    "check the network and the room on the disk, or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to "
                    "use a server that runs already"
                )


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _wanted() -> bytes:
    """What an environment is made of."""
    python = f"{VERSION} {sys.version_info.major}.{sys.version_info.minor}\n"
    return python.encode() + CONSTRAINTS.read_bytes()
