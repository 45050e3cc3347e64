"""The description of a gallery: a small YAML file that says where things are on its pages."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from cssselect import SelectorError
from parsel import Selector, SelectorList

from artgate.artworks.text import clean_text
from artgate.errors import UserError

from .network.addresses import web_address

LANGUAGES = ("css", "jmespath")
# Text fields of Provenance that a page may tell, each found by a selector of the same name.
TEXTS = ("source_id", "prompt", "negative_prompt", "creator", "licence", "generator")
SELECTORS = ("items", "link", "next", "image", *TEXTS)


@dataclass(frozen=True)
class Site:
    """A gallery. Every selector is in the language `selectors`: CSS for HTML pages, JMESPath for JSON ones.

    name: the `source` of its artworks. items: the entries of a list page. next: a list page's link to the next one.
    link: an entry's link to the artwork's own page; without it, the entry itself is where the artwork is described.
    image and TEXTS: selectors on the artwork's page (or entry). defaults: what holds where the page says nothing.
    terms: under which terms the site lets itself be crawled, recorded with every artwork.
    """

    name: str
    start_urls: tuple[str, ...]
    items: str
    image: str
    selectors: str = "css"
    link: str | None = None
    next: str | None = None
    source_id: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    creator: str | None = None
    licence: str | None = None
    generator: str | None = None
    terms: str | None = None
    defaults: dict[str, str] = field(default_factory=dict)

    def nodes(self, node: Selector, key: str) -> SelectorList[Selector]:
        """All that the selector of this key finds below `node`; nothing if the site has none."""
        query = getattr(self, key)
        if query is None:
            return SelectorList()
        return node.css(query) if self.selectors == "css" else node.jmespath(query)

    def text(self, node: Selector, key: str) -> str | None:
        """All that the selector of this key finds below `node`, as one text without control characters, or None."""
        found = [value for value in self.nodes(node, key).getall() if value is not None]
        return clean_text("".join(map(str, found))) or None

    def url(self, node: Selector, key: str) -> str | None:
        """The first thing that the selector of this key finds, stripped; None for nothing."""
        found = self.nodes(node, key).get()
        return str(found).strip() or None if found is not None else None


def load_site(path: Path | str) -> Site:
    """Read a description and check all of it. Raises UserError naming the file, the key, the value and the cure."""
    values = _read(Path(path))
    try:
        _check_keys(values)
        site = Site(**values | {"start_urls": _start_urls(values["start_urls"])})
        _check(site)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return site


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a site description") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no keys: begin with crawler/sites/example.yaml")
    return values


def _check_keys(values: dict[str, Any]) -> None:
    known = [f.name for f in fields(Site)]
    for key in values:
        if key not in known:
            raise UserError(f"key {key!r} is unknown: the keys are {', '.join(known)}")
    for key in ("name", "start_urls", "items", "image"):
        if values.get(key) in (None, "", []):
            raise UserError(f"key {key!r} is missing: see crawler/sites/example.yaml for what it holds")


def _start_urls(value: object) -> tuple[str, ...]:
    urls = value if isinstance(value, list) else [value]
    for url in urls:
        try:
            web_address(url if isinstance(url, str) else "")
        except ValueError:
            message = f"start_urls: {url!r} is not a web address: write it in full, as https://example.org/art"
            raise UserError(message) from None
    return tuple(urls)


def _check(site: Site) -> None:
    if site.selectors not in LANGUAGES:
        raise UserError(f"selectors: {site.selectors!r} is not one of {', '.join(LANGUAGES)}")
    for key in ("name", "terms"):
        _check_text(key, getattr(site, key))
    for key in SELECTORS:
        _check_text(key, getattr(site, key))
        _check_selector(key, getattr(site, key), site.selectors)
    if not isinstance(site.defaults, dict):
        raise UserError(f"defaults: {site.defaults!r} is not a mapping: write one `key: text` a line below it")
    for key, text in site.defaults.items():
        if key not in TEXTS:
            raise UserError(f"defaults: {key!r} is not one of {', '.join(TEXTS)}")
        _check_text(f"defaults: {key}", text)


def _check_text(key: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UserError(f"{key}: {value!r} is not text: put it in quotes, or leave the key out")


def _check_selector(key: str, query: str | None, language: str) -> None:
    if query is None:
        return
    try:
        if language == "css":
            Selector("<html></html>", type="html").css(query)
        else:
            Selector("{}", type="json").jmespath(query)
    except (SelectorError, ValueError) as error:  # the latter is JMESPath's
        detail = " ".join(str(error).split())
        raise UserError(f"{key}: {query!r} is not a {language} selector ({detail})") from None
    if language == "css" and key != "items" and "::" not in query:
        raise UserError(f"{key}: {query!r} selects an element, not its text: end it with ::text or ::attr(name)")
