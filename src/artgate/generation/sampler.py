"""Slots: one denoiser call serves images at different timesteps, and an image depends on its prompt and seed alone.

Each slot owns its scheduler copy, its generator and its timestep. The denoiser always sees the same minibatch shape, so
that its arithmetic for an image does not depend on how many others there are; a finished slot is refilled at once.
"""

import copy
import inspect
import logging
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from artgate.errors import UserError
from artgate.generation.memory import give_back, in_words, is_out_of_memory
from artgate.generation.models import Conditioning, DiffusionModel
from artgate.generation.predicted import predicted_clean
from artgate.generation.preview import Preview, Previewer
from artgate.generation.prompts import Candidate

log = logging.getLogger(__name__)

Basemap = Callable[[Candidate], Image.Image | None]


@dataclass(frozen=True, eq=False)
class Finished:
    """A candidate all the way through. latents: (C, h, w) on the model's device. evaluations: denoiser rows it took.

    previews: what was seen of it midway. slots: of the minibatch that it was made in.
    """

    candidate: Candidate
    latents: torch.Tensor
    evaluations: int
    previews: tuple[Preview, ...] = ()
    slots: int = 0


@dataclass(frozen=True, eq=False)
class Left:
    """A candidate that its last preview ended midway. evaluations: denoiser rows it took until then."""

    candidate: Candidate
    evaluations: int
    previews: tuple[Preview, ...]


@dataclass(frozen=True)
class Failed:
    """A candidate that could not be made, and why. evaluations: denoiser rows spent on it. stage: "preview" where it
    was looked at, else "denoise".
    """

    candidate: Candidate
    error: str
    evaluations: int = 0
    stage: str = "denoise"


@dataclass(frozen=True)
class Schedule:
    """A scheduler ready for its first step, and the timesteps it will be asked for. Slots work on copies."""

    scheduler: Any
    timesteps: torch.Tensor  # (steps,)
    first_index: int = 0  # of the first of them in the scheduler's whole list


@dataclass(eq=False)
class Slot:
    """One candidate on its way."""

    candidate: Candidate
    conditioning: Conditioning  # one row
    negative: Conditioning | None  # one row, under guidance
    scheduler: Any
    timesteps: torch.Tensor  # (steps,)
    latents: torch.Tensor  # (1, C, h, w)
    step_options: dict[str, Any] = field(default_factory=dict)
    first_index: int = 0  # of its first timestep in the scheduler's whole list
    minibatch: int = 1  # slots that there are, itself among them
    steps_done: int = 0
    previews: list[Preview] = field(default_factory=list)
    clean: torch.Tensor | None = None  # (C, h, w), predicted in the last step, where it is to be looked at

    @property
    def timestep(self) -> torch.Tensor:
        """() the timestep that comes next."""
        return self.timesteps[self.steps_done]

    def denoiser_input(self) -> torch.Tensor:
        """(1, C, h, w) the latents as the denoiser wants them at this timestep."""
        scaled: torch.Tensor = self.scheduler.scale_model_input(self.latents, self.timestep)
        return scaled

    def step(self, output: torch.Tensor, looked_at: bool = False) -> None:
        """Go one step on the denoiser's output (1, C, h, w). looked_at: note the predicted clean image on the way."""
        index = self.first_index + self.steps_done
        self.clean = (
            predicted_clean(self.scheduler, output, self.timestep, self.latents, index)[0] if looked_at else None
        )
        self.latents = self.scheduler.step(output, self.timestep, self.latents, **self.step_options, return_dict=False)[
            0
        ]
        self.steps_done += 1


