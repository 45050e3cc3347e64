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
from artgate.generation.gallery import MOST_SHOWN, _score, write_gallery
from artgate.generation.gallery_pictures import keep_thumbnail

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
    for part in ("0.90", "prompt 4", "#4", "seed 1004"):
        assert part in text(cards[0])
    assert [card.attrib["style"] for card in cards] == ["--a:0.6667", "--a:1.5000"]  # what a row is justified by
    told = json.loads(cards[0].attrib["data-told"])
    assert told["odds"] == [["good", 0.6], ["average", 0.3], ["poor", 0.1]]
    assert ["seed", "1004"] in told["rows"] and ["took", "4 denoiser evaluations, 0.0 s"] in told["rows"]
    assert "remake" not in told  # there is no sidecar


def test_an_accepted_artwork_with_a_sidecar_tells_how_to_make_it_again(mixed, monkeypatch):
    image_id, other = "ab" * 32, "cd" * 32
    lines = [line(k, image_id=image, file="x.png") for k, image in enumerate([image_id, other, "../../etc"])]
    (mixed / "accepted" / "sidecars").mkdir()
    (mixed / "accepted" / "sidecars" / f"{image_id}.json").write_text("{}")
    batch(mixed, lines)
    monkeypatch.chdir(mixed.parent)
    told = [json.loads(card.attrib["data-told"]) for card in page_of(mixed).css("#accepted > li")]
    sidecar = f"accepted/sidecars/{image_id}.json"
    assert told[0]["remake"] == f"python generate.py mode=remake sidecar={mixed.name}/{sidecar}"
    assert (told[0]["sidecar"], [row for row in told[0]["rows"] if row[0] == "image_id"]) == (
        sidecar,
        [["image_id", image_id]],
    )
    assert "remake" not in told[1] and "remake" not in told[2]
    assert "etc" not in json.dumps(told[2])


def test_a_thumbnail_kept_beside_the_batch_spares_the_file(mixed):
    image_id = "ab" * 32
    keep_thumbnail(mixed, image_id, Image.new("RGB", (1200, 600), "yellow"))
    assert Image.open(mixed / "thumbnails" / f"{image_id}.webp").size == (480, 240)
    batch(mixed, [line(0, image_id=image_id, file="accepted/images/a.png")])
    small = thumbnail(page_of(mixed).css("#accepted img")[0])
    assert (small.size, small.getpixel((5, 5))) == ((480, 240), pytest.approx((255, 255, 0), abs=6))
    (mixed / "thumbnails" / f"{image_id}.webp").write_bytes(b"torn")
    assert thumbnail(page_of(mixed).css("#accepted img")[0]).size == (480, 320)
    keep_thumbnail(mixed, image_id, Image.new("RGB", (1200, 600), "yellow"))
    (mixed / "accepted" / "images" / "a.png").unlink()  # purged, say
    assert not page_of(mixed).css("#accepted img")


def test_every_picture_has_a_text_and_a_focusable_link(mixed):
    for image in page_of(mixed).css("img:not(dialog img)"):
        assert image.attrib["alt"].startswith("prompt ")
        assert image.xpath("ancestor::a/@href").get()


def test_rejected_and_failed_are_there_with_their_reasons_and_shown_on_demand(mixed):
    page = page_of(mixed)
    accepted, rejected, failed = page.css("section.verdict")
    assert [section.attrib.get("hidden") for section in (accepted, rejected, failed)] == [None, "", ""]
    assert [card.attrib["data-index"] for card in rejected.css("li")] == ["3", "5", "0"]
    assert "score 0.30 < threshold 0.40" in text(rejected)
    assert "no picture kept" in text(rejected.css("li")[0])
    assert "denoise: RuntimeError: <boom>" in text(failed)
    assert "threshold: 0.4" in text(page.css("#configuration"))
    assert [box.attrib["value"] for box in page.css("input[name=verdict]")] == ["accepted", "rejected", "failed"]


