"""Many minibatches on all cores at bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
MOST_THREADS = 8


def on_all_cores(function: Callable[[T], R], items: Iterable[T], workers: int = 0) -> Generator[R]:
    """As `map`, on threads of which each has its share of torch's cores; never far ahead of the consumer.

    A thread that does all of a minibatch lets reading, decoding and encoding of different ones overlap, and no core
    waits for another as they do within one parallel forward pass. workers: threads; 0 chooses.
    """
    cores = torch.get_num_threads()
    workers = workers or min(cores, MOST_THREADS)
    threads = ThreadPoolExecutor(workers, "minibatch", torch.set_num_threads, (max(1, cores // workers),))
    try:
        yield from _in_order(threads, function, items, ahead=2 * workers)
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(cores)


def _in_order(threads: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """As `threads.map`, but never more than `ahead` items before the consumer, so that memory stays bounded."""
    running: deque[Future[R]] = deque()
    for item in items:
        running.append(threads.submit(function, item))
        if len(running) == ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
