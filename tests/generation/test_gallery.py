"""The gallery of a batch: everything is on the page, in order, escaped and self-contained, whatever the batch holds."""

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from parsel import Selector
from PIL import Image

from artgate.errors import UserError
from artgate.generation.gallery import MOST_REJECTED, write_gallery

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'--></style></script><b>{{ 7 * 7 }}",
    "Ωμέγα & <émigré> 🎨 \u202e reversed",
]


def line(index, status="accepted", score=0.5, **more):
    probabilities = {"poor": 0.1, "average": 0.3, "good": 0.6}
    scored = status != "failed"
    return {
        "index": index,
        "prompt": f"prompt {index}",
        "negative_prompt": "",
        "seed": 1000 + index,
        "status": status,
        "score": score if scored else None,
        "grade": "good" if scored else None,
        "probabilities": probabilities if scored else None,
        "reason": "score 0.50 >= threshold 0.40",
        "image_id": None,
        "file": None,
        "evaluations": 4,
        "seconds": {},
    } | more


SUMMARY = {
    "target": 2,
    "candidates": 6,
    "accepted": 2,
    "yield": 2 / 6,
    "yield_95": [0.1, 0.7],
    "evaluations": 24,
    "evaluations_per_accepted": 12.0,
    "seconds": {"load": 1.0, "denoise": 6.0, "decode": 0.0, "upscale": 5000.0},
    "seconds_per_accepted": 2503.5,
    "models": {"diffusion": {"name": "tiny", "fingerprint": "abcdef0123456789", "licence": "MIT"}},
    "config": {"gate": {"kind": "score", "threshold": 0.4, "keep": 1, "of": 1}, "seed": 7},
    "complete": True,
}


def painted(root, file, color, size=(600, 400)):
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return file


