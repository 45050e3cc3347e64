import ast
from pathlib import Path

import pytest
import yaml
from parsel import Selector

from artcrawl.site import Site, load_site
from artgate.errors import UserError

GOOD = {"name": "x", "start_urls": ["https://example.org/"], "items": "li", "image": "img::attr(src)"}


def load(tmp_path: Path, values: object) -> Site:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_site(path)


def test_the_example_is_a_valid_description() -> None:
    site = load_site(Path(__file__).parents[2] / "crawler" / "sites" / "example.yaml")
    assert site.defaults == {"licence": "CC0-1.0"}
    assert site.start_urls == ("https://gallery.example.org/art",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgae": "img::attr(src)"}, "key 'imgae' is unknown: the keys are name, start_urls"),
        ({"image": None}, "key 'image' is missing"),
        ({"items": ""}, "key 'items' is missing"),
        ({"start_urls": []}, "key 'start_urls' is missing"),
        ({"start_urls": ["example.org"]}, "start_urls: 'example.org' is not a web address"),
        ({"start_urls": "file:///etc/passwd"}, "start_urls: 'file:///etc/passwd' is not a web address"),
        ({"start_urls": ["http://[::1/"]}, r"start_urls: 'http://\[::1/' is not a web address"),
        ({"start_urls": "http://example.org:99999/"}, "start_urls: 'http://example.org:99999/' is not a web address"),
        ({"start_urls": [5]}, "start_urls: 5 is not a web address"),
        ({"selectors": "xpath"}, "selectors: 'xpath' is not one of css, jmespath"),
        ({"image": "img["}, r"image: 'img\[' is not a css selector"),
        ({"prompt": "p::txt"}, "prompt: 'p::txt' is not a css selector"),
        ({"prompt": "p"}, "prompt: 'p' selects an element, not its text: end it with ::text"),
        ({"prompt": 5}, "prompt: 5 is not text"),
        ({"selectors": "jmespath", "image": "a["}, r"image: 'a\[' is not a jmespath selector"),
        ({"defaults": "CC0"}, "defaults: 'CC0' is not a mapping"),
        ({"defaults": {"price": "1"}}, "defaults: 'price' is not one of source_id, prompt"),
        ({"defaults": {"licence": 0}}, "defaults: licence: 0 is not text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"site.yaml: {message}"):
        load(tmp_path, GOOD | change)


def test_a_file_that_is_no_description_is_named(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    with pytest.raises(UserError, match="site.yaml cannot be read"):
        load_site(path)
    path.write_text("a: [b")
    with pytest.raises(UserError, match="site.yaml is not YAML"):
        load_site(path)
    path.write_text("just words")
    with pytest.raises(UserError, match="holds no keys: begin with crawler/sites/example.yaml"):
        load_site(path)


def test_the_crawler_knows_artworks_and_errors_only() -> None:
    crawler = Path(__file__).parents[2] / "crawler"
    nodes = [node for path in crawler.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    ours = {module for module in modules if module.partition(".")[0] == "artgate"}
    assert {module for module in ours if not module.startswith("artgate.artworks.")} == {"artgate", "artgate.errors"}


def test_texts_are_whole_stripped_and_free_of_control_characters(tmp_path: Path) -> None:
    site = load(tmp_path, GOOD | {"prompt": ".prompt ::text", "creator": ".creator::text"})
    page = Selector('<div class="prompt"> a <b>red</b>\x07 boat\n</div>', type="html")
    assert site.text(page, "prompt") == "a red boat"
    assert site.text(page, "creator") is None
    assert site.text(page, "licence") is None


def test_the_first_address_counts(tmp_path: Path) -> None:
    site = load(tmp_path, GOOD)
    assert site.url(Selector('<img src=" /a.png "><img src="/b.png">', type="html"), "image") == "/a.png"
    assert site.url(Selector("<p>", type="html"), "image") is None