def test_what_a_preview_turned_away_is_told_apart_with_the_preview(tmp_path):
    seen = {"step": 6, "score": 0.11, "picture": painted(tmp_path, "rejected/1.webp", "blue", (60, 40))}
    early = line(
        1, "rejected", None, reason="preview 0.11 < threshold 0.2 at step 6 of 20", preview=seen, evaluations=6
    )
    early |= {"score": None, "grade": None, "probabilities": None}
    looked_at = line(0, evaluations=20, previews=[{"step": 6, "score": 0.4}])
    page = page_of(batch(tmp_path, [looked_at, early, line(2, "rejected", 0.1, evaluations=20)]))
    (card,) = page.css("#early > li")
    assert thumbnail(card.css("img")[0]).size == (60, 40)
    assert "preview 0.11 < threshold 0.2 at step 6 of 20" in text(card)
    assert (text(card.css(".badge")), card.attrib["data-score"]) == ("0.11", "0.11")
    assert ["preview", "score 0.11 at step 6"] in json.loads(card.attrib["data-told"])["rows"]
    assert ["preview", "score 0.40 at step 6"] in json.loads(page.css("#accepted > li").attrib["data-told"])["rows"]
    assert "2 rejected, 1 of them early" in text(page.css("header"))
    assert "24 denoiser evaluations, 14 saved" in text(page.css("header"))
    told = SUMMARY | {"preview": {"saving": 1.5, "saving_95": [1.1, 2.0]}}
    page = page_of(batch(tmp_path, [looked_at, early], told))
    assert "1.50x fewer evaluations per accepted (1.10x to 2.00x)" in text(page.css("#figures"))


def test_the_header_tells_yield_and_cost(mixed):
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
    ):
        assert part in header, part


def test_the_figures_tell_time_models_and_what_became_of_the_candidates(mixed):
    figures = text(page_of(mixed).css("#figures"))
    for part in (
        "upscale 1 h 23 min, 100 %",
        "tiny · MIT · abcdef0123",
        "accepted 2 33 %",
        "score below the threshold 2 33 %",
        "failed: denoise, RuntimeError 1 17 %",
    ):
        assert part in figures, part
    assert "decode" not in figures  # it took no time


def test_yield_by_prompt_comes_with_its_interval_and_by_template_where_there_are_templates(mixed):
    def rows(config):
        page = page_of(batch(mixed, read(mixed), SUMMARY | {"config": config}))
        told = ((text(row), row.css(".track").attrib["title"]) for row in page.css(".yields tr"))
        return [" ".join(" · ".join(row).split()) for row in told]

    def read(root):
        return [json.loads(entry) for entry in (root / "candidates.jsonl").read_text().splitlines()]

    assert len(rows({})) == 6  # prompts all differ
    templates = ["{a|b} prompt", {"prompt": "another", "negative_prompt": ""}]
    assert rows({"prompts": {"prompts": templates}}) == [
        "another 1 of 3 33 % · 95 % interval 6 % to 79 %",
        "{a|b} prompt 1 of 3 33 % · 95 % interval 6 % to 79 %",
    ]
    batch(mixed, [entry | {"template": int(entry["index"] == 4)} for entry in read(mixed)])
    assert rows({"prompts": {"prompts": templates}}) == [
        "another 1 of 1 100 % · 95 % interval 21 % to 100 %",
        "{a|b} prompt 1 of 5 20 % · 95 % interval 4 % to 62 %",
    ]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("score 0.30 < threshold 0.40", "score below the threshold"),
        ("P(good) 0.30 < threshold 0.40", "P(good) below the threshold"),
        ("rank 3 of 4, best 1 are kept", "others of its group are better"),
        ("near-duplicate of candidate 3 (12 of 256 bits)", "too like an accepted one"),
        ("safety checker: nsfw", "the safety checker"),
        ("something else: 1", "something else"),
        (None, "for no reason known"),
    ],
)
def test_reasons_of_a_kind_are_counted_together(tmp_path, reason, kind):
    page = page_of(batch(tmp_path, [line(0, "rejected", 0.3, reason=reason)]))
    assert text(page.css(".reasons th")) == kind


def test_bars_of_the_histogram_are_the_counts(mixed):
    bars = page_of(mixed).css(".bars > span")
    heights = [re.findall(r"height:([\d.]+)%", bar.get()) for bar in bars]
    assert (heights[6], heights[4], heights[21]) == (["0.00", "100.00"], ["0.00", "100.00"], ["100.00", "0.00"])
    assert bars[4].attrib["title"] == "0.167 to 0.208: 0 accepted, 1 rejected"


def test_a_failure_after_the_gate_has_a_score_and_is_only_a_failure(tmp_path):
    failed = line(1) | {"status": "failed", "reason": "upscale: RuntimeError: no"}
    page = page_of(batch(tmp_path, [line(0), failed]))
    assert [card.attrib["data-index"] for card in page.css("li.card")] == ["0"]
    assert "upscale: RuntimeError: no" in text(page.css(".fails"))
    assert page.css(".bars > span")[23].attrib["title"] == "0.479 to 0.5: 1 accepted, 0 rejected"


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "1.00"),
        (0.5, "0.50"),
        (0.1, "0.10"),
        (0.0081, "0.0081"),
        (0.05, "0.05"),
        (6.83e-5, "0.000068"),
        (1e-12, "0"),
    ],
)
def test_scores_are_told_without_exponents(score, told):
    assert _score(score) == told


