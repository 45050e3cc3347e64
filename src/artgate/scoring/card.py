"""The model card that goes with a scorer: what it is, what it learnt from, how good it is, and what it cannot do.

Every figure stands with its 95 % interval; the run's `report.html` says the same in pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from artgate.artworks.text import one_line

FIGURES = {
    "srcc": "SRCC: rank correlation of the score with people's opinion",
    "within_generator_srcc": "the same within each generator, averaged",
    "plcc": "PLCC: linear correlation",
    "qwk": "quadratic kappa of the grade",
    "macro_f1": "macro-F1 of the grade",
    "accuracy": "accuracy of the grade",
    "auroc_good": "AUROC of P(good)",
    "ece": "expected calibration error",
    "classwise_ece": "the same over all grades' probabilities",
}
KEY = ("srcc", "within_generator_srcc", "qwk", "macro_f1", "ece")
SHORT = {
    "srcc": "SRCC",
    "within_generator_srcc": "SRCC within generators",
    "plcc": "PLCC",
    "qwk": "Quadratic kappa",
    "macro_f1": "Macro-F1",
    "accuracy": "Accuracy",
    "auroc_good": "AUROC of P(good)",
    "ece": "Calibration error",
    "classwise_ece": "Classwise calibration error",
}
# Who judges by opinion alone in the human ceiling (see ceiling.py).
JUDGES = {"perfect": "perfect knowledge", "panel": "{raters} fresh raters", "person": "one fresh rater"}
LIMITS = (
    "It knows the taste of those who graded its data, and images like those. On other generators, subjects, sizes, "
    "file formats or compression its ranking is weaker, and its probabilities need not hold: grade some of your own "
    "and measure.",
    "Among one generator's images the rank within the generator counts, and that is lower than the figure over all of "
    "them.",
    "The probabilities are calibrated on average over data like its own. They certify nothing about a threshold.",
    "It is for choosing among generated artworks. It is not made to judge people, nor photographs of them.",
)


def model_card(metrics: Mapping[str, Any], encoder_config: Mapping[str, Any], command: str | None) -> str:
    """Markdown; every figure in it is in `metrics` (metrics.json of the run)."""
    table = "\n".join(f"| {name} | {text} |" for name, text in what_it_is(metrics, encoder_config).items())
    limits = "\n".join(f"- {limit}" for limit in limits_of(metrics))
    parts = [
        f"""# Scorer

Grades images poor, average or good, and scores them: score = expected grade / 2, in [0, 1];
grade = the median of the probabilities. Made by artgate's `{command or "train.py"}`.

| | |
|---|---|
{table}""",
        f"## Figures, on the {metrics['measured_on']} ({metrics['scorer']['n']} artworks)",
        _figures(metrics["scorer"], metrics["baselines"]),
        how_measured(metrics),
        _beyond(metrics),
        _calibration(metrics),
        _gap(metrics["group_gap"]),
        _ceiling(metrics["ceiling"]),
        _without(metrics["without"]),
        *_aspects(metrics),
        _people(metrics.get("people")),
        f"## Limits\n{limits}",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def what_it_is(metrics: Mapping[str, Any], encoder_config: Mapping[str, Any]) -> dict[str, str]:
    """What the scorer is made of and from: name -> text."""
    data, encoder, head = metrics["data"], metrics["encoder"], metrics["head"]
    grades = ", ".join(f"{count} {grade}" for grade, count in data["grades"].items())
    parts = ", ".join(f"{name} {count}" for name, count in data["parts"].items())
    networks = f"{head['kind']}, {head['members']} averaged, ordinal (CORN), epoch {head['epoch']}"
    settings = ", ".join(
        f"{key} {value}" for key, value in encoder_config.items() if value is not None and key != "device"
    )
    return {
        "encoder": f"{encoder['name']} ({settings}), {encoder['features']} features",
        "its fingerprint": f"`{encoder['fingerprint']}`",
        **_fine_tuned(metrics.get("finetune"), head["epoch"]),
        "head": f"{', and '.join([networks, *head.get('beside', ())])}; calibrated",
        "learnt from": (
            f"{data['artworks']} artworks with {data['graded_by']}: {grades}; digest `{data['digest'][:16]}`"
        ),
        "divided": f"{parts}; seed {metrics['seed']}",
    }


def _fine_tuned(finetune: Mapping[str, Any] | None, epoch: int) -> dict[str, str]:
    if not finetune:
        return {}
    learnt = {
        "last": f"the last {finetune['groups']} groups of layers",
        "all": "all layers",
        "lora": f"additions of rank {finetune['rank']}, merged",
    }[finetune["mode"]]
    return {"fine-tuned": f"{learnt}, with the head, until epoch {epoch}; its weights are in this folder"}


def limits_of(metrics: Mapping[str, Any]) -> list[str]:
    """What the scorer cannot do."""
    return [LIMITS[0], _prompts(metrics.get("inputs", {})), *LIMITS[1:]]


def how_measured(metrics: Mapping[str, Any]) -> str:
    """On what, and what the intervals mean."""
    apart = (
        "Near-duplicates, images of one prompt and works of one creator lie on one side of every split."
        if metrics["measured_on"] == "test split"
        else "This scorer learnt from all of the artworks. The figures are those of heads that learnt alike from the "
        "other folds, under a calibration from the other folds; near-duplicates and images of one prompt share a fold."
    )
    resampled = metrics["resampled"]
    return (
        f"{apart} Intervals hold 95 of 100 draws of the {resampled['groups']} groups that these make "
        f"({resampled['resamples']} bootstrap resamples)."
    )


def limits_text(gap: Sequence[float] | None) -> str:
    """An interval in words, – for none."""
    return "–" if gap is None else f"{gap[0]:.3f} to {gap[1]:.3f}"


def _figures(scorer: Mapping[str, Any], baselines: Mapping[str, Any], names: Iterable[str] = FIGURES) -> str:
    columns = {"scorer": scorer, **baselines}
    head = "| figure | " + " | ".join(name.replace("_", " ") for name in columns) + " |"
    rows = [
        f"| {text} | " + " | ".join(_cell(found, name) for found in columns.values()) + " |"
        for name, text in ((name, FIGURES[name]) for name in names)
    ]
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows])


def _beyond(metrics: Mapping[str, Any]) -> str:
    """How far the scorer lies beyond each baseline, on the same resamples."""
    told = []
    for name, gaps in metrics["beyond"].items():
        known = [
            f"{SHORT[figure]} {gaps[figure]['difference']:+.3f} ({limits_text(gaps[figure]['interval'])})"
            for figure in ("srcc", "qwk", "macro_f1")
            if gaps[figure]["interval"] is not None
        ]
        told.append(f"- beyond {name.replace('_', ' ')}: {', '.join(known)}" if known else "")
    return "\n".join(line for line in told if line)


def _calibration(metrics: Mapping[str, Any]) -> str:
    chance = metrics["by_chance"]
    return (
        f"On as few artworks exactly true probabilities would show a calibration error of {chance['ece']['mean']:.3f} "
        f"on average and up to {chance['ece']['most']:.3f} in 95 of 100 draws (classwise "
        f"{chance['classwise_ece']['mean']:.3f} and {chance['classwise_ece']['most']:.3f}): one below that cannot be "
        "told from none."
    )


def _ceiling(ceiling: Mapping[str, Any] | None) -> str:
    if ceiling is None:
        return ""
    rows = "\n".join(
        f"| {text.format(raters=ceiling['raters'])} | "
        + " | ".join(_cell(ceiling[name], figure) for figure in ("srcc", "qwk", "macro_f1"))
        + " |"
        for name, text in JUDGES.items()
        if name in ceiling
    )
    unknown = (
        ""
        if ceiling["raters"]
        else " How many raters are behind each rating is not known (data.raters): the ratings are taken for the truth."
    )
    return f"""
