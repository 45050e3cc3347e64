import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection

CRAWLER = Path(__file__).parents[2] / "crawler"

A1111 = "a lighthouse\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 42, Model: tiny"
CONTACT = "tester@example.org"


@pytest.fixture(scope="session")
def gallery_collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Twelve small pictures in three formats; the last has no prompt but generation parameters in its file."""
    collection = Collection(tmp_path_factory.mktemp("gallery"), create=True)
    for number in range(11):
        provenance = Provenance(
            prompt=f"<b>café</b> & “storm” {number}", creator=f"painter {number % 3}", licence="CC0-1.0"
        )
        collection.add(picture(number, ("PNG", "JPEG", "WEBP")[number % 3]), provenance)
    collection.add(picture(11, "PNG", A1111))
    return collection


def picture(seed: int, format: str, parameters: str | None = None) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
    info = PngInfo()
    if parameters:
        info.add_text("parameters", parameters)
    buffer = io.BytesIO()
    pixels.save(buffer, format, **({"pnginfo": info} if format == "PNG" else {}))
    return buffer.getvalue()


class Crawl(Protocol):
    def __call__(self, site: str, *settings: str, contact: str = ..., wait: bool = ...) -> subprocess.Popen[str]: ...


@pytest.fixture
def crawled(tmp_path: Path) -> Path:
    """Where the crawl collects."""
    return tmp_path / "crawled"


@pytest.fixture
def crawl(tmp_path: Path, crawl_with: "CrawlWith") -> Crawl:
    """Run the gallery spider on a site's description."""

    def run(site: str, *settings: str, contact: str = CONTACT, wait: bool = True) -> subprocess.Popen[str]:
        description = tmp_path / "site.yaml"
        description.write_text(site)
        return crawl_with("gallery", {"site": description}, *settings, contact=contact, wait=wait)

    return run


class CrawlWith(Protocol):
    def __call__(
        self,
        spider: str,
        arguments: Mapping[str, object],
        *settings: str,
        contact: str = ...,
        wait: bool = ...,
        environment: Mapping[str, str] = ...,
    ) -> subprocess.Popen[str]: ...


@pytest.fixture
def crawl_with(tmp_path: Path, crawled: Path) -> CrawlWith:
    """Run a real spider in a process of its own, without the waits that politeness needs elsewhere.

    `wait=False` returns while it runs. The log is the process's `stderr` file, read by `log`.
    """

    def run(
        spider: str,
        arguments: Mapping[str, object],
        *settings: str,
        contact: str = CONTACT,
        wait: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[str]:
        quick = ["DOWNLOAD_DELAY=0", "AUTOTHROTTLE_ENABLED=0", "RETRY_BACKOFF_BASE=0", "CRAWL_ALLOW_PRIVATE=127.0.0.1"]
        quick += [f"CRAWL_CONTACT={contact}", *settings]
        command = [sys.executable, "-m", "scrapy", "crawl", spider]
        for name, value in {"collection": crawled, **arguments}.items():
            command += ["-a", f"{name}={value}"]
        command += [part for setting in quick for part in ("-s", setting)]
        with (tmp_path / "crawl.log").open("w") as log:
            process = subprocess.Popen(command, cwd=CRAWLER, stderr=log, stdout=log, env=os.environ | dict(environment))
        if wait:
            process.wait(timeout=600)
        return process

    return run


@pytest.fixture
def log(tmp_path: Path) -> "LogReader":
    return LogReader(tmp_path / "crawl.log")


class LogReader:
    """The log of the last crawl."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> str:
        return self.path.read_text()

    def stat(self, name: str) -> int:
        line = next((line for line in self().splitlines() if f"'{name}':" in line), None)
        return int(line.rpartition(":")[2].strip(" ,}")) if line else 0
