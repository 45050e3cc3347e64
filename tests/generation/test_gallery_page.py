"""The gallery as one sees and uses it, in a real browser: a file on disk, under the page's own policy."""

import json
import random
from pathlib import Path

import pytest
from chromium import chromium
from PIL import Image
from playwright.sync_api import expect

from artgate.generation.gallery import write_gallery

HOSTILE = "<img src=x onerror=alert(1)> '\"></li></script><script>alert(2)</script> ${7*7}"
SHAPES = [(96, 64), (64, 64), (64, 96), (120, 60), (54, 96)]
PROMPTS = ["a lake at dawn", "a {fox|stag} in a forest", HOSTILE]
LIGHT, DARK = "rgb(246, 245, 242)", "rgb(18, 19, 21)"


def make_batch(root: Path, accepted: int) -> Path:
    """As many accepted, as many rejected, half as many that left early, of many shapes and colours, and a failure."""
    chance = random.Random(0)
    for folder in ("accepted/images", "accepted/sidecars", "rejected"):
        (root / folder).mkdir(parents=True)
    lines = []
    for index in range(accepted * 5 // 2):
        verdict = ("accepted", "rejected", "accepted", "rejected", "early")[index % 5]
        name = f"{index:064x}" if verdict == "accepted" else f"{index:06}"
        file = f"accepted/images/{name}.png" if verdict == "accepted" else f"rejected/{name}.webp"
        colour = tuple(chance.randrange(256) for _ in range(3))
        Image.new("RGB", SHAPES[index // 5 % len(SHAPES)], colour).save(root / file)
        score = 0.5 + index / 10_000 if verdict == "accepted" else 0.3
        lines.append(
            {
                "index": index,
                "prompt": PROMPTS[index % 3],
                "template": index % 3,
                "negative_prompt": HOSTILE,
                "seed": 1000 + index,
                "status": "accepted" if verdict == "accepted" else "rejected",
                "score": None if verdict == "early" else score,
                "grade": None if verdict == "early" else "good",
                "probabilities": None if verdict == "early" else {"poor": 0.1, "average": 0.3, "good": 0.6},
                "reason": {"early": "preview 0.1 < threshold 0.2", "rejected": HOSTILE}.get(verdict, "score is high"),
                "image_id": name if verdict == "accepted" else None,
                "file": file,
                "evaluations": 20,
                "seconds": {"denoise": 1.0},
                **({"preview": {"step": 5, "score": 0.1, "picture": file}} if verdict == "early" else {}),
            }
        )
        if verdict == "accepted":
            (root / "accepted" / "sidecars" / f"{name}.json").write_text("{}")
    failed = {"status": "failed", "score": None, "reason": f"denoise: {HOSTILE}", "file": None, "image_id": None}
    lines.append(lines[0] | failed | {"index": len(lines)})
    (root / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "config.json").write_text(json.dumps({"prompts": {"prompts": PROMPTS}}))
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    size = {"width": 1280, "height": 800}
    with chromium(tmp_path_factory.mktemp("profile"), viewport=size, color_scheme="light") as opened:
        yield opened


@pytest.fixture
def open_page(browser):
    """Open the gallery of a batch; what the page complains of, a script that its policy stops say, fails the test."""
    complaints: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"alert {dialog.message}"), dialog.dismiss()))

    def open_(batch: Path, **media):
        page.emulate_media(**({"color_scheme": "light"} | media))
        page.goto(write_gallery(batch).resolve().as_uri())
        return page

    yield open_
    page.close()
    assert complaints == []


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    return make_batch(tmp_path_factory.mktemp("few") / "it's a batch", 12)


def visible(page, verdict="accepted"):
    return page.locator(f"#{verdict} > li:visible")


def indices(cards):
    return [int(card.get_attribute("data-index")) for card in cards.all()]


def test_pictures_of_a_row_are_equally_high_and_fill_its_width(few, open_page):
    page = open_page(few)
    boxes = [picture.bounding_box() for picture in page.locator("#accepted .picture").all()]
    width = page.locator("#accepted").bounding_box()["width"]
    rows: dict[int, list] = {}
    for box in boxes:
        rows.setdefault(round(box["y"]), []).append(box)
    assert len(rows) >= 3
    for row in list(rows.values())[:-1]:
        heights = [box["height"] for box in row]
        assert max(heights) - min(heights) < 1
        assert row[-1]["x"] + row[-1]["width"] - row[0]["x"] == pytest.approx(width, abs=2)
    ratios = {round(box["width"] / box["height"], 1) for box in boxes}
    assert ratios == {1.5, 1.0, 0.7, 2.0, 0.6}  # nothing is cropped


