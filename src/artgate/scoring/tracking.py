"""The record of a run in Weights & Biases; the run does not depend on it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytorch_lightning.loggers import Logger

from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.scoring.config import LoggerConfig
from artgate.scoring.picks import Pick, Picks

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

REFERENCE = "wandb.json"


class Tracker:
    """Takes a run's curves (through `logger`), figures and scorer. This one forgets them: `logger.kind=none`."""

    logger: Logger | None = None
    where: str | None = None

    def record(
        self,
        metrics: Mapping[str, Any],
        pictures: Mapping[str, Path],
        picks: Picks,
        picture: Callable[[Pick], "Image.Image | None"],
        graded: "np.ndarray",
        predicted: "np.ndarray",
        scorer: Path,
        report: Path,
    ) -> None:
        """Record what the run found. graded, predicted: (N,) grades of the artworks that it is measured on.

        pictures: PNG files by name; picture: what a pick looks like, small. scorer: its folder. report: the page.
        """


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
        picks: Picks,
        picture: Callable[[Pick], "Image.Image | None"],
        graded: "np.ndarray",
        predicted: "np.ndarray",
        scorer: Path,
        report: Path,
    ) -> None:
        import wandb

        from artgate.labels.grades import GRADES

        self._run.summary.update(_flat(metrics))
        self._run.log({f"pictures/{name}": wandb.Image(str(path)) for name, path in pictures.items()})
        confusion = wandb.plot.confusion_matrix(
            y_true=graded.tolist(), preds=predicted.tolist(), class_names=list(GRADES)
        )
        tables = {
            "figures": _figures_table(metrics),
            "generators": _generators_table(metrics),
            "worst_mistakes": _picks_table(picks.mistakes, picture),
            "suspects": _picks_table(picks.suspects, picture),
        }
        self._run.log({name: wandb.Table(columns=columns, data=rows) for name, (columns, rows) in tables.items()})
        self._run.log({"confusion": confusion, "report": wandb.Html(report.read_text(), inject=False)})
        artifact = _artifact(scorer, _files(scorer), dict(metrics))
        self._run.log_artifact(artifact)
        _refer(scorer, artifact, self._run)


def logged_scorer(scorer: Path) -> Any | None:
    """The W&B artifact that a training run logged of this scorer, for a run that uses it.

    None where none did, where the scorer has changed since, and for a folder that is damaged. W&B knows an artifact by
    its content: the one made here is the one logged there, online and offline alike.
    """
    try:
        told = json.loads((scorer / REFERENCE).read_text())
        # A name that leads out of the folder is a ValueError, of `relative_to` or of W&B
        artifact = _artifact(scorer, [scorer / name for name in told["files"]], {})
        return artifact if artifact.digest == told["digest"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refer(scorer: Path, artifact: Any, run: Any) -> None:
    """Leave beside the scorer what it is known by in W&B. It goes where the scorer goes."""
    told = {
        "entity": run.entity or None,
        "project": run.project,
        "run": run.id,
        "digest": artifact.digest,
        "files": sorted(str(path.relative_to(scorer)) for path in _files(scorer)),
    }
    write_atomic(scorer / REFERENCE, json.dumps(told, indent=1) + "\n")


def _artifact(scorer: Path, files: Iterable[Path], metadata: dict[str, Any]) -> Any:
    import wandb

    artifact = wandb.Artifact("scorer", type="model", metadata=metadata)
    for path in files:
        artifact.add_file(str(path), name=str(path.relative_to(scorer)))
    return artifact


def _files(scorer: Path) -> list[Path]:
    return sorted(path for path in scorer.rglob("*") if path.is_file() and path.name != REFERENCE)


Table = tuple[list[str | int], list[Iterable[Any]]]


def _figures_table(metrics: Mapping[str, Any]) -> Table:
    """Every figure of scorer and baselines with its interval, of every aspect."""
    aspects = {"quality": metrics} | {
        name: {**found, "scorer": found} for name, found in metrics["other_aspects"].items()
    }
    rows: list[Iterable[Any]] = [
        [aspect, figure, who, found[figure], *(limits or (None, None))]
        for aspect, record in aspects.items()
        for who, found in {"scorer": record["scorer"], **record["baselines"]}.items()
        for figure, limits in found["intervals"].items()
    ]
    return ["aspect", "figure", "who", "value", "low", "high"], rows


def _generators_table(metrics: Mapping[str, Any]) -> Table:
    names = ("n", "opinion", "good", "grade", "score", "srcc", "qwk", "macro_f1")
    rows: list[Iterable[Any]] = [
        [generator, *(row[name] for name in names)] for generator, row in metrics["by_generator"].items()
    ]
    return ["generator", *names], rows


def _picks_table(picks: Sequence[Pick], picture: Callable[[Pick], "Image.Image | None"]) -> Table:
    import wandb

    from artgate.labels.grades import GRADES

    rows: list[Iterable[Any]] = []
    for chosen in picks:
        image = picture(chosen)
        rows.append(
            [
                wandb.Image(image) if image else None,
                chosen.artwork.image_id,
                chosen.graded,
                chosen.predicted,
                *chosen.probabilities.values(),
                chosen.surprise,
                chosen.reason,
                chosen.artwork.provenance.prompt,
            ]
        )
    probabilities = [f"P({grade})" for grade in GRADES]
    return ["image", "image_id", "people", "scorer", *probabilities, "surprise", "reason", "prompt"], rows


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
