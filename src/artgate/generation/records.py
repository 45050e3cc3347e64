"""What is kept of a candidate: its picture, a sidecar that it can be remade from, and its line of the ledger."""

import io
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from artgate.artworks.artwork import Provenance, image_id_of
from artgate.artworks.collection import Collection
from artgate.artworks.decode import Refused
from artgate.artworks.files import sweep_temporaries, write_atomic
from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.artwork_file import artwork_file, picture_digest, versions
from artgate.generation.batch import Line, Outcome
from artgate.generation.config import ImageConfig
from artgate.generation.gallery_pictures import keep_thumbnail
from artgate.generation.gate import Verdict
from artgate.generation.local_paths import local_paths
from artgate.generation.prompts import Candidate
from artgate.generation.remaking import SMALL
from artgate.generation.stages import Stages

ACCEPTED, REJECTED, SIDECARS = "accepted", "rejected", "sidecars"
THUMBNAIL_SIDE = 256


class Records:
    """Writes into a batch folder; `save` is what `produce` calls for each judged candidate.

    config: the whole configuration, for the sidecars. keep_rejected: keep small pictures of the rejected.
    certificate: what sidecars tell of the gate's, where it has one.
    """

    def __init__(
        self,
        root: Path,
        stages: Stages,
        config: dict[str, Any],
        keep_rejected: bool,
        certificate: dict[str, Any] | None = None,
    ) -> None:
        self.root = root
        self.certificate = certificate
        self.stages = stages
        self.config = config
        self.image = validated(ImageConfig, config["image"], "image")
        self.keep_rejected = keep_rejected
        self.collection = Collection(root / ACCEPTED, create=True)
        for folder in (root / ACCEPTED / SIDECARS, root / REJECTED, root / SMALL):
            folder.mkdir(exist_ok=True)
            sweep_temporaries(folder)

    def save(self, outcome: Outcome, verdict: Verdict | None) -> Line:
        """Keep one candidate's picture and return its ledger line. Raises OSError where that cannot be written."""
        line = _line(outcome, verdict)
        if verdict is None or outcome.picture is None:
            return line
        if verdict.accepted:
            return {**line, **self._accept(outcome, outcome.picture, line)}
        if not self.keep_rejected:
            return line
        kept = self._reject(outcome.picture, line)
        seen = {"preview": {**line["preview"], "picture": kept["file"]}} if "preview" in line else {}
        return {**line, **kept, **seen}

    def purge_strays(self, lines: list[Line]) -> None:
        """Take out what a killed run accepted and a later one made anew with other bytes, as on a GPU it may."""
        kept = {line["image_id"] for line in lines}
        made_here = [artwork for artwork in self.collection if artwork.provenance.source == "artgate"]
        self.collection.purge(artwork.image_id for artwork in made_here if artwork.image_id not in kept)
        for path in [*(self.root / SMALL).iterdir(), *(self.root / ACCEPTED / SIDECARS).glob("*.json")]:
            if path.stem not in kept:
                path.unlink()

    def _accept(self, outcome: Outcome, picture: Image.Image, line: Line) -> Line:
        candidate = outcome.candidate
        begun = time.perf_counter()
        try:
            image = self.stages.enlarged(picture)
        except UserError:  # nothing that the next candidate would do better, as too little memory
            raise
        except Exception as error:  # whatever is wrong with one candidate must not end the batch
            return {"status": "failed", "reason": f"upscale: {type(error).__name__}: {error}"}
        enlarged = time.perf_counter()
        try:
            data = artwork_file(self.stages, candidate, image, self.image)
        except ValueError as error:  # more text than the format has room for
            return {"status": "failed", "reason": f"save: {error}"}
        image_id = image_id_of(data)
        if self.image.format != "png" or image.size != picture.size:
            write_atomic(self.root / SMALL / f"{image_id}.png", _as_png(picture))
        # The sidecar first: wherever a kill strikes, no accepted artwork is without one.
        sidecar = {"image_id": image_id, **self._sidecar(outcome, picture, line)}
        path = self.root / ACCEPTED / SIDECARS / f"{image_id}.json"
        write_atomic(path, json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n")
        keep_thumbnail(self.root, image_id, image)
        try:
            artwork = self.collection.add(data, self._provenance(candidate, line))
        except Refused as refused:
            path.unlink()
            return {"status": "failed", "reason": f"save: {refused}"}
        seconds = {**line["seconds"], "upscale": enlarged - begun, "save": time.perf_counter() - enlarged}
        return {"image_id": image_id, "file": f"{ACCEPTED}/{artwork.file_name}", "seconds": seconds}

    def _reject(self, picture: Image.Image, line: Line) -> Line:
        begun = time.perf_counter()
        small = picture.copy()
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        data = io.BytesIO()
        small.save(data, "WEBP", quality=85)
        name = f"{REJECTED}/{line['index']:06}.webp"
        write_atomic(self.root / name, data.getvalue())
        return {"file": name, "seconds": {**line["seconds"], "save": time.perf_counter() - begun}}

    def _sidecar(self, outcome: Outcome, picture: Image.Image, line: Line) -> dict[str, Any]:
        diffusion = self.stages.sampler.model.config
        candidate = asdict(outcome.candidate)
        return {
            "candidate": candidate,
            "sampler": {
                "scheduler": diffusion.scheduler,
                "steps": diffusion.steps,
                "guidance": diffusion.guidance,
                "width": self.stages.sampler.width,
                "height": self.stages.sampler.height,
                "slots": outcome.slots or self.stages.sampler.slots,
                "precision": str(self.stages.sampler.model.dtype).removeprefix("torch."),
            },
            "small": picture_digest(picture),  # before the enlargement: what a remade one is compared with
            "gate": {
                "score": line["score"],
                "probabilities": line["probabilities"],
                "reason": line["reason"],
                **({"certificate": self.certificate} if self.certificate else {}),
            },
            "models": self.stages.models,
            "versions": versions(self.stages.sampler.model.device),
            "config": self.config,
            "paths": local_paths({"config": self.config, "candidate": candidate}),
        }

    def _provenance(self, candidate: Candidate, line: Line) -> Provenance:
        diffusion = self.stages.sampler.model.config
        return Provenance(
            source="artgate",
            source_id=f"{self.config['seed']}/{candidate.index}",
            licence=diffusion.licence,
            prompt=candidate.prompt,
            negative_prompt=candidate.negative_prompt or None,
            generator=diffusion.name,
            sampler=diffusion.scheduler,
            seed=candidate.seed,
            steps=diffusion.steps,
            guidance=diffusion.guidance,
            parameters={"score": line["score"], "grade": line["grade"], "application": self.stages.application.name},
        )


def _as_png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def _line(outcome: Outcome, verdict: Verdict | None) -> Line:
    """The ledger line of what needs no picture kept."""
    candidate, score = outcome.candidate, outcome.score
    # What a safety checker rejects at the end has previews, too, that let it pass.
    left_early = outcome.previews if (outcome.rejected or "").startswith("preview") else None
    return {
        **asdict(candidate),
        "status": "failed" if verdict is None else "accepted" if verdict.accepted else "rejected",
        "score": score.score if score else None,
        "grade": score.grade if score else None,
        "probabilities": score.probabilities if score else None,
        "reason": verdict.reason if verdict else outcome.error,
        "image_id": None,
        "file": None,
        "evaluations": outcome.evaluations,
        "seconds": outcome.seconds,
        **({"point": outcome.point} if outcome.point is not None else {}),
        **({"previews": outcome.previews} if outcome.previews else {}),
        **({"preview": {**left_early[-1], "picture": None}} if left_early else {}),
    }
