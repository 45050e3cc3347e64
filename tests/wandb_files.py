"""What an offline W&B run has on disk: the records of its file, read as W&B's own sync reads them."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, FILE_HEADER, HEADER = 32768, 7, 7  # of LevelDB's log format, which W&B's files have


def runs(folder: Path) -> list[list[Any]]:
    """The records of each run below `folder` that has ended, in the order of their names.

    W&B writes in a process of its own, which `finish` does not wait for: this does.
    """
    end = time.monotonic() + 60
    while True:
        found = [list(records(path)) for path in sorted(folder.rglob("wandb/offline-run-*/run-*.wandb"))]
        if all(run and run[-1].WhichOneof("record_type") == "exit" for run in found):
            return found
        assert time.monotonic() < end, "W&B did not end its file"
        time.sleep(0.1)


def records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), FILE_HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # a header does not cross a block's end
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def history(run: list[Any]) -> list[dict[str, Any]]:
    """What was logged, a row each."""
    rows = [record.history.item for record in run if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def artifacts(run: list[Any]) -> list[Any]:
    """The artifacts that were logged or used."""
    return [record.artifact for record in run if record.WhichOneof("record_type") == "artifact"]
