"""What a trained scorer is worth: every figure with its interval, beside what it has to beat and what people reach."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artgate.labels.grades import GRADES
from artgate.scoring.baselines import generator_majority, logistic_regression
from artgate.scoring.ceiling import human_ceiling, read_opinions
from artgate.scoring.config import TrainConfig
from artgate.scoring.fitting import Examples, Fit
from artgate.scoring.graded import GradedArtworks
from artgate.scoring.intervals import (
    Resamples,
    calibration_by_chance,
    differences,
    figures,
    interval,
    intervals,
)
from artgate.scoring.metrics import LEAST_OF_A_GENERATOR, evaluate, expected_grade, predicted_grade
from artgate.scoring.people import beside_people
from artgate.scoring.predictions import Held
from artgate.scoring.splits import make_folds

Metrics = dict[str, Any]
GAP_FIGURES = ("srcc", "qwk", "macro_f1")
GAP_FOLDS = 5
# Of the ridge that measures the gap, on standardised features and a kernel of mean 1: as good as the head on AGIQA-3K.
GAP_PENALTY = 1.0
# Its kernel has the square of this many cells; groups are left out beyond it.
GAP_ARTWORKS = 4000


def measure(
    graded: GradedArtworks,
    groups: Mapping[str, str],
    parts: Sequence[str],
    examples: Examples,
    fit: Fit,
    settings: TrainConfig,
) -> Metrics:
    """The figures of every aspect; those of quality at the top, of others under `other_aspects`.

    groups: image_id -> what resampling keeps together. parts: (N,) the part of each graded artwork.
    """
    group = [groups[image_id] for image_id in graded.image_ids]
    aspects = {}
    for column, aspect in enumerate(graded.aspects):
        held = held_out(graded, group, fit, column)
        if len(held.image_ids):
            aspects[aspect] = _measured(graded, parts, examples, fit, held, settings)
    return {
        "resampled": {
            "groups": len(set(held_out(graded, group, fit, 0).groups)),
            "resamples": settings.report.resamples,
        },
        **aspects.pop("quality"),
        "other_aspects": {name: {**found.pop("scorer"), **found} for name, found in aspects.items()},
        "group_gap": _group_gap(graded, group, examples, settings) if settings.report.group_gap else None,
        "people": _beside_people(graded, fit),
    }


def held_out(graded: GradedArtworks, group: Sequence[str], fit: Fit, column: int) -> Held:
    """What the fit says of an aspect of artworks that have a grade of it. group: (N,) of the graded."""
    rows = np.array(fit.rows)
    probabilities, targets = fit.probabilities[:, column], graded.targets[rows, column]
    known = ~np.isnan(targets[:, 0]) & ~np.isnan(probabilities[:, 0])
    kept = rows[known]
    return Held(
        graded.aspects[column],
        [graded.image_ids[row] for row in kept],
        probabilities[known],
        targets[known],
        graded.aspect_opinions[kept, column],
        [graded.generators[row] for row in kept],
        [group[row] for row in kept],
    )


def _measured(
    graded: GradedArtworks,
    parts: Sequence[str],
    examples: Examples,
    fit: Fit,
    held: Held,
    settings: TrainConfig,
) -> Metrics:
    resamples = Resamples(held.groups, settings.report.resamples, settings.seed)
    models = {"scorer": held.probabilities, **_baselines(graded, parts, examples, fit, held)}
    return {
        **_compared(held, models, resamples),
        "without": _without(held, models, settings),
        "by_generator": _by_generator(held, resamples),
        "by_chance": calibration_by_chance(held.probabilities, settings.report.resamples, settings.seed),
        "ceiling": _ceiling(graded, held, resamples, settings),
    }


def _compared(held: Held, models: Mapping[str, np.ndarray], resamples: Resamples) -> Metrics:
    """Each model's figures with intervals, and how far the first, the scorer, lies beyond each of the others."""
    beside = (held.targets, held.opinions, held.generators)
    found = {name: evaluate(probabilities, *beside) for name, probabilities in models.items()}
    drawn = {name: resamples.of(figures(probabilities, *beside)) for name, probabilities in models.items()}
    told = {name: {**found[name], "intervals": intervals(found[name], drawn[name])} for name in models}
    return {
        "scorer": told.pop("scorer"),
        "baselines": told,
        "beyond": {name: differences(found["scorer"], found[name], drawn["scorer"], drawn[name]) for name in told},
    }


