"""The record of a batch in Weights & Biases, live. The batch does not depend on it: whatever W&B does, it goes on."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from artgate.artworks.text import one_line
from artgate.generation.batch import Batch
from artgate.generation.gallery_pictures import THUMBNAILS
from artgate.generation.summary import VERDICTS, decided_by, wilson_interval
from artgate.masking import without_secrets
from artgate.scoring.config import LoggerConfig

MOST_PICTURES = 200  # of each verdict: a W&B run of thousands opens slowly
PICTURE_SIDE = 384
START_SECONDS, FINISH_SECONDS = 30.0, 60.0  # that W&B may hold a batch up


class Tracker:
    """Takes the lines of the ledger as they are decided. This one forgets them: `logger=none`."""

    where: str | None = None

    def observe(self, line: Mapping[str, Any]) -> None:
        """Record a decided candidate."""


@contextmanager
def open_tracker(config: LoggerConfig, batch: Batch, settings: Mapping[str, Any], scorer: Path) -> Iterator[Tracker]:
    """Begin the record of a session of a batch, and end it, as failed if an error comes through.

    settings: the whole configuration; what is named like a secret is masked. scorer: its folder; where the training run
    that made it logged it, the record links to that artifact.
    """
    if config.kind == "none" or config.mode == "disabled":
        yield Tracker()
        return
    tracker = _WandbTracker(config, batch, without_secrets(settings), scorer)
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


class _WandbTracker(Tracker):
    def __init__(self, config: LoggerConfig, batch: Batch, settings: dict[str, Any], scorer: Path) -> None:
        self._root = batch.root
        self._figures = _Figures()
        for line in batch.lines:
            self._figures.add(line)
        self._works = True
        self._run = self._tried(lambda: _begin(config, batch.root, settings))
        self._tried(lambda: _use_scorer(self._run, scorer))
        self.where = self._tried(lambda: self._run.url if config.mode == "online" else str(Path(self._run.dir).parent))

    def observe(self, line: Mapping[str, Any]) -> None:
        self._figures.add(line)
        self._tried(lambda: self._log(line))

    def finish(self, exit_code: int) -> None:
        self._tried(lambda: self._run.finish(exit_code=exit_code))

    def _log(self, line: Mapping[str, Any]) -> None:
        verdict = decided_by(line)
        told: dict[str, Any] = self._figures.told()
        if line["score"] is not None:
            told["score"] = line["score"]
        picture = _picture(self._root, line) if self._figures.verdicts[verdict] <= MOST_PICTURES else None
        if picture is not None:
            told[f"pictures/{verdict}"] = picture
        self._run.log(told, step=line["index"])

    def _tried(self, call: Callable[[], Any]) -> Any:
        """What the call returns; None if W&B fails, which is told once, and then it is not asked again."""
        if not self._works:
            return None
        try:
            return call()
        except Exception as error:
            self._works = False
            told = f"{type(error).__name__}: {one_line(str(error)) or 'no reason given'}"
            print(f"W&B: {told}; the batch goes on without it", file=sys.stderr, flush=True)
            return None


class _Figures:
    """The running figures of a batch, over all its sessions."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self._evaluations = 0
        self._seconds: Counter[str] = Counter()

    def add(self, line: Mapping[str, Any]) -> None:
        self.verdicts[decided_by(line)] += 1
        self._evaluations += line["evaluations"]
        self._seconds.update(line["seconds"])

    def told(self) -> dict[str, Any]:
        accepted, candidates = self.verdicts["accepted"], self.verdicts.total()
        low, high = wilson_interval(accepted, candidates)
        seconds = sum(self._seconds.values())
        return {
            "candidates": candidates,
            "accepted": accepted,
            "yield": accepted / candidates,
            "yield_low": low,
            "yield_high": high,
            **({"cost/evaluations_per_accepted": self._evaluations / accepted} if accepted else {}),
            **({"cost/seconds_per_accepted": seconds / accepted} if accepted else {}),
            **{f"verdicts/{verdict}": self.verdicts[verdict] for verdict in {*VERDICTS, *self.verdicts}},
            **{f"seconds/{stage}": spent for stage, spent in self._seconds.items()},
        }


def _begin(config: LoggerConfig, root: Path, settings: dict[str, Any]) -> Any:
    import wandb

    return wandb.init(
        project=config.project,
        entity=config.entity,
        name=config.name or root.resolve().name,
        group=root.resolve().name,  # the sessions of a batch that was stopped and went on
        tags=config.tags,
        mode=cast(Any, config.mode),  # checked by LoggerConfig
        dir=root,
        config=settings,
        job_type="generate",
        reinit="create_new",
        # W&B's metadata would hold the command line, with whatever was typed: the config has what is to be known.
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            init_timeout=START_SECONDS,
            finish_timeout=FINISH_SECONDS,
        ),
    )


def _use_scorer(run: Any, scorer: Path) -> None:
    """Link the run to the artifact that the training run logged, if it did."""
    from artgate.scoring.tracking import logged_scorer

    artifact = logged_scorer(scorer)
    if artifact is not None:
        # `run.use_artifact` refuses to work offline, and waits for the upload; both come to this call, which does not.
        run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)


def _picture(root: Path, line: Mapping[str, Any]) -> Any | None:
    """A small picture of a candidate with its score and prompt; None where there is none to show."""
    import wandb
    from PIL import Image

    file = f"{THUMBNAILS}/{line['image_id']}.webp" if line.get("image_id") else line.get("file")
    if not file:
        return None
    try:
        with Image.open(root / file) as image:
            small = image.convert("RGB")
    except OSError:
        return None
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    score = "" if line["score"] is None else f"{line['score']:.2g} · "
    return wandb.Image(small, caption=f"#{line['index']} · {score}{one_line(line['prompt'])}", file_type="jpg")
