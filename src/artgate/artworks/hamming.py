"""Exact near-neighbour groups of 256-bit hashes, by multi-index hashing (Norouzi, Punjani and Fleet, 2012).

The bits are cut into M words. Two hashes at most r bits apart, r = M t + a, agree in one of the first a + 1 words up
to t bits, or in one of the others up to t - 1 (pigeonhole). So each word is looked up in a table with so many bits
flipped in every way, and only the few hashes found there are compared in full. Whole columns are looked up at once.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint8]  # (N, 32)
Labels = NDArray[np.int64]  # (N,)

BITS = 256
# A table of 2^24 entries takes 64 MB.
MAX_WORD_BITS = 24
# Pairs compared at once: bounds the memory that a crowd of like hashes can take.
PAIRS = 2_000_000


class Word(NamedTuple):
    """Bits `start` to `stop` of a hash, looked up with up to `flips` of them flipped."""

    start: int
    stop: int
    flips: int

    @property
    def masks(self) -> list[int]:
        """All ways to flip up to `flips` bits, as numbers to XOR a key with."""
        bits = [1 << place for place in range(self.stop - self.start)]
        return [sum(flipped) for flips in range(self.flips + 1) for flipped in combinations(bits, flips)]


def components_within(hashes: Hashes, queries: list[Hashes], radius: int) -> Labels:
    """(N,) connected components: i and j are joined if queries[v][i] and hashes[j] differ in at most `radius` bits.

    hashes: (N, 32); queries: any number of (N, 32), `hashes` itself among them as a rule.
    """
    n = len(hashes)
    labels: Labels = np.arange(n, dtype=np.int64)
    targets, views = _shuffled(hashes), [_shuffled(query) for query in queries]
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:  # numpy leaves the interpreter lock in each of its loops
        for word in plan(n, radius):
            table = _Table(_sorted_by(targets, word), word)
            masks = word.masks
            for view in views:
                search = partial(table.pairs_within, _sorted_by(view, word), labels, radius)
                parts = pool.map(search, [masks[core::cores] for core in range(cores)])
                labels = _join(labels, [edges for part in parts for edges in part])
    return labels


def plan(n: int, radius: int) -> list[Word]:
    """The words, as many as make the search of `n` hashes cheapest."""
    return min((_cut(radius, m) for m in range(math.ceil(BITS / MAX_WORD_BITS), 33)), key=lambda words: _cost(n, words))


def _cut(radius: int, m: int) -> list[Word]:
    edges = [round(i * BITS / m) for i in range(m + 1)]
    most, over = divmod(radius, m)
    flips = [most] * (over + 1) + [most - 1] * (m - over - 1)
    return [Word(a, b, f) for a, b, f in zip(edges, edges[1:], flips, strict=False) if f >= 0]


def _cost(n: int, words: list[Word]) -> float:
    """Nanoseconds, roughly: 8 a look-up, 25 a pair compared, and 50,000 a numpy round."""
    cost = 0.0
    for start, stop, flips in words:
        bits = stop - start
        looks = sum(math.comb(bits, k) for k in range(flips + 1))
        cost += looks * (50_000 + n * (8 + 25 * n / 2**bits))
    return cost


class _Sorted(NamedTuple):
    """Hashes in the order of one word's values: so neighbouring look-ups fall on neighbouring memory."""

    rows: NDArray[np.int64]  # (N,) where each was
    keys: NDArray[np.int32]  # (N,) the word's values, ascending
    columns: NDArray[np.uint64]  # (4, N) the whole hashes


