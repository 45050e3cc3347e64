"""Every annotator alone: how many votes, how they agree with the others, how fast, how steady, and on anchors."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from artgate.labels.agreement import DRAWS, LEAST_SHARED, Interval, Others, against_others, others, quadratic_kappa
from artgate.labels.ballots import Ballots
from artgate.labels.consensus import dawid_skene
from artgate.labels.drift import FALSE_ALARMS, Drift, drifts
from artgate.labels.grades import GRADES
from artgate.labels.pace import Pace, paces

LEAST_ANCHORS = 10
K = len(GRADES)


@dataclass(frozen=True)
class Anchors:
    """How one annotator graded the artworks whose grade is certain. kappa: None where all grades are one and the same.

    interval: of the share that is right, 95 % (Clopper and Pearson).
    """

    graded: int
    right: int
    interval: Interval
    kappa: float | None


@dataclass(frozen=True)
class Annotator:
    """One annotator of one aspect.

    grades: (K,) votes of each grade. confusion: (K, K) votes, the others' grade (their median) in rows, the
    annotator's in columns; kappa: quadratic, of that; None under `LEAST_SHARED` votes. spread: its standard error.
    errors: (K, K) by Dawid-Skene, in rows the grade taken for true, NaN where unknown. anchors: None without any.
    remarks: what somebody should look at, in plain words.
    """

    name: str
    grades: np.ndarray
    confusion: np.ndarray
    kappa: float | None
    spread: float | None
    errors: np.ndarray
    pace: Pace
    drift: Drift
    anchors: Anchors | None
    remarks: tuple[str, ...] = ()

    @property
    def votes(self) -> int:
        """How many artworks they graded, anchors of their own aside."""
        return int(self.grades.sum())

    @property
    def interval(self) -> Interval | None:
        """Where kappa lies, 95 %."""
        if self.kappa is None or self.spread is None:
            return None
        return max(-1.0, self.kappa - 1.96 * self.spread), min(1.0, self.kappa + 1.96 * self.spread)


def annotators(told: Ballots) -> list[Annotator]:
    """All that there is to say of each of the M annotators, in order of their names."""
    rest = others(told)
    confusion, errors = against_others(told, rest), dawid_skene(told).errors
    kappas, spreads = _kappas(told, rest)
    on_anchors = [_anchors(told, person) for person in range(len(told.annotators))]
    every_pace, every_drift = paces(told), drifts(told, rest)
    grades = np.zeros((len(told.annotators), K), dtype=int)
    np.add.at(grades, (told.annotator, told.grade), 1)
    return [
        Annotator(
            name,
            grades[person],
            confusion[person],
            kappas[person],
            spreads[person],
            errors[person],
            every_pace[person],
            every_drift[person],
            on_anchors[person],
            (
                *_of_agreement(kappas, spreads, person),
                *_of_anchors(on_anchors, person),
                *_of_pace(every_pace[person]),
                *_of_drift(every_drift[person]),
            ),
        )
        for person, name in enumerate(told.annotators)
    ]


def _kappas(told: Ballots, rest: Others) -> tuple[list[float | None], list[float | None]]:
    """Kappa with the others and its standard error by drawing the artworks anew, of each annotator."""
    kappas: list[float | None] = []
    spreads: list[float | None] = []
    for person in range(len(told.annotators)):
        own = rest.known & (told.annotator == person)
        if own.sum() < LEAST_SHARED:
            kappas.append(None)
            spreads.append(None)
            continue
        cells = np.zeros((K, K, K))  # the two middle grades of the others, and one's own
        np.add.at(cells, (rest.low[own], rest.high[own], told.grade[own]), 1)
        kappa = float(quadratic_kappa(_halves(cells)))
        drawn = np.random.default_rng(0).multinomial(int(own.sum()), cells.ravel() / own.sum(), size=DRAWS)
        found = quadratic_kappa(_halves(drawn.reshape(-1, K, K, K)))
        found = found[np.isfinite(found)]
        defined = np.isfinite(kappa)
        kappas.append(kappa if defined else None)
        spreads.append(float(found.std()) if defined and len(found) else None)
    return kappas, spreads


def _halves(cells: np.ndarray) -> np.ndarray:
    """(..., K low, K high, K own) -> (..., K others, K own), each of the two middle grades for half."""
    return (cells.sum(-2) + cells.sum(-3)) / 2


def _anchors(told: Ballots, person: int) -> Anchors | None:
    from scipy.stats import binomtest

    own = (told.annotator == person) & (told.truth[told.artwork] >= 0)
    if not (graded := int(own.sum())):
        return None
    table = np.zeros((K, K))
    np.add.at(table, (told.truth[told.artwork[own]], told.grade[own]), 1)
    right = int(np.trace(table))
    low, high = binomtest(right, graded).proportion_ci()
    kappa = float(quadratic_kappa(table))
    return Anchors(graded, right, (float(low), float(high)), kappa if np.isfinite(kappa) else None)


def _of_agreement(kappas: list[float | None], spreads: list[float | None], person: int) -> list[str]:
    """Said only where chance would say it of nobody, in 95 of 100 sets of annotators that are alike."""
    kappa, spread = kappas[person], spreads[person]
    known = [other for place, other in enumerate(kappas) if other is not None and place != person]
    if kappa is None or spread is None or not known:
        return []
    usual = float(np.median(known))
    at_most = kappa + NormalDist().inv_cdf(1 - FALSE_ALARMS / (len(known) + 1)) * spread
    return (
        [f"agrees less with the others than they do: kappa {kappa:.2f}, theirs {usual:.2f}"] if at_most < usual else []
    )


def _of_anchors(found: list[Anchors | None], person: int) -> list[str]:
    from scipy.stats import binomtest

    own = found[person]
    rest = [anchors for place, anchors in enumerate(found) if anchors is not None and place != person]
    graded = sum(anchors.graded for anchors in rest)
    if own is None or own.graded < LEAST_ANCHORS or graded < LEAST_ANCHORS:
        return []
    usual = sum(anchors.right for anchors in rest) / graded
    chance = binomtest(own.right, own.graded, usual, alternative="less").pvalue
    if chance >= FALSE_ALARMS / (len(rest) + 1):
        return []
    return [f"{own.right} of {own.graded} anchors right, of the others {usual:.0%}"]


def _of_pace(pace: Pace) -> list[str]:
    remarks = []
    if pace.hurries:
        remarks.append(f"fast: {pace.seconds:.1f} s a vote, the others {pace.usual:.1f} s")
    if pace.hurries_lately:
        remarks.append(f"fast of late: {pace.latest:.1f} s a vote, {pace.seconds:.1f} s over all")
    return remarks


def _of_drift(drift: Drift) -> list[str]:
    remarks = []
    if drift.level_moved:
        first, last = drift.blocks[0].level, drift.blocks[-1].level
        remarks.append(f"level drifted: {first:+.2f} grades from the others at first, {last:+.2f} at last")
    if drift.distance_moved:
        first, last = drift.blocks[0].distance, drift.blocks[-1].distance
        remarks.append(f"agreement drifted: {first:.2f} grades from the others at first, {last:.2f} at last")
    return remarks
