"""The promise of the slots: an image depends on its prompt and seed alone, and is the one that diffusers would make."""

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from itertools import count

import diffusers
import pytest
import torch
from PIL import Image
from scarce_memory import digest, shrunk
from tiny_models import FAMILIES

from artgate.errors import UserError
from artgate.generation.models import Conditioning
from artgate.generation.preview import Previewer
from artgate.generation.prompts import Candidate
from artgate.generation.sampler import Failed, Finished, Left, SlotSampler

SCHEDULERS = [
    ("ddim", 0.0),
    ("ddim", 0.8),
    ("dpmpp_2m", 0.0),
    ("euler", 0.0),
    ("euler_ancestral", 0.0),
    ("lcm", 0.0),
    ("unipc", 0.0),
]
MORE_SCHEDULERS = [
    (name, 0.0) for name in ("ddpm", "dpmpp_2m_karras", "dpmpp_2m_sde", "heun", "euler_trailing", "turbo")
]
# Two are enough for `make test-fast`, where all go the same way: one that draws noise at each step, one that does not.
QUICK_SCHEDULERS = [("ddim", 0.0), ("euler_ancestral", 0.0)]
SOME_SLOWLY = [
    case if case in QUICK_SCHEDULERS else pytest.param(*case, marks=pytest.mark.slow)
    for case in SCHEDULERS + MORE_SCHEDULERS
]
POISON = "a poor painting"  # the prompt that `poisoned` answers with NaN

CROWD = [
    Candidate(0, "a frog", "poor quality", 11),
    Candidate(1, "the good cat", "", 12, basemap="yes"),
    Candidate(2, POISON, "", 13),
    Candidate(3, "a painting of a cat", "", 14),
    Candidate(4, "a frog", "poor quality", 15),
    Candidate(5, POISON, "", 16, basemap="yes"),
    Candidate(6, "of of of", "the poor frog", 17, basemap="yes"),
    Candidate(7, "a frog", "", 18),
]


def basemap(candidate: Candidate) -> Image.Image | None:
    """A picture of the seed's own colour for the candidates that ask for one."""
    colour = (candidate.seed * 13 % 256, candidate.seed * 7 % 256, 90)
    return Image.new("RGB", (64, 64), colour) if candidate.basemap else None


@pytest.fixture
def poisoned(loaded, monkeypatch):
    """The sd1 model, which makes NaN of one prompt: such candidates leave their slot after one step."""
    model = loaded("sd1")
    encode = model.encode_prompts

    def poisoning(prompts, negative=False):
        rows = encode(prompts, negative)
        return Conditioning(rows.text * torch.nan, rows.pooled) if prompts == [POISON] else rows

    monkeypatch.setattr(model, "encode_prompts", poisoning)
    return model


def run(sampler: SlotSampler, *candidates: Candidate) -> dict[int, torch.Tensor]:
    """Latents by index of those that were finished."""
    outcomes = list(sampler.run(candidates, basemap))
    assert sorted(outcome.candidate.index for outcome in outcomes) == sorted(item.index for item in candidates)
    return {outcome.candidate.index: outcome.latents for outcome in outcomes if isinstance(outcome, Finished)}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("scheduler", "eta"), SOME_SLOWLY)
def test_a_candidate_is_bit_identical_alone_among_others_and_with_neighbours_dropped(poisoned, threads, scheduler, eta):
    threads(2)
    sampler = SlotSampler(poisoned, scheduler, steps=4, guidance=4.0, slots=4, strength=0.5, eta=eta)
    assert_bit_identical(sampler)


@pytest.mark.parametrize(("cores", "slots"), [(1, 3), pytest.param(2, 3, marks=pytest.mark.slow), (3, 4)])
def test_bit_identity_holds_for_any_number_of_threads_and_slots(poisoned, threads, cores, slots):
    threads(cores)
    assert_bit_identical(SlotSampler(poisoned, "euler_ancestral", steps=4, guidance=4.0, slots=slots, strength=0.5))
    assert torch.get_num_threads() == cores


