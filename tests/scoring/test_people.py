import numpy as np
import pytest
from simulated_votes import simulated_with_truth
from sklearn.metrics import cohen_kappa_score

from artgate.labels.ballots import ballots
from artgate.labels.consensus import consensus
from artgate.scoring.people import beside_people


def test_a_scorer_that_knows_the_truth_agrees_more_than_people_do() -> None:
    votes, truth = simulated_with_truth(300, (0.8, 0.8, 0.8, 0.8), seed=0)
    told = ballots(votes, "quality")
    measured = [*truth][:200]
    true = np.array([truth[image_id] for image_id in measured])
    graded = consensus(votes).array(measured, ["quality"])[:, 0].argmax(1)
    found = beside_people(told, measured, graded, true)
    assert found["annotators"] == 4 and found["voted_twice"] == 300 and found["measured"] == 200
    assert found["scorer_human"] > found["human_human"] + 0.05
    assert found["scorer_consensus"] > found["human_consensus"] > found["human_human"]
    assert found["scorer_consensus"] == pytest.approx(cohen_kappa_score(graded, true, weights="quadratic"))
    expected = []
    for name in told.annotators:
        own = {vote.image_id: vote.grade for vote in votes if vote.annotator == name}
        said = [("poor", "average", "good").index(own[image_id]) for image_id in measured]
        expected.append(cohen_kappa_score(said, true, weights="quadratic"))
    assert found["scorer_human"] == pytest.approx(np.mean(expected))


def test_only_artworks_that_have_votes_count_for_the_scorer() -> None:
    votes, truth = simulated_with_truth(40, (0.9, 0.9), seed=0)
    told = ballots(votes, "quality")
    image_ids = ["nobody voted", *truth, "nor here"]
    true = np.array([0, *truth.values(), 1])
    wrong_elsewhere = true.copy()
    wrong_elsewhere[[0, -1]] = 2
    assert beside_people(told, image_ids, true, wrong_elsewhere)["scorer_consensus"] == 1
    alone = beside_people(told, ["nobody voted"], np.array([0]), np.array([0]))
    assert alone["measured"] == 0 and alone["scorer_human"] is None and alone["scorer_consensus"] is None
    assert alone["human_human"] > 0.5
