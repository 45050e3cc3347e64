"""A training run as one HTML page: what its scorer is worth, how sure that is, and where it fails, with pictures.

The page stands alone: pictures are inside it, nothing comes from a network, no script runs. Names and prompts in it
came from outside, and are escaped. It holds samples of bounded number, so it stays small however many there are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.files import write_atomic
from artgate.artworks.page import environment, thumbnail
from artgate.artworks.text import clean_text, one_line
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.card import JUDGES, SHORT, how_measured, limits_of, what_it_is
from artgate.scoring.certificate import FOLDER as CERTIFICATE_FOLDER
from artgate.scoring.certificate import Certificate, load_certificate
from artgate.scoring.charts import (
    confusion,
    precision_and_yield,
    reliability_of_grades,
    scores_by_grade,
)
from artgate.scoring.graded import open_collection
from artgate.scoring.intervals import Resamples
from artgate.scoring.metrics import predicted_grade
from artgate.scoring.picks import Pick, Picks, pick
from artgate.scoring.predictions import Held, read_predictions

FILE_NAME = "report.html"
DESCRIPTION = "scorer.json"  # of the scorer's folder, which scorer.py reads
SIDE = 208  # of thumbnails, in pixels
# The figures that get a panel of their own, with all that they are to be compared with.
PANELS = {
    "srcc": "rank correlation of the score with people’s opinion",
    "qwk": "of the grade; far mistakes count more",
    "macro_f1": "of the grade; every grade counts alike",
    "auroc_good": "how well P(good) tells good ones from the rest",
    "accuracy": "share of the grades that are people’s",
    "within_generator_srcc": "rank correlation inside each generator’s images, averaged",
}
# On the curve of precision and yield, thresholds that are named.
NAMED_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Told:
    """What a page tells beside figures.

    name: of the run. command: that made it, where known. settings: YAML, without secrets. encoder: its configuration.
    certificate: of the scorer, None where it has none.
    """

    name: str
    command: str | None
    settings: str
    encoder: Mapping[str, Any]
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Shown:
    """A pick as the page shows it. thumbnail: a data URI, None where there is no picture to show."""

    pick: Pick
    thumbnail: str | None
    width: int
    height: int
    prompt: str


def write_report(run: Path, collection: Collection | None = None) -> Path:
    """Write `report.html` in the folder of a training run from the other files there; return its path.

    Made anew after `artgate certify`, it shows the certificate of the run's scorer too. collection: where the pictures
    are; without it, where the run's settings say. Raises UserError where a file of the run is missing or damaged.
    """
    held = read_predictions(run)
    metrics, told = _read(run)
    artworks = collection or _collection(run, told.settings)
    picks = pick_held(artworks, held["quality"])
    try:
        page = render(artworks, metrics, held, picks, told)
    except KeyError as error:
        raise UserError(f"{run / 'metrics.json'} has no {error}: copy the run again, or train again") from error
    write_atomic(run / FILE_NAME, page)
    return run / FILE_NAME


def pick_held(collection: Collection, quality: Held) -> Picks:
    """What to look at, of the artworks that the collection still has."""
    kept = quality.of(np.array([image_id in collection for image_id in quality.image_ids], dtype=bool))
    return pick([collection[image_id] for image_id in kept.image_ids], kept.probabilities, kept.targets)


def render(
    collection: Collection, metrics: Mapping[str, Any], held: Mapping[str, Held], picks: Picks, told: Told
) -> str:
    """The page. metrics: what metrics.json holds. held: aspect -> what the scorer says of it, quality first."""
    quality = held["quality"]
    graded = quality.targets.argmax(1)
    resamples = Resamples(quality.groups, metrics["resampled"]["resamples"], metrics["seed"])
    on_the_curve = told.certificate is not None and told.certificate.acceptable == GRADES[-1]
    kind = told.certificate.kind if told.certificate and on_the_curve else "score"
    curve = precision_and_yield(quality.probabilities, graded, resamples, kind)
    templates = environment(Path(__file__).parent)
    templates.filters.update(line=one_line, text=clean_text)
    return templates.get_template("report.html.j2").render(
        told=told,
        name=one_line(told.name),
        metrics=metrics,
        grade_names=GRADES,
        short=SHORT,
        limits=limits_of(metrics),
        what=what_it_is(metrics, told.encoder),
        how=how_measured(metrics),
        main=_aspect("quality", metrics, quality),
        aspects=[
            _aspect(name, {**record, "scorer": record}, held[name]) for name, record in metrics["other_aspects"].items()
        ],
        histogram=scores_by_grade(quality.probabilities, graded),
        curve=curve,
        named=[
            min(curve, key=lambda point: abs(point.threshold - at)) for at in NAMED_THRESHOLDS if _within(curve, at)
        ],
        certified=told.certificate,
        on_the_curve=on_the_curve,
        gate="P(good)" if kind == "good" else "score",
        best={grade: _shown(collection, chosen) for grade, chosen in picks.best.items()},
        worst={grade: _shown(collection, chosen) for grade, chosen in picks.worst.items()},
        mistakes=_shown(collection, picks.mistakes),
        suspects=_shown(collection, picks.suspects),
        suspected=picks.suspected,
    )


def _read(run: Path) -> tuple[dict[str, Any], Told]:
    """metrics.json of a run, and what its other files tell."""
    try:
        metrics = json.loads((run / "metrics.json").read_text())
        settings = (run / "config.yaml").read_text()
        scorer = json.loads((run / "scorer" / DESCRIPTION).read_text())
        command, encoder = scorer["description"]["command"], scorer["encoder"]["config"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: name a folder that train.py made, whole") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{run} is damaged: copy the run again, or train again") from None
    certificate = run / "scorer" / CERTIFICATE_FOLDER
    known = load_certificate(certificate) if certificate.is_dir() else None
    if known is not None and known.scorer != scorer["fingerprint"]:
        known = None  # of a scorer that was here before
    return metrics, Told(run.resolve().name, command, settings, encoder, known)


def _collection(run: Path, settings: str) -> Collection:
    try:
        read = yaml.safe_load(settings)
        data, collections = read["data"], Path(read["paths"]["collections"])
        return open_collection(Path(data["root"]), data["importer"], collections)
    except (yaml.YAMLError, KeyError, TypeError):
        raise UserError(f"{run / 'config.yaml'} is damaged: name the collection with --collection") from None


def _within(curve: Sequence[Any], threshold: float) -> bool:
    return bool(curve[-1].threshold <= threshold <= curve[0].threshold)


def _aspect(name: str, record: Mapping[str, Any], held: Held) -> dict[str, Any]:
    """What the page draws of one aspect. record: its part of metrics.json, with the scorer's figures at `scorer`."""
    graded = held.targets.argmax(1)
    return {
        "name": name,
        "n": record["scorer"]["n"],
        "panels": [_panel(figure, record) for figure in PANELS if record["scorer"][figure] is not None],
        "reliability": reliability_of_grades(held.probabilities, graded),
        "confusion": confusion(graded, predicted_grade(held.probabilities)),
        "record": record,
    }


