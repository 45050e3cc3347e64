"""make_certificate(...): graded artworks that a scorer never saw -> the threshold that holds a precision."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artgate.artworks.collection import Collection
from artgate.artworks.duplicates import RADIUS
from artgate.errors import UserError
from artgate.labels.grades import GRADES, Grades
from artgate.scoring.certificate import Certificate, reference_sha256
from artgate.scoring.config import ACCEPTABLE, CERTIFICATE_KINDS, GROUP_KEYS
from artgate.scoring.drift import Reference, make_reference
from artgate.scoring.graded import GRADE_FILES
from artgate.scoring.learn_then_test import (
    Labels,
    certified,
    correlation_within_groups,
    fewest_accepted,
    labels_needed,
    one_per_group,
    sequence,
    yield_interval,
)
from artgate.scoring.learnt import UNSEEN_PART, read_learnt, unseen_groups


@dataclass(frozen=True)
class Demand:
    """What is asked of a certificate. kind: None for "good" where good is asked for, and "score" otherwise."""

    precision: float
    confidence: float
    acceptable: str = "good"
    kind: str | None = None
    one_per_group: bool = False

    def __post_init__(self) -> None:
        for name in ("precision", "confidence"):
            if not 0.5 <= getattr(self, name) <= 0.999:
                raise UserError(f"{name} {getattr(self, name)} is outside [0.5, 0.999]: give 0.9 or 0.95, say")
        if self.acceptable not in ACCEPTABLE:
            raise UserError(f"acceptable {self.acceptable!r} is not one of {', '.join(ACCEPTABLE)}: choose one")
        if self.kind not in (None, *CERTIFICATE_KINDS):
            raise UserError(f"kind {self.kind!r} is not one of {', '.join(CERTIFICATE_KINDS)}: choose one")

    @property
    def looks_at(self) -> str:
        """The kind, chosen."""
        return self.kind or ("good" if self.acceptable == "good" else "score")


def make_certificate(
    scorer: Path,
    data: Path,
    demand: Demand,
    *,
    grades: str = "auto",
    consensus: str = "majority",
    cuts: tuple[float, float] | None = None,
    cache: Path = Path(".cache/features"),
    group_by: Sequence[str] = GROUP_KEYS,
    radius: int = RADIUS,
) -> tuple[Certificate, Reference]:
    """The certificate of a scorer's folder on a graded collection, without the artworks that the scorer has seen.

    grades: "grades", "votes" or "ratings", or "auto" for the first of them that is there; cuts: of ratings of quality.
    Raises UserError for bad input, before anything heavy begins, and where no threshold holds: it then tells how many
    more labels would.
    """
    collection = Collection(data)
    graded_by, found = read_grades(collection.root, grades, consensus, cuts)
    image_ids, groups, shared = _unseen(scorer, collection, found, group_by, radius)
    _check_enough(len(image_ids), demand, collection.root, scorer)
    targets = found.array(image_ids, ("quality",))[:, 0]  # (N, K)

    from artgate.scoring.features import extract_features
    from artgate.scoring.scorer import Scorer

    judge = Scorer.load(scorer)
    features = extract_features(collection, judge.encoder, image_ids, cache)
    scores = judge.score_features(features)
    draft = Certificate(
        kind=demand.looks_at,
        threshold=0.0,
        acceptable=demand.acceptable,
        precision=demand.precision,
        confidence=demand.confidence,
        observed_precision=0.0,
        accepted=0,
        right=0,
        effective=0.0,
        labels=len(image_ids),
        groups=len(set(groups)),
        correlation=0.0,
        one_per_group=demand.one_per_group,
        expected_yield=0.0,
        yield_95=(0.0, 1.0),
        graded_by=graded_by,
        digest=_digest(image_ids, targets),
        shares_test_split=shared,
        scorer=judge.fingerprint,
        encoder=judge.encoder.fingerprint,
        encoder_name=judge.encoder.name,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reference_sha256="",
    )
    owner = np.unique(groups, return_inverse=True)[1]
    values = np.array([draft.value(score) for score in scores])
    labels = Labels(values, targets.argmax(1) >= GRADES.index(demand.acceptable), owner)
    reference = make_reference(features, owner)
    return replace(_decided(draft, labels), reference_sha256=reference_sha256(reference)), reference


def read_grades(
    root: Path, source: str, method: str = "majority", cuts: tuple[float, float] | None = None
) -> tuple[str, Grades]:
    """(source, grades) of a collection's folder. Raises UserError where there are none.

    method: of the consensus, where votes are read. cuts: of ratings, where those are.
    """
    from artgate.labels.consensus import consensus
    from artgate.labels.ratings import AGIQA3K_CUTS, grades_from_ratings, read_ratings
    from artgate.labels.votes import read_votes

    if source != "auto" and source not in GRADE_FILES:
        raise UserError(f"grades {source!r} is not one of auto, {', '.join(GRADE_FILES)}: choose one")
    there = [name for name, files in GRADE_FILES.items() if any((root / file).is_file() for file in files)]
    chosen = source if source != "auto" else next(iter(there), None)
    if chosen not in there:
        wanted = GRADE_FILES[chosen] if chosen else [file for files in GRADE_FILES.values() for file in files]
        raise UserError(f"{root} has no {', '.join(wanted)}: label its artworks first (docs/labelling.md)")
    if chosen == "grades":
        return chosen, Grades.load(root)
    if chosen == "votes":
        return chosen, consensus(read_votes(root), method)
    return str(chosen), grades_from_ratings(read_ratings(root), {"quality": cuts or AGIQA3K_CUTS["quality"]})


def _unseen(
    scorer: Path, collection: Collection, grades: Grades, group_by: Sequence[str], radius: int
) -> tuple[list[str], list[str], int]:
    """(image_ids, groups) of the graded artworks that the scorer has not seen, and how many were its test split."""
    learnt = read_learnt(scorer, _description(scorer))
    artworks = list(collection)
    groups = unseen_groups(artworks, learnt.used(), group_by, radius)
    graded = [artwork.image_id for artwork in artworks if "quality" in grades.get(artwork.image_id, {})]
    unseen = [image_id for image_id in graded if image_id in groups]
    if graded and not unseen:
        raise UserError(
            f"all {len(graded)} graded artworks of {collection.root} were learnt from by {scorer}, or share "
            f"{', '.join(group_by)} with what was: grade others, such as what the generator makes now "
            "(a scorer with final=true learnt from all of its data)"
        )
    known = {
        row.tobytes().hex() for row, part in zip(learnt.image_ids, learnt.parts, strict=True) if part == UNSEEN_PART
    }
    return unseen, [groups[image_id] for image_id in unseen], sum(image_id[:32] in known for image_id in unseen)


def _check_enough(count: int, demand: Demand, root: Path, scorer: Path) -> None:
    least = fewest_accepted(demand.precision, demand.confidence, mistakes=1)
    if count < least:
        raise UserError(
            f"{root} has {count} graded artworks that {scorer} has not seen, and precision {demand.precision:g} with "
            f"confidence {demand.confidence:g} takes {least} accepted ones at the least: grade more of what it has "
            "not seen"
        )


def _decided(draft: Certificate, labels: Labels) -> Certificate:
    """The draft with the threshold that holds. Raises UserError where none does."""
    looked_at = one_per_group(labels) if draft.one_per_group else labels
    found = certified(looked_at, draft.precision, draft.confidence)
    if found is None:
        raise UserError(_refusal(draft, looked_at))
    share, low, high = yield_interval(labels, found.threshold)
    return replace(
        draft,
        threshold=found.threshold,
        observed_precision=found.precision,
        accepted=found.accepted,
        right=found.right,
        effective=round(found.effective, 3),
        labels=len(looked_at),
        correlation=round(correlation_within_groups(looked_at), 4),
        expected_yield=share,
        yield_95=(low, high),
    )


def _refusal(draft: Certificate, labels: Labels) -> str:
    steps = list(sequence(labels, draft.precision, draft.confidence))
    told = (
        f"no threshold holds precision {draft.precision:g} ({draft.acceptable} or better) with confidence "
        f"{draft.confidence:g} on {len(labels)} labels of {draft.groups} groups"
    )
    if steps:
        best = max(steps, key=lambda step: step.precision)
        told += f"; the best seen is {best.precision:.3f} at a yield of {best.accepted / len(labels):.1%}"
    needed = labels_needed(labels, draft.precision, draft.confidence)
    if needed:
        return f"{told}. About {needed - len(labels)} more labels like these would do, in 4 of 5 cases"
    return (
        f"{told}. More labels would not do with this scorer: train a better one, ask for less (precision, "
        "acceptable=average), or grade artworks of which more are good"
    )


def _description(scorer: Path) -> Mapping[str, Any]:
    """Of a scorer's folder, without building it."""
    try:
        description = json.loads((scorer / "scorer.json").read_text())["description"]
        if isinstance(description, Mapping):
            return description
    except FileNotFoundError:
        raise UserError(f"{scorer} is not a scorer (no scorer.json in it): name a folder that train.py made") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{scorer / 'scorer.json'} is damaged: copy the folder again, or train the scorer again")


def _digest(image_ids: Sequence[str], targets: NDArray[np.float32]) -> str:
    """Hex sha256 over the image_ids and grades, whatever their order."""
    lines = sorted(f"{name} {np.round(row, 5).tolist()}" for name, row in zip(image_ids, targets, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
