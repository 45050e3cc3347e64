"""The figures of the gallery, out of the ledger: yield by prompt and where the others went, scores, time by stage."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artgate.artworks.text import clean_float, one_line
from artgate.generation.gallery_lines import ACCEPTED, EARLY, FAILED, LARGEST, REJECTED, Shown
from artgate.generation.preview_summary import evaluations_saved
from artgate.generation.summary import wilson_interval

BINS = 24
HISTOGRAM_TOPS = (*(float(f"{first}e{power}") for power in range(-7, 0) for first in (1, 2, 5)), 1.0)
LONGEST_LABEL = 160
MOST_PROMPTS = 60  # prompts that differ; beyond, the rest are one row


@dataclass(frozen=True)
class Yield:
    """What one prompt yields. label: the prompt or its template. low, high: the 95 % interval of the share."""

    label: str
    accepted: int
    candidates: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Accepted of the candidates, in [0, 1]."""
        return self.accepted / self.candidates


@dataclass(frozen=True)
class Histogram:
    """Scores in bins of equal width from 0 to `top`; each bin's heights (of accepted, of others) and both in words.

    The tallest bin is 1 high. top is below 1 where all scores are small: one bin of everything would tell nothing.
    """

    top: float
    bins: list[tuple[float, float, str]]


def prompt_groups(lines: Sequence[Mapping[str, Any]], templates: Sequence[Any]) -> tuple[list[int], list[str]]:
    """(the number of each line's prompt, the prompts in words), the prompts with the most candidates first.

    templates: of the configuration. Candidates of one template belong together, whatever words were drawn for it;
    without templates those of the same text do.
    """
    keys = [_prompt(line, templates) for line in lines]
    counts = Counter(keys)
    ordered = sorted(counts, key=lambda key: (-counts[key], str(key)))
    number = {key: min(place, MOST_PROMPTS) for place, key in enumerate(ordered)}
    labels = [one_line(key, LONGEST_LABEL) or "(no prompt)" for key in ordered[:MOST_PROMPTS]]
    others = len(ordered) - len(labels)
    return [number[key] for key in keys], labels + ([f"{others} other prompts"] if others else [])


def _prompt(line: Mapping[str, Any], templates: Sequence[Any]) -> str:
    # Ledgers that do not tell the template are from a time when templates took turns
    place = line.get("template", line["index"] % len(templates) if templates else None)
    if isinstance(place, int) and 0 <= place < len(templates):
        template = templates[place]
        return str(template.get("prompt") if isinstance(template, Mapping) else template)
    return str(line.get("prompt", ""))


def yields(candidates: Sequence[Shown], groups: Sequence[int], labels: Sequence[str]) -> list[Yield]:
    """The yield of each prompt, the best first. groups: the number of each candidate's prompt, a place in labels."""
    made = Counter(groups)
    kept = Counter(group for group, told in zip(groups, candidates, strict=True) if told.verdict == ACCEPTED)
    found = [
        Yield(label, kept[group], made[group], *wilson_interval(kept[group], made[group]))
        for group, label in enumerate(labels)
    ]
    return sorted(found, key=lambda row: (-row.share, -row.candidates))


def reasons(candidates: Sequence[Shown]) -> list[tuple[str, str, int, float]]:
    """(verdict, kind of reason, how many, share of all candidates): the accepted, then where the others went."""
    counts = Counter((told.verdict, told.kind or "accepted") for told in candidates)
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] != ACCEPTED, -item[1], item[0]))
    return [(verdict, kind, count, count / len(candidates)) for (verdict, kind), count in ordered]


def stages(seconds: Any) -> list[tuple[str, float, float]]:
    """(stage, seconds, share of all) of the stages that took time."""
    told = seconds.items() if isinstance(seconds, Mapping) else ()
    spent = [(one_line(stage, 40), clean_float(value, 0, LARGEST) or 0.0) for stage, value in told]
    total = sum(value for _, value in spent)
    return [(stage, value, value / total) for stage, value in spent if value > 0]


def histogram(candidates: Sequence[Shown]) -> Histogram:
    """Of the final scores."""
    # A candidate that failed after the gate, in enlarging say, has a score too.
    scored = [told for told in candidates if told.score is not None and told.verdict in (ACCEPTED, REJECTED)]
    highest = max((told.score or 0.0 for told in scored), default=1.0)
    top = next(top for top in HISTOGRAM_TOPS if top >= highest)
    counts = {ACCEPTED: [0] * BINS, REJECTED: [0] * BINS}
    for told in scored:
        counts[told.verdict][min(int((told.score or 0.0) / top * BINS), BINS - 1)] += 1
    both = list(zip(*counts.values(), strict=True))
    tallest = max(1, *map(sum, both))
    return Histogram(
        top,
        [
            (
                accepted / tallest,
                rejected / tallest,
                f"{top * k / BINS:.3g} to {top * (k + 1) / BINS:.3g}: {accepted} accepted, {rejected} rejected",
            )
            for k, (accepted, rejected) in enumerate(both)
        ],
    )


def mean_score(candidates: Sequence[Shown], verdict: str) -> float | None:
    """Of the candidates of a verdict; None where none has a score."""
    scores = [told.score for told in candidates if told.verdict == verdict and told.score is not None]
    return sum(scores) / len(scores) if scores else None


def saved_evaluations(candidates: Sequence[Shown]) -> int:
    """Denoiser evaluations that the candidates which left early did not take."""
    return evaluations_saved(
        (told.evaluations for told in candidates if told.verdict == EARLY),
        (told.evaluations for told in candidates if told.verdict in (ACCEPTED, REJECTED)),
    )


def counts_by_verdict(candidates: Sequence[Shown]) -> dict[str, int]:
    """How many there are of each verdict."""
    found = Counter(told.verdict for told in candidates)
    return {verdict: found[verdict] for verdict in (ACCEPTED, REJECTED, EARLY, FAILED)}
