from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from artgate.errors import UserError
from artgate.scoring.calibration import fit_calibration
from artgate.scoring.config import HeadConfig, TrainerConfig
from artgate.scoring.fitting import Examples, fit_head, fit_on_all, fit_on_splits
from artgate.scoring.heads import grade_probabilities

LINEAR = HeadConfig(kind="linear", components=32, hidden=1, dropout=0.0, members=1)
MLP = HeadConfig(kind="mlp", components=32, hidden=16, dropout=0.2, members=2)
TRAINER = TrainerConfig(
    epochs=12,
    earliest=0,
    patience=4,
    minibatch=64,
    steps=5,
    learning_rate=3e-2,
    weight_decay=0.0,
    average_decay=0.8,
    class_balance=True,
)


def examples(n=400, dim=12, noise=0.3, scale=1.0, seed=0):
    """Grades that a direction in feature space decides, on features with means and scales far from 0 and 1."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(n, dim))
    quality = plain[:, 0] + noise * rng.normal(size=n)
    grades = np.digitize(quality, [-0.5, 0.5])
    features = plain * np.geomspace(scale, 1 / scale, dim) + 50 * scale
    targets = np.eye(3, dtype=np.float32)[grades][:, None]
    generators = ["a" if q < 0 else "b" for q in quality]
    return Examples(
        torch.tensor(features, dtype=torch.float32), torch.from_numpy(targets), torch.from_numpy(targets), generators
    )


def accuracy(head, of, rows):
    with torch.inference_mode():
        return (
            (grade_probabilities(head(of.features[rows]))[:, 0].argmax(1) == of.targets[rows, 0].argmax(1))
            .float()
            .mean()
        )


@pytest.mark.parametrize("config", [LINEAR, MLP], ids=["linear", "mlp"])
def test_learns_what_can_be_learnt_whatever_the_scale_of_features(config):
    """Unstandardised, features from 1e-3 to 1e3 around 5e4 leave the head at chance."""
    data = examples(scale=1e3)
    head, epoch = fit_head(data, range(300), range(300, 350), config, TRAINER, seed=1)
    assert accuracy(head, data, range(350, 400)) > 0.7
    assert 0 <= epoch < 12


def test_same_seed_same_head_and_other_seed_another():
    data = examples()
    once, again, other = (
        fit_head(data, range(300), range(300, 400), MLP, TRAINER, seed)[0](data.features) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_global_randomness_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_head(examples(80), range(60), range(60, 80), LINEAR, TRAINER, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_keeps_the_epoch_that_validates_best():
    """Validation grades that contradict training: any learning makes them worse, so the first epoch is kept."""
    data = examples()
    data.targets[300:] = data.targets[300:].flip(-1)
    _, epoch = fit_head(data, range(300), range(300, 400), LINEAR, TRAINER, seed=1)
    assert epoch == 0
    _, epoch = fit_head(data, range(300), range(300, 400), LINEAR, replace(TRAINER, earliest=5), seed=1)
    assert epoch == 5
    _, epoch = fit_head(data, range(300), range(300, 400), LINEAR, replace(TRAINER, earliest=99), seed=1)
    assert epoch == TRAINER.epochs - 1


@pytest.mark.parametrize("val", [range(300, 400), None], ids=["validated", "to a given epoch"])
def test_a_loss_beyond_all_numbers_is_told_of(val):
    data = examples()
    data.lessons[0] = torch.inf
    with pytest.raises(UserError, match="not finite with trainer.learning_rate=0.03: give a lower one"):
        fit_head(data, range(300), val, LINEAR, TRAINER, seed=1, last_epoch=2)


def test_learns_from_lessons_and_is_calibrated_by_targets():
    """Lessons that swap poor and good make a head that is wrong; its calibration cannot tell it so, but shows."""
    data = examples()
    swapped = Examples(data.features, data.targets, data.targets.flip(-1), data.generators)
    head, _ = fit_head(swapped, range(300), range(300, 350), LINEAR, TRAINER, seed=1)
    assert accuracy(head, data, range(350, 400)) < 0.5
    mirrored = Examples(data.features, data.targets.flip(-1), data.targets.flip(-1), data.generators)
    assert accuracy(head, mirrored, range(350, 400)) > 0.7


def test_missing_aspects_do_not_reach_the_other():
    data = examples()
    two = torch.cat([data.targets, torch.full_like(data.targets, float("nan"))], 1)
    two[:20, 1] = data.targets[:20, 0]
    head, _ = fit_head(Examples(data.features, two, two, data.generators), range(300), range(300, 350), MLP, TRAINER, 1)
    assert torch.isfinite(head(data.features)).all()
    assert accuracy(head, data, range(350, 400)) > 0.7


def test_an_artwork_graded_in_one_aspect_teaches_nothing_to_another():
    """Whatever is said of the quality of artworks without another grade, what is learnt of the other stays."""
    data = examples()
    two = torch.cat([data.targets, data.targets], 1)
    two[100:300, 1] = float("nan")
    contrary = two.clone()
    contrary[100:300, 0] = two[100:300, 0][:, [0, 2, 1]]  # good and average change places: as many decisions as before
    trainer = replace(TRAINER, class_balance=False)
    fitted = [
        fit_head(Examples(data.features, t, t, data.generators), range(300), None, LINEAR, trainer, 1, last_epoch=4)[0]
        for t in (two, contrary)
    ]
    once, again = (head(data.features) for head in fitted)
    assert torch.equal(once[:, 1], again[:, 1])
    assert (once[:, 0] - again[:, 0]).abs().mean() > 0.1


def test_balance_finds_a_rare_grade():
    rng = np.random.default_rng(0)
    grades = np.array([0] * 380 + [2] * 20)
    features = torch.tensor(rng.normal(size=(400, 4)) + 1.2 * grades[:, None] / 2, dtype=torch.float32)
    order = rng.permutation(400)
    targets = torch.eye(3)[grades[order]][:, None]
    data = Examples(features[order], targets, targets, [None] * 400)

    def found(balance):
        config = replace(TRAINER, class_balance=balance)
        head, _ = fit_head(data, range(300), range(300, 400), LINEAR, config, 1)
        good = data.targets[:, 0, 2] == 1
        return (grade_probabilities(head(data.features))[good, 0].argmax(1) == 2).float().mean().item()

    assert found(balance=True) > 0.7
    assert found(balance=False) < found(balance=True) - 0.1


def test_splits_are_used_for_what_they_are_for():
    """Calibration and test artworks, changed beyond recognition, change neither head nor epoch."""
    data = examples()
    rows = {
        "train": list(range(250)),
        "val": list(range(250, 300)),
        "calibration": list(range(300, 350)),
        "test": list(range(350, 400)),
    }
    fit = fit_on_splits(data, rows, LINEAR, TRAINER, 1, None)
    assert fit.rows == rows["test"]
    assert fit.probabilities.shape == (50, 1, 3)
    assert fit.probabilities.sum(-1) == pytest.approx(np.ones((50, 1)))
    other = examples()
    other.targets[300:] = other.targets[300:].flip(-1)
    other.features[350:] += 3
    unlike = fit_on_splits(other, rows, LINEAR, TRAINER, 1, None)
    for name, tensor in fit.head.state_dict().items():
        assert torch.equal(tensor, unlike.head.state_dict()[name]), name
    assert unlike.calibration != fit.calibration
    held = rows["calibration"]
    assert fit.calibration == fit_calibration(fit.head(data.features[held]), data.targets[held])
    assert fit.baselines.keys() == {"logistic_regression", "generator_majority"}
    right = fit.baselines["logistic_regression"].argmax(1) == data.grades(rows["test"]).argmax(1)
    assert right.mean() > 0.7


@pytest.mark.slow
def test_out_of_fold_figures_are_honest():
    """Grades drawn at random cannot be foretold: a figure above chance would have seen them."""
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(240, 150)), dtype=torch.float32)
    grades = rng.integers(0, 3, 240)
    targets = torch.eye(3)[grades][:, None]
    data = Examples(features, targets, targets, [None] * 240)
    memorising, wide = replace(TRAINER, earliest=99), replace(LINEAR, components=150)
    fit = fit_on_all(data, [row % 4 for row in range(240)], wide, memorising, 1, None)
    assert fit.rows == list(range(240))
    assert accuracy(fit.head, data, range(240)) > 0.7, "learnt by heart"
    assert (fit.probabilities[:, 0].argmax(1) == grades).mean() < 0.42
    assert (fit.baselines["logistic_regression"].argmax(1) == grades).mean() < 0.42
    assert fit.baselines.keys() == {"logistic_regression"}


@pytest.mark.slow
def test_the_final_head_learns_from_everything():
    data, folds = examples(200), [row % 4 for row in range(200)]
    fit = fit_on_all(data, folds, LINEAR, TRAINER, 1, None)
    assert (fit.probabilities[:, 0].argmax(1) == data.grades(range(200)).argmax(1)).mean() > 0.7
    expected, _ = fit_head(data, range(200), None, LINEAR, TRAINER, 1, None, fit.epoch)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, fit.head.state_dict()[name]), name


def with_renditions(data, shift=3.0):
    """A copy of each with a little noise, and one whose last feature tells of damage."""
    generator = torch.Generator().manual_seed(3)
    spread = data.features.std(0)
    copies = data.features + 0.1 * spread * torch.randn(data.features.shape, generator=generator)
    damaged = data.features + 0.1 * spread * torch.randn(data.features.shape, generator=generator)
    damaged[:, -1] += shift * spread[-1]
    return replace(data, renditions=torch.stack([copies, damaged], dim=1), damaged=[False, True])


def test_a_detector_learns_from_the_artworks_and_all_their_renditions():
    data = with_renditions(examples(n=50))
    features, damaged = data.sound_and_damaged([3, 7])
    assert torch.equal(features[:2], data.features[[3, 7]])
    assert torch.equal(features[2:], data.renditions[[3, 7]].flatten(0, 1))
    assert damaged.tolist() == [False, False, False, True, False, True]
    assert not examples(n=50).sound_and_damaged([3, 7])[1].any()


@pytest.mark.slow
def test_a_detector_lowers_the_score_of_the_damaged_and_hardly_that_of_the_sound():
    data = with_renditions(examples(n=500))
    config = replace(MLP, detector=16, strength=1.0)
    trainer = replace(TRAINER, steps=20)
    seeing, _ = fit_head(data, range(300), None, config, trainer, seed=1, last_epoch=11)
    blind, _ = fit_head(data, range(300), None, MLP, trainer, seed=1, last_epoch=11)
    asked = range(300, 400)

    def score(head, features):
        with torch.inference_mode():
            return grade_probabilities(head(features[list(asked)]))[:, 0] @ torch.arange(3.0)

    def calibrated(head):
        with torch.no_grad():
            calibration, logits = head(data.features[400:]), head(data.features[list(asked)])
        return fit_calibration(calibration, data.targets[400:])(logits)[:, 0]

    sound, damaged = data.features, data.renditions[:, 1]
    assert (score(seeing, damaged) < score(seeing, sound)).float().mean() > 0.95
    assert (score(blind, damaged) < score(blind, sound)).float().mean() < 0.9
    grades = data.targets[list(asked), 0].argmax(1)
    ranks = [spearmanr(score(head, sound), grades).statistic for head in (seeing, blind)]
    assert ranks[0] > ranks[1] - 0.03
    right = [(calibrated(head).argmax(1) == grades).float().mean() for head in (seeing, blind)]
    assert right[0] > right[1] - 0.05


def test_without_damaged_renditions_there_is_no_detector():
    head, _ = fit_head(examples(), range(300), None, replace(MLP, detector=16), TRAINER, seed=1, last_epoch=1)
    assert head.detector is None and "detector" not in head.config


def test_levels_finer_than_grades_reach_the_kernel():
    data = examples(noise=0.0)
    plain = (data.features - data.features.mean(0)) / data.features.std(0)
    finer = replace(data, levels=(1 + plain[:, :1]).float())
    config = replace(MLP, centres=300)
    heads = [fit_head(each, range(300), None, config, TRAINER, seed=1, last_epoch=3)[0] for each in (data, finer)]
    good = [row for row in range(300, 400) if data.targets[row, 0].argmax() == 2]
    with torch.inference_mode():
        told = [head.kernel.opinion(head._axes(data.features[good]))[:, 0] for head in heads]
    ranks = [np.corrcoef(each.numpy().argsort().argsort(), plain[good, 0].argsort().argsort())[0, 1] for each in told]
    assert ranks[1] > 0.8 and ranks[1] > ranks[0]
