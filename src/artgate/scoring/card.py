"""The model card that goes with a scorer: what it is, what it learnt from, how good it is, and what it cannot do."""

from collections.abc import Mapping
from typing import Any

FIGURES = {
    "srcc": "SRCC: rank correlation of the expected grade with people's opinion",
    "within_generator_srcc": "the same within each generator, averaged",
    "plcc": "PLCC: linear correlation",
    "qwk": "quadratic kappa of the grade",
    "macro_f1": "macro-F1 of the grade",
    "accuracy": "accuracy of the grade",
    "auroc_good": "AUROC of P(good)",
    "ece": "expected calibration error",
}


def model_card(metrics: Mapping[str, Any], encoder_config: Mapping[str, Any], command: str | None) -> str:
    """Markdown; every figure in it is in `metrics` (metrics.json of the run)."""
    data, encoder, head = metrics["data"], metrics["encoder"], metrics["head"]
    grades = ", ".join(f"{count} {grade}" for grade, count in data["grades"].items())
    parts = ", ".join(f"{name} {count}" for name, count in data["parts"].items())
    settings = ", ".join(
        f"{key} {value}" for key, value in encoder_config.items() if value is not None and key != "device"
    )
    return f"""# Scorer

Grades images poor, average or good, and scores them: score = expected grade / 2, in [0, 1];
grade = the median of the probabilities. Made by artgate's `{command or "train.py"}`.

| | |
|---|---|
| encoder | {encoder["name"]} ({settings}), {encoder["features"]} features |
| its fingerprint | `{encoder["fingerprint"]}` |
| head | {head["kind"]}, {head["members"]} averaged, ordinal (CORN), epoch {head["epoch"]}; calibrated |
| learnt from | {data["artworks"]} artworks with {data["graded_by"]}: {grades}; digest `{data["digest"][:16]}` |
| divided | {parts}; seed {metrics["seed"]} |

## Figures, on the {metrics["measured_on"]} ({metrics["scorer"]["n"]} artworks)
{_figures(metrics)}

{_measured(metrics)}
{_people(metrics.get("people"))}
## Limits
- It knows the taste of those who graded its data, and images like those. On other generators, subjects, sizes, file
  formats or compression its ranking is weaker, and its probabilities need not hold: grade some of your own and measure.
- {_prompts(metrics.get("inputs", {}))}
- Near one generator's images the rank within the generator counts, and that is lower than the figure over all of them.
- The probabilities are calibrated on average over data like its own. They certify nothing about a threshold.
- It is for choosing among generated artworks. It is not made to judge people, nor photographs of them.
"""


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


def _figures(metrics: Mapping[str, Any]) -> str:
    columns = {"scorer": metrics["scorer"], **metrics["baselines"]}
    head = "| figure | " + " | ".join(name.replace("_", " ") for name in columns) + " |"
    rows = [
        f"| {text} | " + " | ".join(_cell(figures[name]) for figures in columns.values()) + " |"
        for name, text in FIGURES.items()
    ]
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows])


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
| scorer | {_cell(people["scorer_human"])} | {_cell(people["scorer_consensus"])} |
| a person | {_cell(people["human_human"])} | {_cell(people["human_consensus"])} (of the others) |
"""


def _measured(metrics: Mapping[str, Any]) -> str:
    if metrics["measured_on"] == "test split":
        return "Near-duplicates, images of one prompt and works of one creator lie on one side of every split."
    return (
        "This scorer learnt from all of the artworks. The figures are those of heads that learnt alike from the other "
        "folds, under a calibration from the other folds; near-duplicates and images of one prompt share a fold."
    )


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
