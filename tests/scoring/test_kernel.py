"""The kernel beside a head's networks: against scikit-learn's, and what its logits mean."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from artgate.scoring.heads import grade_probabilities
from artgate.scoring.kernel import KernelOpinion, similarity
from artgate.scoring.kernel_fitting import fit_kernel


def artworks(count: int = 200, axes: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, C) axes, (N, 1) opinions in grades, and (N, 1, 3) grades."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, axes, generator=generator)
    opinions = (1 + torch.sin(2 * points[:, :1]) + 0.5 * points[:, 1:2]).clamp(-1, 3)
    return points, opinions, torch.eye(3)[opinions[:, 0].round().clamp(0, 2).long()][:, None]


def test_it_is_kernel_ridge_regression():
    points, opinions, lessons = artworks()
    asked = artworks(50, seed=1)[0]
    model = fit_kernel(points, opinions, lessons, width=0.7, ridge=0.2, most=1000, seed=0)
    mean = opinions.mean().item()
    oracle = KernelRidge(alpha=0.2, kernel="rbf", gamma=0.7 / points.shape[1]).fit(points, opinions[:, 0] - mean)
    expected = torch.from_numpy(oracle.predict(asked) + mean).float()
    torch.testing.assert_close(model.opinion(asked)[:, 0], expected, atol=0.02, rtol=0.02)  # centres are float16


def test_fewer_centres_still_come_near():
    points, opinions, lessons = artworks(600)
    asked, told, _ = artworks(200, seed=1)
    model = fit_kernel(points, opinions, lessons, width=0.5, ridge=0.1, most=200, seed=0)
    assert model.centres.shape == (200, 6)
    assert np.corrcoef(model.opinion(asked)[:, 0], told[:, 0])[0, 1] > 0.85


def test_logits_put_the_edges_between_the_grades():
    model = KernelOpinion(1, 2, aspects=1, grades=3, width=1.0)
    model.slope[0] = 4.0
    found = grade_probabilities(model.logits(torch.tensor([[-1.0], [0.5], [1.0], [1.5], [3.0]])))[:, 0]  # (5, 3)
    assert found.argmax(1).tolist()[0] == 0 and found.argmax(1).tolist()[2] == 1 and found.argmax(1).tolist()[4] == 2
    assert found[1, 1:].sum().item() == pytest.approx(0.5, abs=1e-4)  # as likely above the edge as below it
    assert found[3, 2].item() == pytest.approx(0.5, abs=1e-4)


def test_the_slope_is_steeper_where_opinions_are_told_well():
    points, opinions, lessons = artworks(300)
    noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(5))
    sure = fit_kernel(points, opinions, lessons, 0.5, 0.1, 1000, 0).slope
    unsure = fit_kernel(points, opinions + 2 * noise, lessons, 0.5, 0.1, 1000, 0).slope
    assert sure > 2 * unsure > 0


def test_an_aspect_is_fitted_on_what_is_graded_in_it():
    points, opinions, lessons = artworks()
    both = torch.cat([opinions, opinions.flip(0)], dim=1)
    twice = torch.cat([lessons, lessons.flip(0)], dim=1)
    both[100:, 1], twice[100:, 1] = torch.nan, torch.nan
    model = fit_kernel(points, both, twice, 0.5, 0.1, 1000, 0)
    alone = fit_kernel(points, both[:, :1], twice[:, :1], 0.5, 0.1, 1000, 0)
    torch.testing.assert_close(model.opinion(points)[:, 0], alone.opinion(points)[:, 0])
    both[:, 1], twice[:, 1] = torch.nan, torch.nan
    ungraded = fit_kernel(points, both, twice, 0.5, 0.1, 1000, 0)
    assert ungraded.weights[:, 1].eq(0).all()
    assert ungraded(points).isfinite().all()


def test_similarity_is_one_at_the_centre_and_falls_with_the_distance():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    found = similarity(points, points[:1], width=2.0)[:, 0]
    torch.testing.assert_close(found, torch.exp(-torch.tensor([0.0, 1.0, 25.0])))
