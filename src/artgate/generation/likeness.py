"""How alike pictures are: near-duplicates of what is accepted are rejected, and a batch tells how its accepted spread.

All that it takes is in the ledger: a sketch of each scored candidate's features, and the perceptual hash of each
accepted one. So a batch that is resumed goes on as if it had never stopped.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from artgate.generation.config import NearDuplicatesConfig
from artgate.generation.gate import Verdict

if TYPE_CHECKING:
    from artgate.generation.batch import Outcome

Line = Mapping[str, Any]
Vectors = NDArray[np.float32]

# Random projections of features, one byte each: distances come out with an error of 4 % (Achlioptas, "Database-friendly
# random projections", 2003).
DIMENSIONS = 256
# Of a unit vector's projections the standard deviation is 1 / 16; beyond four of them a byte is full.
STEP = 4 / 16 / 127
# What candidates of a batch lie apart is told by its first ones; by fewer than LEAST, it is not told.
FIRST, LEAST = 32, 8
# Below, the accepted are less diverse than what was made.
LEAST_DIVERSITY = 0.95
DRAWS = 200


class Likeness:
    """Rejects what the gate would accept where it looks like a picture that is accepted already.

    lines: the ledger so far.
    """

    def __init__(self, config: NearDuplicatesConfig, lines: Sequence[Line] = ()) -> None:
        self._config = config
        self._first: list[Vectors] = []
        self._hashes: list[tuple[int, NDArray[np.uint8]]] = []
        self._sketches: list[tuple[int, Vectors]] = []
        self._typical: float | None = None
        for line in lines:
            self.observe(line)

    def checked(self, outcome: "Outcome", verdict: Verdict | None) -> Verdict | None:
        """The gate's verdict, or that the picture is a near-duplicate."""
        if verdict is None or not verdict.accepted or outcome.picture is None:
            return verdict
        alike = self._by_hash(outcome) or self._by_features(outcome)
        return replace(verdict, accepted=False, reason=f"near-duplicate of {alike}") if alike else verdict

    def noted(self, outcome: "Outcome", line: Line) -> dict[str, Any]:
        """What the ledger keeps of a candidate beside its line."""
        told: dict[str, Any] = {"sketch": outcome.sketch} if outcome.sketch else {}
        if line["status"] == "accepted" and outcome.picture is not None:
            hash, quality = _hash(outcome)
            told |= {"pdq": hash.tobytes().hex(), "pdq_quality": quality}
        return told

    def observe(self, line: Line) -> None:
        """Take note of a decided candidate's line of the ledger: each once, in order."""
        found = read_sketch(line)
        if found is not None and len(self._first) < FIRST:
            self._first.append(found)
            self._typical = None
        if line["status"] != "accepted":
            return
        if found is not None:
            self._sketches.append((line["index"], found))
        if _telling(line.get("pdq_quality", 0)):
            self._hashes.append((line["index"], np.frombuffer(bytes.fromhex(line["pdq"]), np.uint8)))

    def _by_hash(self, outcome: "Outcome") -> str | None:
        from artgate.artworks.duplicates import mirrored_hash

        if self._config.radius is None or not self._hashes:
            return None
        hash, quality = _hash(outcome)
        if not _telling(quality):
            return None
        held = np.stack([other for _, other in self._hashes])  # (A, 32)
        views = np.stack([hash, mirrored_hash(hash)])  # (2, 32)
        bits = np.bitwise_count(held[:, None] ^ views).sum(axis=2, dtype=int).min(axis=1)  # (A,)
        nearest = int(bits.argmin())
        if bits[nearest] > self._config.radius:
            return None
        return f"candidate {self._hashes[nearest][0]}: {bits[nearest]} of 256 bits of their hashes differ"

    def _by_features(self, outcome: "Outcome") -> str | None:
        own = read_sketch({"sketch": outcome.sketch})
        if self._config.distance is None or own is None or not self._sketches or len(self._first) < LEAST:
            return None
        if self._typical is None:
            self._typical = typical_distance(np.stack(self._first))
        distances = np.linalg.norm(np.stack([other for _, other in self._sketches]) - own, axis=1)  # (A,)
        nearest = int(distances.argmin())
        share = float(distances[nearest]) / max(self._typical, STEP)
        if share > self._config.distance:
            return None
        return f"candidate {self._sketches[nearest][0]}: features {share:.2f} of the usual distance apart"


