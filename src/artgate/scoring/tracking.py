"""The record of a run in Weights & Biases; the run does not depend on it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytorch_lightning.loggers import Logger

from artgate.errors import UserError
from artgate.scoring.config import LoggerConfig
from artgate.scoring.report import Mistake

if TYPE_CHECKING:
    import numpy as np


class Tracker:
    """Takes a run's curves (through `logger`), figures and scorer. This one forgets them: `logger.kind=none`."""

    logger: Logger | None = None
    where: str | None = None

    def record(
        self,
        metrics: Mapping[str, Any],
        pictures: Mapping[str, Path],
        mistakes: Sequence[Mistake],
        graded: "np.ndarray",
        predicted: "np.ndarray",
        scorer: Path,
    ) -> None:
        """Record what the run found. graded, predicted: (N,) grades of the artworks that it is measured on."""


@contextmanager
def open_tracker(config: LoggerConfig, folder: Path, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    """Begin the record of a run in `folder` and end it, as failed if an error comes through.

    settings: the run's whole configuration, without secrets. Raises UserError if W&B wants a key that is not there.
    """
    if config.kind == "none":
        yield Tracker()
        return
    run = _begin(config, folder, settings)
    try:
        yield _WandbTracker(run, config.mode)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


class _WandbTracker(Tracker):
    def __init__(self, run: Any, mode: str):
        from pytorch_lightning.loggers import WandbLogger

        self._run = run
        self.logger = WandbLogger(experiment=run)
        # A run that is not online has no address, and W&B warns when asked for one.
        self.where = run.url if mode == "online" else str(Path(run.dir).parent) if mode == "offline" else None

    def record(
        self,
        metrics: Mapping[str, Any],
        pictures: Mapping[str, Path],
        mistakes: Sequence[Mistake],
        graded: "np.ndarray",
        predicted: "np.ndarray",
        scorer: Path,
    ) -> None:
        import wandb

        from artgate.labels.grades import GRADES

        self._run.summary.update(_flat(metrics))
        self._run.log({f"pictures/{name}": wandb.Image(str(path)) for name, path in pictures.items()})
        confusion = wandb.plot.confusion_matrix(
            y_true=graded.tolist(), preds=predicted.tolist(), class_names=list(GRADES)
        )
        columns: list[str | int] = [
            "image",
            "image_id",
            "people",
            "scorer",
            *(f"P({grade})" for grade in GRADES),
            "surprise",
            "prompt",
        ]
        rows: list[Iterable[Any]] = [
            [
                wandb.Image(mistake.picture),
                mistake.artwork.image_id,
                mistake.graded,
                mistake.predicted,
                *mistake.probabilities.values(),
                mistake.surprise,
                mistake.artwork.provenance.prompt,
            ]
            for mistake in mistakes
        ]
        self._run.log({"confusion": confusion, "worst_mistakes": wandb.Table(columns=columns, data=rows)})
        artifact = wandb.Artifact("scorer", type="model", metadata=dict(metrics))
        artifact.add_dir(str(scorer))
        self._run.log_artifact(artifact)


def _begin(config: LoggerConfig, folder: Path, settings: Mapping[str, Any]) -> Any:
    import wandb

    try:
        return wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name,
            tags=config.tags,
            mode=cast(Any, config.mode),  # checked by LoggerConfig
            dir=folder,
            config=dict(settings),
            job_type="train",
            reinit="create_new",
            # W&B's metadata would hold the command line, with whatever was typed: the config has what is to be known.
            settings=wandb.Settings(
                silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
            ),
        )
    except (wandb.errors.UsageError, wandb.errors.CommError, wandb.errors.AuthenticationError) as error:
        raise UserError(
            f"W&B cannot be reached with logger.mode={config.mode} ({str(error).splitlines()[0]}): run `wandb login`, "
            "or use logger.mode=offline or logger=none"
        ) from None


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