def assert_bit_identical(sampler: SlotSampler) -> None:
    healthy = [candidate for candidate in CROWD if candidate.prompt != POISON]
    among_dropped = run(sampler, *CROWD)  # two are dropped after their first step, others end after half the steps
    among_others = run(sampler, *reversed(healthy))
    assert sorted(among_dropped) == [candidate.index for candidate in healthy]
    for candidate in healthy:
        alone = run(sampler, candidate)[candidate.index]
        assert torch.equal(among_dropped[candidate.index], alone)
        assert torch.equal(among_others[candidate.index], alone)


def test_the_same_prompt_with_another_seed_is_another_image_and_with_the_same_seed_the_same(loaded):
    sampler = SlotSampler(loaded("sd1"), "euler_ancestral", steps=3, slots=3)
    images = run(sampler, *(Candidate(index, "a frog", "", seed) for index, seed in enumerate([1, 2, 1])))
    assert torch.equal(images[0], images[2])
    assert (images[0] - images[1]).abs().mean() > 0.1


STOCK = [("sd1", name, eta) for name, eta in SCHEDULERS + MORE_SCHEDULERS] + [
    (family, scheduler, 0.0)
    for family in FAMILIES
    if family != "sd1"
    for scheduler in {"lcm": ["lcm"], "sdxl_turbo": ["euler_ancestral"]}.get(family, ["ddim", "euler"])
]


def guidance_of(family: str) -> float:
    return 0.0 if family.endswith("turbo") else 4.0


@pytest.fixture(scope="session")
def pipelines(tiny):
    """(family, "" or "Img2Img") → diffusers' own pipeline on the same weights."""

    @functools.cache
    def load(family: str, kind: str):
        name = "StableDiffusionXL" if family.startswith("sdxl") else "StableDiffusion"
        pipeline = getattr(diffusers, f"{name}{kind}Pipeline").from_pretrained(tiny(family))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


def stock(pipeline, scheduler, family: str, **arguments) -> torch.Tensor:
    """Latents (C, h, w) of diffusers' own pipeline for candidate 0 of the crowd."""
    pipeline.scheduler = scheduler
    return pipeline(
        CROWD[0].prompt,
        negative_prompt=CROWD[0].negative_prompt or None,
        generator=torch.Generator().manual_seed(CROWD[0].seed),
        guidance_scale=guidance_of(family),
        output_type="latent",
        **arguments,
    ).images[0]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("family", "scheduler", "eta"), STOCK)
def test_text_to_image_agrees_with_the_stock_pipeline(loaded, pipelines, family, scheduler, eta):
    model = loaded(family)
    sampler = SlotSampler(model, scheduler, steps=4, guidance=guidance_of(family), slots=2, eta=eta)
    ours = run(sampler, CROWD[0], CROWD[3])[0]
    theirs = stock(pipelines(family, ""), model.make_scheduler(scheduler), family, num_inference_steps=4, eta=eta)
    assert_close(ours, theirs)


WHOLE = [("sd1", "ddim", 0.0, 1.0), ("sd1", "euler_ancestral", 0.0, 1.0), ("sdxl", "euler", 0.0, 1.0)]


