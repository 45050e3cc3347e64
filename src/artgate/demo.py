"""`make demo`: the whole line, offline, on what is embedded, each stage with its figures.

Stages that have a command of their own run as that command, printed, so that it can be typed again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from artgate.artworks.collection import Collection
from artgate.artworks.files import write_atomic
from artgate.artworks.sample import make_sample, planted_grades
from artgate.artworks.serve import serve_collection
from artgate.errors import UserError, exits_cleanly
from artgate.labels.consensus import consensus
from artgate.labels.votes import Vote, write_votes

ROOT = Path(__file__).parents[2]
ARTWORKS = 96
TARGET = 8
SEED = 1


@exits_cleanly
def main() -> None:
    """Run the stages in order; an interrupted demo goes on where it was, a finished one starts afresh."""
    if not (ROOT / "train.py").is_file():
        raise UserError(f"{ROOT} has no train.py: run the demo from a checkout of the repository, with `make demo`")
    parser = argparse.ArgumentParser(prog="python -m artgate.demo", description="The whole line, offline.")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs" / "demo", help="where each demo gets a folder")
    demo, resumed = demo_folder(parser.parse_args().outputs.resolve())
    os.chdir(ROOT)
    _say(f"artgate demo in {demo}" + (" (goes on with the interrupted one)" if resumed else ""))
    _say("Everything here is small and offline: painted sample pictures, an ImageNet encoder, a 64-pixel image model.")
    _say("It shows the line at work; what comes out is no measure of what a large model can paint.")
    start = time.monotonic()
    paint(demo)
    crawl(demo)
    grade(demo)
    train(demo)
    summary = generate(demo)
    conclude(demo, summary, time.monotonic() - start)


def demo_folder(parent: Path) -> tuple[Path, bool]:
    """The last demo's folder if it was not finished, else a new one; and whether it is resumed."""
    earlier = sorted(folder for folder in parent.glob("20*") if folder.is_dir())
    if earlier and not (earlier[-1] / "demo.json").exists():
        return earlier[-1], True
    folder = parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder.mkdir(parents=True)
    return folder, False


def paint(demo: Path) -> None:
    """The sample: pictures with planted defects."""
    _stage("sample", f"paint {ARTWORKS} pictures, two thirds with a known defect")
    sample, seconds = _timed(lambda: make_sample(demo / "sample", n=ARTWORKS, seed=SEED))
    grades = Counter(planted_grades(sample).values())
    _figures(f"{len(sample)} pictures in {seconds:.0f} s: " + ", ".join(f"{n} {grade}" for grade, n in grades.items()))


def crawl(demo: Path) -> None:
    """The sample served on loopback and crawled by the real spider."""
    _stage("crawl", "serve the sample as a gallery on loopback and crawl it with Scrapy")
    with serve_collection(Collection(demo / "sample")) as server:
        write_atomic(demo / "site.yaml", server.site)
        # This gallery is our own, on this machine: it needs no pauses between requests.
        own = ["-s", "CRAWL_CONTACT=demo@example.org", "-s", "DOWNLOAD_DELAY=0", "-s", "AUTOTHROTTLE_ENABLED=False"]
        own += ["-s", "CRAWL_ALLOW_PRIVATE=127.0.0.1"]
        site, collection = demo / "site.yaml", demo / "crawled"
        spider = ["scrapy", "crawl", "gallery", "-a", f"site={site}", "-a", f"collection={collection}"]
        _, seconds = _timed(lambda: _run([*spider, *own, "-s", "LOG_LEVEL=WARNING"], ROOT / "crawler"))
    crawled = Collection(demo / "crawled")
    _figures(f"{len(crawled)} of {ARTWORKS} artworks in {demo / 'crawled'}, bytes as served, in {seconds:.0f} s")


def grade(demo: Path) -> None:
    """Votes and their consensus: the planted defects stand in for annotators."""
    _stage("label", "grade them: no person does here, the sample's planted defects stand in for annotators")
    crawled, planted = Collection(demo / "crawled"), planted_grades(Collection(demo / "sample"))
    votes = [Vote(artwork.image_id, "planted-defects", "quality", planted[artwork.image_id]) for artwork in crawled]
    write_votes(crawled.root, votes)
    consensus(votes).save(crawled.root)
    _figures(f"{len(votes)} votes in {crawled.root / 'votes.parquet'}, grades in {crawled.root / 'grades.jsonl'}")


