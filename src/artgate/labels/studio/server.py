"""A Label Studio server of one's own: on loopback, with its own account, showing no files but those of Collections.

Its data folder holds the database, `credentials.json` (e-mail, password and token, readable by the user alone),
`served/` (one link for each Collection whose images it may show) and, while it runs, `server.json` (its address).
"""

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from filelock import FileLock, Timeout

from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.labels.studio.environment import Tell, installed

DATA_VARIABLE = "ARTGATE_LABEL_STUDIO_DATA"
LOOPBACK = "127.0.0.1"
DATABASE = "label_studio.sqlite3"
LOST = "the server's own data knows no password: restore it, or move the folder away to begin with an empty server"
USUAL_PORT = 8080
# The first start makes the database: 40 to 120 s on two cores.
START_SECONDS = 600.0
STOP_SECONDS = 10.0
# What the server is given of our own environment: nothing that could be a secret, or that it takes for a setting.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
LAST_LINES = 8


@dataclass(frozen=True)
class Credentials:
    """The account of the local server's only administrator."""

    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True)
class Server:
    """A running server: its address, its data folder and its process."""

    url: str
    data: Path
    process: "subprocess.Popen[bytes]"


def data_folder() -> Path:
    """Where the local server keeps its data: $ARTGATE_LABEL_STUDIO_DATA, or a folder among the user's data."""
    if named := os.environ.get(DATA_VARIABLE):
        return Path(named).expanduser().absolute()
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "artgate" / "label-studio"


@contextmanager
def serving(data: Path, port: int | None = None, tell: Tell = lambda _: None) -> Iterator[Server]:
    """Run the server until the context ends, however it ends; it answers when this returns.

    port: on loopback; without it the usual one, or any where that is taken. tell: is given lines on what takes long.
    Raises UserError for a port that is taken, data that another server uses, or a server that does not come up.
    """
    python = installed(tell)
    _make(data)
    lock = FileLock(data / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"a server already uses {data}: stop it first, or use it (it is at {_address(data)})") from None
    try:
        url = f"http://{LOOPBACK}:{_port(port)}"
        process = _start(python, data, url)
        try:
            _wait(process, url, data, tell)
            write_atomic(data / "server.json", json.dumps({"url": url, "pid": process.pid}) + "\n")
            yield Server(url, data, process)
        finally:
            (data / "server.json").unlink(missing_ok=True)
            _stop(process)
    finally:
        lock.release()


def running(data: Path) -> str | None:
    """The address of the server that runs on this data folder, or None; one that was killed is not running."""
    url = _address(data)
    return url if url and _answers(url) else None


def credentials(data: Path) -> Credentials:
    """The account of the server of this data folder, made up at the first call.

    Raises UserError if they were lost or damaged since: the server would go on with those that it knows.
    """
    path = data / "credentials.json"
    if not path.is_file():
        if (data / DATABASE).exists():
            raise UserError(f"{path} is missing, and {LOST}")
        _make(data)
        made = Credentials("artgate@localhost.localdomain", secrets.token_urlsafe(12), secrets.token_hex(20))
        _write_secret(path, json.dumps(asdict(made)) + "\n")
    try:
        return Credentials(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged, and {LOST}") from None


def _make(data: Path) -> None:
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    (data / "served").mkdir(exist_ok=True)


def _write_secret(path: Path, text: str) -> None:
    """Readable by the user alone from the first moment, and there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _start(python: Path, data: Path, url: str) -> "subprocess.Popen[bytes]":
    launcher = Path(__file__).with_name("launch.py")
    port = url.rpartition(":")[2]
    arguments = ["start", "--no-browser", "--internal-host", LOOPBACK, "--port", port]
    log = os.open(data / "server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        return subprocess.Popen(
            [str(python), str(launcher), *arguments],
            env=_environment(data),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle: it ends this process, and that ends the server
        )
    finally:
        os.close(log)


def _environment(data: Path) -> dict[str, str]:
    account = credentials(data)
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "LABEL_STUDIO_USERNAME": account.email,
        "LABEL_STUDIO_PASSWORD": account.password,
        "LABEL_STUDIO_USER_TOKEN": account.token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(data / "served"),
        # Others on this machine must not sign up by themselves and see the images.
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Nothing is reported to anyone.
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LOG_LEVEL": "WARNING",
        # Makes SQLite keep a write-ahead log: readers and a writer do not wait for each other.
        "AZURE_MOUNT_FIX": "1",
    }


def _wait(process: "subprocess.Popen[bytes]", url: str, data: Path, tell: Tell) -> None:
    begun = time.monotonic()
    if not (data / DATABASE).exists():
        tell("Making the server's database: one or two minutes, once.")
    while not _answers(url):
        if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
            end = "\n".join((data / "server.log").read_text(errors="replace").splitlines()[-LAST_LINES:])
            raise UserError(f"Label Studio did not come up (see {data / 'server.log'}):\n{end}")
        time.sleep(0.25)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _address(data: Path) -> str | None:
    try:
        return str(json.loads((data / "server.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _port(wanted: int | None) -> int:
    if wanted is None:
        return USUAL_PORT if _is_free(USUAL_PORT) else _free_port()
    if not 1024 <= wanted <= 65535:
        raise UserError(f"port {wanted} is outside [1024, 65535]: give another, or none to take one that is free")
    if not _is_free(wanted):
        raise UserError(f"port {wanted} is taken by another program: give another, or none to take one that is free")
    return wanted


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself binds
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