@pytest.mark.parametrize(("family", "scheduler", "eta", "strength"), [(*case, 0.7) for case in STOCK] + WHOLE)
def test_image_to_image_agrees_with_the_stock_pipeline(loaded, pipelines, family, scheduler, eta, strength):
    model = loaded(family)
    guidance = guidance_of(family)
    sampler = SlotSampler(model, scheduler, steps=4, guidance=guidance, slots=2, strength=strength, eta=eta)
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    outcomes = list(sampler.run([CROWD[0], CROWD[3]], lambda candidate: picture))
    arguments = {"image": picture, "strength": strength, "num_inference_steps": 4, "eta": eta}
    theirs = stock(pipelines(family, "Img2Img"), model.make_scheduler(scheduler), family, **arguments)
    assert_close(outcomes[0].latents, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_negative_prompt_is_none_as_diffusers_has_it(loaded, pipelines, family, monkeypatch):
    monkeypatch.setitem(globals(), "CROWD", [Candidate(0, "a painting of a frog", "", 3)])
    model = loaded(family)
    ours = run(SlotSampler(model, "ddim", steps=2, guidance=guidance_of(family), slots=1), CROWD[0])[0]
    assert_close(ours, stock(pipelines(family, ""), model.make_scheduler("ddim"), family, num_inference_steps=2))


def test_guidance_and_negative_prompts_move_the_image_and_turbo_reads_neither(loaded):
    def latents(family, guidance, negative_prompt):
        sampler = SlotSampler(loaded(family), "euler", steps=2, guidance=guidance, slots=1)
        return run(sampler, Candidate(0, "a frog", negative_prompt, 5))[0]

    plain = latents("sd1", 4.0, "")
    assert not torch.equal(plain, latents("sd1", 4.0, "poor quality"))
    assert not torch.equal(plain, latents("sd1", 8.0, ""))
    assert torch.equal(latents("sdxl_turbo", 0.0, ""), latents("sdxl_turbo", 0.0, "poor quality"))
    assert not torch.equal(latents("lcm", 2.0, ""), latents("lcm", 8.0, ""))  # told the scale, no second row


def test_the_denoiser_always_sees_the_same_shape_and_no_slot_stays_empty_while_candidates_wait(loaded, monkeypatch):
    model = loaded("sd1")
    shapes, denoise = [], model.denoise
    monkeypatch.setattr(
        model, "denoise", lambda latents, *rest: shapes.append(latents.shape) or denoise(latents, *rest)
    )
    sampler = SlotSampler(model, "ddim", steps=4, slots=3, strength=0.5)
    whole, half = Candidate(0, "a frog", "", 1), Candidate(1, "a cat", "", 2, basemap="yes")
    list(sampler.run([whole, half, half, half, half], basemap))
    assert set(shapes) == {(3, 4, 8, 8)}
    assert len(shapes) == 4  # 4 + 4 x 2 steps of work, in 3 slots that are never empty


@pytest.mark.parametrize(("family", "guidance", "expected"), [("sd1", 4.0, 6), ("sd1", 1.0, 3), ("lcm", 8.0, 3)])
def test_evaluations_count_denoiser_rows(loaded, family, guidance, expected):
    sampler = SlotSampler(loaded(family), "ddim", steps=3, guidance=guidance, slots=2)
    assert [item.evaluations for item in sampler.run(CROWD[:1])] == [expected]
    assert sampler.evaluations == expected  # what fills up an empty slot does not count


def test_a_failing_candidate_is_told_of_and_leaves_the_others_alone(poisoned):
    sampler = SlotSampler(poisoned, "dpmpp_2m", steps=3, slots=2)

    def broken_basemap(candidate):
        if candidate.index == 1:
            raise OSError("disk on fire")
        return Image.new("RGB", (32, 64)) if candidate.index == 3 else None

    outcomes = {outcome.candidate.index: outcome for outcome in sampler.run(CROWD[:5], broken_basemap)}
    assert outcomes[1] == Failed(CROWD[1], "OSError: disk on fire")
    assert outcomes[2].error == "the latents are not finite after step 1 of 3; try diffusion.dtype=float32"
    assert outcomes[2].evaluations == 2
    assert "basemap is 32x64, not 64x64" in outcomes[3].error
    assert torch.equal(outcomes[4].latents, run(sampler, CROWD[4])[4])


def test_candidates_of_an_endless_stream_are_drawn_only_when_a_slot_is_free(loaded):
    drawn: list[int] = []

    def endless() -> Iterator[Candidate]:
        for index in count():
            drawn.append(index)
            yield Candidate(index, "a frog", "", index)

    outcomes = SlotSampler(loaded("sd1"), "ddim", steps=2, slots=3).run(endless())
    assert next(outcomes).candidate.index == 0
    assert drawn == [0, 1, 2]
    assert [next(outcomes).candidate.index for _ in range(3)] == [1, 2, 3]
    assert drawn == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_other_sizes_than_the_models_own(loaded, pipelines, family):
    model = loaded(family)
    sampler = SlotSampler(model, "euler", steps=2, guidance=4.0, slots=2, width=96, height=48)
    [outcome] = sampler.run(CROWD[:1])
    assert outcome.latents.shape == (4, 6, 12)
    assert model.decode(outcome.latents[None])[0].size == (96, 48)
    scheduler = model.make_scheduler("euler")
    theirs = stock(pipelines(family, ""), scheduler, family, num_inference_steps=2, width=96, height=48)
    assert_close(outcome.latents, theirs)


@pytest.mark.slow
def test_where_no_slots_are_few_enough_for_the_memory_candidates_fail_with_the_cure(loaded, monkeypatch):
    model = loaded("sd1")

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")

    monkeypatch.setattr(model, "denoise", full)
    sampler = SlotSampler(model, steps=2, slots=4)
    told: list[int] = []
    sampler.on_shrinking = told.append
    outcomes = list(sampler.run(CROWD[:2]))
    cured = "OutOfMemoryError: CUDA out of memory. Tried; lower the size, or use diffusion.dtype=float16"
    assert outcomes == [Failed(CROWD[0], cured), Failed(CROWD[1], cured)]
    assert told == [2, 1]


@pytest.mark.slow
def test_too_little_memory_halves_the_slots_and_begins_anew(loaded, tiny):
    """With a real limit on a real allocator: 32 slots do not fit, some power of two of them does."""
    options = {"scheduler": "euler", "steps": 1, "guidance": 1.0, "width": 512, "height": 512}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        told, found = pool.apply(shrunk, (tiny("sd1"), 32, options, [CROWD[0], CROWD[3]]))
    assert told and told == [32 >> (n + 1) for n in range(len(told))]
    assert [(index, slots) for index, slots, _ in found] == [(0, told[-1]), (3, told[-1])]
    alike = SlotSampler(loaded("sd1"), slots=told[-1], **options)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = run(alike, CROWD[0], CROWD[3])
    finally:
        torch.set_num_threads(threads)
    assert {index: made for index, _, made in found} == {i: digest(latents) for i, latents in expected.items()}


def test_what_one_candidate_breaks_in_the_denoiser_is_its_own(loaded, monkeypatch):
    model = loaded("sd1")
    sampler = SlotSampler(model, "euler", steps=3, guidance=4.0, slots=3)
    alone = run(sampler, CROWD[0], CROWD[4])
    encode = model.encode_prompts

    def longer(prompts, negative=False):
        rows = encode(prompts, negative)
        return Conditioning(rows.text[..., :-1], rows.pooled) if prompts == [CROWD[3].prompt] else rows

    monkeypatch.setattr(model, "encode_prompts", longer)
    outcomes = {outcome.candidate.index: outcome for outcome in sampler.run([CROWD[0], CROWD[3], CROWD[4]])}
    assert isinstance(outcomes[3], Failed) and "RuntimeError" in outcomes[3].error
    assert all(torch.equal(outcomes[k].latents, alone[k]) for k in (0, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "dimm"}, "scheduler 'dimm' is not one of ddim, ddpm"),
        (
            {"scheduler_options": {"spacing": "trailing"}},
            "scheduler 'ddim' has no option 'spacing'; it has .*timestep_spacing",
        ),
        ({"scheduler": "lcm", "steps": 60}, "scheduler lcm with 60 steps: .*50"),
        ({"slots": 0}, "slots 0 is below 1"),
        ({"width": 60}, "width 60 is not a positive multiple of 8: try 56"),
        ({"strength": 0.0}, r"strength 0.0 is outside \(0, 1\]"),
        ({"strength": 0.1, "steps": 4}, "strength 0.1 of 4 steps leaves none: raise strength to 0.25"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(loaded, arguments, message):
    with pytest.raises(UserError, match=message):
        SlotSampler(loaded("sd1"), **arguments)


class Watcher:
    """A previewer that takes each look's clean latents down, and ends those candidates at a step that it is told."""

    def __init__(self, steps: tuple[int, ...], ends: dict[int, int] | None = None) -> None:
        self.seen: list[torch.Tensor] = []
        self.ends = ends or {}
        self.previewer = Previewer(self.decode, self.score, dict.fromkeys(steps, 0.5))

    def decode(self, clean: torch.Tensor) -> Image.Image:
        self.seen.append(clean.clone())
        return Image.new("RGB", (8, 8))

    def score(self, picture: Image.Image) -> float:
        return 0.0 if self.ends.get(len(self.seen)) else 1.0


@pytest.mark.parametrize(("scheduler", "eta"), SOME_SLOWLY)
def test_being_looked_at_changes_nothing(loaded, scheduler, eta):
    sampler = SlotSampler(loaded("sd1"), scheduler, steps=4, guidance=4.0, slots=3, strength=0.5, eta=eta)
    crowd = [candidate for candidate in CROWD if candidate.prompt != POISON]
    watcher = Watcher((1, 2, 3))
    plain = {item.candidate.index: item for item in sampler.run(crowd, basemap)}
    watched = {item.candidate.index: item for item in sampler.run(crowd, basemap, watcher.previewer)}
    for index, item in plain.items():
        assert torch.equal(watched[index].latents, item.latents)
        assert watched[index].evaluations == item.evaluations
    # from noise after steps 1, 2 and 3 (the last is no preview), from a basemap, on its way for half as long, less
    assert {len(item.previews) for item in watched.values() if not item.candidate.basemap} <= {3}
    assert len(watcher.seen) == sum(len(item.previews) for item in watched.values()) > len(crowd)
    assert all(torch.isfinite(clean).all() and clean.shape == (4, 8, 8) for clean in watcher.seen)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler_ancestral", "unipc"])
def test_previews_come_near_the_final_image_as_the_steps_go_by(loaded, scheduler):
    sampler = SlotSampler(loaded("sd1"), scheduler, steps=8, guidance=1.0, slots=1, strength=0.5)
    for candidate in (CROWD[0], CROWD[1]):
        watcher = Watcher(tuple(range(1, 8)))
        [item] = sampler.run([candidate], basemap, watcher.previewer)
        away = [float((clean - item.latents).norm() / item.latents.norm()) for clean in watcher.seen]
        assert away[-1] < 0.35 * away[0] and away[-1] < 0.35


def test_a_rejected_candidate_leaves_its_slot_to_the_next_and_nothing_to_its_neighbours(loaded, monkeypatch):
    model = loaded("sd1")
    calls, denoise = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda *arguments: calls.append(1) or denoise(*arguments))
    sampler = SlotSampler(model, "dpmpp_2m", steps=4, guidance=4.0, slots=1)
    crowd = [CROWD[0], CROWD[3], CROWD[4]]
    alone = [run(sampler, candidate)[candidate.index] for candidate in crowd]
    calls.clear()
    first, second, third = sampler.run(crowd, None, Watcher((2,), {2: 1}).previewer)
    assert isinstance(second, Left) and second.candidate == crowd[1]
    assert second.evaluations == 2 * 2 and len(calls) == 4 + 2 + 4
    [preview] = second.previews
    assert (preview.step, preview.score) == (2, 0.0)
    assert preview.reason == "preview 0 < threshold 0.5 at step 2 of 4"
    assert torch.equal(first.latents, alone[0]) and torch.equal(third.latents, alone[2])
    assert first.previews[0].reason is None


def test_a_preview_that_breaks_fails_its_candidate_alone(loaded):
    sampler = SlotSampler(loaded("sd1"), "ddim", steps=3, slots=2)
    scores = iter([float("nan"), 1.0, 1.0])
    previewer = Previewer(lambda clean: Image.new("RGB", (8, 8)), lambda picture: next(scores), {1: 0.5})
    outcomes = {outcome.candidate.index: outcome for outcome in sampler.run(CROWD[3:6:2] + CROWD[7:], None, previewer)}
    broken = outcomes.pop(3)
    assert (broken.stage, broken.error) == ("preview", "ValueError: the preview's score is nan")
    assert broken.evaluations == 2
    assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