def train(demo: Path) -> None:
    """A scorer on those grades."""
    _stage("train", "train a scorer on those grades (frozen ImageNet features, ordinal head, calibration)")
    run = demo / "train"
    if not (run / "report.html").exists():  # the last of its files that tells of the scorer
        overrides = ["experiment=sample", f"data.root={demo / 'crawled'}", f"hydra.run.dir={run}", f"paths.cache={run}"]
        _run([sys.executable, "train.py", *overrides])
    _figures(f"scorer in {run / 'scorer'}")


def generate(demo: Path) -> dict[str, Any]:
    """A batch of accepted artworks, gated by the shipped scorer."""
    _stage(
        "generate", f"until {TARGET} are accepted: embedded image model, shipped scorer (AGIQA-3K) as gate, Real-ESRGAN"
    )
    batch = demo / "batch"
    _run([sys.executable, "generate.py", "experiment=demo", f"target={TARGET}", f"seed={SEED}", f"batch_dir={batch}"])
    summary: dict[str, Any] = json.loads((batch / "summary.json").read_text())
    return summary


def conclude(demo: Path, summary: dict[str, Any], seconds: float) -> None:
    """The table: what the gate changed, and what it cost; then the gallery's path."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "without the gate", "with the gate", title="By the scorer's own judgement")
    for row in comparison(summary, _scores(demo / "batch" / "candidates.jsonl")):
        table.add_row(*row)
    Console().print(table)
    write_atomic(demo / "demo.json", json.dumps({"seconds": round(seconds, 1), "summary": summary}, indent=2))
    _say(f"done in {seconds:.0f} s; look at the gallery: {(demo / 'batch' / 'gallery.html').resolve().as_uri()}")


def comparison(summary: dict[str, Any], scores: dict[str, list[float]]) -> list[tuple[str, str, str]]:
    """Rows (what, without the gate, with the gate). Without it every candidate would be delivered and enlarged."""
    candidates, accepted = len(scores["all"]), len(scores["accepted"])
    enlarging = summary["seconds"].get("upscale", 0.0) / max(accepted, 1)
    total = sum(summary["seconds"].values())
    evaluations = _each(summary["evaluations"], accepted, 0)
    return [
        ("delivered", f"{candidates}", f"{accepted}"),
        ("of these acceptable (yield)", _share(accepted, candidates), _share(accepted, accepted)),
        ("mean score", _mean(scores["all"]), _mean(scores["accepted"])),
        ("denoiser evaluations per acceptable", evaluations, evaluations),
        ("pictures enlarged per acceptable", _each(candidates, accepted, 1), _each(accepted, accepted, 1)),
        (
            "seconds per acceptable",
            _each(total + enlarging * (candidates - accepted), accepted, 1),
            _each(total, accepted, 1),
        ),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "none"


def _each(total: float, accepted: int, digits: int) -> str:
    return f"{total / accepted:.{digits}f}" if accepted else "none accepted"


def _scores(ledger: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    scored = [line for line in lines if line["score"] is not None]
    return {
        "all": [line["score"] for line in scored],
        "accepted": [line["score"] for line in scored if line["status"] == "accepted"],
    }


def _mean(values: list[float]) -> str:
    # Two figures, whatever the order: the shipped scorer calls no 64-pixel picture good, and tells them apart far below
    return f"{sum(values) / len(values):.2g}" if values else "none"


def _run(command: list[str], cwd: Path | None = None) -> None:
    shown = ["python" if part == sys.executable else part for part in command]
    print(f"  $ {shlex.join(shown)}", flush=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, cwd=cwd, env=environment, check=False)
    if done.returncode:
        raise UserError(
            f"{shlex.join(shown)} ended with status {done.returncode}: see above; `make demo` goes on from here"
        )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    return call(), time.monotonic() - start


def _stage(name: str, what: str) -> None:
    print(f"\n== {name}: {what}", flush=True)


def _figures(text: str) -> None:
    print(f"  {text}", flush=True)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