class SlotSampler:
    """Samples a stream of candidates with `slots` of them in work at any time.

    scheduler, scheduler_options, eta: see `DiffusionConfig`. steps: >= 1. guidance: scale, up to 1 none.
    width, height: pixels, None for the model's own. strength: with a basemap, the share of the steps that are taken, in
    (0, 1]; 1 keeps least of the basemap. Raises UserError for values that do not go together.
    evaluations: denoiser rows taken so far, those of candidates that were never finished among them.
    slots: fewer once memory was too little twice; on_shrinking is then called with their number.
    """

    def __init__(
        self,
        model: DiffusionModel,
        scheduler: str = "ddim",
        steps: int = 30,
        guidance: float = 7.5,
        slots: int = 4,
        width: int | None = None,
        height: int | None = None,
        strength: float = 1.0,
        eta: float = 0.0,
        scheduler_options: dict[str, Any] | None = None,
    ) -> None:
        if slots < 1:
            raise UserError(f"slots {slots} is below 1")
        self.model = model
        self.guidance = guidance
        self.slots = slots
        self.width, self.height = width or model.size[0], height or model.size[1]
        self.shape = model.latent_shape(self.width, self.height)
        self.eta = eta
        make = _checked_steps(model, scheduler, steps, scheduler_options or {})
        whole = make()
        self._from_noise = Schedule(whole, whole.timesteps)
        self._from_basemap = _shortened(make(), steps, strength)
        self.evaluations_a_step = 2 if model.guided(guidance) else 1
        self.evaluations = 0
        self.on_shrinking: Callable[[int], None] = lambda slots: None
        self._shortages = 0

    @property
    def calls(self) -> int:
        """Denoiser calls from noise to the end: one a step, or more with schedulers such as Heun's."""
        return len(self._from_noise.timesteps)

    def run(
        self,
        candidates: Iterable[Candidate],
        basemap: Basemap | None = None,
        previewer: Previewer | None = None,
    ) -> Iterator[Finished | Left | Failed]:
        """Yield each candidate as it leaves its slot; the candidates may be endless, and are taken one by one.

        basemap: candidate → the picture (width x height) to begin from, or None to begin from noise.
        previewer: looks at candidates midway; one that it rejects leaves, and its slot is free for the next step.
        """
        waiting = iter(candidates)
        again: list[Candidate] = []  # to be begun anew
        slots: list[Slot] = []
        while True:
            if self._outdated(slots):
                again = [*(slot.candidate for slot in slots), *again]
                slots.clear()
            yield from self._refill(slots, again, waiting, basemap)
            if self._outdated(slots):
                continue
            if not slots:
                return
            yield from self._advance(slots, previewer.thresholds if previewer else ())
            for slot in list(slots):
                outcome = self._outcome(slot, previewer)
                if outcome is not None:
                    slots.remove(slot)
                    yield outcome

    def short_of_memory(self) -> bool:
        """Take note that something ran out of memory; every second time the slots are halved.

        Then the candidates in work begin anew: each picture is made in minibatches of one shape. Returns whether the
        same may be tried once more.
        """
        give_back(self.model.device)
        self._shortages += 1
        if self._shortages % 2:
            return True
        if self.slots > 1:
            self.slots //= 2
            log.warning("memory was too little twice: going on with %d slots", self.slots)
            self.on_shrinking(self.slots)
        return False

    def _outdated(self, slots: list[Slot]) -> bool:
        return any(slot.minibatch != self.slots for slot in slots)

    def _refill(
        self, slots: list[Slot], again: list[Candidate], waiting: Iterator[Candidate], basemap: Basemap | None
    ) -> Iterator[Failed]:
        while len(slots) < self.slots:
            candidate = again.pop(0) if again else next(waiting, None)
            if candidate is None:
                return
            try:
                slots.append(self._begin(candidate, basemap))
            except Exception as error:  # whatever is wrong with one candidate must not end the others
                yield Failed(candidate, self._told(error))

    @torch.inference_mode()
    def _begin(self, candidate: Candidate, basemap: Basemap | None) -> Slot:
        # On the CPU, where the same seed gives the same noise whatever the device
        generator = torch.Generator("cpu").manual_seed(candidate.seed)
        picture = basemap(candidate) if basemap else None
        schedule = copy.deepcopy(self._from_noise if picture is None else self._from_basemap)
        latents = self._noise(generator, schedule) if picture is None else self._noised(picture, generator, schedule)
        guided = self.model.guided(self.guidance)
        return Slot(
            candidate=candidate,
            conditioning=self.model.encode_prompts([candidate.prompt]),
            negative=self.model.encode_prompts([candidate.negative_prompt], negative=True) if guided else None,
            scheduler=schedule.scheduler,
            timesteps=schedule.timesteps,
            latents=latents,
            step_options=_accepted_by(schedule.scheduler.step, {"generator": generator, "eta": self.eta}),
            first_index=schedule.first_index,
            minibatch=self.slots,
        )

    def _noise(self, generator: torch.Generator, schedule: Schedule) -> torch.Tensor:
        noise = randn_tensor((1, *self.shape), generator, device=self.model.device, dtype=self.model.dtype)
        return noise * schedule.scheduler.init_noise_sigma  # (1, C, h, w)

    def _noised(self, picture: Image.Image, generator: torch.Generator, schedule: Schedule) -> torch.Tensor:
        if picture.size != (self.width, self.height):
            raise ValueError(f"basemap is {picture.size[0]}x{picture.size[1]}, not {self.width}x{self.height}")
        clean = self.model.encode([picture], [generator])
        noise = randn_tensor(clean.shape, generator, device=clean.device, dtype=clean.dtype)
        noised: torch.Tensor = schedule.scheduler.add_noise(clean, noise, schedule.timesteps[:1])
        return noised  # (1, C, h, w)

    @torch.inference_mode()
    def _advance(self, slots: list[Slot], looked_at: Container[int]) -> list[Failed]:
        """One denoiser call for all slots, then one scheduler step each. What fails at it leaves its slot.

        looked_at: after which steps there is a look.
        """
        failed: list[Failed] = []
        outputs = self._outputs(slots)
        if self._outdated(slots):
            return failed
        for slot, output in zip(list(slots), outputs, strict=True):
            try:
                if isinstance(output, Exception):
                    raise output
                slot.step(output, slot.steps_done + 1 in looked_at)
            except Exception as error:  # whatever is wrong with one candidate must not end the others
                slots.remove(slot)
                evaluations = slot.steps_done * self.evaluations_a_step
                failed.append(Failed(slot.candidate, in_words(error), evaluations))
        return failed

    def _outputs(self, slots: list[Slot]) -> list[torch.Tensor | Exception]:
        """The denoiser's output (1, C, h, w) for each slot, or what it fails with; none once the slots are outdated.

        Where all together fail, each is tried alone, filled up to the same shape: its output is the same.
        """
        try:
            outputs = self._denoised(slots)  # (slots, C, h, w)
        except Exception as error:
            if is_out_of_memory(error):
                if self.short_of_memory():
                    return self._outputs(slots)
                return [] if self._outdated(slots) else [error]
            return [error] if len(slots) == 1 else [output for slot in slots for output in self._outputs([slot])]
        self.evaluations += self.evaluations_a_step * len(slots)
        return list(outputs[: len(slots)].split(1))

    def _denoised(self, slots: list[Slot]) -> torch.Tensor:
        # The minibatch's shape and memory layout decide the order of summation: empty slots are filled up with copies
        # of the first, and latents that come from the codec (which may lie channels last) are laid like the others
        rows = slots + slots[:1] * (self.slots - len(slots))
        negatives = [slot.negative for slot in rows if slot.negative is not None]
        return self.model.denoise(
            torch.cat([slot.denoiser_input() for slot in rows]).contiguous(),  # (slots, C, h, w)
            torch.stack([slot.timestep for slot in rows]),  # (slots,)
            Conditioning.joined([slot.conditioning for slot in rows]),
            Conditioning.joined(negatives) if negatives else None,
            self.guidance,
        )

    def _outcome(self, slot: Slot, previewer: Previewer | None) -> Finished | Left | Failed | None:
        """What became of a slot after a step; None while it is still on its way."""
        evaluations = slot.steps_done * self.evaluations_a_step
        if not torch.isfinite(slot.latents).all():
            where = f"step {slot.steps_done} of {len(slot.timesteps)}"
            return Failed(
                slot.candidate, f"the latents are not finite after {where}; try diffusion.dtype=float32", evaluations
            )
        if slot.steps_done == len(slot.timesteps):
            return Finished(slot.candidate, slot.latents[0], evaluations, tuple(slot.previews), slot.minibatch)
        if previewer is None or slot.clean is None:
            return None
        try:
            preview = previewer.look(slot.steps_done, len(slot.timesteps), evaluations, slot.clean)
        except Exception as error:  # whatever is wrong with one candidate must not end the others
            return Failed(slot.candidate, self._told(error), evaluations, "preview")
        slot.previews.append(preview)
        return Left(slot.candidate, evaluations, tuple(slot.previews)) if preview.reason else None

    def _told(self, error: Exception) -> str:
        if is_out_of_memory(error):
            self.short_of_memory()
        return in_words(error)


def _checked_steps(model: DiffusionModel, name: str, steps: int, options: dict[str, Any]) -> Callable[[], Any]:
    """A factory of schedulers with their timesteps set; UserError now if that number of steps is not possible."""

    def make() -> Any:
        scheduler = model.make_scheduler(name, **options)
        scheduler.set_timesteps(steps)
        return scheduler

    try:
        make()
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"scheduler {name} with {steps} steps: {error}") from None
    return make


def _shortened(scheduler: Any, steps: int, strength: float) -> Schedule:
    """The last int(steps * strength) steps, as diffusers' img2img takes them."""
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength} is outside (0, 1]")
    taken = int(steps * strength)
    if taken == 0:
        raise UserError(f"strength {strength} of {steps} steps leaves none: raise strength to {1 / steps:.3g} or more")
    begin = (steps - taken) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return Schedule(scheduler, scheduler.timesteps[begin:], begin)


def _accepted_by(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that the function takes: schedulers differ."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}
