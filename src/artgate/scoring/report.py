"""What a run found, as pictures: are probabilities true, which grades are confused, where is it most wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.labels.grades import GRADES
from artgate.scoring.metrics import predicted_grade, reliability

WORST = 12
PICTURE_PIXELS = 256


@dataclass(frozen=True)
class Mistake:
    """An artwork that people graded otherwise. surprise: the share that the scorer gave people's grade, negated log."""

    artwork: Artwork
    picture: Image.Image
    graded: str
    predicted: str
    probabilities: dict[str, float]
    surprise: float


def worst_mistakes(
    collection: Collection, artworks: Sequence[Artwork], probabilities: np.ndarray, targets: np.ndarray
) -> list[Mistake]:
    """The `WORST` artworks of another grade than the scorer's, those first whose grade it thought least likely.

    probabilities, targets: (N, K) of the N artworks.
    """
    graded, predicted = targets.argmax(1), predicted_grade(probabilities)
    surprise = -np.log(probabilities[np.arange(len(graded)), graded].clip(1e-12))
    order = [row for row in np.argsort(-surprise, kind="stable") if graded[row] != predicted[row]][:WORST]
    return [
        Mistake(
            artworks[row],
            _small(collection.image(artworks[row])),
            GRADES[graded[row]],
            GRADES[predicted[row]],
            dict(zip(GRADES, probabilities[row].tolist(), strict=True)),
            float(surprise[row]),
        )
        for row in order
    ]


def write_pictures(
    folder: Path, probabilities: np.ndarray, targets: np.ndarray, mistakes: Sequence[Mistake]
) -> dict[str, Path]:
    """Draw everything into `folder`: name -> PNG file. probabilities, targets: (N, K)."""
    folder.mkdir(parents=True, exist_ok=True)
    graded = targets.argmax(1)
    figures = {
        "confusion": confusion_figure(graded, predicted_grade(probabilities)),
        "reliability": reliability_figure(probabilities, graded),
    }
    if mistakes:
        figures["worst_mistakes"] = mistakes_figure(mistakes)
    paths = {}
    for name, figure in figures.items():
        paths[name] = folder / f"{name}.png"
        FigureCanvasAgg(figure).print_png(paths[name])
    return paths


def confusion_figure(graded: np.ndarray, predicted: np.ndarray) -> Figure:
    """Counts of people's grade (rows) against the scorer's (columns)."""
    counts = confusion_matrix(graded, predicted, labels=range(len(GRADES)))
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black"
        )
    axes.set_xticks(range(len(GRADES)), GRADES)
    axes.set_yticks(range(len(GRADES)), GRADES)
    axes.set(xlabel="scorer", ylabel="people", title=f"{counts.sum()} artworks")
    return figure


def reliability_figure(probabilities: np.ndarray, graded: np.ndarray) -> Figure:
    """How often each grade came true against how likely it was said to be; on the diagonal, as often as said."""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for index, grade in enumerate(GRADES):
        said, came, counts = zip(*reliability(probabilities[:, index], graded == index), strict=True)
        axes.plot(said, came, marker="o", label=f"P({grade})", markersize=4)
        if grade == GRADES[-1]:
            for x, y, count in zip(said, came, counts, strict=True):
                axes.annotate(f"{count:.0f}", (x, y), xytext=(4, -9), textcoords="offset points", fontsize=7)
    axes.set(xlabel="probability said", ylabel="share that came true", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    return figure


def mistakes_figure(mistakes: Sequence[Mistake]) -> Figure:
    """The worst mistakes as pictures, with both grades."""
    columns = 4
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(columns * 2.4, rows * 2.8), layout="constrained")
    for place, mistake in enumerate(mistakes, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(mistake.picture)
        axes.set_axis_off()
        believed = mistake.probabilities[mistake.predicted]
        axes.set_title(f"people: {mistake.graded}\nscorer: {mistake.predicted} ({believed:.2f})", fontsize=8)
    return figure


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    return image