def test_filters_by_prompt_score_and_verdict_work_together(few, open_page):
    page = open_page(few)
    assert visible(page).count() == 12 and visible(page, "rejected").count() == 0
    page.fill("#words", "FOX forest")
    assert visible(page).count() == 0 or all(i % 3 == 1 for i in indices(visible(page)))
    page.fill("#words", "")
    page.select_option("#prompt", label=PROMPTS[0])
    of_lake = indices(visible(page))
    assert of_lake and all(index % 3 == 0 for index in of_lake)
    page.check("input[value=rejected]", force=True)
    page.check("input[value=failed]", force=True)
    assert indices(visible(page, "rejected")) and all(i % 3 == 0 for i in indices(visible(page, "rejected")))
    assert page.locator("#failed tr:visible").count() == 1
    page.locator("#from").fill("70")  # of all scores the upper part: no rejected has one
    assert visible(page, "rejected").count() == 0 and page.locator("#failed tr:visible").count() == 0
    assert 0 < visible(page).count() < len(of_lake)
    page.uncheck("input[value=accepted]", force=True)
    page.locator("button.reset").click()
    assert (visible(page).count(), visible(page, "rejected").count(), visible(page, "early").count()) == (12, 12, 6)
    page.select_option("#order", "index 1")
    assert indices(visible(page)) == sorted(indices(visible(page)))
    page.locator("button.pick").first.click()
    assert 0 < visible(page).count() < 12


@pytest.mark.slow
def test_everything_can_be_done_with_the_keyboard(few, open_page):
    page = open_page(few)
    focused = "document.activeElement.closest('li')?.dataset.index ?? document.activeElement.id"
    page.keyboard.press("/")
    assert page.evaluate(focused) == "words"
    while not page.evaluate("document.activeElement.matches('a.picture')"):
        page.keyboard.press("Tab")
    order = [str(index) for index in indices(visible(page))]
    assert page.evaluate(focused) == order[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == order[1]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    above = page.evaluate("document.activeElement.getBoundingClientRect().bottom")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") > above - 800
    assert page.evaluate(focused) not in order[:2]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) in order[:4]
    page.keyboard.press("End")
    assert page.evaluate(focused) == order[-1]
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    assert page.locator(".place").text_content() == "1 of 12"
    page.keyboard.press("ArrowLeft")
    assert page.locator(".place").text_content() == "12 of 12"
    assert f"#{order[-1]}" in page.locator(".rows").text_content()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator(f'li[data-index="{order[-1]}"] a.picture')).to_be_focused()  # where one was looking


def test_the_dialog_shows_the_file_and_how_it_was_made_and_copies_the_command(few, open_page, monkeypatch, browser):
    monkeypatch.chdir(few.parent)
    page = open_page(few)
    browser.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#accepted a.picture").first.click()
    expect(page.locator(".view img")).not_to_have_js_property("naturalWidth", 0)
    best = indices(visible(page))[0]
    assert page.locator(".view img").get_attribute("src").endswith(f"accepted/images/{best:064x}.png")
    told = page.locator(".rows").inner_text()
    for part in (f"{1000 + best}", f"#{best}", "20 denoiser evaluations", HOSTILE, "pixels"):
        assert part in told, part
    page.locator("button.copy").click()
    expect(page.locator("button.copy")).to_have_text("Copied")
    command = (
        f"""python generate.py mode=remake 'sidecar='"'"'it\\'"'"'s a batch/accepted/sidecars/{best:064x}.json'"'"''"""
    )
    assert page.evaluate("navigator.clipboard.readText()") == command == page.locator(".command").text_content()
    page.keyboard.press("Escape")
    page.check("input[value=rejected]", force=True)
    page.locator("#rejected a.picture").first.click()
    assert not page.locator(".remake").is_visible()  # there is nothing that it could be made from


@pytest.mark.parametrize(("scheme", "background"), [("light", LIGHT), ("dark", DARK)])
def test_it_is_light_or_dark_as_the_system_is(few, open_page, scheme, background):
    page = open_page(few, color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background


def test_a_phone_shows_it_without_scrolling_sideways(few, open_page):
    page = open_page(few)
    page.set_viewport_size({"width": 390, "height": 844})
    page.check("input[value=rejected]", force=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#accepted a.picture").first.click()
    for part in (".view img", ".side"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] > 200
    page.set_viewport_size({"width": 1280, "height": 800})


def test_hostile_text_is_text_wherever_it_stands(few, open_page):
    page = open_page(few)
    page.fill("#words", "onerror")
    assert indices(visible(page)) and all(index % 3 == 2 for index in indices(visible(page)))
    page.locator("#accepted li:visible a.picture").first.click()
    assert page.locator(".what").text_content() == HOSTILE
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("[...document.scripts].length") == 1


def test_without_scripts_everything_is_there(few, open_page, browser):
    page = open_page(few)
    browser.new_cdp_session(page).send("Emulation.setScriptExecutionDisabled", {"value": True})
    page.reload()
    assert page.locator("#rejected > li").first.is_visible() and page.locator("#failed tr").is_visible()
    assert not page.locator(".tools").is_visible() and not page.locator("dialog").is_visible()


@pytest.mark.slow
def test_five_hundred_pictures_are_not_decoded_before_they_are_seen(tmp_path, open_page):
    page = open_page(make_batch(tmp_path / "batch", 500))
    assert visible(page).count() == 500
    decoded = "[...document.images].filter((image) => image.complete && image.naturalWidth).length"
    assert 0 < page.evaluate(decoded) < 150
    assert (tmp_path / "batch" / "gallery.html").stat().st_size < 10e6
    page.keyboard.press("Tab")
    page.locator("#accepted a.picture").first.focus()
    page.keyboard.press("End")
    expect(page.locator(":focus img")).not_to_have_js_property("naturalWidth", 0)
