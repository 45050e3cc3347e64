"""Votes that come in make the scorer learn again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artgate.artworks.sample import planted_grades
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.labels.studio.watch import FILE_NAME, Watch, watch
from artgate.labels.votes import Vote, read_votes

ROOT = Path(__file__).parents[3]


def votes(n: int, grade: str = "good") -> list[Vote]:
    return [Vote(f"image {i}", "ann", "quality", grade, project="art", task=i, annotation=i) for i in range(n)]


def looked(root: Path, seen: list[list[Vote] | UserError], ends_well: list[bool]) -> tuple[list[int], list[str]]:
    """Watch for 5 votes while each look sees what is given; at which looks it trained, and what it told."""
    told, trained, looks, ends = [], [], iter(enumerate(seen)), iter(ends_well)

    def pull() -> list[Vote]:
        looked.now, found = next(looks)
        if isinstance(found, UserError):
            raise found
        return found

    def train() -> bool:
        trained.append(looked.now)
        return next(ends)

    watch(Watch(root, 5, 1), pull, train, told.append, looks=len(seen))
    return trained, told


@pytest.fixture(autouse=True)
def no_waiting(request, monkeypatch):
    if "label_studio" not in request.fixturenames:
        monkeypatch.setattr("artgate.labels.studio.watch.time.sleep", lambda seconds: None)


def test_training_begins_when_enough_is_new_and_not_again_before(tmp_path):
    trained, told = looked(tmp_path, [votes(4), votes(5), votes(9), votes(10), votes(10)], [True, True])
    assert trained == [1, 3]
    assert told[0] == "4 new votes of 4, training begins at 5"
    assert told[-1] == "0 new votes of 10, training begins at 5"
    assert read_votes(tmp_path / FILE_NAME) == votes(10)


def test_a_changed_grade_counts_as_new(tmp_path):
    assert looked(tmp_path, [votes(5), votes(5), votes(5, "poor")], [True, True])[0] == [0, 2]


def test_a_failed_training_is_made_up_for_but_not_at_every_look(tmp_path):
    trained, told = looked(tmp_path, [votes(5), votes(9), votes(10), votes(14), votes(15)], [False, True, True])
    assert trained == [0, 2, 4]
    assert "the training failed: it is tried again when 5 votes more have come" in told
    assert not (tmp_path / FILE_NAME).with_suffix(".tmp").exists()


def test_what_was_not_learned_is_known_to_the_next_process(tmp_path):
    assert looked(tmp_path, [votes(5), votes(8)], [True])[0] == [0]
    assert looked(tmp_path, [votes(9), votes(10)], [True])[0] == [1]


def test_a_pull_that_fails_is_told_and_tried_again(tmp_path):
    trained, told = looked(tmp_path, [votes(1), UserError("no connection"), votes(5)], [True])
    assert trained == [2] and told[1] == "votes could not be pulled: no connection"


def test_a_first_pull_that_fails_ends_it(tmp_path):
    with pytest.raises(UserError, match="no project 'tatse'"):
        looked(tmp_path, [UserError("no project 'tatse'"), votes(5)], [True])


@pytest.mark.parametrize(
    ("enough", "every", "said"),
    [
        (0, 60, "votes 0 is below 1"),
        (1, 0.5, r"every 0.5 is outside \[1, 604800\] seconds"),
        (1, float("nan"), "every nan is outside"),
        (1, float("inf"), "every inf is outside"),
    ],
)
def test_numbers_outside_their_limits_are_refused(tmp_path, enough, every, said):
    with pytest.raises(UserError, match=said):
        Watch(tmp_path, enough, every)


@pytest.mark.labelstudio
@pytest.mark.slow
def test_grades_given_in_label_studio_become_a_scorer(label_studio, artgate, sample, tmp_path):
    root = shutil.copytree(sample.root, tmp_path / "it's mine, 100 %")
    (root / "grades.jsonl").unlink(missing_ok=True)
    _, out, _ = artgate("label", "push", root, "--project", "watched")
    project = int(out.strip().rpartition("/")[2])
    # The sample is small and the encoder sees little: seconds, not minutes.
    quick = ["experiment=sample", "encoder.sizes=[128]", "encoder.features=stages", "trainer.epochs=5", "logger=none"]
    paths = [f"paths.run={tmp_path / 'run'}", f"paths.cache={tmp_path / 'cache'}"]
    watching = subprocess.Popen(
        [sys.executable, "-m", "artgate.cli", "label", "watch", root, "--project", "watched", "--votes", "48"]
        + ["--every", "1", "--", *quick, *paths],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "0 new votes of 0, training begins at 48" in watching.stdout.readline()
    ann, planted = label_studio.annotator("watched"), planted_grades(sample)
    while task := ann.next_task(project):
        ann.grade(task["id"], planted[task["data"]["image_id"]])
    lines = []
    while not lines or "0 new votes of 48" not in lines[-1]:
        lines.append(watching.stdout.readline())
        assert lines[-1], "".join(lines)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 0
    assert (tmp_path / "run" / "scorer" / "scorer.json").is_file()
    assert {vote.grade for vote in read_votes(root / FILE_NAME)} == set(GRADES)
