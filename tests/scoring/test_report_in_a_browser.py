"""The page of a training run in a real browser: it works on a desk and on a phone, by day and by night, offline."""

import pytest
from chromium import chromium
from measured_sample import measured_run, rated_copy

from artgate.scoring.report import write_report

pytestmark = pytest.mark.slow

LUMINANCE = """selector => {
  const colour = getComputedStyle(document.querySelector(selector))
  const bright = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 765
  return [bright(colour.backgroundColor), bright(colour.color)]
}"""
# Every element that is wider than the window and has no scroll bar of its own.
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(element =>
  element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll') && !element.closest('.skip')
).map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def address(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = measured_run(rated_copy(sample, folder / "artworks"), folder / "run", "report.without=[old]")
    return write_report(run.folder).as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def page(browser, address):
    """The page, open; when it closes nothing was complained of, and nothing else was asked for."""
    opened, complaints, asked = browser.new_page(), [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert not complaints
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_every_picture_is_decoded_and_every_section_is_seen(page):
    pictures = page.locator("img")
    assert pictures.count() > 18
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 60)")
    for link in page.locator("nav.toc a").all():
        section = page.locator(link.get_attribute("href"))
        assert section.locator("h2").is_visible()
        assert section.bounding_box()["height"] > 60
    for chart in page.locator("section#calibration svg, section#yield svg").all():
        box = chart.bounding_box()
        assert box["width"] > 200 and box["height"] > 120
    heights = page.locator("section#grades .bars i").evaluate_all("bars => bars.map(bar => bar.clientHeight)")
    assert max(heights) > 60


def test_a_dot_stands_where_its_figure_is(page):
    """The scorer's SRCC: its mark lies as far along its scale as its value says, within its interval's bar."""
    row = page.locator("#figures .measure li.scorer").first
    value = float(row.locator(".value").inner_text().split()[0])
    track, mark, bar = (row.locator(name).bounding_box() for name in (".track", ".track b", ".track i"))
    middle = mark["x"] + mark["width"] / 2
    assert (middle - track["x"]) / track["width"] == pytest.approx(value, abs=0.02)
    assert bar["x"] - 1 <= middle <= bar["x"] + bar["width"] + 1


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_runs_out_of_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []


def test_day_and_night(page):
    for scheme, darker in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        for selector in ("body", ".panel"):
            ground, ink = page.evaluate(LUMINANCE, selector)
            assert (ground < ink) is darker, (scheme, selector)
        ground, ink = page.evaluate(LUMINANCE, "body")
        assert abs(ground - ink) > 0.6


def test_by_keyboard_alone(page):
    page.emulate_media(reduced_motion="reduce")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the figures"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#calibration"
    page.keyboard.press("Enter")
    below = "document.querySelector('#calibration').getBoundingClientRect().top"
    for _ in range(100):  # the policy lets nothing evaluate in the page, so it cannot be asked to tell
        if abs(page.evaluate(below)) < 60:
            break
        page.wait_for_timeout(100)
    assert abs(page.evaluate(below)) < 60
    settings = page.locator("summary", has_text="Settings")
    settings.focus()
    assert not page.locator("pre", has_text="resamples").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("pre", has_text="resamples").is_visible()
