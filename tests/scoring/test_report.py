"""The page of a training run: what it says, that it stands alone, and that no prompt can act on it."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from measured_sample import HOSTILE, measured_run, rated_copy

from artgate.errors import UserError
from artgate.scoring import report
from artgate.scoring.metrics import evaluate
from artgate.scoring.predictions import read_predictions
from artgate.scoring.report import write_report

SECTIONS = {
    *("figures", "calibration", "grades", "yield", "generators", "aspect-alignment"),
    *("extremes", "mistakes", "suspects", "scorer"),
}


class Page(HTMLParser):
    """Tags, their attributes, and the text between them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def collection(sample, tmp_path_factory):
    return rated_copy(sample, tmp_path_factory.mktemp("rated") / "artworks")


@pytest.fixture(scope="module")
def run(collection, tmp_path_factory):
    return measured_run(collection, tmp_path_factory.mktemp("run") / "run", "report.without=[old]")


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run.folder).read_text())


def test_says_what_metrics_json_says(run, page):
    scorer = run.metrics["scorer"]
    for name in ("srcc", "qwk", "macro_f1", "auroc_good", "ece"):
        assert f"{scorer[name]:.3f}" in page.text, name
        low, high = scorer["intervals"][name]
        assert f"{low:.3f} to {high:.3f}" in page.text, name
    for name in ("perfect", "panel", "person"):
        assert f"{run.metrics['ceiling'][name]['srcc']:.3f}" in page.text
    assert f"{run.metrics['without']['scorer']['srcc']:.3f}" in page.text
    assert f"{run.metrics['other_aspects']['alignment']['srcc']:.3f}" in page.text
    assert "10 fresh raters" in page.text
    assert "train.py x" in page.text and "report:" in page.text
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert ids >= SECTIONS
    for link in page.of("a"):
        assert link["href"][1:] in ids, "every link leads somewhere on the page"