def test_small_scores_can_be_told_apart(tmp_path):
    page = page_of(batch(tmp_path, [line(0, score=0.0081), line(1, score=0.0012), line(2, "rejected", 0.0)]))
    assert [text(badge) for badge in page.css(".badge")] == ["0.0081", "0.0012", "0"]
    assert page.css(".bars > span")[19].attrib["title"] == "0.00792 to 0.00833: 1 accepted, 0 rejected"
    assert text(page.css(".scale")) == "0 0.005 0.01"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_and_nothing_else(tmp_path, hostile):
    entries = [
        line(0, prompt=hostile, file=painted(tmp_path, "accepted/images/a.png", "red")),
        line(1, "rejected", prompt=hostile, reason=hostile, grade=hostile, negative_prompt=hostile),
        line(2, "failed", prompt=hostile, reason=hostile),
    ]
    models = {hostile: {"name": hostile, "fingerprint": hostile, "licence": hostile}}
    config = {
        "gate": {"kind": "score", "threshold": 0.4},
        "prompts": {"prompts": [hostile]},
        "diffusion": {"name": hostile},
    }
    page = page_of(
        batch(tmp_path, entries, SUMMARY | {"models": models, "config": config, "diversity": {"warning": hostile}})
    )
    assert (len(page.css("script")), len(page.css("style"))) == (1, 2)
    assert not page.xpath("//@*[starts-with(name(), 'on')]")
    assert not page.css("b:not(.brand b):not(.track b):not(.warning b)")
    shown = hostile.replace("\u202e", "")  # marks that reverse what follows are left out
    assert page.css("#accepted .prompt::text").get() == shown
    assert page.css("#accepted img").attrib["alt"] == shown
    assert page.css("#rejected .reason::text").get() == " ".join(shown.split())
    assert " ".join(shown.split()) in page.css("tbody td::text").getall()
    assert ["negative prompt", shown] in json.loads(page.css("#rejected li").attrib["data-told"])["rows"]
    assert page.css("#rejected .badge").attrib["class"].split() == ["badge", "num"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "<b>1</b>", "grade": ["good"], "probabilities": [1], "seed": {"a": 1}, "reason": 5, "file": 7},
        {"score": 1e9, "grade": "excellent", "probabilities": {"good": "high"}, "seed": -1, "prompt": None},
        {"score": True, "seconds": [1], "evaluations": "many", "image_id": 5, "negative_prompt": {}},
        {"preview": 5, "previews": {"a": 1}, "template": "x", "seconds": {"denoise": "long"}, "file": "a\0b"},
    ],
)
def test_what_is_of_the_wrong_type_counts_as_not_known(tmp_path, wrong):
    entries = [line(0) | wrong, line(1, "rejected", 0.1) | wrong, {"index": 2, "status": "accepted"}]
    page = page_of(batch(tmp_path, entries, None))
    assert len(page.css("#accepted > li")) == 2 and len(page.css("#rejected > li")) == 1


def test_the_page_needs_nothing_but_the_batch_folder(mixed):
    html = write_gallery(mixed).read_text()
    page = Selector(html)
    for address in page.xpath("//@src | //@href").getall():
        assert address in ("#figures", "#configuration") or (
            address.startswith("data:image/webp;base64,") or (mixed / unquote(address)).is_file()
        ), address
    assert not re.search(r"https?://|@import", html)
    assert "url(" not in "".join(page.css("style::text, [style]").getall())
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
    assert len(shown) == MOST_SHOWN["rejected"]
    assert [shown[0].attrib["data-index"], shown[-1].attrib["data-index"]] == ["999", "667"]
    assert f"Shown are the {MOST_SHOWN['rejected']} that score best" in text(page.css("section.verdict"))
    assert "Out of 1000 candidates; 900 rejected" in text(page)
    assert (tmp_path / "gallery.html").stat().st_size < 1e6


def test_more_accepted_than_a_page_holds_have_smaller_thumbnails(tmp_path):
    file = painted(tmp_path, "accepted/images/a.png", "red", (300, 200))
    page = page_of(batch(tmp_path, [line(k, file=file) for k in range(241)]))
    assert len(page.css("#accepted > li")) == 241
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
    (tmp_path / "config.json").write_text(json.dumps(SUMMARY["config"]))
    (tmp_path / "models.json").write_text(json.dumps(SUMMARY["models"]))
    page = text(page_of(tmp_path))
    assert "The gate passes a score of 0.4 or more" in page and "threshold: 0.4" in page
    assert not lines or "tiny · MIT" in page
    certified = {**SUMMARY["config"], "gate": {"kind": "certified", "threshold": None, "certificate": "c"}}
    (tmp_path / "config.json").write_text(json.dumps(certified))
    assert "The gate passes what its certificate says" in text(page_of(tmp_path))


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
