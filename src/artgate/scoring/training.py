"""train(cfg): graded artworks -> a scorer, what it is worth, and the pictures to judge it by.

Imports that take seconds wait until the input is known to be good.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from artgate.artworks.files import write_atomic
from artgate.config import validated
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.masking import MASK, SECRET, without_secrets
from artgate.scoring.config import SPLITS, TrainConfig
from artgate.scoring.graded import GradedArtworks, read_graded
from artgate.scoring.splits import frozen_splits, leakage_groups, make_folds

if TYPE_CHECKING:
    from artgate.scoring.encoders import Encoder
    from artgate.scoring.fitting import Examples, Fit
    from artgate.scoring.scorer import PromptedHead
    from artgate.scoring.text_encoders import TextEncoder

SPLITS_FOLDER = "splits"

Metrics = dict[str, Any]


def train(cfg: DictConfig) -> Metrics:
    """Train a scorer as `cfg` (conf/train.yaml) says; return what metrics.json holds.

    Leaves in `paths.run`: config.yaml, metrics.json, predictions.jsonl, scorer/, report.html, pictures/ and W&B's own
    folder. The same seed on the same machine gives the same metrics. Raises UserError, before anything heavy begins,
    for settings out of range and for data that there is nothing to learn from.
    """
    settings = validated(TrainConfig, cfg)
    graded = read_graded(settings.data, Path(settings.paths.collections))
    groups = leakage_groups(graded.everything, settings.data.group_by, settings.data.duplicate_radius)
    parts = _divide(graded, groups, settings)
    run = Path(settings.paths.run)
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(run / "config.yaml", yaml.safe_dump(without_secrets(asdict(settings)), sort_keys=False))
    _print_data(graded, parts)

    from artgate.scoring.encoders import build_encoder
    from artgate.scoring.learnt import learnt_from, write_learnt
    from artgate.scoring.prompted import of_images
    from artgate.scoring.tracking import open_tracker

    encoder = build_encoder({**settings.encoder, "device": settings.device})
    with open_tracker(settings.logger, run, without_secrets(asdict(settings))) as tracker:
        text = _text_encoder(graded, settings)
        examples = _examples(graded, encoder, settings, _renditions(settings))
        fit = _fit(of_images(examples, graded, text), parts, settings, tracker.logger)
        if settings.finetune.mode != "none":
            of_pictures = of_images(examples, graded, text)
            encoder, fit = _fine_tune(graded, of_pictures, parts, encoder, fit, settings, tracker.logger)
        fit, prompted = _read_prompts(graded, examples, parts, encoder, text, fit, settings)
        metrics = _measure(graded, groups, parts, examples, fit, encoder, settings) | _inputs(graded, prompted)
        metrics["finetune"] = asdict(settings.finetune) if encoder.tuned else None
        metrics["learnt"] = write_learnt(run / "scorer", learnt_from(graded.artworks, parts))
        write_atomic(run / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        where = _save(graded, groups, fit, encoder, metrics, settings, tracker, prompted)
    if settings.certify.split == "test":
        where["certified"] = _certify(graded, settings, run)
    _print_results(metrics, where | ({"W&B": tracker.where} if tracker.where else {}))
    return metrics


def _divide(graded: GradedArtworks, groups: Mapping[str, str], settings: TrainConfig) -> list[str]:
    """The part of every graded artwork: a split, or the number of a fold if the scorer is final; "" is left out."""
    data = settings.data
    own = {image_id: groups[image_id] for image_id in graded.image_ids}
    if settings.final:
        found = {image_id: str(fold) for image_id, fold in make_folds(own, data.folds, settings.seed).items()}
        names: Sequence[str] = [str(fold) for fold in range(data.folds)]
    else:
        rule = {"group_by": sorted(data.group_by), "duplicate_radius": data.duplicate_radius}
        folder = graded.collection.root / SPLITS_FOLDER
        found = frozen_splits(folder, own, data.fractions.shares(), settings.seed, rule)
        names = SPLITS
    counts = Counter(found.values())
    empty = [name for name in names if not counts[name]]
    if empty:
        raise UserError(
            f"{'fold' if settings.final else 'split'} {', '.join(empty)} is empty: {len(own)} graded artworks fall "
            f"into {len(set(own.values()))} groups that share {', '.join(data.group_by)}, and a group is not divided; "
            "grade more artworks, or give fewer data.group_by (as in data.group_by=[near_duplicates])"
        )
    parts = [found.get(image_id, "") for image_id in graded.image_ids]
    _check_learnable(graded, parts, settings.final)
    _check_generators(graded, settings.report.without)
    return parts


def _check_learnable(graded: GradedArtworks, parts: Sequence[str], final: bool) -> None:
    for name in sorted(set(parts) - {""}):
        learnt = [row for row, part in enumerate(parts) if (part != name if final else part == "train")]
        grades = {GRADES[grade] for grade in graded.targets[learnt, 0].argmax(1)}
        if len(grades) < 2:
            raise UserError(
                f"all {len(learnt)} artworks to learn from are {', '.join(grades)}: grade more of the others, "
                "or divide the artworks otherwise (data.fractions, data.group_by, seed)"
            )


def _check_generators(graded: GradedArtworks, without: Sequence[str]) -> None:
    made_by = {generator for generator in graded.generators if generator}
    for name in without:
        if name not in made_by:
            raise UserError(
                f"report.without names {name!r}, which made none of the graded artworks: name some of "
                f"{', '.join(sorted(made_by)) or 'none (no generator is known)'}, or leave it empty"
            )
    if without and not set(graded.generators) - set(without):
        raise UserError(f"report.without {list(without)} leaves no artwork to measure on: name fewer generators")


def _renditions(settings: TrainConfig) -> list[str]:
    """Those that something learns from: the detector of damage does, and each costs as much as the originals do."""
    from artgate.scoring.renditions import rendition_names

    data = settings.data
    wanted = settings.head.detector and data.damaged
    return rendition_names(data.harmless, data.damaged)[1:] if wanted else []


def _examples(
    graded: GradedArtworks, encoder: "Encoder", settings: TrainConfig, renditions: Sequence[str] = ()
) -> "Examples":
    """The graded artworks as this encoder sees them. renditions: more of each, to tell damage by."""
    import torch

    from artgate.scoring.features import extract_renditions
    from artgate.scoring.fitting import Examples
    from artgate.scoring.renditions import ORIGINAL, is_damaged

    data, names = settings.data, [ORIGINAL, *renditions]
    cache = Path(settings.paths.cache) / "features"
    features = torch.from_numpy(
        extract_renditions(graded.collection, encoder, graded.image_ids, names, cache, data.workers, data.minibatch)
    )  # (N, 1 + R, D)
    return Examples(
        features[:, 0],
        torch.from_numpy(graded.targets),
        torch.from_numpy(graded.lessons),
        graded.generators,
        torch.from_numpy(graded.levels).float(),
        features[:, 1:] if len(names) > 1 else None,
        [is_damaged(name) for name in names[1:]],
    )


def _fit(examples: "Examples", parts: Sequence[str], settings: TrainConfig, logger: Any) -> "Fit":
    from artgate.scoring.fitting import fit_on_all, fit_on_splits

    if settings.final:
        folds = [int(part) for part in parts]
        return fit_on_all(examples, folds, settings.head, settings.trainer, settings.seed, logger)
    rows = {name: [row for row, part in enumerate(parts) if part == name] for name in SPLITS}
    return fit_on_splits(examples, rows, settings.head, settings.trainer, settings.seed, logger)


def _fine_tune(
    graded: GradedArtworks,
    examples: "Examples",
    parts: Sequence[str],
    encoder: "Encoder",
    frozen: "Fit",
    settings: TrainConfig,
    logger: Any,
) -> tuple["Encoder", "Fit"]:
    """Let the encoder learn too, from where the frozen one and its head are."""
    import torch

    from artgate.scoring.features import extract_features
    from artgate.scoring.finetuning import FineTuning

    cache, data = Path(settings.paths.cache), settings.data

    def extract(tuned: "Encoder", rows: Sequence[int]) -> "torch.Tensor":
        image_ids = [graded.image_ids[row] for row in rows]
        found = extract_features(graded.collection, tuned, image_ids, cache / "features", data.workers, data.minibatch)
        return torch.from_numpy(found)

    tuning = FineTuning(
        encoder=encoder,
        examples=examples,
        image_ids=graded.image_ids,
        picture=lambda row: graded.collection.image(graded.artworks[row]),
        extract=extract,
        head=settings.head,
        trainer=settings.trainer,
        finetune=settings.finetune,
        seed=settings.seed,
        folder=cache / "finetuning",
        logger=logger,
    )
    if settings.final:
        return tuning.on_all([int(part) for part in parts], frozen)
    rows = {name: [row for row, part in enumerate(parts) if part == name] for name in SPLITS}
    return tuning.on_splits(rows, frozen)


def _text_encoder(graded: GradedArtworks, settings: TrainConfig) -> "TextEncoder | None":
    """What reads the prompts, where an aspect is about them and the encoder has a text tower."""
    from artgate.scoring.text_encoders import PROMPTED, build_text_encoder

    if PROMPTED not in graded.aspects:
        return None
    if settings.final and settings.finetune.mode != "none" and settings.encoder.get("kind") == "open_clip":
        raise UserError(
            f"final=true with finetune={settings.finetune.mode} has another encoder for each fold, and {PROMPTED} to "
            f"prompts is not measured across encoders: use finetune=none, or leave {PROMPTED} out of data.aspects"
        )
    return build_text_encoder({**settings.encoder, "device": settings.device})


def _read_prompts(
    graded: GradedArtworks,
    examples: "Examples",
    parts: Sequence[str],
    encoder: "Encoder",
    text: "TextEncoder | None",
    fit: "Fit",
    settings: TrainConfig,
) -> tuple["Fit", "PromptedHead | None"]:
    """Alignment to prompts that are read, fitted beside what is told by images alone."""
    if text is None:
        return fit, None
    if encoder.tuned:
        examples = _examples(graded, encoder, settings)  # of the originals: prompts go with no others
    from artgate.scoring.prompted import fit_prompted, prompted_head, with_alignment
    from artgate.scoring.text_encoders import PROMPTED

    cache = Path(settings.paths.cache) / "features"
    found, rows = fit_prompted(graded, examples, parts, text, cache, lambda e, p: _fit(e, p, settings, None))
    return with_alignment(fit, found, rows, graded.aspects.index(PROMPTED)), prompted_head(text, found)


def _inputs(graded: GradedArtworks, prompted: "PromptedHead | None") -> Metrics:
    """What each aspect is told by, and of the prompt's reader what there is to know."""
    from artgate.scoring.text_encoders import PROMPTED

    inputs = {
        aspect: "image and prompt" if prompted and aspect == PROMPTED else "image alone" for aspect in graded.aspects
    }
    if prompted is None:
        return {"inputs": inputs}
    text = {"name": prompted.text.name, "fingerprint": prompted.text.fingerprint, "features": prompted.text.dim}
    return {"inputs": inputs, "text": text | {"calibration": asdict(prompted.calibration)}}