def test_stands_alone_and_shows_hostile_text_as_text(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href"):
                assert value.startswith(("data:image/webp;base64,", "#")), value[:60]
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "script" not in policy
    shown = HOSTILE.removesuffix("\u202e")
    assert any(shown in (image.get("alt") or "") for image in page.of("img"))
    assert shown in page.text, "a generator's name"
    assert "\u202e" not in json.dumps(page.tags) + page.text


def test_pictures_are_of_the_grades_and_scores_that_they_stand_for(run, page):
    assert len(page.of("img")) >= 3 * 2 * 3, "best and worst of each grade"
    assert all(int(image["width"]) <= report.SIDE for image in page.of("img"))
    held = read_predictions(run.folder)["quality"]
    picks = report.pick_held(run.collection, held)
    scores = held.probabilities @ np.arange(3) / 2
    for index, grade in enumerate(("poor", "average", "good")):
        own = sorted(scores[held.targets.argmax(1) == index])
        assert [chosen.score for chosen in picks.worst[grade]] == pytest.approx(own[: len(picks.worst[grade])])
        assert [chosen.score for chosen in picks.best[grade]] == pytest.approx(own[::-1][: len(picks.best[grade])])
        shown = [chosen.artwork.image_id for chosen in (*picks.best[grade], *picks.worst[grade])]
        assert len(set(shown)) == len(shown)
    surprises = [chosen.surprise for chosen in picks.mistakes]
    assert surprises == sorted(surprises, reverse=True)
    assert all(chosen.graded != chosen.predicted for chosen in picks.mistakes)
    assert all(chosen.reason for chosen in picks.suspects)


def test_predictions_hold_what_the_figures_were_made_of(run):
    held = read_predictions(run.folder)
    assert list(held) == ["quality", "alignment"]
    for aspect, found in held.items():
        again = evaluate(found.probabilities, found.targets, found.opinions, found.generators)
        told = run.metrics["scorer"] if aspect == "quality" else run.metrics["other_aspects"][aspect]
        assert again == pytest.approx({name: told[name] for name in again})


@pytest.mark.slow
def test_a_certificate_is_told_and_drawn_where_it_is_of_the_curve(run, monkeypatch):
    certificate = SimpleNamespace(
        scorer="s" * 64, kind="score", threshold=0.6123, acceptable="good", precision=0.83, confidence=0.95,
        expected_yield=0.21, yield_95=(0.16, 0.27), labels=321, shares_test_split=4,
    )  # fmt: skip
    (run.folder / "scorer/certificate").mkdir(exist_ok=True)
    found = [certificate]
    monkeypatch.setattr(report, "load_certificate", lambda folder: found[0])
    drawn = Page(write_report(run.folder).read_text())
    for part in ("0.612", "83.0", "21.0", "321 labels", "but for 4"):
        assert part in drawn.text, part
    assert any("sure" in (circle.get("class") or "") for circle in drawn.of("circle"))
    assert "score at least" in drawn.text
    found[0] = SimpleNamespace(**{**vars(certificate), "kind": "good"})
    drawn = Page(write_report(run.folder).read_text())
    assert "P(good) at least" in drawn.text and "a gate on P(good)" in drawn.text
    assert any("sure" in (circle.get("class") or "") for circle in drawn.of("circle"))
    found[0] = SimpleNamespace(**{**vars(certificate), "acceptable": "average"})
    told = Page(write_report(run.folder).read_text())
    assert "average or better" in told.text, "of another precision than the curve's"
    assert not any("sure" in (circle.get("class") or "") for circle in told.of("circle"))
    found[0] = SimpleNamespace(**{**vars(certificate), "scorer": "of another"})
    assert "No certificate" in write_report(run.folder).read_text()
    (run.folder / "scorer/certificate").rmdir()


def test_a_picture_that_is_gone_leaves_its_place(run, collection, monkeypatch):
    def gone(artwork):
        raise UserError("gone")

    monkeypatch.setattr(type(collection), "image", lambda self, artwork: gone(artwork))
    page = Page(write_report(run.folder).read_text())
    assert not page.of("img")
    assert "no picture: it cannot be read" in page.text


def test_without_ratings_generators_or_aspects_the_page_leaves_them_out(collection, tmp_path):
    from artgate.labels.grades import Grades
    from artgate.labels.ratings import grades_from_ratings, read_ratings

    grades_from_ratings(read_ratings(collection.root), {"quality": (2.0, 3.3)}).save(collection.root)
    run = measured_run(
        collection, tmp_path / "run", "data.grades=grades", "data.aspects=[quality]", "report.group_gap=false"
    )
    assert isinstance(Grades.load(collection.root), Grades)
    assert run.metrics["ceiling"] is run.metrics["without"] is run.metrics["group_gap"] is None
    page = Page(write_report(run.folder).read_text())
    assert "fresh rater" not in page.text and "Without" not in page.text and "would flatter" not in page.text
    assert "aspect-alignment" not in {attributes.get("id") for _, attributes in page.tags}


def test_people_stand_beside_the_scorer_where_there_are_votes(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    people = {"scorer_human": 0.411, "scorer_consensus": 0.522, "human_human": 0.433, "human_consensus": None}
    told = {**run.metrics, "people": {**people, "annotators": 3, "voted_twice": 48, "measured": 1234}}
    (folder / "metrics.json").write_text(json.dumps({**told, "measured_on": "held-out folds"}))
    page = Page(write_report(folder).read_text())
    for part in ("Beside people", "0.411", "0.522", "0.433", "1,234", "each held-out fold by a head of the others"):
        assert part in page.text, part


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("predictions.jsonl", None, "is not a training run"),
        ("predictions.jsonl", '{"image_id": "a"}\n', "line 1 is not a prediction"),
        ("metrics.json", None, "is missing: name a folder"),
        ("metrics.json", "{", "is damaged: copy the run again"),
        ("metrics.json", "{}", "metrics.json has no 'resampled': copy the run again"),
        ("scorer/scorer.json", "{}", "is damaged"),
        ("config.yaml", "data: [", "is damaged: name the collection with --collection"),
    ],
)
def test_a_damaged_run_is_told(run, tmp_path, file, text, message):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        write_report(folder)


def test_the_command_writes_the_page_anew(run, artgate, tmp_path):
    (run.folder / "report.html").unlink(missing_ok=True)
    status, told, _ = artgate("report", run.folder, "--collection", run.collection.root)
    assert status == 0 and told.strip() == str(run.folder / "report.html")
    assert "What the scorer is worth" in (run.folder / "report.html").read_text()
    status, _, error = artgate("report", tmp_path)
    assert status == 2 and "is not a training run" in error


def test_probabilities_that_do_not_fit_are_refused(run, tmp_path):
    lines = (run.folder / "predictions.jsonl").read_text().splitlines()
    line = json.loads(lines[0])
    for bad in ([0.5, 0.5], [0.1, 0.2, None], "poor"):
        (tmp_path / "predictions.jsonl").write_text(json.dumps({**line, "probabilities": bad}) + "\n")
        with pytest.raises(UserError, match="is damaged"):
            read_predictions(tmp_path)


def test_artworks_that_were_purged_since_are_not_picked(run):
    held = read_predictions(run.folder)["quality"]
    none = replace(held, image_ids=["0" * 64 for _ in held.image_ids])
    picks = report.pick_held(run.collection, none)
    assert not picks.mistakes and not picks.suspects and not any(picks.best.values())