def _baselines(
    graded: GradedArtworks, parts: Sequence[str], examples: Examples, fit: Fit, held: Held
) -> dict[str, np.ndarray]:
    """Name -> (N, K): what knows less than the scorer says of the same artworks, having learnt from the same."""
    column = graded.aspects.index(held.aspect)
    known = ~np.isnan(graded.targets[:, column, 0])
    part = np.array(parts)
    features = examples.features.numpy()
    row_of = {image_id: row for row, image_id in enumerate(graded.image_ids)}
    held_rows = np.array([row_of[image_id] for image_id in held.image_ids])
    found: dict[str, np.ndarray] = {}
    if column == 0:
        place = {row: index for index, row in enumerate(fit.rows)}
        found = {name: own[[place[row] for row in held_rows]] for name, own in fit.baselines.items()}
    for asked in sorted(set(part[held_rows])):
        # In a final run each fold is held out in turn, else the test split, from what trains and what chooses.
        learnt = known & (np.isin(part, ["train", "val"]) if asked == "test" else (part != asked) & (part != ""))
        rows = held_rows[part[held_rows] == asked]
        targets, made_by = graded.targets[learnt, column], np.array(graded.generators, dtype=object)
        own = {"constant": np.tile(targets.mean(0), (len(rows), 1))}
        if column:
            # Of one grade there is no more to learn than that.
            several = len(np.unique(targets.argmax(1))) > 1
            own["logistic_regression"] = (
                logistic_regression(features[learnt], targets, features[rows]) if several else own["constant"]
            )
            if any(graded.generators):
                own["generator_majority"] = generator_majority(
                    made_by[learnt].tolist(), targets, made_by[rows].tolist()
                )
        for name, probabilities in own.items():
            found.setdefault(name, np.zeros_like(held.probabilities))[part[held_rows] == asked] = probabilities
    order = ("logistic_regression", "generator_majority", "constant")
    return {name: found[name] for name in (*order, *sorted(set(found) - set(order))) if name in found}


def _without(held: Held, models: Mapping[str, np.ndarray], settings: TrainConfig) -> Metrics | None:
    """The same figures on the artworks of all but the named generators; None where none is named."""
    if not settings.report.without:
        return None
    kept = np.array([generator not in settings.report.without for generator in held.generators])
    if kept.sum() < LEAST_OF_A_GENERATOR:
        return None
    rest = held.of(kept)
    resamples = Resamples(rest.groups, settings.report.resamples, settings.seed)
    compared = _compared(rest, {name: probabilities[kept] for name, probabilities in models.items()}, resamples)
    return {"generators": sorted(settings.report.without), **compared}


def _by_generator(held: Held, resamples: Resamples) -> dict[str, Metrics]:
    """Each generator's artworks: how many, what people and scorer think of them, and how it ranks them."""
    made_by = np.array([generator or "" for generator in held.generators])
    table: dict[str, Metrics] = {}
    for name in sorted(set(made_by.tolist())):
        own = held.of(made_by == name)
        expected = expected_grade(own.probabilities)
        few = len(own.image_ids) < LEAST_OF_A_GENERATOR
        beside = (own.targets, own.opinions, [None] * len(own.image_ids))
        found = evaluate(own.probabilities, *beside)
        drawn = {} if few else resamples.subset(made_by == name).of(figures(own.probabilities, *beside))
        table[name or "unknown"] = {
            "n": len(own.image_ids),
            "score": float(expected.mean() / (len(GRADES) - 1)),
            "grade": float(own.targets.argmax(1).mean() / (len(GRADES) - 1)),
            "opinion": float(own.opinions.mean()),
            "good": float((own.targets.argmax(1) == len(GRADES) - 1).mean()),
            **{figure: None if few else found[figure] for figure in GAP_FIGURES},
            "intervals": {figure: None if few else interval(found[figure], drawn[figure]) for figure in GAP_FIGURES},
        }
    return dict(sorted(table.items(), key=lambda row: -row[1]["opinion"]))


