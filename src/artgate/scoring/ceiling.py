"""The human ceiling: how well people's own opinions foretell the opinions that a scorer is measured by.

An opinion that is a mean over raters is not the truth about an artwork, only near it: by the spread of its raters.
So even who knew what people think on average would not rank artworks quite as these opinions do.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artgate.labels.ratings import read_ratings
from artgate.scoring.intervals import CONFIDENCE, Resamples, judgement_figures

DRAWS = 200


@dataclass(frozen=True)
class Opinions:
    """Of N artworks: mean (N,) and standard deviation (N,) of their raters, and how often (N,) they were rated."""

    mean: np.ndarray
    std: np.ndarray
    times: np.ndarray


def read_opinions(root: Path, aspect: str, image_ids: Sequence[str]) -> Opinions:
    """Of the artworks `image_ids` of a collection with ratings, all of which have one of `aspect`.

    An artwork that was rated under several names has the mean of their means.
    """
    rated = defaultdict(list)
    for rating in read_ratings(root):
        if rating.aspect == aspect:
            rated[rating.image_id].append((rating.mean, rating.std))
    own = [np.array(rated[image_id]) for image_id in image_ids]
    return Opinions(
        np.array([of[:, 0].mean() for of in own]),
        np.array([np.sqrt((of[:, 1] ** 2).mean()) for of in own]),
        np.array([len(of) for of in own]),
    )


def human_ceiling(
    opinions: Opinions, raters: int | None, cuts: tuple[float, float], resamples: Resamples
) -> dict[str, Any]:
    """What three who judge by opinion alone would reach against these mean opinions, with 95 % intervals.

    `perfect` knows the mean that endless raters would give: no scorer can be expected to do better. `panel` is the
    mean of as many fresh raters. `person` is one fresh rater. raters: behind each rating; None (unknown) leaves the
    first two out, and takes the opinions for the truth. cuts: those that make grades of opinions.

    What endless raters would think of an artwork is drawn from what its opinion leaves open: normal, around the opinion
    pulled to the mean of all by its share of noise (an opinion far out is partly so by luck), and raters around that
    by their spread. The spread that a database reports is often that of normalised ratings, without outliers: people as
    they come agree less.
    """
    noise = np.zeros(len(opinions.mean)) if raters is None else opinions.std**2 / (raters * opinions.times)
    between = max(float(opinions.mean.var() - noise.mean()), 1e-12)
    kept = between / (between + noise)  # (N,) the share of an opinion's distance from the mean that is not luck
    centre = opinions.mean.mean() + kept * (opinions.mean - opinions.mean.mean())
    generator = np.random.default_rng(resamples.seed)

    def drawn(around: np.ndarray, spread: np.ndarray) -> np.ndarray:
        return around + spread * generator.standard_normal((DRAWS, len(centre)))

    truth = drawn(centre, np.sqrt(kept * noise))  # (draws, N)
    judges = {"person": drawn(truth, opinions.std)}
    if raters is not None:
        judges |= {"perfect": truth, "panel": drawn(truth, np.sqrt(noise))}
    weights = np.concatenate(list(Resamples(resamples.groups, DRAWS, resamples.seed).weights()))
    order = [name for name in ("perfect", "panel", "person") if name in judges]
    return {"raters": raters, **{name: _agreement(judges[name], opinions.mean, cuts, weights) for name in order}}


def _agreement(judged: np.ndarray, opinions: np.ndarray, cuts: tuple[float, float], weights: np.ndarray) -> Any:
    """Figures of (draws, N) judgements, each its mean over the draws, and their spread over draws and resamples."""
    mean = judgement_figures(judged, opinions, cuts, np.ones_like(judged))
    spread = judgement_figures(judged, opinions, cuts, weights)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {
        **{name: float(np.nanmean(values)) for name, values in mean.items()},
        "intervals": {name: tuple(map(float, np.nanquantile(values, tails))) for name, values in spread.items()},
    }
