"""train.py as it is run: from the command line to the files it leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graded_sample import graded_copy
from hydra import compose, initialize_config_dir
from PIL import Image
from wandb_files import artifacts, runs

from artgate.artworks.sample import planted_grades
from artgate.config import validated
from artgate.errors import UserError
from artgate.labels.consensus import consensus
from artgate.labels.grades import GRADES
from artgate.labels.votes import Vote, read_votes, write_votes
from artgate.scoring.config import TrainConfig

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "pytorch_lightning", "wandb", "sklearn", "timm", "transformers"}
# The sample is small, the encoder sees little, and intervals are rough: seconds, not minutes.
QUICK = [
    "experiment=sample", "encoder=embedded_fast", "encoder.sizes=[128]", "encoder.features=stages", "trainer.epochs=12",
    "head.members=1", "report.resamples=100",
]  # fmt: skip


@pytest.fixture(scope="module")
def own(sample, tmp_path_factory):
    return graded_copy(sample, tmp_path_factory.mktemp("train") / "own").root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def run(own, cache, folder, *more, **environment):
    return command(*QUICK, f"data.root={own}", f"paths.cache={cache}", f"paths.run={folder}", *more, **environment)


@pytest.fixture(scope="module")
def finished(own, cache, tmp_path_factory):
    """One run with W&B offline, as a newcomer would start it; secrets lie in the environment and are typed."""
    folder = tmp_path_factory.mktemp("run")
    typed = f"+hydra.job.env_set.HF_TOKEN={'b' * 40}"
    ended = run(own, cache, folder, typed, WANDB_API_KEY="a" * 40, WANDB_MODE="offline")
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


@pytest.mark.slow
def test_leaves_everything_and_says_where(finished):
    folder, told = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["measured_on"] == "test split"
    assert metrics["scorer"].keys() == metrics["baselines"]["logistic_regression"].keys()
    assert sum(metrics["data"]["parts"].values()) == metrics["data"]["artworks"] == 48
    assert metrics["data"]["grades"] == {"poor": 16, "average": 16, "good": 16}
    for path in (folder / "metrics.json", folder / "scorer", folder / "pictures", folder / "report.html"):
        assert str(path) in told
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures >= {"confusion.png", "reliability.png", "precision_yield.png", "scores.png", "extremes.png"}
    assert 50_000 < (folder / "report.html").stat().st_size < 5_000_000
    for path in (folder / "pictures").iterdir():
        assert min(Image.open(path).size) > 200
    card = (folder / "scorer/README.md").read_text()
    assert f"{metrics['scorer']['qwk']:.3f}" in card
    assert "## Limits" in card
    assert metrics["people"] is None and "## Beside people" not in card


@pytest.mark.slow
def test_the_scorer_scores(finished, sample):
    from artgate.scoring.scorer import Scorer

    scorer = Scorer.load(finished[0] / "scorer")
    scores = scorer([sample.image(artwork) for artwork in sample])
    assert len({score.score for score in scores}) > 24
    mean = {"poor": [], "average": [], "good": []}
    for artwork, score in zip(sample, scores, strict=True):
        mean[artwork.provenance.parameters["planted_grade"]].append(score.score)
    poor, average, good = (sum(scores) / len(scores) for scores in mean.values())
    assert poor < average < good
    assert good - poor > 0.1


@pytest.mark.slow
def test_wandb_has_the_run_offline(finished):
    (record,) = (finished[0] / "wandb").glob("offline-run-*/run-*.wandb")
    data = record.read_bytes()
    for part in (b"val/loss", b"train/loss", b"confusion", b"precision_yield", b"scorer/srcc", b"model"):
        assert part in data, part
    media = {path.name for path in (finished[0] / "wandb").glob("offline-run-*/files/media/**/*") if path.is_file()}
    for table in ("figures", "generators", "worst_mistakes", "suspects"):
        assert any(name.startswith(f"{table}_") and name.endswith(".table.json") for name in media), table
    (page,) = (finished[0] / "wandb").glob("offline-run-*/files/media/html/report_*.html")
    assert page.read_text() == (finished[0] / "report.html").read_text()


@pytest.mark.slow
def test_the_scorer_knows_the_artifact_that_was_logged_of_it(finished):
    from artgate.scoring.tracking import logged_scorer

    (run,) = runs(finished[0])
    (logged,) = [artifact for artifact in artifacts(run) if artifact.type == "model"]
    found = logged_scorer(finished[0] / "scorer")
    assert found is not None and (found.name, found.digest) == (logged.name, logged.digest)


@pytest.mark.slow
def test_no_secret_is_written_down(finished):
    folder, told = finished
    for secret in ("a" * 40, "b" * 40):
        assert secret not in told
        for path in folder.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path


@pytest.fixture
def voted(sample, tmp_path):
    """The sample with three annotators' votes, each wrong at every fifth artwork or so, and no grades."""
    folder = tmp_path / "voted"
    shutil.copytree(sample.root, folder)
    rng = np.random.default_rng(0)
    votes = [
        Vote(image_id, name, "quality", GRADES[rng.integers(3)] if rng.random() < 0.3 else grade)
        for image_id, grade in planted_grades(sample).items()
        for name in ("a", "b", "c")
    ]
    write_votes(folder, votes)
    return folder