def batch(root, lines, summary=SUMMARY):
    (root / "candidates.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    if summary:
        (root / "summary.json").write_text(json.dumps(summary))
    return root


def page_of(root):
    return Selector(write_gallery(root).read_text())


def text(selector):
    return " ".join(" ".join(selector.xpath(".//text()").getall()).split())


@pytest.fixture
def mixed(tmp_path):
    """Two accepted, three rejected (one without its picture), one failed, in the order they were made."""
    return batch(
        tmp_path,
        [
            line(
                0,
                "rejected",
                0.2,
                reason="score 0.20 < threshold 0.40",
                file=painted(tmp_path, "rejected/0.webp", "blue"),
            ),
            line(1, "accepted", 0.6, file=painted(tmp_path, "accepted/images/a.png", "red")),
            line(2, "failed", reason="denoise: RuntimeError: <boom>"),
            line(3, "rejected", 0.3, reason="score 0.30 < threshold 0.40"),
            line(4, "accepted", 0.9, file=painted(tmp_path, "accepted/images/b.png", "lime", (40, 60))),
            line(5, "rejected", 0.25, file=painted(tmp_path, "rejected/5.webp", "white")),
        ],
    )


def thumbnail(image):
    kind, data = image.attrib["src"].split(",", 1)
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_accepted_come_first_best_first_with_their_pictures(mixed):
    page = page_of(mixed)
    cards = page.css("#accepted > li")
    assert [card.attrib["data-index"] for card in cards] == ["4", "1"]
    best, second = (card.css("a.picture") for card in cards)
    assert (best.attrib["href"], second.attrib["href"]) == ("accepted/images/b.png", "accepted/images/a.png")
    small, large = thumbnail(best.css("img")[0]), thumbnail(second.css("img")[0])
    assert (small.size, large.size) == ((40, 60), (480, 320))  # never enlarged; shrunk to fit
    assert [small.getpixel((5, 5)), large.getpixel((5, 5))] == [
        pytest.approx((0, 255, 0), abs=6),
        pytest.approx((255, 0, 0), abs=6),
    ]
    assert (best.css("img").attrib["width"], best.css("img").attrib["height"]) == ("40", "60")
    told = text(cards[0])
    for part in ("0.90", "good 60 %", "average 30 %", "poor 10 %", "prompt 4", "#4", "seed 1004"):
        assert part in told


def test_every_picture_has_a_text_and_a_focusable_link(mixed):
    for image in page_of(mixed).css("img:not(dialog img)"):
        assert image.attrib["alt"].startswith("prompt ")
        assert image.xpath("ancestor::a/@href").get()


def test_rejected_and_failed_are_folded_with_their_reasons(mixed):
    rejected, failed, config = page_of(mixed).css("details")
    assert "open" not in rejected.attrib
    assert [card.attrib["data-index"] for card in rejected.css("li")] == ["3", "5", "0"]
    assert "score 0.30 < threshold 0.40" in text(rejected)
    assert "no picture kept" in text(rejected.css("li")[0])
    assert "denoise: RuntimeError: <boom>" in text(failed)
    assert "threshold: 0.4" in text(config)


def test_the_header_tells_yield_cost_time_and_models(mixed):
    header = text(page_of(mixed).css("header"))
    for part in (
        "2 accepted artworks",
        "Out of 6 candidates; 3 rejected, 1 failed",
        "The gate passes a score of 0.4 or more",
        "33.3 %",
        "95 % interval 10 % to 70 %",
        "0.75 of the rejected 0.25",
        "41 min 43 s",
        "12 denoiser evaluations",
        "upscale 1 h 23 min, 100 %",
        "tiny · MIT · abcdef0123",
    ):
        assert part in header, part
    assert "decode" not in header  # it took no time


def test_bars_of_the_histogram_are_the_counts(mixed):
    bars = page_of(mixed).css(".bars > span")
    heights = [re.findall(r"height:([\d.]+)%", bar.get()) for bar in bars]
    assert (heights[5], heights[4], heights[18]) == (["0.00", "100.00"], ["0.00", "100.00"], ["100.00", "0.00"])
    assert bars[4].attrib["title"] == "0.2 to 0.25: 0 accepted, 1 rejected"


def test_a_failure_after_the_gate_has_a_score_and_is_only_a_failure(tmp_path):
    failed = line(1) | {"status": "failed", "reason": "upscale: RuntimeError: no"}
    page = page_of(batch(tmp_path, [line(0), failed]))
    assert [card.attrib["data-index"] for card in page.css("li.card")] == ["0"]
    assert "upscale: RuntimeError: no" in text(page.css("details"))
    assert page.css(".bars > span")[10].attrib["title"] == "0.25 to 0.275: 0 accepted, 0 rejected"


def test_small_scores_can_be_told_apart(tmp_path):
    page = page_of(batch(tmp_path, [line(0, score=0.0081), line(1, score=0.0012), line(2, "rejected", 0.0)]))
    assert [text(badge) for badge in page.css(".badge")] == ["0.0081", "0.0012", "0"]
    assert page.css(".bars > span")[16].attrib["title"] == "0.008 to 0.0085: 1 accepted, 0 rejected"
    assert text(page.css(".scale")) == "0 0.005 0.01"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_and_nothing_else(tmp_path, hostile):
    entries = [
        line(0, prompt=hostile, file=painted(tmp_path, "accepted/images/a.png", "red")),
        line(1, "rejected", prompt=hostile, reason=hostile, grade=hostile),
        line(2, "failed", prompt=hostile, reason=hostile),
    ]
    models = {hostile: {"name": hostile, "fingerprint": hostile, "licence": hostile}}
    config = {"gate": {"kind": "score", "threshold": 0.4}, "prompts": hostile}
    page = page_of(batch(tmp_path, entries, SUMMARY | {"models": models, "config": config}))
    assert len(page.css("script")) == len(page.css("style")) == 1
    assert not page.xpath("//@*[starts-with(name(), 'on')]")
    assert not page.css("b:not(.brand b):not(.grades b)")
    assert page.css("#accepted .prompt::text").get() == hostile
    assert page.css("#accepted img").attrib["alt"] == hostile
    assert page.css("#rejected .reason::text").get() == hostile
    assert hostile in page.css("tbody td::text").getall()


def test_the_page_needs_nothing_but_the_batch_folder(mixed):
    html = write_gallery(mixed).read_text()
    page = Selector(html)
    for address in page.xpath("//@src | //@href").getall():
        assert address.startswith("data:image/webp;base64,") or (mixed / unquote(address)).is_file(), address
    assert not re.search(r"https?://|@import|url\(", html)
    (script,) = page.css("script::text").getall()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.css("meta[http-equiv]").attrib["content"]


def test_a_thousand_candidates_make_a_page_that_opens(tmp_path):
    kept = [painted(tmp_path, f"accepted/images/{k}.png", (k, 2 * k, 90), (64, 64)) for k in range(100)]
    dropped = painted(tmp_path, "rejected/0.webp", "white", (64, 64))
    entries = [
        line(k, score=0.5, file=kept[k // 10]) if k % 10 == 0 else line(k, "rejected", k / 2500, file=dropped)
        for k in range(1000)
    ]
    page = page_of(batch(tmp_path, entries))
    assert len(page.css("#accepted > li")) == 100
    shown = page.css("#rejected > li")
    assert len(shown) == MOST_REJECTED
    assert [shown[0].attrib["data-index"], shown[-1].attrib["data-index"]] == ["999", "778"]
    assert f"Shown are the {MOST_REJECTED} that score best" in text(page.css("details"))
    assert "Out of 1000 candidates; 900 rejected" in text(page)
    assert (tmp_path / "gallery.html").stat().st_size < 1e6


def test_more_accepted_than_a_page_holds_have_smaller_thumbnails(tmp_path):
    file = painted(tmp_path, "accepted/images/a.png", "red", (300, 200))
    page = page_of(batch(tmp_path, [line(k, file=file) for k in range(201)]))
    assert len(page.css("#accepted > li")) == 201
    assert thumbnail(page.css("#accepted img")[0]).size == (240, 160)


def test_broken_missing_and_foreign_pictures_leave_their_place_empty(tmp_path):
    root = tmp_path / "batch"
    root.mkdir()
    painted(tmp_path, "secret.png", "red")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    files = ["broken.png", "missing.png", "../secret.png", str(tmp_path / "secret.png")]
    page = page_of(batch(root, [line(k, file=file) for k, file in enumerate(files)]))
    assert len(page.css("#accepted > li")) == 4
    assert page.css("#accepted img, #accepted a").getall() == []


def test_names_are_quoted_in_links(tmp_path):
    file = painted(tmp_path, "accepted/images/50% & #1?.png", "red")
    link = page_of(batch(tmp_path, [line(0, file=file)])).css("#accepted a").attrib["href"]
    assert link == "accepted/images/50%25%20%26%20%231%3F.png"


def test_a_batch_without_a_single_accepted_says_what_to_do(tmp_path):
    unfinished = SUMMARY | {"complete": False, "seconds_per_accepted": None, "evaluations_per_accepted": None}
    page = page_of(batch(tmp_path, [line(0, "rejected", 0.1)], unfinished))
    assert "0 accepted artworks" in text(page)
    assert "No candidate passed the gate" in text(page)
    assert "The batch is not complete: 2 are wanted" in text(page)


@pytest.mark.parametrize("lines", [[], [line(0, score=1.0), line(1, "failed")]])
def test_a_killed_batch_without_a_summary_has_a_page(tmp_path, lines):
    assert f"{len(lines[:1])} accepted" in text(page_of(batch(tmp_path, lines, summary=None)))


def test_a_folder_that_is_no_batch_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no candidates.jsonl: give the folder of a generate.py run"):
        write_gallery(tmp_path)


def test_a_damaged_summary_is_told_of(tmp_path):
    batch(tmp_path, [line(0, score=1.0)], summary=None)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary.json is damaged \(.*: restore it"):
        write_gallery(tmp_path)


def test_writing_again_replaces_the_page_and_leaves_nothing_else(mixed):
    before = write_gallery(mixed).read_text()
    names = sorted(path.name for path in Path(mixed).iterdir())
    assert write_gallery(str(mixed)).read_text() == before
    assert sorted(path.name for path in mixed.iterdir()) == names


@pytest.mark.parametrize(
    ("grades", "words"),
    [(["poor", "poor"], "grades all of the accepted poor"), (["poor", "good"], "grades 1 of the accepted poor")],
)
def test_a_gate_that_passes_what_is_graded_poor_says_so(tmp_path, grades, words):
    lines = [line(index, grade=grade) for index, grade in enumerate(grades)]
    assert words in text(page_of(batch(tmp_path, lines)))
    others = [line(0), line(1, status="rejected", grade="poor")]
    assert "of the accepted poor" not in text(page_of(batch(tmp_path, others)))


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"kind": "good", "threshold": 0.7}, "The gate passes P(good) of 0.7 or more."),
        ({"kind": "best_of", "threshold": 0.0, "keep": 1, "of": 4}, "The gate passes the best 1 of every 4."),
        (
            {"kind": "best_of", "threshold": 0.3, "keep": 2, "of": 8},
            "The gate passes the best 2 of every 8, if they score 0.3 or more.",
        ),
    ],
)
def test_the_gate_is_told_in_words(tmp_path, gate, words):
    assert words in text(page_of(batch(tmp_path, [line(0)], SUMMARY | {"config": {"gate": gate}})))
