import pytest
import torch

from artgate.scoring.calibration import Calibration, fit_calibration, no_calibration
from artgate.scoring.heads import grade_probabilities


def drawn(n, temperature, bias, seed=0):
    """Logits and grades drawn so that logits / temperature + bias tell the truth."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 1, 2, generator=generator) * 3
    truth = grade_probabilities(logits[:, 0].double() / temperature + torch.tensor(bias))
    grades = torch.multinomial(truth, 1, generator=generator)[:, 0]
    return logits, torch.nn.functional.one_hot(grades, 3).float()[:, None]


def test_finds_temperature_and_bias():
    found = fit_calibration(*drawn(20_000, 2.5, [0.8, -0.4]))
    assert found.temperature[0] == pytest.approx(2.5, rel=0.06)
    assert found.bias[0] == pytest.approx([0.8, -0.4], abs=0.08)


def test_calibrated_probabilities_come_true_and_raw_ones_do_not():
    logits, targets = drawn(20_000, 3.0, [0.0, 0.0])
    fresh_logits, fresh_targets = drawn(20_000, 3.0, [0.0, 0.0], seed=1)
    sure = 0.9

    def gap(calibration):
        probabilities = calibration(fresh_logits)[:, 0]
        confidence, grade = probabilities.max(1)
        right = grade == fresh_targets[:, 0].argmax(1)
        return (confidence[confidence > sure].mean() - right[confidence > sure].double().mean()).item()

    assert gap(no_calibration(1, 3)) > 0.1
    assert abs(gap(fit_calibration(logits, targets))) < 0.02


def test_a_monotone_change_keeps_the_order_of_an_aspect():
    logits, targets = drawn(500, 0.5, [0.0, 0.0])
    calibrated = fit_calibration(logits, targets)(logits)[:, 0]
    exceeds_poor = calibrated[:, 1:].sum(1)
    assert torch.equal(exceeds_poor.argsort(), logits[:, 0, 0].argsort())


def test_few_artworks_hardly_move_it():
    logits = torch.tensor([[[4.0, 4.0]], [[4.0, 4.0]]])
    found = fit_calibration(logits, torch.tensor([[[0, 0, 1.0]], [[0, 0, 1.0]]]))
    assert 0.4 < found.temperature[0] < 1.5
    assert max(abs(bias) for bias in found.bias[0]) < 0.2


def test_ungraded_aspects_keep_their_logits():
    logits, targets = drawn(300, 2.0, [0.0, 0.0])
    both = torch.cat([targets, torch.full_like(targets, float("nan"))], 1)
    found = fit_calibration(logits.expand(-1, 2, -1), both)
    assert found.temperature[1] == 1
    assert found.bias[1] == (0, 0)
    assert found.temperature[0] == pytest.approx(fit_calibration(logits, targets).temperature[0])


def test_applies_each_aspect_by_itself():
    calibration = Calibration((1.0, 2.0), ((0.0, 0.0), (1.0, -1.0)))
    logits = torch.tensor([[[2.0, 2.0], [2.0, 2.0]]])
    expected = grade_probabilities(torch.tensor([[2.0, 2.0], [2.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(calibration(logits)[0], expected)