@pytest.mark.slow
def test_votes_are_soft_targets_and_people_stand_beside_the_scorer(voted, cache, tmp_path, monkeypatch, capsys):
    """What reaches the loss is the consensus itself, not its likeliest grade."""
    from artgate.scoring import module
    from artgate.scoring.training import train

    seen, loss = [], module.corn_loss
    monkeypatch.setattr(module, "corn_loss", lambda *given: seen.append(given[1]) or loss(*given))
    folder = tmp_path / "run"
    metrics = train(
        composed(*QUICK, f"data.root={voted}", f"paths.cache={cache}", f"paths.run={folder}", "logger=none")
    )
    assert metrics["data"]["graded_by"] == "votes"
    grades = consensus(read_votes(voted))
    shares = {tuple(np.float32(grades[image_id]["quality"]).tolist()) for image_id in grades}
    reached = {tuple(target) for targets in seen for target in targets.reshape(-1, 3).tolist()}
    assert reached <= shares
    assert any(max(target) < 0.7 for target in reached), "some are shared between grades"

    people = metrics["people"]
    assert people["annotators"] == 3 and people["voted_twice"] == 48
    assert people["measured"] == metrics["scorer"]["n"] and people["scorer_consensus"] == metrics["scorer"]["qwk"]
    assert 0.4 < people["human_human"] < 0.7 and 0.4 < people["human_consensus"] < 0.7
    card = (folder / "scorer/README.md").read_text()
    assert "## Beside people" in card
    assert f"| a person | {people['human_human']:.3f} | {people['human_consensus']:.3f} (of the others) |" in card
    told = capsys.readouterr().out
    assert f"two people {people['human_human']:.3f}" in told
    assert f"scorer and consensus {people['scorer_consensus']:.3f}" in told