def _ceiling(graded: GradedArtworks, held: Held, resamples: Resamples, settings: TrainConfig) -> dict[str, Any] | None:
    """What people's opinions reach on these artworks; None where there are no ratings (votes have their kappas)."""
    cuts = settings.data.cuts.get(held.aspect)
    if graded.graded_by != "ratings" or cuts is None:
        return None
    opinions = read_opinions(graded.collection.root, held.aspect, held.image_ids)
    return human_ceiling(opinions, settings.data.raters, (cuts[0], cuts[1]), resamples)


def _group_gap(
    graded: GradedArtworks, group: Sequence[str], examples: Examples, settings: TrainConfig
) -> Metrics | None:
    """How much better figures look where artworks of one group lie on both sides of the split.

    A ridge on the same features, cross-validated over all graded artworks: once with groups kept together, once
    without. So the gap is that of the data and the features, whatever the head.
    """
    rows = _some_groups(group, settings.seed)
    kernel = _kernel(examples.features.numpy()[rows])
    targets, opinions = graded.targets[rows, 0], graded.opinions[rows]
    found, drawn = {}, {}
    names = [graded.image_ids[row] for row in rows]
    resamples = Resamples([group[row] for row in rows], settings.report.resamples, settings.seed)
    divided = {"grouped": [group[row] for row in rows], "random": names}
    for way, kept_together in divided.items():
        if len(set(kept_together)) < GAP_FOLDS:
            return None
        folds = make_folds(dict(zip(names, kept_together, strict=True)), GAP_FOLDS, settings.seed)
        probabilities = _cross_validated(kernel, targets, np.array([folds[name] for name in names]))
        beside = (targets, opinions, [None] * len(rows))
        found[way] = evaluate(probabilities, *beside)
        drawn[way] = resamples.of(figures(probabilities, *beside))
    gaps = differences(found["random"], found["grouped"], drawn["random"], drawn["grouped"])
    return {
        "artworks": len(rows),
        **{
            name: {"grouped": found["grouped"][name], "random": found["random"][name], **gaps[name]}
            for name in GAP_FIGURES
        },
    }


def _some_groups(group: Sequence[str], seed: int) -> np.ndarray:
    """Rows of whole groups, at most `GAP_ARTWORKS`."""
    names, place = np.unique(np.asarray(group, dtype=object).astype(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(place)[order].cumsum()
    return np.flatnonzero(np.isin(place, order[sizes <= GAP_ARTWORKS]))


def _kernel(features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, N) products of standardised features over D. They see no grade, so they may see every artwork."""
    spread = features.std(0)
    standard = (features - features.mean(0)) / np.where(spread > 1e-9, spread, np.inf)
    return (standard @ standard.T / features.shape[1]).astype(float)


def _cross_validated(kernel: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N, K) shares of the grades that ridge regression foretells for each fold from the others."""
    from sklearn.kernel_ridge import KernelRidge

    shares = np.zeros(targets.shape)
    for fold in np.unique(folds):
        learnt, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        usual = targets[learnt].mean(0)
        model = KernelRidge(alpha=GAP_PENALTY, kernel="precomputed").fit(
            kernel[np.ix_(learnt, learnt)], targets[learnt] - usual
        )
        shares[asked] = (model.predict(kernel[np.ix_(asked, learnt)]) + usual).clip(1e-6)
    return shares / shares.sum(1, keepdims=True)


def _beside_people(graded: GradedArtworks, fit: Fit) -> Metrics | None:
    """How far scorer and people agree, and people among themselves; None without votes."""
    if graded.votes is None:
        return None
    image_ids = [graded.image_ids[row] for row in fit.rows]
    consensus = graded.targets[fit.rows, 0].argmax(1)
    return dict(beside_people(graded.votes, image_ids, consensus, predicted_grade(fit.probabilities[:, 0])))
