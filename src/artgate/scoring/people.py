"""How far a scorer agrees with people, beside how far they agree with each other: how good a scorer can be to them."""

from collections.abc import Sequence

import numpy as np

from artgate.labels.agreement import mean_kappa, people
from artgate.labels.ballots import Ballots
from artgate.scoring.metrics import Metrics, quadratic_kappa


def beside_people(told: Ballots, image_ids: Sequence[str], graded: np.ndarray, predicted: np.ndarray) -> Metrics:
    """Quadratic kappas of quality; None where they are not defined.

    told: the votes. image_ids, graded, predicted: (M,) the artworks that the scorer is measured on, the consensus of
    people there and the scorer's grade.
    human_human: two people, the mean over pairs, on all artworks that both graded; human_consensus: one person and the
    median of the others, the mean over people. scorer_human: the scorer and one person, the mean over people;
    scorer_consensus: the scorer and the consensus; both on the artworks measured that have votes.
    """
    among = people(told)
    place = {image_id: row for row, image_id in enumerate(told.artworks)}
    row_of = np.full(len(told.artworks), -1)  # where each artwork with votes stands among those measured
    for row, image_id in enumerate(image_ids):
        if image_id in place:
            row_of[place[image_id]] = row
    measured = row_of[told.artwork] >= 0
    tables = np.zeros((len(told.annotators), 3, 3))
    np.add.at(
        tables,
        (told.annotator[measured], told.grade[measured], predicted[row_of[told.artwork[measured]]]),
        1,
    )
    voted = row_of[row_of >= 0]
    return {
        "human_human": among["pairwise"],
        "human_consensus": among["against_others"],
        "scorer_human": mean_kappa(tables),
        "scorer_consensus": quadratic_kappa(graded[voted], predicted[voted]) if len(voted) else None,
        "annotators": len(told.annotators),
        "voted_twice": among["artworks"],
        "measured": len(voted),
    }