def sketch(features: NDArray[Any]) -> str:
    """(D,) features → their sketch as the ledger keeps it: the projections of their direction, a byte each, as text."""
    length = float(np.linalg.norm(features)) or 1.0
    projected = _signs(len(features)) @ (np.asarray(features, np.float32) / length) / np.sqrt(np.float32(DIMENSIONS))
    return base64.b64encode(np.clip(np.rint(projected / STEP), -127, 127).astype(np.int8).tobytes()).decode()


def read_sketch(line: Line) -> Vectors | None:
    """(DIMENSIONS,) the sketch of a line of the ledger, None where it has none."""
    if not line.get("sketch"):
        return None
    return np.frombuffer(base64.b64decode(line["sketch"]), np.int8).astype(np.float32) * np.float32(STEP)


def typical_distance(sketches: Vectors) -> float:
    """The median distance of all pairs of (N, DIMENSIONS)."""
    first, second = np.triu_indices(len(sketches), 1)
    return float(np.median(np.linalg.norm(sketches[first] - sketches[second], axis=1)))


def diversity(lines: Sequence[Line]) -> dict[str, Any] | None:
    """How far the accepted lie apart, and all that were scored: root mean square distances of sketches, over pairs.

    ratio: of the two. by_chance: the ratio that as many candidates, drawn at random, fall below in 5 % of the draws.
    warning: where the ratio is below `LEAST_DIVERSITY`. None where fewer than two are accepted.
    """
    scored = [(line["status"] == "accepted", found) for line in lines if (found := read_sketch(line)) is not None]
    accepted = np.array([passed for passed, _ in scored])
    if accepted.sum() < 2:
        return None
    sketches = np.stack([found for _, found in scored])  # (N, DIMENSIONS)
    whole, kept = spread(sketches), spread(sketches[accepted])
    if not whole:
        return None
    draw = np.random.default_rng(0)
    drawn = [spread(sketches[draw.permutation(len(sketches))[: accepted.sum()]]) / whole for _ in range(DRAWS)]
    ratio, by_chance = kept / whole, float(np.quantile(drawn, 0.05))
    warning = (
        f"the {accepted.sum()} accepted lie only {ratio:.0%} as far apart as the {len(sketches)} candidates that were "
        "scored: "
    )
    if ratio < by_chance:
        warning += (
            f"of as many drawn at random, 5 % lie below {by_chance:.0%}; look whether they are too alike, and lower "
            "the threshold or add prompts (with allocation=bandit, raise allocation.floor)"
        )
    else:
        warning += f"that may be chance, for of as many drawn at random 5 % lie below {by_chance:.0%}"
    told = {"accepted": kept, "candidates": whole, "ratio": ratio, "by_chance": by_chance}
    return told | {"warning": warning if ratio < LEAST_DIVERSITY else None}


def spread(vectors: Vectors) -> float:
    """The root mean square distance over all pairs of (N, D), N >= 2: by their variance, without going over pairs."""
    return float(np.sqrt(2 * vectors.var(axis=0, ddof=1, dtype=np.float64).sum()))


def _telling(quality: int) -> bool:
    from artgate.artworks.duplicates import MIN_QUALITY

    return quality >= MIN_QUALITY


def _hash(outcome: "Outcome") -> tuple[NDArray[np.uint8], int]:
    from artgate.artworks.duplicates import hash_and_quality

    assert outcome.picture is not None
    return hash_and_quality(outcome.picture)


@functools.lru_cache(maxsize=2)
def _signs(dim: int) -> Vectors:
    """(DIMENSIONS, dim) of -1 and 1, the same for ever."""
    count = DIMENSIONS * dim
    bits = np.frombuffer(hashlib.shake_256(b"artgate sketch").digest(-(-count // 8)), np.uint8)
    return np.unpackbits(bits, count=count).reshape(DIMENSIONS, dim).astype(np.float32) * 2 - 1
