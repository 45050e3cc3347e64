"""A person in a browser: Chromium on the real labelling page, with the keys that an annotator uses."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium
from label_studio import PASSWORD, LabelStudio

from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.labels.studio.client import Studio
from artgate.labels.votes import read_votes

pytestmark = [pytest.mark.labelstudio, pytest.mark.slow]

ANNOTATIONS = re.compile(r"/api/tasks/(\d+)/annotations")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    """The system's Chromium with an empty profile."""
    with chromium(tmp_path_factory.mktemp("chromium"), viewport={"width": 1280, "height": 800}) as opened:
        yield opened


@pytest.fixture
def page(browser, label_studio: LabelStudio):
    """A page on which a new annotator is logged in; it has gone nowhere but to the server when it closes."""
    # Nobody is invited twice.
    name = f"browsing-{len(label_studio.administrator().call('GET', '/api/users'))}"
    page, elsewhere = browser.new_page(), []
    page.annotator = label_studio.annotator(name)
    page.on("request", lambda request: elsewhere.append(request.url) if is_elsewhere(request.url, label_studio) else 0)
    browser.clear_cookies()
    page.goto(f"{label_studio.url}/user/login")
    page.fill("input[name=email]", f"{name}@example.org")
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)
    yield page
    page.close()
    assert not elsewhere


def is_elsewhere(url: str, label_studio: LabelStudio) -> bool:
    return not url.startswith((label_studio.url, f"blob:{label_studio.url}", "data:"))


@pytest.fixture
def collection(sample: Collection, tmp_path: Path) -> Collection:
    return Collection(shutil.copytree(sample.root, tmp_path / "artworks"))


def begin(page, out: str) -> None:
    """Open the project that `artgate label push` told of, and its first picture."""
    page.goto(f"{out.strip().splitlines()[-1]}/data")
    page.get_by_role("button", name="Label All Tasks").click()
    instructions = page.get_by_text("Look once at full size")
    instructions.wait_for()  # they come first
    page.keyboard.press("Escape")
    instructions.wait_for(state="hidden")
    shown(page)


def shown(page) -> None:
    """Wait until a picture is drawn and nothing is graded, or what a prediction says."""
    page.wait_for_function("document.querySelector('.lsf-image img')?.naturalWidth > 0")
    page.get_by_test_id("bottombar-submit-button").wait_for()


def submit(page) -> int:
    """Send what is chosen with the keys, not the mouse; the number of the task."""
    with page.expect_response(
        lambda answer: answer.request.method == "POST" and ANNOTATIONS.search(answer.url)
    ) as sent:
        page.keyboard.press("Control+Enter")
    assert sent.value.status == 201
    return int(ANNOTATIONS.search(sent.value.url)[1])


def chosen(page) -> list[str]:
    return [box.get_attribute("name") for box in page.locator("input[type=checkbox]:checked").all()]


def test_a_picture_is_graded_with_the_keys_and_the_vote_arrives(page, artgate, collection, label_studio):
    _, out, _ = artgate("label", "push", collection.root, "--project", "browsed")
    begin(page, out)
    given, said = {}, {}
    for key, grade in (("3", "poor"), ("1", "good"), ("2", "average")):
        page.keyboard.press(key)
        assert chosen(page) == [grade]
        if grade == "poor":
            page.keyboard.press("7")
            page.get_by_placeholder("A remark, if you have one").fill("soft, and dull")
            page.get_by_text("Defects that you see").click()  # out of the remark, where keys are letters
        task = submit(page)
        given[task] = grade
        said |= {task: (["blur"], "soft, and dull")} if grade == "poor" else {}
        page.wait_for_function("!document.querySelector('input[type=checkbox]:checked')")
        shown(page)
    status, _, err = artgate("label", "pull", collection.root, "--project", "browsed")
    assert status == 0, err
    votes = read_votes(collection.root)
    assert {vote.task: vote.grade for vote in votes} == given
    assert {vote.annotator for vote in votes} == {page.annotator.id}
    assert all(vote.aspect == "quality" and 0 < vote.lead_time < 600 for vote in votes)
    tasks = Studio(lambda: label_studio.connection).tasks(int(out.strip().rpartition("/")[2]), "id,data")
    images = {task["id"]: task["data"]["image_id"] for task in tasks}
    assert {vote.image_id for vote in votes} == {images[task] for task in given}
    lines = read_lines(collection.root / "remarks.jsonl")
    remarks = {line["task"]: (line["defects"], line["comment"]) for line in lines}
    assert remarks == said


@pytest.mark.parametrize("show", [False, True])
def test_predictions_are_seen_only_where_they_are_to_be(page, artgate, collection, tmp_path, show):
    options = ("--predictions", "--cache", tmp_path / "features", "--limit", 2)
    wanted = ("--show-predictions",) if show else ()
    _, out, err = artgate("label", "push", collection.root, "--project", f"predicted {show}", *options, *wanted)
    assert "2 with a prediction" in out, err
    begin(page, out)
    if show:
        page.wait_for_selector("input[type=checkbox]:checked")
    assert (chosen(page) != []) is show
    assert ("artgate-" in page.locator("body").inner_text()) is False or show


@pytest.mark.parametrize("labelling", ["default", "aspects", "with_prompt"])
def test_the_whole_page_is_in_the_window(page, artgate, collection, labelling):
    """Of 1280 x 800 pixels: the picture with its zoom, all grades and defects, the remark; the prompt if asked for."""
    _, out, _ = artgate("label", "push", collection.root, "--project", f"seen {labelling}", "--labelling", labelling)
    begin(page, out)
    bottom = page.get_by_test_id("bottombar-submit-button").bounding_box()["y"]
    asked = {"default": 1, "aspects": 3, "with_prompt": 1}[labelling]
    boxes = [box.bounding_box() for box in page.locator("input[type=checkbox]").all()]
    assert len(boxes) == 3 * asked + 7
    remark = page.get_by_placeholder("A remark, if you have one").bounding_box()
    picture = page.locator(".lsf-image").bounding_box()
    for box in (*boxes, remark, picture):
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
        assert box["y"] >= 0 and box["y"] + box["height"] <= bottom
    assert min(picture["width"], picture["height"]) >= 480
    assert picture["x"] + picture["width"] <= min(box["x"] for box in boxes)
    hints = page.locator(".lsf-choice sup").all_inner_texts()
    assert hints[:3] == ["[1]", "[2]", "[3]"] and len(set(hints)) == len(boxes)
    prompts = [artwork.provenance.prompt for artwork in collection]
    told = page.locator("body").inner_text()
    assert any(prompt in told for prompt in prompts) is (labelling == "with_prompt")
    drawn = "document.querySelector('.lsf-image img').getBoundingClientRect().width"
    before = page.evaluate(drawn)
    assert before == pytest.approx(picture["width"], abs=2), "the whole picture is seen at first"
    page.mouse.move(picture["x"] + 200, picture["y"] + 200)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_function(f"{drawn} > {1.05 * before}")
