r"""A small language for prompts: `a {red|3::blue|} frog wearing __hat__`.

`{a|b}` is one of the alternatives (which may be templates, or empty), `3::a` an alternative that comes three times as
often, `__name__` a word of the library; `\{`, `\}` and `\|` stand for themselves, as everything else does.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from artgate.errors import UserError

Template = Callable[[random.Random], str]

TOKEN = re.compile(r"\\[{}|]|__(?P<word>[A-Za-z0-9][A-Za-z0-9-]*(?:_[A-Za-z0-9-]+)*)__|[{}|]")
WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")


def parse_template(text: str, words: Mapping[str, Template]) -> Template:
    """The template as a function of a random generator. Raises UserError for unmatched braces and unknown words."""
    tokens = iter(_tokens(text))
    parts, closing = _alternatives(tokens, text, words, nested=False)
    assert closing == ""
    return parts[0][1]


def parse_library(lists: Mapping[str, Sequence[str]]) -> dict[str, Template]:
    """Word lists as templates; a word may use other lists, but none may come back to itself."""
    library: dict[str, Template] = {}
    pending = dict(lists)
    while pending:
        ready = [name for name, words in pending.items() if not _names(words) & set(pending)]
        if not ready:
            raise UserError(f"word lists {', '.join(sorted(pending))} use each other in a circle: break it")
        for name in ready:
            library[name] = _one_of([(1.0, parse_template(word, library)) for word in pending.pop(name)])
    return library


def _names(words: Sequence[str]) -> set[str]:
    return {match["word"] for word in words for match in TOKEN.finditer(word) if match["word"]}


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, value): kind is "text", "word", "{", "}" or "|"."""
    position = 0
    for match in TOKEN.finditer(text):
        if match.start() > position:
            yield "text", text[position : match.start()]
        position = match.end()
        if match["word"]:
            yield "word", match["word"]
        elif match[0].startswith("\\"):
            yield "text", match[0][1]
        else:
            yield match[0], match[0]
    if position < len(text):
        yield "text", text[position:]


def _alternatives(
    tokens: Iterator[tuple[str, str]], text: str, words: Mapping[str, Template], nested: bool
) -> tuple[list[tuple[float, Template]], str]:
    """Read up to the closing brace (or the end, if not nested): [(weight, template)], and what closed it."""
    done: list[tuple[float, Template]] = []
    weight, parts = 1.0, list[Template]()
    for kind, value in tokens:
        if kind == "text":
            leading = WEIGHT.match(value) if nested and not parts else None
            if leading:
                weight, value = float(leading[1]), value[leading.end() :]
            parts.append(_constant(value))
        elif kind == "word":
            if value not in words:
                known = ", ".join(sorted(words)) or "none"
                raise UserError(
                    f"prompt {text!r} uses the word list {value!r}, which is not in prompts.words ({known})"
                )
            parts.append(words[value])
        elif kind == "{":
            parts.append(_one_of(_alternatives(tokens, text, words, nested=True)[0]))
        elif not nested and kind == "|":
            parts.append(_constant(value))
        elif not nested:
            raise UserError(rf"prompt {text!r} has a }} without its {{: remove it, or write \}}")
        else:
            done.append((weight, _in_order(parts)))
            weight, parts = 1.0, []
            if kind == "}":
                return done, kind
    if nested:
        raise UserError(rf"prompt {text!r} has a {{ without its }}: close it, or write \{{")
    return [(weight, _in_order(parts))], ""


def _constant(text: str) -> Template:
    return lambda choice: text


def _in_order(parts: Sequence[Template]) -> Template:
    return lambda choice: "".join(part(choice) for part in parts)


def _one_of(options: Sequence[tuple[float, Template]]) -> Template:
    weights = [weight for weight, _ in options]
    if sum(weights) <= 0:
        raise UserError("all alternatives of a prompt have weight 0: give one of them more")
    if math.isinf(sum(weights)):
        raise UserError("the weights of a prompt's alternatives add up to more than 1e308: make them smaller")
    return lambda choice: choice.choices([option for _, option in options], weights)[0](choice)
