"""The crawler against Scrapy's stock ImagesPipeline and img2dataset, on the same images from one loopback server.

    python -m benchmarks.crawl --images 5000

Politeness is off: what is measured is the work per image. Each candidate is a process of its own, and what counts is
its CPU time, because the server and whatever else runs share the cores with it. The stock pipeline re-encodes each
image and keeps no record; img2dataset reads a list of addresses (it follows no pages), once keeping the bytes as they
are and once as it is mostly used, shrunk to 256 px; it lives in an environment of its own below .cache/benchmarks.
Ours follows the list pages, decodes, checks and hashes each image, looks for near-duplicates, and syncs it to the disk.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import Process, Queue
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.pictures import jpeg

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".cache" / "benchmarks" / "img2dataset"
PAGE_SIZE = 100
PAINTED = 100  # different pictures; their copies differ in a comment inside the file
CONNECTIONS = 16

SITE = """
name: benchmark
start_urls: [{url}page/0]
selectors: jmespath
items: items
image: url
prompt: prompt
next: next
"""

STOCK = """
import scrapy

class Stock(scrapy.Spider):
    name = "stock"
    custom_settings = {{
        "ITEM_PIPELINES": {{"scrapy.pipelines.images.ImagesPipeline": 1}},
        "IMAGES_STORE": {store!r},
        "CONCURRENT_REQUESTS_PER_DOMAIN": {connections},
        "DOWNLOAD_DELAY": 0,
        "LOG_LEVEL": "ERROR",
        "TELNETCONSOLE_ENABLED": False,
    }}
    start_urls = ["{url}page/0"]

    def parse(self, response):
        page = response.json()
        for item in page["items"]:
            yield {{"image_urls": [response.urljoin(item["url"])], "prompt": item["prompt"]}}
        if page["next"]:
            yield response.follow(page["next"])
