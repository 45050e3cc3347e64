"""Too little memory: how it is known, and what can be done at once."""

import gc

import torch

ON_CPU = ("can't allocate memory", "could not create a primitive")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says so. On the CPU torch raises plain RuntimeErrors, its own and what oneDNN makes of it."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in ON_CPU)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def give_back(device: torch.device) -> None:
    """Give back to the device what is held and not used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_words(error: Exception) -> str:
    """An error as a ledger tells it, with the cure where memory is too little."""
    cure = "; lower the size, or use diffusion.dtype=float16" if is_out_of_memory(error) else ""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}{cure}"
