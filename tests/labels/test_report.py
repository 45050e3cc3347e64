"""The page of a Collection's votes: what it says, that it stands alone, and that no vote can act on it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from simulated_votes import simulated

from artgate.artworks.collection import Collection
from artgate.artworks.sample import planted_grades
from artgate.errors import UserError
from artgate.labels.consensus import consensus
from artgate.labels.grades import GRADES
from artgate.labels.report import MOST_PICTURES, _points, render, write_report
from artgate.labels.suspects import Suspect
from artgate.labels.votes import Vote

HOSTILE = '<script>alert("x")</script>'


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

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def votes(sample: Collection) -> list[Vote]:
    """Three annotators of every artwork of the sample: one errs at each third, and one has a hostile name."""
    planted = planted_grades(sample)
    made = []
    for place, (image_id, grade) in enumerate(planted.items()):
        other = GRADES[(GRADES.index(grade) + 1) % 3]
        made += [
            Vote(image_id, HOSTILE, "quality", grade, lead_time=10.0),
            Vote(image_id, "b", "quality", other if place % 3 == 0 else grade, lead_time=12.0),
            Vote(image_id, "c\u202e", "quality", grade, lead_time=1.0),
            Vote(image_id, "b", "rationality", "good"),
        ]
    return made


def page_of(sample: Collection, votes: list[Vote], suspects: list[Suspect] | None = None, why: str = "") -> str:
    return render(sample, votes, consensus(votes), suspects, why)


def test_tells_agreement_annotators_balance_disputes_and_suspects(sample: Collection, votes: list[Vote]) -> None:
    suspects = [
        Suspect(artwork.image_id, "quality", "good", "poor", 0.03, rank, "graded good")
        for rank, artwork in enumerate(sample, start=1)
    ]
    page = Page(page_of(sample, votes, suspects))
    text = " ".join(page.text.split())
    assert "144 votes on the quality of 48 artworks by 3 annotators." in text
    assert "Disputed 16 artworks whose votes differ" in text
    assert "c fast: 1.0 s a vote, the others 11.0 s" in text
    assert "poor 16 33" in text and "good 16 33" in text
    assert "the 16 whose votes lie furthest apart, of 16" in text
    assert f"{MOST_PICTURES} of 48 grades that a model which never saw them finds hard to believe" in text
    assert "people good" in text and "model poor" in text
    assert len(page.of("img")) == 16 + MOST_PICTURES
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.of("img"))
    assert "rationality" in text


def test_the_page_stands_alone_and_runs_nothing(sample: Collection, votes: list[Vote]) -> None:
    page = page_of(sample, votes, [])
    read = Page(page)
    assert read.of("script") == [] and read.of("link") == [] and read.of("iframe") == []
    assert HOSTILE not in page and HOSTILE in read.text
    assert "\u202e" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    (policy,) = [tag for tag in read.of("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy["content"]
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)


@pytest.mark.parametrize(
    "hostile",
    ['" onmouseover="alert(1)', "</style><script>alert(1)</script>", "{{ 7 * 7 }}", "\x1b[31m\x00", "'"],
)
def test_no_name_can_leave_its_place(sample: Collection, hostile: str) -> None:
    (first, second, *_) = sample
    votes = [
        Vote(artwork.image_id, name, "quality", grade)
        for artwork in (first, second)
        for name, grade in ((hostile, "good"), ("b", "poor"))
    ]
    page = page_of(sample, votes, None, hostile)
    read = Page(page)
    assert read.of("script") == []
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert "\x1b" not in page and "\x00" not in page and "49" not in read.text.replace("4900", "")


def test_a_picture_that_is_gone_leaves_its_place(sample: Collection) -> None:
    votes = [Vote("0" * 64, "a", "quality", "good"), Vote("0" * 64, "b", "quality", "poor")]
    text = Page(page_of(sample, votes)).text
    assert "no picture: it is not in the Collection" in text


def test_one_annotator_and_one_vote_make_a_page_too(sample: Collection) -> None:
    (first, *_) = sample
    text = " ".join(Page(page_of(sample, [Vote(first.image_id, "a", "quality", "good")], None, "no time")).text.split())
    assert "1 vote on the quality of 1 artwork by 1 annotator." in text
    assert "nothing to tell: let two people or more grade the same artworks" in text
    assert "not looked for: no time" in text
    assert "no artwork has votes that differ" in text


def test_only_anchors_make_a_page_too(sample: Collection) -> None:
    (first, *_) = sample
    text = Page(page_of(sample, [Vote(first.image_id, "a", "quality", "good", ground_truth=True)])).text
    assert "0 votes on the quality of 1 artwork by" in " ".join(text.split())


def test_a_crowd_keeps_the_page_small(sample: Collection) -> None:
    votes = simulated(60, (0.7,) * 60, seed=0)
    page = page_of(sample, votes)
    assert "40 of 60" in page
    assert len(page) < 400_000


def test_the_page_replaces_its_file_as_a_whole(sample: Collection, votes: list[Vote], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(sample, votes, consensus(votes), None, path)
    assert path.read_text().startswith("<!doctype html>") and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="nowhere does not exist"):
        write_report(sample, votes, consensus(votes), None, tmp_path / "nowhere/report.html")


def test_a_drift_is_drawn_around_the_middle() -> None:
    assert _points([0.0, 0.5, -0.5]) == "8.0,28.0 120.0,6.0 232.0,50.0"
    assert _points([2.0, -2.0]) == "8.0,6.0 232.0,50.0"