def _measure(
    graded: GradedArtworks,
    groups: Mapping[str, str],
    parts: Sequence[str],
    examples: "Examples",
    fit: "Fit",
    encoder: "Encoder",
    settings: TrainConfig,
) -> Metrics:
    from artgate.scoring.measuring import measure

    return {
        "seed": settings.seed,
        "measured_on": "held-out folds" if settings.final else "test split",
        **measure(graded, groups, parts, examples, fit, settings),
        "data": {
            "graded_by": graded.graded_by,
            "digest": graded.digest,
            "artworks": len(graded.artworks),
            "grades": _grade_counts(graded),
            "parts": dict(sorted(Counter(part or "left out" for part in parts).items())),
        },
        "head": {**asdict(settings.head), "epoch": fit.epoch, "beside": _beside(fit)},
        "calibration": asdict(fit.calibration),
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint, "features": encoder.dim},
    }


def _beside(fit: "Fit") -> list[str]:
    """What the head has beside its networks."""
    parts = {"a kernel of opinions": fit.head.kernel, "a detector of damage": fit.head.detector}
    return [name for name, part in parts.items() if part is not None]


def _save(
    graded: GradedArtworks,
    groups: Mapping[str, str],
    fit: "Fit",
    encoder: "Encoder",
    metrics: Metrics,
    settings: TrainConfig,
    tracker: Any,
    prompted: "PromptedHead | None",
) -> dict[str, str]:
    """Write the scorer, then the page and the pictures that tell of it, and record all; return where it is."""
    from artgate.scoring.card import model_card
    from artgate.scoring.prompted import image_aspects
    from artgate.scoring.scorer import Scorer

    run, command = Path(settings.paths.run), _command()
    aspects = image_aspects(graded.aspects, prompted.text if prompted else None)
    scorer = Scorer(encoder, fit.head, fit.calibration, aspects, {"command": command, "metrics": metrics}, prompted)
    folder = scorer.save(run / "scorer", model_card(metrics, encoder.config, command))
    where = _tell(graded, groups, fit, metrics, settings, tracker, folder)
    return {"metrics": str(run / "metrics.json"), "scorer": str(folder), **where}