class _Table:
    """Sorted hashes, and where each value of the word starts among them."""

    def __init__(self, targets: _Sorted, word: Word):
        self.targets = targets
        counts = np.bincount(targets.keys, minlength=1 << (word.stop - word.start))
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)  # (2^bits + 1,)
        # A quarter of the memory of `starts`, and most look-ups of a large search end here.
        self.occupied = counts > 0  # (2^bits,)

    def pairs_within(self, queries: _Sorted, labels: Labels, radius: int, masks: list[int]) -> list[NDArray[np.int64]]:
        """(2, E) rows of queries and targets at most `radius` bits apart, but for those of one label already."""
        found = []
        from_label, to_label = labels[queries.rows], labels[self.targets.rows]
        for mask in masks:
            wanted = queries.keys ^ np.int32(mask)
            hits = np.flatnonzero(self.occupied[wanted])
            first = self.starts[wanted[hits]]
            count = self.starts[wanted[hits] + 1] - first
            for i, j in _expanded(hits, first, count):
                other = from_label[i] != to_label[j]
                i, j = _close(queries.columns, i[other], self.targets.columns, j[other], radius)
                if len(i):
                    found.append(np.stack([queries.rows[i], self.targets.rows[j]]))
        return found


def _expanded(hits: Labels, first: NDArray[np.int32], count: NDArray[np.int32]) -> Iterator[tuple[Labels, Labels]]:
    """Pairs (hits[k], first[k] + 0 … count[k] - 1) for each k, about PAIRS at once."""
    for low, high in _blocks(np.cumsum(count, dtype=np.int64)):
        lengths = count[low:high].astype(np.int64)
        starts = first[low:high] - (np.cumsum(lengths) - lengths)
        yield np.repeat(hits[low:high], lengths), np.arange(lengths.sum()) + np.repeat(starts, lengths)


def _blocks(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    low = 0
    while low < len(ends):
        done = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, done + PAIRS)))
        yield low, high
        low = high


def _close(a: NDArray[np.uint64], i: Labels, b: NDArray[np.uint64], j: Labels, radius: int) -> tuple[Labels, Labels]:
    """Of the pairs (a[:, i], b[:, j]) those at most `radius` bits apart: most are ruled out by their first 128 bits."""
    distance: NDArray[np.uint16] = np.zeros(len(i), np.uint16)
    for column in range(4):
        distance += np.bitwise_count(a[column, i] ^ b[column, j])
        if column > 0:
            near = distance <= radius
            i, j, distance = i[near], j[near], distance[near]
    return i, j


def _sorted_by(hashes: Hashes, word: Word) -> _Sorted:
    keys = _keys(hashes, word)
    rows = np.argsort(keys, kind="stable")
    return _Sorted(rows, keys[rows], np.ascontiguousarray(hashes.view(np.uint64)[rows].T))


def _keys(hashes: Hashes, word: Word) -> NDArray[np.int32]:
    """(N,) values of the word: cut out of the four or fewer bytes that hold it."""
    first, last = word.start // 8, (word.stop - 1) // 8
    key: Labels = np.zeros(len(hashes), np.int64)
    for byte in range(first, last + 1):
        key = key << 8 | hashes[:, byte]
    key >>= 8 * (last + 1) - word.stop
    return (key & ((1 << (word.stop - word.start)) - 1)).astype(np.int32)


def _shuffled(hashes: Hashes) -> Hashes:
    """The hashes with their bits in one fixed random order.

    Neighbours in a perceptual hash depend on each other: words made of them would crowd a few values.
    """
    order = np.random.default_rng(0).permutation(BITS)
    shuffled = np.empty_like(hashes)
    for start in range(0, len(hashes), 65_536):
        block = np.unpackbits(hashes[start : start + 65_536], axis=1)
        shuffled[start : start + 65_536] = np.packbits(block[:, order], axis=1)
    return shuffled


def _join(labels: Labels, edges: list[NDArray[np.int64]]) -> Labels:
    """Components after adding edges, each (2, E); `labels` counts as an edge from each node to its label."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not edges:
        return labels
    n = len(labels)
    ends = np.concatenate([np.stack([np.arange(n), labels]), *edges], axis=1)  # (2, E)
    graph = coo_array((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), shape=(n, n))
    return lowest_index_labels(connected_components(graph, directed=False)[1])


def lowest_index_labels(labels: NDArray[np.integer]) -> Labels:
    """The same groups, each labelled by the lowest index in it."""
    _, first, of_row = np.unique(labels, return_index=True, return_inverse=True)
    return first[of_row].astype(np.int64)