"""


class Taken(NamedTuple):
    """What one process with its children took: seconds on the clock, CPU seconds, MiB at the most."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    options = _options()
    taken: defaultdict[str, list[Taken]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, _server(options.images) as url:
        # Turn by turn, so that what else runs meets all of them. Nothing is deleted between: a file system that has
        # just deleted many files makes new ones slowly.
        for number in range(options.rounds):
            work = Path(folder) / str(number)
            work.mkdir()
            for name, command in _runs(url, work, options).items():
                # Scrapy takes the settings of the project that it is started in: the stock crawl must not have ours.
                taken[name].append(_run(command, ROOT / "crawler" if name.startswith("ours") else work, work / "log"))
            _check(work, options)
    _print_table(taken, options.images)


def _runs(url: str, work: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The commands of one round, by name, in the order of running."""
    runs = {"ours": _ours(url, work / "ours"), "ours again": _ours(url, work / "ours")}
    if options.alone:
        return runs
    kept = ("--resize_mode", "no", "--disable_all_reencoding", "True")
    return runs | {
        "stock ImagesPipeline": _stock(url, work),
        "img2dataset": _img2dataset(url, options.images, work / "kept", *kept),
        "img2dataset to 256 px": _img2dataset(url, options.images, work / "shrunk", "--image_size", "256"),
    }


def _ours(url: str, collection: Path) -> list[str]:
    site = collection.with_suffix(".yaml")
    site.write_text(SITE.format(url=url))
    settings = {
        "DOWNLOAD_DELAY": 0,
        "AUTOTHROTTLE_ENABLED": 0,
        "CONCURRENT_REQUESTS_PER_DOMAIN": CONNECTIONS,
        "CRAWL_ALLOW_PRIVATE": "127.0.0.1",
        "CRAWL_CONTACT": "benchmark@example.org",
    }
    command = [
        sys.executable,
        "-m",
        "scrapy",
        "crawl",
        "gallery",
        "-a",
        f"site={site}",
        "-a",
        f"collection={collection}",
    ]
    return command + [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]


def _stock(url: str, work: Path) -> list[str]:
    spider = work / "stock.py"
    spider.write_text(STOCK.format(url=url, store=str(work / "stock"), connections=CONNECTIONS))
    return [sys.executable, "-m", "scrapy", "runspider", str(spider)]


def _img2dataset(url: str, images: int, out: Path, *options: str) -> list[str]:
    if not (ENVIRONMENT / "bin" / "img2dataset").exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        subprocess.run([ENVIRONMENT / "bin" / "pip", "install", "--quiet", "img2dataset"], check=True)
    listed = out.with_suffix(".txt")
    listed.write_text("".join(f"{url}images/{number}.jpg\n" for number in range(images)))
    command = [str(ENVIRONMENT / "bin" / "img2dataset"), "--url_list", str(listed), "--output_folder", str(out)]
    command += ["--processes_count", "1", "--thread_count", str(CONNECTIONS), "--output_format", "files"]
    return [*command, *options]


def _run(command: list[str], folder: Path, log: Path) -> Taken:
    """Run it in `folder` with one BLAS thread a process, and say what it took; its output is shown if it fails."""
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return Taken(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _check(work: Path, options: argparse.Namespace) -> None:
    """A candidate that lost images cannot be compared."""
    counts = {
        "ours": len(list((work / "ours" / "images").glob("*.jpg"))),
        **({} if options.alone else {"stock": len(list((work / "stock" / "full").glob("*.jpg")))}),
        **({} if options.alone else {name: len(list((work / name).rglob("*.jpg"))) for name in ("kept", "shrunk")}),
    }
    short = {name: count for name, count in counts.items() if count != options.images}
    if short:
        raise SystemExit(f"not all {options.images} images came: {short}")


def _print_table(taken: Mapping[str, Sequence[Taken]], images: int) -> None:
    rounds = len(taken["ours"])
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{images} images of 512 x 512, {rounds} rounds, {load}")
    print(f"{'medians':24}{'images/s':>10}{'CPU ms/image':>14}{'peak MiB':>10}{'CPU / ours':>12}{'by round':>16}")
    for name, runs in taken.items():
        speed = median(images / run.wall for run in runs)
        cost = median(1000 * run.cpu / images for run in runs)
        peak = max(run.peak for run in runs)
        ratios = [run.cpu / ours.cpu for run, ours in zip(runs, taken["ours"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:24}{speed:>10.0f}{cost:>14.2f}{peak:>10.0f}{median(ratios):>12.2f}{spread:>16}")


@contextmanager
def _server(images: int) -> Iterator[str]:
    """The address of a server in a process of its own, while the context lasts."""
    address: Queue[str] = Queue()
    process = Process(target=_serve, args=(images, address), daemon=True)
    process.start()
    try:
        yield address.get(timeout=120)
    finally:
        process.terminate()


def _serve(images: int, address: "Queue[str]") -> None:
    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    pictures = [jpeg(seed, size=512) for seed in range(PAINTED)]

    class Images(Resource):
        """`/page/0` ... as JSON, `/images/0.jpg` ..., and nothing else: robots.txt is a 404."""

        isLeaf = True  # noqa: N815

        def render_GET(self, request: Request) -> bytes:  # noqa: N802
            kind, _, name = request.path.decode().strip("/").partition("/")
            number = int("".join(re.findall(r"\d+", name)) or -1)
            if kind == "page":
                request.setHeader("Content-Type", "application/json")
                return _page(number, images)
            if kind == "images" and number < images:
                request.setHeader("Content-Type", "image/jpeg")
                return _with_comment(pictures[number % PAINTED], f"image {number}")
            request.setResponseCode(404)
            return b""

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    port = reactor.listenTCP(0, Site(Images()), interface="127.0.0.1")  # type: ignore[attr-defined]
    address.put(f"http://127.0.0.1:{port.getHost().port}/")
    reactor.run(installSignalHandlers=False)  # type: ignore[attr-defined]


def _page(number: int, images: int) -> bytes:
    first, end = number * PAGE_SIZE, min((number + 1) * PAGE_SIZE, images)
    items = [{"url": f"/images/{i}.jpg", "prompt": f"a picture with number {i}"} for i in range(first, end)]
    return json.dumps({"items": items, "next": f"/page/{number + 1}" if end < images else None}).encode()


def _with_comment(image: bytes, text: str) -> bytes:
    """The JPEG with a comment segment after its first marker: the same picture, other bytes."""
    comment = text.encode()
    return image[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + image[2:]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="ours only: for its memory and time as the number grows")
    return parser.parse_args()


if __name__ == "__main__":
    main()
