"""CPU arithmetic in which a row does not depend on its place in the minibatch.

Several threads on one matrix product share out its rows, and the last digits of a row's sums then depend on where the
cut falls (measured with MKL: linear layers over few rows). So each core takes an equal part of the minibatch for
itself, and the parts run beside one another.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def equal_parts(rows: int, cores: int) -> int:
    """How many equal parts `rows` are cut into, so that each core has one: the least divisor >= cores, or rows."""
    return next((parts for parts in range(max(cores, 1), rows) if rows % parts == 0), rows)


class Cores:
    """Calls a function on parts of a minibatch, each call on one core."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def run(self, function: Callable[[slice], torch.Tensor], rows: int) -> torch.Tensor:
        """The joined outputs of `function(part)` over equal parts (slices) of 0 … rows."""
        cores = torch.get_num_threads()
        parts = equal_parts(rows, cores)
        if cores == 1:
            return function(slice(0, rows))
        size = rows // parts
        if self._pool is None:
            self._pool = ThreadPoolExecutor(cores, thread_name_prefix="core")
        try:
            return torch.cat(list(self._pool.map(_alone(function), _slices(rows, size))))
        finally:
            # torch takes what the parts set for its own threads as the default of all threads to come
            torch.set_num_threads(cores)


def _alone(function: Callable[[slice], torch.Tensor]) -> Callable[[slice], torch.Tensor]:
    def alone(part: slice) -> torch.Tensor:
        torch.set_num_threads(1)
        return function(part)

    return alone


def _slices(rows: int, size: int) -> Sequence[slice]:
    return [slice(begin, begin + size) for begin in range(0, rows, size)]
