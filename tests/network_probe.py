"""The project's settings and middlewares without a spider of it: asks for addresses and tells what came of each."""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrapy import Request, Spider
from scrapy.crawler import CrawlerProcess
from scrapy.resolver import HostResolution
from scrapy.settings import Settings
from twisted.internet.address import IPv4Address, IPv6Address

from artcrawl.network.images import image_request
from artcrawl.network.withheld import Withheld

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Told:
    """What the probe tells. outcomes: in the order of asking."""

    outcomes: list[dict[str, Any]]
    stats: dict[str, Any]
    grown_mib: float
    log: str

    def reasons(self) -> list[Any]:
        """Of each address the reason why not, or the status."""
        return [outcome.get("reason", outcome.get("status")) for outcome in self.outcomes]


def probe(
    root: Path,
    asks: Sequence[str | dict[str, Any]],
    one_by_one: bool = False,
    names: dict[str, list[str]] | None = None,
    environment: dict[str, str] | None = None,
    prelude: str = "",
    **settings: Any,
) -> Told:
    """Ask for addresses, in a process of its own, through all of the project's middlewares.

    asks: addresses, or mappings with `url`, `image`, `pause` (seconds before it) and request meta. root: where the
    crawl keeps its cache. names: a table in place of DNS, as `Table` has it. prelude: Python
    that the process runs first.
    """
    quick = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": False, "RETRY_TIMES": 0, "CRAWL_ALLOW_PRIVATE": "127.0.0.1"}
    order = {
        "root": str(root),
        "asks": [{"url": ask} if isinstance(ask, str) else ask for ask in asks],
        "one_by_one": one_by_one,
        "names": names or {},
        "prelude": prelude,
        "settings": quick | settings,
    }
    command = [sys.executable, str(Path(__file__)), json.dumps(order)]
    own = {"PYTHONPATH": f"{ROOT / 'crawler'}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=own | (environment or {}), capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    return Told(told["outcomes"], told["stats"], told["grown_mib"], run.stderr)


class ProbeSpider(Spider):
    name = "probe"

    def __init__(self, order: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.order = order
        self.collection_root = Path(order["root"])
        self.outcomes: list[dict[str, Any]] = []

    async def start(self):
        self.started = time.monotonic()
        if self.order["one_by_one"]:
            self.outcomes = [await self.ask(**asked) for asked in self.order["asks"]]
        else:
            self.outcomes = list(await asyncio.gather(*(self.ask(**asked) for asked in self.order["asks"])))
        return
        yield

    async def ask(self, url: str, image: bool = False, pause: float = 0, **meta: Any) -> dict[str, Any]:
        await asyncio.sleep(pause)
        began = time.monotonic()
        outcome: dict[str, Any] = {"url": url}
        try:
            request = image_request(url, None) if image else Request(url)
            request.meta.update(meta)
            response = await self.crawler.engine.download_async(request)
            outcome |= {"status": response.status, "body": response.body[:200].decode("latin-1"), "at": response.url}
        except Withheld as withheld:
            outcome |= {"reason": withheld.reason, "detail": withheld.detail}
        except Exception as error:
            outcome |= {"reason": type(error).__name__, "detail": str(error)}
        return outcome | {"seconds": time.monotonic() - began}


class Table:
    """A table in place of DNS: each name with its answers in turn, of one address or several with blanks between."""

    def __init__(self, names: dict[str, list[str]], others: Any) -> None:
        self.turns, self.others = {name: iter(answers) for name, answers in names.items()}, others

    def resolveHostName(self, receiver: Any, name: str, port: int = 0, *further: Any) -> Any:  # noqa: N802 - Twisted's
        if name not in self.turns:
            return self.others.resolveHostName(receiver, name, port, *further)
        resolution = HostResolution(name)
        receiver.resolutionBegan(resolution)
        for address in next(self.turns[name]).split():
            receiver.addressResolved((IPv6Address if ":" in address else IPv4Address)("TCP", address, port))
        receiver.resolutionComplete()
        return resolution


def main() -> None:
    order = json.loads(sys.argv[1])
    exec(order["prelude"], {})
    settings = Settings()
    settings.setmodule("artcrawl.settings", priority="project")
    settings.update({"ITEM_PIPELINES": {}, "EXTENSIONS": {}, "LOG_LEVEL": "INFO"}, priority="cmdline")
    settings.update(order["settings"], priority="cmdline")
    process = CrawlerProcess(settings)
    crawler = process.create_crawler(ProbeSpider)
    process.crawl(crawler, order=order)
    from twisted.internet import reactor  # installed by now

    reactor.installNameResolver(Table(order["names"], reactor.nameResolver))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    process.start()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = {"outcomes": crawler.spider.outcomes, "stats": crawler.stats.get_stats(), "grown_mib": grown}
    print(json.dumps(told, default=str))


if __name__ == "__main__":
    main()
