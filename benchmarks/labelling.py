"""Push and pull of many tasks beside a plain loop of Label Studio's SDK: `python -m benchmarks.labelling`.

One server on SQLite, started by the benchmark itself on a new database; every task is graded by two people, written
into the database by an import, not one by one.

- ours: `push` into a new project, again when all is there, with predictions, and `pull`, first and again;
- SDK, for pushing: `projects.import_tasks`, a thousand tasks at a time, which adds them again when run again;
- SDK, for pulling: a snapshot (`projects.exports.create`, polled, downloaded, read as JSON), and `tasks.list`.

Memory is the most that the client's process holds more than before, with ever more tasks.
"""

import argparse
import gc
import json
import os
import random
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio

from artgate.artworks.collection import Collection, NewArtwork
from artgate.labels.grades import GRADES
from artgate.labels.studio.client import Studio
from artgate.labels.studio.config import Labelling, label_config
from artgate.labels.studio.connection import Connection
from artgate.labels.studio.pull import pull
from artgate.labels.studio.push import Prediction, push
from artgate.labels.studio.server import credentials, serving
from benchmarks.pictures import jpeg

ASKED = Labelling(["quality"])
GROUP = 512


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        collection = _collection(Path(folder) / "collection", max(options.tasks))
        with serving(Path(folder) / "data", tell=print) as server:
            connection = Connection(server.url, credentials(server.data).token, server.data)
            for count in options.tasks:
                _report(f"{count} tasks", _measured(connection, collection, count, options.predictions))


def _measured(connection: Connection, collection: Collection, count: int, predictions: bool) -> dict[str, Any]:
    studio = Studio(lambda: connection)
    sdk = LabelStudio(base_url=connection.url, api_key=connection.token, timeout=600)
    ids = [artwork.image_id for artwork in collection][:count]
    told = {i: Prediction({"quality": random.choice(GRADES)}, random.random(), "benchmark") for i in ids}
    done: dict[str, Any] = {}
    title = f"ours {count}"
    done["push"] = _timed(lambda: push(studio, collection, title, ids, ASKED))
    done["push again"] = _timed(lambda: push(studio, collection, title, ids, ASKED))
    if predictions:
        done["push with predictions"] = _timed(
            lambda: push(studio, collection, f"predicted {count}", ids, ASKED, predictions=told)
        )
    done["SDK import_tasks"] = _timed(lambda: _sdk_push(sdk, ids, count))
    project = _graded(studio, sdk, ids, count)
    done["pull"] = _timed(lambda: pull(studio, collection, f"graded {count}"))
    done["pull again"] = _timed(lambda: pull(studio, collection, f"graded {count}"))
    done["SDK snapshot"] = _timed(lambda: _sdk_snapshot(sdk, project))
    done["SDK tasks.list"] = _timed(lambda: sum(len(t.annotations or []) for t in _sdk_list(sdk, project)))
    return done


def _timed(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and MiB of memory held more than before at the most."""
    gc.collect()
    with _peak() as peak:
        begun = time.perf_counter()
        action()
        seconds = time.perf_counter() - begun
    return seconds, peak[0]


@contextmanager
def _peak() -> Iterator[list[float]]:
    page = resource.getpagesize() / 2**20
    statm = Path(f"/proc/{os.getpid()}/statm")

    def held() -> float:
        return int(statm.read_text().split()[1]) * page

    before, peak, over = held(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _sdk_push(sdk: LabelStudio, ids: list[str], count: int) -> None:
    project = sdk.projects.create(title=f"plain {count}", label_config=label_config(ASKED))
    for start in range(0, count, 1000):
        tasks = [{"data": {"image": f"/data/local-files/?d=x/{i}", "image_id": i}} for i in ids[start : start + 1000]]
        sdk.projects.import_tasks(id=project.id, request=tasks)


def _graded(studio: Studio, sdk: LabelStudio, ids: list[str], count: int) -> int:
    """A project in which everything has two grades, by two people who are one user here."""
    project = sdk.projects.create(title=f"graded {count}", label_config=label_config(ASKED)).id
    for start in range(0, count, 1000):
        tasks = [
            {
                "data": {"image": "x", "image_id": image_id},
                "annotations": [{"result": [_result()], "ground_truth": False, "lead_time": 4.2} for _ in range(2)],
            }
            for image_id in ids[start : start + 1000]
        ]
        studio.send("POST", f"api/projects/{project}/import", tasks)
    return project


def _result() -> dict[str, Any]:
    value = {"choices": [random.choice(GRADES)]}
    return {"id": "q", "from_name": "quality", "to_name": "image", "type": "choices", "value": value}


def _sdk_snapshot(sdk: LabelStudio, project: int) -> int:
    export = sdk.projects.exports.create(project)
    while sdk.projects.exports.get(project, export.id).status not in ("completed", "failed"):
        time.sleep(0.5)
    return len(json.loads(b"".join(sdk.projects.exports.download(project, export.id, export_type="JSON"))))


def _sdk_list(sdk: LabelStudio, project: int) -> Any:
    return sdk.tasks.list(project=project, fields="all", page_size=1000)


def _collection(root: Path, count: int) -> Collection:
    collection = Collection(root, create=True)
    for start in range(0, count, GROUP):
        collection.add_many([NewArtwork(jpeg(seed, 32)) for seed in range(start, min(start + GROUP, count))])
    return collection


def _report(title: str, done: dict[str, tuple[float, float]]) -> None:
    print(f"\n{title}\n{'':24}{'seconds':>9}{'MiB':>8}")
    for name, (seconds, mebibytes) in done.items():
        print(f"{name:24}{seconds:9.1f}{mebibytes:8.0f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--predictions", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