@pytest.mark.slow
def test_same_seed_same_metrics_to_the_last_digit(finished, own, cache, tmp_path):
    ended = run(own, cache, tmp_path / "again", "logger=none")
    assert ended.returncode == 0, ended.stderr
    once = (finished[0] / "metrics.json").read_text()
    assert (tmp_path / "again/metrics.json").read_text() == once
    assert (tmp_path / "again/scorer/head.safetensors").read_bytes() == (
        finished[0] / "scorer/head.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_multirun_goes_over_heads_and_seeds(own, cache, tmp_path):
    ended = command(
        "-m",
        *QUICK,
        f"data.root={own}",
        f"paths.cache={cache}",
        f"hydra.sweep.dir={tmp_path}",
        "logger=none",
        "trainer.epochs=2",
        "trainer.earliest=0",
        "data.damaged=0",
        "data.harmless=0",
        "head=linear,mlp",
        "seed=1,2",
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads((tmp_path / str(job) / "metrics.json").read_text()) for job in range(4)]
    assert [(metrics["head"]["kind"], metrics["seed"]) for metrics in found] == [
        ("linear", 1),
        ("linear", 2),
        ("mlp", 1),
        ("mlp", 2),
    ]
    assert found[0]["scorer"] != found[1]["scorer"]


@pytest.mark.slow
def test_final_learns_from_all_and_is_measured_out_of_fold(own, cache, tmp_path):
    from artgate.scoring.training import train

    folder = tmp_path / "run"
    cfg = composed(
        *QUICK,
        f"data.root={own}",
        f"paths.cache={cache}",
        f"paths.run={folder}",
        "final=true",
        "data.folds=3",
        "logger=none",
    )
    metrics = train(cfg)
    assert metrics["measured_on"] == "held-out folds"
    assert metrics["scorer"]["n"] == metrics["data"]["artworks"] == 48
    assert metrics["data"]["parts"].keys() == {"0", "1", "2"}
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert "learnt from all" in (folder / "scorer/README.md").read_text()


def test_one_group_cannot_be_divided(own, cache, tmp_path):
    from artgate.scoring.training import train

    cfg = composed(
        *QUICK, f"data.root={own}", f"paths.cache={cache}", f"paths.run={tmp_path}", "data.duplicate_radius=40"
    )
    cfg.data.group_by = ["near_duplicates", "prompt", "creator"]
    cfg.data.fractions = {"train": 0.97, "val": 0.01, "calibration": 0.01, "test": 0.01}
    with pytest.raises(UserError, match=r"(is|are) empty: 48 graded artworks fall into \d+ groups .* data.group_by"):
        train(cfg)
    assert not list(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data.root"),
        (["data.root=/nowhere"], "'/nowhere' is not a folder"),
        (["data.root=tests"], "is not a Collection"),
        (["data.root=tests", "head=resnet"], "linear mlp"),
        (["data.root=tests", "headd=mlp"], "headd"),
        (["data.root=tests", "head.dropout=many"], "head.dropout"),
        (["data.root=tests", "head.dropout=1.5"], r"head.dropout 1.5 is outside [0, 0.99]"),
        (["data.root=tests", "+encoder.device=cuda"], "encoder.device=cuda is not read here: give device=cuda"),
        (["data.root=tests", "+logger.api_key=s3cret"], "logger.api_key is not a setting"),
    ],
)
def test_bad_input_ends_at_once_with_one_message(arguments, message, tmp_path):
    ended = command(*arguments, f"hydra.run.dir={tmp_path}", PYTHONPROFILEIMPORTTIME="1")
    told, imported = told_and_imported(ended)
    assert ended.returncode == 2
    assert message in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert "HYDRA_FULL_ERROR" not in told
    assert "s3cret" not in told + ended.stdout
    assert "hydra" in imported and not imported & HEAVY


def told_and_imported(ended):
    """What a command that ran with PYTHONPROFILEIMPORTTIME says on stderr beside that, and the modules it imported."""
    lines = ended.stderr.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("import time")]
    told = "".join(line for line in lines if not line.startswith("import time"))
    return told, {line.rsplit("|")[-1].strip() for line in imports}


def test_help_imports_nothing_heavy():
    ended = command("--help", PYTHONPROFILEIMPORTTIME="1")
    assert ended.returncode == 0
    assert "experiment: " in ended.stdout
    _, imported = told_and_imported(ended)
    assert "hydra" in imported and not imported & {*HEAVY, "matplotlib", "pandas", "scipy"}


@pytest.mark.parametrize(("name", "final"), [("agiqa3k", False), ("agiqa3k_final", True), ("sample", False)])
def test_every_experiment_composes_and_is_valid(name, final, tmp_path):
    settings = validated(TrainConfig, composed(f"experiment={name}", f"data.root={tmp_path}", f"paths.run={tmp_path}"))
    assert settings.encoder["kind"] == "embedded"
    assert settings.final is final
    assert (settings.data.importer == "agiqa3k") is name.startswith("agiqa3k")


@pytest.mark.slow
@pytest.mark.agiqa3k
def test_learns_the_taste_of_agiqa3k(agiqa3k, tmp_path):
    """On one seed what its small test split allows, with the quick encoder and the pictures as they are: the features
    of the shipped scorer would take 20 minutes here. benchmarks/head_training.py measures that one.
    """
    from artgate.scoring.training import train

    quick = ("encoder=embedded_fast", "data.harmless=0", "data.damaged=0")
    cfg = composed(
        "experiment=agiqa3k", *quick, f"data.root={agiqa3k}", f"paths.run={tmp_path}", f"paths.cache={ROOT}/.cache"
    )
    cfg.logger.kind = "none"
    metrics = train(cfg)
    assert metrics["data"]["artworks"] > 2400
    assert metrics["scorer"]["srcc"] > 0.75
    assert metrics["scorer"]["qwk"] > 0.65
    assert metrics["scorer"]["macro_f1"] > 0.6
    assert metrics["scorer"]["qwk"] > metrics["baselines"]["generator_majority"]["qwk"]
    assert metrics["scorer"]["within_generator_srcc"] > 0.25