def _panel(figure: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """One figure: rows of (who, kind, value, interval), the scorer first, then baselines, then people."""
    ceiling = record["ceiling"] or {}
    sources = [
        ("scorer", "scorer", record["scorer"]),
        *((name.replace("_", " "), "baseline", found) for name, found in record["baselines"].items()),
        *((_judge(name, ceiling), "people", ceiling[name]) for name in JUDGES if name in ceiling),
    ]
    rows = [
        (who, kind, found[figure], found["intervals"].get(figure))
        for who, kind, found in sources
        if found.get(figure) is not None
    ]
    beyond = {name.replace("_", " "): gap[figure] for name, gap in record["beyond"].items()}
    return {"figure": figure, "note": PANELS[figure], "rows": rows, "beyond": beyond.get("logistic regression")}


def _judge(name: str, ceiling: Mapping[str, Any]) -> str:
    return JUDGES[name].format(raters=ceiling["raters"])


def _shown(collection: Collection, picks: Sequence[Pick]) -> list[Shown]:
    return [
        Shown(chosen, *_thumbnail(collection, chosen.artwork), one_line(chosen.artwork.provenance.prompt, 300))
        for chosen in picks
    ]


def _thumbnail(collection: Collection, artwork: Artwork) -> tuple[str | None, int, int]:
    try:
        return thumbnail(collection.image(artwork), SIDE)
    except UserError:  # gone or damaged since its features were taken
        return None, 1, 1
