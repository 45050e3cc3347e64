"""`artgate label consensus` and `report`, as they are run."""

import json
import shutil
from pathlib import Path

import pytest

from artgate.artworks.collection import Collection
from artgate.artworks.sample import planted_grades
from artgate.labels.grades import GRADES, Grades
from artgate.labels.suspects import read_suspects
from artgate.labels.votes import Vote, write_votes


@pytest.fixture
def voted(sample: Collection, tmp_path: Path) -> Path:
    """The sample with votes of three, of whom one takes a second and is wrong at every other artwork."""
    root = tmp_path / "voted"
    shutil.copytree(sample.root, root)
    votes = []
    for place, (image_id, grade) in enumerate(planted_grades(sample).items()):
        wrong = GRADES[(GRADES.index(grade) + 1) % 3]
        votes += [
            Vote(image_id, "a", "quality", grade, lead_time=11.0),
            Vote(image_id, "b", "quality", grade, lead_time=9.0),
            Vote(image_id, "[red]c\x1b[0m", "quality", wrong if place % 2 else grade, lead_time=1.0),
        ]
    write_votes(root, votes)
    return root


@pytest.mark.parametrize("method", ["majority", "dawid-skene"])
def test_consensus_writes_grades_and_tells_how_people_agree(artgate, voted: Path, method: str, sample) -> None:
    status, told, _ = artgate("label", "consensus", voted, "--method", method)
    assert status == 0
    assert f"48 graded artworks in {voted / 'grades.jsonl'}" in told.replace("\n", "")
    row = next(line for line in told.splitlines() if line.startswith("quality"))
    assert [cell.strip() for cell in row.split("│")][1:5] == ["144", "48", "48", "3"]
    assert "look at [red]c[0m: " in told and "fast: 1.0 s a vote, the others 10.0 s" in told
    assert "look at a" not in told and "\x1b" not in told
    grades = Grades.load(voted)
    planted = planted_grades(sample)
    assert all(GRADES[grades[image_id]["quality"].argmax()] == grade for image_id, grade in planted.items())


def test_one_opinion_each_has_no_agreement_to_tell(artgate, sample, tmp_path: Path) -> None:
    root = tmp_path / "voted"
    shutil.copytree(sample.root, root)
    write_votes(root, [Vote(artwork.image_id, "a", "quality", "good") for artwork in sample])
    status, told, _ = artgate("label", "consensus", root)
    assert status == 0
    assert "no agreement to tell: let two people or more grade the same artworks" in told


def test_report_without_suspects_is_quick_and_writes_nothing_else(artgate, voted: Path, tmp_path: Path) -> None:
    before = {path.name for path in voted.iterdir()}
    status, told, _ = artgate("label", "report", voted, "--no-suspects", "--out", tmp_path / "r.html")
    assert status == 0 and str(tmp_path / "r.html") in told.replace("\n", "")
    assert "not looked for: --no-suspects was given" in (tmp_path / "r.html").read_text()
    assert {path.name for path in voted.iterdir()} == before


@pytest.mark.slow
def test_report_finds_the_suspects_and_keeps_them(artgate, voted: Path, tmp_path: Path, sample) -> None:
    anchored, *_ = sample
    votes = [Vote(anchored.image_id, "boss", "quality", "poor", ground_truth=True)]
    from artgate.labels.votes import read_votes

    write_votes(voted, [*read_votes(voted), *votes])
    status, told, _ = artgate("label", "report", voted, "--out", tmp_path / "r.html", "--cache", tmp_path / "cache")
    assert status == 0 and "no suspects" not in told
    found = read_suspects(voted)
    assert [suspect.rank for suspect in found] == list(range(1, len(found) + 1))
    assert anchored.image_id not in {suspect.image_id for suspect in found}
    lines = (voted / "suspects.jsonl").read_text().splitlines()
    assert len(lines) == len(found) and all(json.loads(line)["aspect"] == "quality" for line in lines)
    page = (tmp_path / "r.html").read_text()
    assert all(suspect.image_id[:12] in page for suspect in found[:24])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "report.pdf"], "report.pdf ends in '.pdf': name a file that ends in .html"),
        (["--out", "nowhere/report.html"], "the folder nowhere does not exist"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(artgate, voted: Path, arguments: list[str], message: str) -> None:
    status, _, told = artgate("label", "report", voted, *arguments)
    assert status == 2 and message in told
    assert not (voted / "suspects.jsonl").exists()


def test_a_collection_without_votes_is_told_how_to_get_them(artgate, sample) -> None:
    status, _, told = artgate("label", "report", sample.root)
    assert status == 2 and "votes.parquet does not exist" in told