## What people reach
Against the same opinions, by the spread of the raters that the ratings tell: who knew what endless raters think on
average, a fresh panel as large as the first, and one fresh person.{unknown}

| | SRCC | quadratic kappa | macro-F1 |
|---|---|---|---|
{rows}
"""


def _without(without: Mapping[str, Any] | None) -> str:
    if without is None:
        return ""
    return f"""
## Without {one_line(" and ".join(without["generators"]))} ({without["scorer"]["n"]} artworks)
{_figures(without["scorer"], without["baselines"], KEY)}
"""


def _gap(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return ""
    told = ", ".join(
        f"{SHORT[name]} {gap[name]['difference']:+.3f} ({limits_text(gap[name]['interval'])})"
        for name in ("srcc", "qwk", "macro_f1")
        if gap[name]["interval"] is not None
    )
    return f"""
A split that let artworks of one group lie on both sides would flatter these features by {told}: measured
with a ridge, cross-validated on {gap["artworks"]} artworks. It is not in the figures above.
"""


def _aspects(metrics: Mapping[str, Any]) -> list[str]:
    return [
        f"## Aspect {name} ({found['n']} artworks)\n{_figures(found, found['baselines'], KEY)}"
        for name, found in metrics["other_aspects"].items()
    ]


def _prompts(inputs: Mapping[str, str]) -> str:
    if inputs.get("alignment") == "image and prompt":
        return (
            "Alignment is to the prompt, which it reads; without a prompt it says nothing of alignment. All else is "
            "told by the image alone."
        )
    if "alignment" in inputs:
        return (
            "Its encoder reads no prompts: alignment is what the image alone suggests, as pictures that look right "
            "often fit their prompt too. It cannot tell that a picture shows something else than was asked for."
        )
    return "It looks at the image alone, not at whether the image fits its prompt."


def _people(people: Mapping[str, Any] | None) -> str:
    """How far the scorer agrees with people, beside how far they agree; nothing where there were no votes."""
    if not people:
        return ""
    return f"""
## Beside people
Quadratic kappa of {people["annotators"]} annotators, over the {people["voted_twice"]} artworks that have two votes or
more; the scorer's over the {people["measured"]} artworks with votes that it is measured on.

| | with one person | with the consensus |
|---|---|---|
| scorer | {_number(people["scorer_human"])} | {_number(people["scorer_consensus"])} |
| a person | {_number(people["human_human"])} | {_number(people["human_consensus"])} (of the others) |
"""


def _cell(found: Mapping[str, Any], figure: str) -> str:
    """A figure and its interval."""
    if found[figure] is None:
        return "–"
    limits = found["intervals"].get(figure)
    return f"{found[figure]:.3f}" + ("" if limits is None else f" ({limits[0]:.3f} to {limits[1]:.3f})")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
