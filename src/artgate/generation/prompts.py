"""Templates and a word library → the stream of candidates, a pure function of (prompts, base seed).

Candidate k is made from k and the template that it is given to (`allocation.py`), so that a batch can be resumed
anywhere without replaying what came before.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.templates import Template, parse_library, parse_template

SEEDS = 2**32


@dataclass(frozen=True)
class Candidate:
    """One image to make: what decides it, given the model and the sampler's settings.

    index: place in the stream, from 0. seed: in [0, 2^32). basemap: a picture file to begin from, where the prompt
    names one. template: place of its template in `prompts.prompts`, from 0.
    """

    index: int
    prompt: str
    negative_prompt: str
    seed: int
    basemap: str | None = None
    template: int = 0


@dataclass
class PromptsConfig:
    """`conf/prompts/*.yaml`.

    prompts: templates; the stream takes them in turn. An entry is a template or {prompt, negative_prompt, basemap}, of
    which the last two replace those of the whole.
    words: name → words, or a text file with one a line, for `__name__` in templates. Words are templates themselves.
    suffix: template put after each prompt (", good quality"). negative_prompt: template of what to avoid.
    """

    prompts: list[Any] = field(default_factory=list)
    words: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError('prompts.prompts is empty: give at least one, e.g. prompts.prompts=["a river in a forest"]')


def candidates(prompts: Mapping[str, Any] | DictConfig | PromptsConfig, base_seed: int) -> Iterator[Candidate]:
    """Candidates 0, 1, 2, … without end. Raises UserError at once for a template or a word list that is wrong."""
    source = CandidateSource(prompts, base_seed)
    return (source[index] for index in itertools.count())


class CandidateSource:
    """`source[k]` is candidate k where templates take turns; templates and word lists are read and checked once.

    group: candidates in a row that have one prompt, and differ by their seeds: those that a gate judges together.
    """

    def __init__(self, prompts: Mapping[str, Any] | DictConfig | PromptsConfig, base_seed: int, group: int = 1) -> None:
        config = prompts if isinstance(prompts, PromptsConfig) else validated(PromptsConfig, prompts, "prompts")
        words = _word_library(config.words)
        self.group = group
        self._base_seed = base_seed
        self._entries = [_entry(entry, number, config, words) for number, entry in enumerate(config.prompts)]

    @property
    def templates(self) -> int:
        """How many templates there are."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Candidate:
        return self.candidate(index, index // self.group % self.templates)

    def candidate(self, index: int, template: int) -> Candidate:
        """Candidate `index` where it is given to this template."""
        entry = self._entries[template]
        choice = random.Random(_hash(f"prompt {self._base_seed} {index - index % self.group}"))
        return Candidate(
            index=index,
            prompt=_tidy(entry.prompt(choice)),
            negative_prompt=_tidy(entry.negative_prompt(choice)),
            # Consecutive from a start of the base seed's own: no two of a batch are the same
            seed=(_hash(f"seeds {self._base_seed}") + index) % SEEDS,
            basemap=entry.basemap,
            template=template,
        )


@dataclass(frozen=True)
class _Entry:
    prompt: Template
    negative_prompt: Template
    basemap: str | None


def _entry(entry: Any, number: int, config: PromptsConfig, words: Mapping[str, Template]) -> _Entry:
    keys = {"prompt": entry} if isinstance(entry, str) else entry
    if not isinstance(keys, Mapping) or not isinstance(keys.get("prompt"), str) or not keys["prompt"].strip():
        raise UserError(f"prompts.prompts[{number}] {entry!r} is no prompt: give a text, or a mapping with `prompt`")
    unknown = sorted(set(keys) - {"prompt", "negative_prompt", "basemap"})
    if unknown:
        raise UserError(
            f"prompts.prompts[{number}].{unknown[0]} is not known: there are prompt, negative_prompt, basemap"
        )
    basemap = keys.get("basemap")
    if basemap is not None and not Path(basemap).expanduser().is_file():
        raise UserError(f"prompts.prompts[{number}].basemap {basemap!r} is not there: give the path of a picture")
    return _Entry(
        prompt=parse_template(keys["prompt"] + config.suffix, words),
        negative_prompt=parse_template(keys.get("negative_prompt", config.negative_prompt), words),
        basemap=basemap,
    )


def _word_library(words: Mapping[str, Any]) -> dict[str, Template]:
    return parse_library({name: _word_list(name, source) for name, source in words.items()})


def _word_list(name: str, source: Any) -> list[str]:
    if isinstance(source, str):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(
                f"prompts.words.{name}: no file {source!r}; give a list of words, or a text file with one a line"
            )
        try:
            source = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"prompts.words.{name}: {source!r} is no UTF-8 text ({error}): save it as UTF-8") from None
        source = [line for line in source if line and not line.startswith("#")]
    if not isinstance(source, list) or not source:
        raise UserError(f"prompts.words.{name} {source!r} has no words: give at least one")
    return [str(word) for word in source]


def _tidy(text: str) -> str:
    """Without the double spaces that empty alternatives leave."""
    return " ".join(text.split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
