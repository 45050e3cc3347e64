"""What a run found, as PNG pictures: the charts of its page, for W&B and for those who want a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from artgate.artworks.collection import Collection
from artgate.labels.grades import GRADES
from artgate.scoring.charts import (
    SCORE_BINS,
    Passing,
    Reliability,
    confusion,
    precision_and_yield,
    reliability_of_grades,
    scores_by_grade,
)
from artgate.scoring.intervals import Resamples
from artgate.scoring.metrics import predicted_grade
from artgate.scoring.picks import Pick, Picks, picture

# Of the page's style, on white.
COLOURS = {"poor": "#c8503c", "average": "#d39a1e", "good": "#1c8a5e"}
LINE = "#2f5fd0"
COLUMNS = 6

Loader = Callable[[Pick], Image.Image | None]


def write_pictures(
    folder: Path,
    collection: Collection,
    probabilities: np.ndarray,
    targets: np.ndarray,
    resamples: Resamples,
    picks: Picks,
) -> dict[str, Path]:
    """Draw everything into `folder`: name -> PNG file. probabilities, targets: (N, K)."""
    folder.mkdir(parents=True, exist_ok=True)
    graded = targets.argmax(1)

    def load(chosen: Pick) -> Image.Image | None:
        return picture(collection, chosen)

    figures = {
        "confusion": confusion_figure(confusion(graded, predicted_grade(probabilities))),
        "reliability": reliability_figure(reliability_of_grades(probabilities, graded)),
        "precision_yield": precision_figure(precision_and_yield(probabilities, graded, resamples)),
        "scores": scores_figure(scores_by_grade(probabilities, graded)),
    }
    extremes = [chosen for grade in reversed(GRADES) for chosen in (*picks.best[grade], *picks.worst[grade])]
    for name, chosen in (("worst_mistakes", picks.mistakes), ("suspects", picks.suspects), ("extremes", extremes)):
        if chosen:
            figures[name] = gallery_figure(chosen, load)
    paths = {}
    for name, figure in figures.items():
        paths[name] = folder / f"{name}.png"
        FigureCanvasAgg(figure).print_png(paths[name])
    return paths


def confusion_figure(table: Sequence[Sequence[int]]) -> Figure:
    """Counts of people's grade (rows) against the scorer's (columns)."""
    counts = np.array(table)
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


def reliability_figure(charts: Sequence[Reliability]) -> Figure:
    """How often each grade came true against how likely it was said to be; on the diagonal, as often as said."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for place, chart in enumerate(charts, start=1):
        axes = figure.add_subplot(1, len(charts), place)
        said, came = [bin.said for bin in chart.bins], [bin.came for bin in chart.bins]
        most = max(bin.count for bin in chart.bins)
        axes.bar(said, [0.25 * bin.count / most for bin in chart.bins], width=0.05, color="0.9")
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        axes.vlines(
            said, [bin.low for bin in chart.bins], [bin.high for bin in chart.bins], COLOURS[chart.grade], alpha=0.5
        )
        axes.plot(said, came, "o", markersize=4, alpha=0.4, color=COLOURS[chart.grade])
        enough = [bin for bin in chart.bins if bin.enough]
        axes.plot(
            [b.said for b in enough], [b.came for b in enough], marker="o", markersize=4, color=COLOURS[chart.grade]
        )
        axes.set(
            xlabel="probability said",
            ylabel="share that came true" if place == 1 else "",
            title=f"P({chart.grade}): error {chart.error:.3f}",
            xlim=(0, 1),
            ylim=(0, 1),
        )
    return figure


def precision_figure(curve: Sequence[Passing]) -> Figure:
    """Share of good ones among those that pass, against the share that passes, over all thresholds."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    passed = [point.passed for point in curve]
    axes.fill_between(passed, [p.low for p in curve], [p.high for p in curve], color=LINE, alpha=0.15, linewidth=0)
    axes.plot(passed, [point.precision for point in curve], color=LINE)
    axes.axhline(curve[-1].precision, color="0.6", linewidth=1, linestyle="--")
    axes.set(xlabel="yield: share that passes", ylabel="share of them graded good", xlim=(0, 1))
    return figure


def scores_figure(histogram: Sequence[Sequence[int]]) -> Figure:
    """How many artworks of each grade have which score."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    counts = np.array(histogram)  # (bins, K)
    centres = (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS
    below = np.zeros(SCORE_BINS)
    for index, grade in enumerate(GRADES):
        axes.bar(centres, counts[:, index], width=0.9 / SCORE_BINS, bottom=below, color=COLOURS[grade], label=grade)
        below += counts[:, index]
    axes.set(xlabel="score", ylabel="artworks", xlim=(0, 1))
    axes.legend(title="people say")
    return figure


def gallery_figure(picks: Sequence[Pick], load: Loader) -> Figure:
    """Artworks as pictures, with both grades."""
    rows = -(-len(picks) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * 1.9, rows * 2.3), layout="constrained")
    for place, chosen in enumerate(picks, start=1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        image = load(chosen)
        if image is not None:
            axes.imshow(image)
        axes.set_axis_off()
        axes.set_title(f"people: {chosen.graded}\nscorer: {chosen.predicted} ({chosen.score:.2f})", fontsize=8)
    return figure
