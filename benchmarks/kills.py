"""Nothing is lost: real `generate.py` processes, killed at random moments, give the batch of one that was not killed.

    python -m benchmarks.kills [--kills 100] [--seed 0] [--preloaded] [--out kills.json]

A tiny diffusion model and a quick scorer (those of the tests), the best of two a prompt, Real-ESRGAN of the accepted;
--embedded takes the model and the scorer that come with the package, and many times as long. A third of the kills
strike anywhere from the start of the process on, loading included; the others as soon as the ledger has grown, plus a
random part of the time that a few candidates take. After each kill every accepted image is checked, and what the
process had begun is compared with what it left: the rest has to be made again. --preloaded forks processes off one that
has imported the libraries already, which saves most of the time.
"""

import argparse
import hashlib
import json
import math
import os
import random
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines, write_atomic

ROOT = Path(__file__).parents[1]
SLOTS = 4
SETTINGS = (
    "experiment=demo",
    "diffusion.steps=4",
    f"diffusion.slots={SLOTS}",
    "diffusion.scheduler=euler_ancestral",
    "gate=best_of",
    "gate.of=2",
    "upscaler=embedded_animevideov3",
    "seed=11",
)
# Tells of every candidate that the sampler begins, then does what `python generate.py` does.
CODE = "import sys; from benchmarks.kills import generate_py; generate_py(int(sys.argv[1]), sys.argv[2:])"


def main() -> None:
    """Kill, resume, compare, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=int, help="accepted images; as many as kills without it")
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--preloaded", action="store_true")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the killing after so long")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.preloaded:
        preload()
    with tempfile.TemporaryDirectory() as folder:
        target = given.target or given.kills
        settings = SETTINGS if given.embedded else (*SETTINGS, *tiny(Path(folder)))
        found = killed(Path(folder), given.kills, target, given.seed, settings, given.preloaded, given.minutes)
    print(json.dumps(found, indent=1))
    if given.out:
        write_atomic(given.out, json.dumps(found, indent=1) + "\n")


def tiny(folder: Path) -> list[str]:
    """Overrides that name the tests' diffusion model and scorer, which are made in `folder`."""
    sys.path.append(str(ROOT / "tests"))
    from batches import build_scorer  # type: ignore[import-not-found]
    from tiny_models import build_tiny  # type: ignore[import-not-found]

    return [f"diffusion.model={build_tiny('sd1', folder / 'sd1')}", f"scorer={build_scorer(folder / 'scorer')}"]


def killed(
    folder: Path,
    kills: int,
    target: int,
    seed: int,
    settings: tuple[str, ...] = SETTINGS,
    preloaded: bool = False,
    minutes: float = math.inf,
) -> dict[str, Any]:
    """Kill a batch until `kills` have struck, finish it, and compare it with one that was not killed.

    AssertionError where anything that was accepted is lost, damaged or there twice.
    """
    chance, root, redone = random.Random(seed), folder / "killed", list[int]()
    seconds = {"start": 20.0, "candidate": 1.0}
    run = partial(_run, settings=settings, seconds=seconds, preloaded=preloaded)
    end = time.monotonic() + 60 * minutes
    while len(redone) < kills and time.monotonic() < end:
        ended, begun = run(root, target, kill=_moment(chance, seconds))
        check(root)
        if ended:
            target += 10  # the batch is complete, and not all kills have struck
            continue
        redone.append(len(begun - kept(root)))
        print(f"kill {len(redone)}: {_size(root)} decided, {redone[-1]} to be made again", flush=True)
    assert run(root, target, kill=None)[0] and run(folder / "whole", target, kill=None)[0]
    check(root)
    lines = ledger(root)
    return {
        "kills": len(redone),
        "target": target,
        "decided": len(lines),
        "accepted": sum(line["status"] == "accepted" for line in lines),
        "made_again_after_a_kill": dict(sorted(Counter(redone).items())),
        "same_ledger": lines == ledger(folder / "whole"),
        "same_images": files(root) == files(folder / "whole"),
    }