def _tell(
    graded: GradedArtworks,
    groups: Mapping[str, str],
    fit: "Fit",
    metrics: Metrics,
    settings: TrainConfig,
    tracker: Any,
    scorer: Path,
) -> dict[str, str]:
    from artgate.scoring.intervals import Resamples
    from artgate.scoring.measuring import held_out
    from artgate.scoring.metrics import predicted_grade
    from artgate.scoring.picks import picture
    from artgate.scoring.pictures import write_pictures
    from artgate.scoring.predictions import write_predictions
    from artgate.scoring.report import pick_held, write_report

    run, collection = Path(settings.paths.run), graded.collection
    group = [groups[image_id] for image_id in graded.image_ids]
    held = {aspect: held_out(graded, group, fit, column) for column, aspect in enumerate(graded.aspects)}
    write_predictions(run, held)
    page = write_report(run, collection)
    quality = held["quality"]
    picks = pick_held(collection, quality)
    resamples = Resamples(quality.groups, settings.report.resamples, settings.seed)
    pictures = write_pictures(run / "pictures", collection, quality.probabilities, quality.targets, resamples, picks)
    tracker.record(
        metrics,
        pictures,
        picks,
        lambda chosen: picture(collection, chosen),
        quality.targets.argmax(1),
        predicted_grade(quality.probabilities),
        scorer,
        page,
    )
    return {"pictures": str(run / "pictures"), "report": str(page)}


