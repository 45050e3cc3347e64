"""generate(cfg): the stages of a batch in order, from the configuration to the gallery.

Nothing heavy is imported before the configuration has been checked, nor where the batch is complete already.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artgate.artworks.files import append_line, read_lines, repair_lines, write_atomic
from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.allocation import Allocation, Stream, build_allocation
from artgate.generation.basemap import build_basemap
from artgate.generation.batch import Batch, is_begun, produce, read_json, whole_groups
from artgate.generation.calibrating import calibration_settings, fit_linear_map, previews_as_model
from artgate.generation.calibrating import conclude as conclude_calibration
from artgate.generation.config import GenerateConfig
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.gate import Judge, build_gate
from artgate.generation.interrupts import Interrupts
from artgate.generation.likeness import Likeness, diversity
from artgate.generation.preview_calibration import (
    CALIBRATION,
    LINEAR,
    Calibration,
    keep_calibration,
    load_calibration,
    made_for_models,
    refuse_other,
    resolved_preview,
)
from artgate.generation.preview_config import PreviewConfig
from artgate.generation.preview_summary import previews_in_words, previews_told
from artgate.generation.progress import Progress
from artgate.generation.prompts import CandidateSource
from artgate.generation.remaking import remake_artwork
from artgate.generation.signing import load_signing, sign_accepted
from artgate.generation.summary import summarise, yields_in_words
from artgate.generation.tracking import open_tracker
from artgate.generation.upscaler_config import UpscalerConfig
from artgate.generation.weighting import read_weights
from artgate.scoring.shipped import default_scorer_path

if TYPE_CHECKING:
    from artgate.generation.preview import Previewer
    from artgate.generation.stages import Stages

MODELS, SESSIONS, SUMMARY = "models.json", "sessions.jsonl", "summary.json"
# Of each template, before anything is loaded: rare alternatives are met later, and then fail their candidate alone.
PROMPTS_READ = 32


def run(cfg: DictConfig) -> None:
    """What `mode` says: generate, calibrate the early rejection, or remake an artwork. Raises UserError."""
    settings = validated(GenerateConfig, cfg)
    if settings.mode == "remake":
        remake_artwork(settings)
    else:
        generate(cfg)


def generate(cfg: DictConfig) -> dict[str, Any]:
    """Run the batch that `conf/generate.yaml` describes until it is complete, and return its summary.

    In a batch_dir that holds the beginning of the same batch it goes on from there. With mode=calibrate the batch is
    one that previews are calibrated on, and `calibration.json` is written at its end. Raises UserError for bad input, a
    batch that cannot go on and files that cannot be written, KeyboardInterrupt on SIGINT and SIGTERM: what was decided
    until then is kept, and summarised.
    """
    settings = validated(GenerateConfig, cfg)
    if settings.mode == "calibrate":
        settings = calibration_settings(settings)
    _check_what_is_light(settings)
    root = _batch_dir(settings)
    with _unwritable_told(root):
        kept = _kept_calibration(settings, root)
    preview, calibration = resolved_preview(settings, kept)
    source = CandidateSource(settings.prompts, settings.seed, settings.gate.group)
    _check_weights(source)
    batch = Batch(root, asdict(settings))
    with contextlib.closing(batch), _unwritable_told(batch.root):
        try:
            if _is_over(batch, settings):
                print(f"nothing is left to do in {batch.root}")
            else:
                _work(batch, settings, source, preview, calibration)
        except (KeyboardInterrupt, UserError):
            if batch.lines:
                with contextlib.suppress(OSError):  # on a full disk the first complaint is the one to read
                    _conclude(batch, settings, calibration)
            raise
        summary = _conclude(batch, settings, calibration)
        if settings.image.sign:
            sign_accepted(batch.root)
        return summary


def _work(
    batch: Batch,
    settings: GenerateConfig,
    source: CandidateSource,
    preview: PreviewConfig,
    calibration: Calibration | None,
) -> None:
    from artgate.generation.records import Records
    from artgate.generation.stages import load_stages, outcomes

    with Interrupts() as interrupts:
        try:
            allocation = build_allocation(settings.allocation, source, settings.seed)
            _check_stream(batch, source, allocation)
            gate = build_gate(settings.gate, batch.lines)
            begun = time.perf_counter()
            stages = load_stages(settings)
            stages.sampler.slots = _slots_in_use(batch, stages.sampler.slots)
            previewer, previews = _load_previews(settings, preview, calibration, stages, batch.root)
            loading = time.perf_counter() - begun
            _settle_models(batch, stages.models | _certificate_as_model(gate) | previews)
            if calibration:
                keep_calibration(batch.root, calibration, preview)
        except BaseException:
            batch.discard()
            raise
        told = gate.told().get("certificate")
        records = Records(batch.root, stages, asdict(settings), settings.keep_rejected, told)
        end = whole_groups(settings.max_candidates, gate)
        left = Stream(source, allocation, batch.lines, end, frozenset(batch.waiting.entries))
        decided = produce(
            outcomes(stages, left, getattr(gate, "point", None), previewer),
            batch,
            gate,
            records.save,
            settings.target,
            settings.max_failures,
            interrupts.put_off,
            Likeness(settings.near_duplicates, batch.lines) if settings.mode == "generate" else None,
            end,
        )
        with (
            _session(batch, stages.sampler, loading),
            open_tracker(settings.logger, batch, asdict(settings), _scorer_folder(settings)) as tracker,
            Progress(
                settings.target, batch, settings.progress_seconds, of_candidates=settings.mode == "calibrate"
            ) as progress,
        ):
            for line in decided:
                progress.advance()
                tracker.observe(line)
        if tracker.where:
            print(f"W&B      {tracker.where}")
        records.purge_strays(batch.lines)


def _slots_in_use(batch: Batch, configured: int) -> int:
    """The slots that a batch was last made with: fewer than configured once memory was too little for those.

    With the full number the same would happen again, and last bits depend on the shape of the minibatch.
    """
    if not batch.begun:  # another configuration may have been tried, which took more memory
        return configured
    noted = [session["slots"] for session in read_lines(batch.root / SESSIONS) if "slots" in session]
    slots = min([configured, *noted[-1:]])
    if slots < configured:
        print(
            f"memory was too little for {configured} slots in an earlier session: going on with {slots}. Last bits "
            f"depend on them: for {configured} again, make room and begin another batch_dir"
        )
    return slots


def _kept_calibration(settings: GenerateConfig, root: Path) -> Path | None:
    """The copy of its calibration that a batch was begun with, where it has one: mode=calibrate may go on meanwhile."""
    kept, file = root / CALIBRATION, settings.preview.get("file")
    if settings.preview.get("kind") != "calibrated" or file is None or not (kept.is_file() and is_begun(root)):
        return None
    try:
        same = load_calibration(Path(file).expanduser()).fingerprint == load_calibration(kept).fingerprint
    except UserError:
        same = False
    if not same:
        print(f"preview.file {file} is not as it was: {root} goes on with the calibration it was begun with, {kept}")
    return kept


def _load_previews(
    settings: GenerateConfig,
    config: PreviewConfig,
    calibration: Calibration | None,
    stages: "Stages",
    root: Path,
) -> tuple["Previewer | None", dict[str, Any]]:
    """What looks at candidates midway, if anything, and what models.json tells of it.

    Raises UserError where the calibration is of another model, size, scorer or decoder.
    """
    from artgate.generation.preview import build_previewer
    from artgate.generation.preview_decoders import build_decoder

    if config.kind == "none":
        return None, {}
    _check_steps(config.steps or [], stages.sampler.calls)
    if config.decoder == "linear" and config.kind == "watch" and config.linear is None:
        config = replace(config, linear=str(root / LINEAR))
        fit_linear_map(stages, settings, root / LINEAR)
    decoder = build_decoder(config, stages.sampler.model)
    if calibration:
        refuse_other(calibration.made_for, made_for_models(stages, decoder), Path(str(settings.preview["file"])))
    told = previews_as_model(stages, decoder) | ({"calibration": calibration.summary()} if calibration else {})
    return build_previewer(config, decoder, stages.scorer, settings.gate.kind), told


def _check_steps(steps: list[int], calls: int) -> None:
    """Refuse looks that would never come: at its last denoiser call a candidate is finished."""
    late = [step for step in steps if step >= calls]
    if late:
        raise UserError(
            f"preview.steps {late[0]} is not before the end: a candidate takes {calls} denoiser calls; give steps from "
            f"1 to {calls - 1}, or preview=none"
        )


@contextlib.contextmanager
def _unwritable_told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the batch in {root} cannot be written ({error}): make room or mend the access, then run the same command "
            "to go on"
        ) from error


@contextlib.contextmanager
def _session(batch: Batch, sampler: Any, loading: float) -> Iterator[None]:
    """Note what belongs to no candidate of the ledger: the loading, and evaluations of what was never decided."""
    path = batch.root / SESSIONS
    repair_lines(path)
    at, before = datetime.now(UTC).isoformat(timespec="seconds"), batch.evaluations
    begun = {"event": "begun", "at": at, "slots": sampler.slots, "seconds": {"load": loading}, "evaluations": 0}
    append_line(path, begun)
    nothing: dict[str, Any] = {"seconds": {}, "evaluations": 0}
    sampler.on_shrinking = lambda slots: append_line(path, {"event": "shrunk", "slots": slots, **nothing})
    try:
        yield
    finally:
        abandoned = sampler.evaluations - (batch.evaluations - before)
        with contextlib.suppress(OSError):
            append_line(path, {"event": "ended", "seconds": {}, "evaluations": abandoned})


def _conclude(batch: Batch, settings: GenerateConfig, calibration: Calibration | None) -> dict[str, Any]:
    """Write the summary and the gallery, and tell where they are. calibration: that of the previews, if any."""
    from artgate.generation.gallery import write_gallery

    models = read_json(batch.root / MODELS)
    gate = build_gate(settings.gate, batch.lines)
    sessions, waiting = read_lines(batch.root / SESSIONS), list(batch.waiting.entries.values())
    summary = summarise(batch.lines, sessions, asdict(settings), models, gate.told(), waiting)
    if settings.mode == "generate":
        summary["diversity"] = diversity(batch.lines)
    if settings.preview["kind"] not in ("none", "watch"):
        summary["preview"] = previews_told(batch.lines, summary, calibration)
    if settings.mode == "calibrate":
        summary["complete"] = len(batch.lines) >= settings.n
    write_atomic(batch.root / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    gallery = write_gallery(batch.root)
    print(_report(summary, batch.root, gallery, gate.over), flush=True)
    if settings.mode == "calibrate" and summary["complete"]:
        conclude_calibration(batch.root, settings, batch.lines, models)
    return summary


def _report(summary: dict[str, Any], root: Path, gallery: Path, ended: bool) -> str:
    """In words. ended: by its gate, so that the same command would not go on."""
    low, high = summary["yield_95"]
    # A calibration has a target of candidates, whatever becomes of them
    of_target = "" if summary["config"].get("mode") == "calibrate" else f" of {summary['target']}"
    lines = [
        f"{summary['accepted']}{of_target} accepted out of {summary['candidates']} candidates"
        f" ({summary['failed']} failed): yield {summary['yield'] or 0:.1%}, 95 % interval {low:.1%} to {high:.1%}"
    ]
    if summary["accepted"]:
        cost = (
            f"{summary['evaluations_per_accepted']:.1f} denoiser evaluations, {summary['seconds_per_accepted']:.2f} s"
        )
        lines.append(f"cost per accepted: {cost}")
    lines += previews_in_words(summary.get("preview", {})) + yields_in_words(summary["yields"])
    warnings = [(summary.get(key) or {}).get("warning") for key in ("gate", "diversity")]
    lines += [f"warning: {warning}" for warning in warnings if warning]
    if summary.get("slots"):
        lines.append(f"warning: memory was too little: slots were lowered to {summary['slots'][-1]}")
    if not summary["complete"] and not ended:
        lines.append("not complete: the same command goes on, at max_candidates only with a larger max_candidates")
    lines += [f"gallery  {gallery}", f"images   {root / 'accepted' / 'images'}", f"summary  {root / SUMMARY}"]
    return "\n".join(lines)


def _check_what_is_light(settings: GenerateConfig) -> None:
    """Complain now of what would otherwise be told of once torch is loaded, or an upscaler downloaded."""
    diffusion = validated(DiffusionConfig, settings.diffusion, "diffusion")
    validated(UpscalerConfig, settings.upscaler, "upscaler")
    build_basemap(settings.basemap, width=8, height=8)
    if settings.image.sign:
        load_signing()
    if settings.scorer is not None and not (Path(settings.scorer).expanduser() / "scorer.json").is_file():
        raise UserError(
            f"scorer {settings.scorer} is not the folder of a scorer (it has no scorer.json): give one that train.py "
            "made, or scorer=null for the shipped one"
        )
    if settings.gate.kind == "certified":
        _check_certificate(settings)
    from artgate.generation.checkpoints import local_checkpoint  # a hub's client comes along, for good input alone

    local_checkpoint(diffusion.model, diffusion.safety_checker)


def _check_weights(source: CandidateSource) -> None:
    """Refuse weights of words that no model would take, as far as the first prompts of each template show them."""
    for template, number in itertools.product(range(source.templates), range(PROMPTS_READ)):
        found = source.candidate(number * source.group, template)
        read_weights(found.prompt)
        read_weights(found.negative_prompt)


def _check_certificate(settings: GenerateConfig) -> None:
    """Refuse a certificate of another scorer, without building the scorer."""
    from artgate.scoring.certificate import check_scorer, load_certificate

    scorer = read_json(_scorer_folder(settings) / "scorer.json")
    certificate = load_certificate(str(settings.gate.certificate))
    encoder = scorer.get("encoder", {}).get("fingerprint", "")
    check_scorer(certificate, scorer.get("fingerprint", ""), encoder, f"certificate {settings.gate.certificate}")


def _scorer_folder(settings: GenerateConfig) -> Path:
    """Known without building the scorer."""
    return Path(settings.scorer).expanduser() if settings.scorer else default_scorer_path()


def _certificate_as_model(gate: Judge) -> dict[str, Any]:
    """Beside the models, so that a batch does not go on with another certificate than it was begun with."""
    certificate = gate.told().get("certificate")
    return {"certificate": {"name": "certificate", "licence": None, **certificate}} if certificate else {}


def _batch_dir(settings: GenerateConfig) -> Path:
    if settings.batch_dir is not None:
        return Path(settings.batch_dir).expanduser()
    dated = Path(settings.outputs) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    # The jobs of a sweep may begin within one second.
    choices = (dated, *(dated.with_name(f"{dated.name}_{n}") for n in range(2, 1000)))
    return next(path for path in choices if not path.exists())


def _is_over(batch: Batch, settings: GenerateConfig) -> bool:
    gate = build_gate(settings.gate, batch.lines)
    limit = whole_groups(settings.max_candidates, gate)
    return batch.accepted >= settings.target or len(batch.lines) >= limit or gate.over


def _check_stream(batch: Batch, source: CandidateSource, allocation: Allocation) -> None:
    """Refuse a stream that is not that of the ledger: files that the configuration names may have changed."""
    for line in [*batch.lines, *(entry["candidate"] for entry in batch.waiting.entries.values())]:
        template = allocation.template_of(line["index"], batch.lines)
        assert template is not None  # told by earlier lines, which are there
        now = asdict(source.candidate(line["index"], template))
        for key, value in now.items():
            if line[key] != value:
                raise UserError(
                    f"candidate {line['index']} of {batch.root} has {key} {line[key]!r}, and would have {value!r} "
                    "now: a file that the prompts name has changed; bring it back, or give another batch_dir"
                )


def _settle_models(batch: Batch, models: dict[str, Any]) -> None:
    path = batch.root / MODELS
    if batch.begun:
        _refuse_other_models(models, read_json(path), str(batch.root))
    write_atomic(path, json.dumps(models, indent=2) + "\n")


def _refuse_other_models(now: dict[str, Any], before: dict[str, Any], made: str) -> None:
    """The same path may lead to other weights by now."""
    none = {"name": "none", "fingerprint": "none"}
    for stage in {**before, **now}:
        former, model = before.get(stage, none), now.get(stage, none)
        if model["fingerprint"] != former["fingerprint"]:
            raise UserError(
                f"{made} was made with {stage} {former['name']} {former['fingerprint'][:12]}, and what is loaded is "
                f"{model['fingerprint'][:12]}: bring the former one back, or begin another batch_dir"
            )
