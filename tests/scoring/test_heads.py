import numpy as np
import pytest
import torch
from coral_pytorch.dataset import corn_label_from_logits
from coral_pytorch.losses import corn_loss as oracle

from artgate.scoring.damage import DamageDetector
from artgate.scoring.heads import OrdinalHead, balancing_weights, corn_loss, fit_projection, grade_probabilities
from artgate.scoring.kernel_fitting import fit_kernel


def random_case(n=200, aspects=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, aspects, 2, generator=generator) * 2
    grades = torch.randint(0, 3, (n, aspects), generator=generator)
    return logits, grades, torch.nn.functional.one_hot(grades, 3).float()


def test_hard_targets_give_the_loss_of_the_paper():
    logits, grades, targets = random_case()
    expected = oracle(logits[:, 0], grades[:, 0], num_classes=3)
    assert corn_loss(logits, targets, torch.ones(200, 1)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_thresholds_of_the_paper_follow_from_the_probabilities():
    logits, _, _ = random_case()
    probabilities = grade_probabilities(logits[:, 0])
    exceeded = torch.stack([probabilities[:, 1:].sum(1), probabilities[:, 2]], 1)
    assert torch.equal((exceeded > 0.5).sum(1), corn_label_from_logits(logits[:, 0]))


def test_probabilities_by_hand():
    logits = torch.tensor([[0.0, np.log(3.0)]])  # P(> poor) = 1/2, P(> average | > poor) = 3/4
    assert grade_probabilities(logits).tolist()[0] == pytest.approx([0.5, 0.125, 0.375])
    extreme = grade_probabilities(torch.tensor([[80.0, 80.0], [-80.0, 80.0]]))
    torch.testing.assert_close(extreme, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


def test_soft_targets_cost_what_the_votes_behind_them_cost():
    """An artwork that 3 of 4 called good and 1 poor is worth the four votes, each a quarter."""
    logits = torch.tensor([[[0.3, -0.7]]])
    soft = corn_loss(logits, torch.tensor([[[0.25, 0.0, 0.75]]]), torch.ones(1, 1))
    votes = torch.tensor([[[1.0, 0, 0]], [[0, 0, 1.0]], [[0, 0, 1.0]], [[0, 0, 1.0]]])
    assert soft.item() == pytest.approx(corn_loss(logits.expand(4, 1, 2), votes, torch.ones(4, 1)).item(), rel=1e-6)


def test_soft_loss_is_least_at_the_target():
    target = torch.tensor([[[0.2, 0.5, 0.3]]])
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = corn_loss(logits, target, torch.ones(1, 1))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert grade_probabilities(logits)[0, 0].tolist() == pytest.approx([0.2, 0.5, 0.3], abs=1e-4)


def test_a_missing_aspect_neither_counts_nor_pulls():
    logits, _, targets = random_case(aspects=2)
    targets[::3, 1] = float("nan")
    logits.requires_grad_()
    loss = corn_loss(logits, targets, torch.ones(200, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad[::3, 1].abs().max() == 0
    assert logits.grad[1::3, 1, 0].abs().min() > 0
    kept = ~targets.isnan().any(-1)
    alone = corn_loss(logits[kept][:, None], targets[kept][:, None], torch.ones(int(kept.sum()), 1))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)


def test_a_weight_of_two_is_the_artwork_twice():
    logits, _, targets = random_case(n=3)
    twice = corn_loss(logits[[0, 1, 2, 2]], targets[[0, 1, 2, 2]], torch.ones(4, 1))
    weighted = corn_loss(logits, targets, torch.tensor([[1.0], [1.0], [2.0]]))
    assert weighted.item() == pytest.approx(twice.item(), rel=1e-6)


def test_balancing_lets_every_grade_weigh_the_same():
    grades = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    targets = torch.nn.functional.one_hot(grades, 3).float()[:, None]
    weights = balancing_weights(targets)[:, 0]
    assert [weights[grades == grade].sum().item() for grade in range(3)] == pytest.approx([100 / 3] * 3, rel=1e-5)
    targets[:10] = float("nan")
    assert balancing_weights(targets)[:10].abs().max() == 0
    assert balancing_weights(targets).sum().item() == pytest.approx(90, rel=1e-5)


def test_projection_standardises_and_keeps_what_varies_together():
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(300, 1, generator=generator)
    features = common * torch.ones(6) + 0.1 * torch.randn(300, 6, generator=generator)
    features = features * torch.tensor([1.0, 1e3, 1e-3, 1.0, 1.0, 0.0]) + 7
    projection = fit_projection(features, 2)
    assert projection.axes.shape == (6, 2)
    projected = projection(features)
    assert projected.mean(0).abs().max() < 1e-2
    assert projected.square().mean().item() == pytest.approx(1, rel=1e-3)
    # Five of six standardised features are one and the same, whatever their scale: the first axis is their mean.
    assert abs(np.corrcoef(projected[:, 0], common[:, 0])[0, 1]) > 0.998
    assert projected[:, 0].std() > 5 * projected[:, 1].std()
    assert fit_projection(features[:3], 99).axes.shape == (6, 3)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_behind_its_projection_says_the_same_on_whole_features(kind):
    torch.manual_seed(0)
    features = torch.randn(50, 20) * torch.logspace(-3, 3, 20) + 5
    projection = fit_projection(features, 8)
    head = OrdinalHead(8, aspects=2, grades=3, kind=kind, hidden=4, dropout=0.5, members=3).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    whole = head.behind(projection).eval()
    torch.testing.assert_close(whole(features), head(projection(features)), rtol=1e-3, atol=1e-3)
    assert whole.each_member(features).shape == (3, 50, 2, 2)
    torch.testing.assert_close(whole(features), whole.each_member(features).mean(0))
    before = whole(features)
    whole.round_to_half()
    torch.testing.assert_close(whole(features), before, rtol=5e-3, atol=2e-2)


def test_damage_that_the_detector_sees_is_taken_from_quality_alone():
    torch.manual_seed(0)
    features = torch.randn(40, 6)
    projection = fit_projection(features, 4)
    networks = OrdinalHead(4, aspects=2, grades=3, kind="mlp", hidden=4, dropout=0.0, members=2)
    detector = DamageDetector(6, components=3, hidden=5, members=2)
    for parameter in [*networks.parameters(), *detector.parameters()]:
        torch.nn.init.normal_(parameter)
    plain = networks.behind(projection).eval()
    head = networks.behind(projection, detector=detector, strength=0.5).eval()
    taken = plain(features) - head(features)
    expected = 0.5 * torch.nn.functional.softplus(detector(features))
    torch.testing.assert_close(taken[:, 0], expected[:, None].expand(-1, 2), atol=1e-5, rtol=1e-4)
    assert taken[:, 1].eq(0).all()
    again = OrdinalHead(6, 2, 3, **head.config).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(features), head(features))


def test_a_head_with_a_kernel_averages_its_logits_with_the_networks():
    torch.manual_seed(0)
    features = torch.randn(60, 20)
    projection = fit_projection(features, 8)
    axes = projection(features)
    opinions = 1 + axes[:, :1]
    lessons = torch.eye(3)[opinions[:, 0].round().clamp(0, 2).long()][:, None]
    kernel = fit_kernel(axes, opinions, lessons, width=0.5, ridge=0.1, most=30, seed=0)
    head = OrdinalHead(8, aspects=1, grades=3, kind="linear", hidden=1, dropout=0.0, members=1).eval()
    whole = head.behind(projection, kernel).eval()
    torch.testing.assert_close(whole(features), (head(axes) + kernel(axes)) / 2, atol=1e-4, rtol=1e-3)
    again = OrdinalHead(20, 1, 3, **whole.config).eval()
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again(features), whole(features))
