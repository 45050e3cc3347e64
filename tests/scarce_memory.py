"""Slots where memory is short: a process of its own, with a real limit, so that nothing freed before lies about."""

import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import torch

from artgate.generation.models import load_model
from artgate.generation.prompts import Candidate
from artgate.generation.sampler import SlotSampler

SPARE = 80 * 2**20  # bytes beyond what there is once one slot has run


def shrunk(model: Path, slots: int, options: dict[str, Any], candidates: list[Candidate]) -> tuple[list[int], list]:
    """(slots after each shrinking, (index, slots, digest of the latents) of each candidate): for a spawned process."""
    torch.set_num_threads(1)
    loaded = load_model({"name": "tiny", "model": str(model), "licence": "none"})
    list(SlotSampler(loaded, slots=1, **options).run(candidates[:1]))  # what code takes up, whatever the slots
    sampler = SlotSampler(loaded, slots=slots, **options)
    told: list[int] = []
    sampler.on_shrinking = told.append
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE, resource.RLIM_INFINITY))
    found = [(outcome.candidate.index, outcome.slots, digest(outcome.latents)) for outcome in sampler.run(candidates)]
    return told, found


def digest(latents: torch.Tensor) -> str:
    """Hex sha256 of the bytes."""
    return hashlib.sha256(latents.numpy().tobytes()).hexdigest()