def _certify(graded: GradedArtworks, settings: TrainConfig, run: Path) -> str:
    """Certify the scorer on its test split; returns where the certificate is, or why there is none."""
    from artgate.scoring.certificate import FOLDER, certificate_text, save_certificate
    from artgate.scoring.certifying import Demand, make_certificate
    from artgate.scoring.report import write_report

    asked, data = settings.certify, settings.data
    try:
        certificate, reference = make_certificate(
            run / "scorer",
            graded.collection.root,
            Demand(asked.precision, asked.confidence, asked.acceptable, asked.kind),
            grades=graded.graded_by,
            consensus=data.consensus,
            cuts=(data.cuts["quality"][0], data.cuts["quality"][1]) if "quality" in data.cuts else None,
            cache=Path(settings.paths.cache) / "features",
            group_by=data.group_by,
            radius=data.duplicate_radius,
        )
    except UserError as error:  # a scorer without a certificate is a scorer
        return f"no: {error}"
    where = save_certificate(run / "scorer" / FOLDER, certificate, reference)
    write_report(run, graded.collection)  # with the certificate in it
    print(certificate_text(certificate))
    return str(where)


def _command() -> str | None:
    """The command line that began the run; None in a library.

    Without secrets, and without where this machine keeps the data and the results.
    """
    if not HydraConfig.initialized():
        return None
    given = [override.partition("=") for override in HydraConfig.get().overrides.task]
    told = [
        f"{key}={MASK if SECRET.search(key) else 'DIR' if key == 'data.root' else value}"
        for key, _, value in given
        if not key.lstrip("+").startswith("paths.")
    ]
    return " ".join(["python train.py", *told])


def _grade_counts(graded: GradedArtworks) -> dict[str, int]:
    counts = Counter(graded.targets[:, 0].argmax(1).tolist())
    return {grade: counts[index] for index, grade in enumerate(GRADES)}


def _print_data(graded: GradedArtworks, parts: Sequence[str]) -> None:
    grades = ", ".join(f"{count} {grade}" for grade, count in _grade_counts(graded).items())
    divided = ", ".join(f"{part or 'left out'} {count}" for part, count in sorted(Counter(parts).items()))
    print(f"data      {graded.collection.root}: {len(graded.artworks)} artworks with {graded.graded_by}: {grades}")
    if graded.absent:
        print(f"absent    {graded.absent} more have a grade and no image there: restore the images, or purge them")
    print(f"parts     {divided}")


def _print_results(metrics: Metrics, where: Mapping[str, str]) -> None:
    names = ("srcc", "qwk", "macro_f1", "auroc_good", "ece", "within_generator_srcc")
    print(f"measured  on the {metrics['measured_on']}, {metrics['scorer']['n']} artworks")
    print(f"{'':22}" + "".join(f"{name:>23}" if "_srcc" in name else f"{name:>11}" for name in names))
    aspects = {f"its {name}": figures for name, figures in metrics["other_aspects"].items()}
    for row, figures in {"scorer": metrics["scorer"], **aspects, **metrics["baselines"]}.items():
        cells = ["-" if figures[name] is None else f"{figures[name]:.3f}" for name in names]
        widths = [23 if "_srcc" in name else 11 for name in names]
        print(f"{row:22}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    if metrics["people"]:
        print(f"kappa     {_kappas(metrics['people'])}")
    for name, path in where.items():
        print(f"{name:9} {path}")


def _kappas(people: Metrics) -> str:
    told = {
        "scorer and consensus": people["scorer_consensus"],
        "a person and the others": people["human_consensus"],
        "scorer and a person": people["scorer_human"],
        "two people": people["human_human"],
    }
    return ", ".join(f"{who} {'-' if kappa is None else f'{kappa:.3f}'}" for who, kappa in told.items())