def _moment(chance: random.Random, seconds: dict[str, float]) -> tuple[bool, float]:
    """Whether to wait until the ledger grows, and the seconds from then (or from the start) to the kill."""
    if chance.random() < 1 / 3:
        return False, chance.uniform(0, 1.3 * seconds["start"])
    return True, chance.uniform(0, 3 * seconds["candidate"])


def _run(
    root: Path,
    target: int,
    kill: tuple[bool, float] | None,
    settings: tuple[str, ...],
    seconds: dict[str, float],
    preloaded: bool,
) -> tuple[bool, set[int]]:
    """Run generate.py until it ends or is killed; whether it ended well, and the candidates that it began.

    seconds: "start" and "candidate" are set to what this process took to its first line and for each that followed.
    """
    reader, writer = os.pipe()
    started, size = time.monotonic(), _size(root)
    arguments = [*settings, f"target={target}", f"max_candidates={20 * target}", f"batch_dir={root}"]
    told = root.parent / "told.txt"
    child = (_forked if preloaded else _spawned)(writer, arguments, told)
    os.close(writer)
    if kill:
        grown, delay = kill
        alive = _wait(child, lambda: not grown or _size(root) > size)
        if grown and alive:
            seconds["start"] = time.monotonic() - started
        end, size = time.monotonic() + delay, _size(root)
        alive = alive and _wait(child, lambda: time.monotonic() >= end)
        if grown and _size(root) > size:
            seconds["candidate"] = delay / (_size(root) - size)
        if alive:
            os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        begun = {int(index) for index in pipe.read().split()}
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"generate.py ended with {status}: {told.read_text()}"
    return status == 0, begun


def _wait(child: int, happened: Callable[[], bool]) -> bool:
    """Wait until it has; False where the child ends before."""
    while not happened():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.002)
    return True


def _spawned(writer: int, arguments: list[str], told: Path) -> int:
    os.set_inheritable(writer, True)
    os.chdir(ROOT)
    to_file = (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", CODE, str(writer), *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(told), *to_file), (os.POSIX_SPAWN_DUP2, 1, 2)],
    )


def _forked(writer: int, arguments: list[str], told: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        generate_py(writer, arguments)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def generate_py(writer: int, arguments: list[str]) -> None:
    """What `python generate.py` does; the index of each candidate that is begun is written to `writer`."""
    from artgate.generation.sampler import SlotSampler

    begin = SlotSampler._begin

    def told(sampler: Any, candidate: Any, basemap: Any) -> Any:
        os.write(writer, f"{candidate.index}\n".encode())
        return begin(sampler, candidate, basemap)

    SlotSampler._begin = told  # type: ignore[method-assign]
    sys.argv = ["generate.py", *arguments]
    runpy.run_path(str(ROOT / "generate.py"), run_name="__main__")


def preload() -> None:
    """Import what generate.py takes long to import. One thread: a forked process has no others."""
    import diffusers  # noqa: F401
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401

    from artgate.generation import records, stages  # noqa: F401

    torch.set_num_threads(1)


def check(root: Path) -> None:
    """Nothing that the ledger tells of is missing, damaged or there twice; AssertionError."""
    repaired = [line for line in read_lines(root / "candidates.jsonl") if line["status"] == "accepted"]
    ids = [line["image_id"] for line in repaired]
    assert len(set(ids)) == len(ids), "an image was accepted twice"
    for line in repaired:
        data = (root / line["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["image_id"], f"{line['file']} is damaged"
        assert (root / "accepted" / "sidecars" / f"{line['image_id']}.json").is_file(), "a sidecar is missing"


def kept(root: Path) -> set[int]:
    """Indices of what is decided, or made and put by."""
    decided = {line["index"] for line in read_lines(root / "candidates.jsonl")}
    return decided | {int(path.stem) for path in (root / "waiting").glob("*.json")}


def ledger(root: Path) -> list[dict[str, Any]]:
    """The lines without the times."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(root / "candidates.jsonl")]


def files(root: Path) -> list[str]:
    """The image_ids of the accepted, in the Collection and by the files' own bytes."""
    images = sorted((root / "accepted" / "images").iterdir())
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in images)
    assert sorted(artwork.image_id for artwork in Collection(root / "accepted")) == [path.stem for path in images]
    return [path.name for path in images]


def _size(root: Path) -> int:
    path = root / "candidates.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main()
