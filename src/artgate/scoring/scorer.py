"""Encoder, head and calibration as one artefact: image -> Score. What crosses from scoring to generation.

The folder holds `scorer.json` (encoder, grades, aspects, calibration, what it learnt from and how well),
`head.safetensors` (weights in float16) and `README.md`, the model card; where the encoder was fine-tuned,
`encoder.safetensors` with all of its weights; where the prompt is read, `alignment.safetensors`, the head that does.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from artgate.artworks.files import write_atomic
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring.calibration import Calibration
from artgate.scoring.encoders import Encoder, build_encoder
from artgate.scoring.heads import OrdinalHead
from artgate.scoring.metrics import predicted_grade
from artgate.scoring.shipped import default_scorer_path as default_scorer_path  # asked for together with `Scorer`
from artgate.scoring.text_encoders import PROMPTED, TextEncoder, build_text_encoder, joint_dim, joint_features

FORMAT = 1
DESCRIPTION, WEIGHTS, CARD = "scorer.json", "head.safetensors", "README.md"
TUNED, ALIGNMENT = "encoder.safetensors", "alignment.safetensors"
# The keys of scorer.json that scores depend on.
IDENTITY = ("encoder", "grades", "aspects", "head", "calibration", "weights_sha256")
# Those that only some scorers have.
FURTHER = ("tuned_sha256", "prompted")


@dataclass(frozen=True)
class Score:
    """What a scorer thinks of one image.

    score: expected grade of quality / 2, in [0, 1], from calibrated probabilities. grade: quality's median.
    probabilities: of quality's grades. aspects: the same for every aspect the scorer knows, quality included; alignment
    is absent where the scorer reads prompts and was given none. prompt_read: whether alignment is to a prompt that was
    read; if not, it is what the image alone suggests.
    """

    score: float
    grade: str
    probabilities: dict[str, float]
    aspects: dict[str, dict[str, float]]
    prompt_read: bool = False


@dataclass(frozen=True)
class PromptedHead:
    """Alignment: a text tower, and a head of one aspect on `joint_features` of image and prompt, calibrated."""

    text: TextEncoder
    head: OrdinalHead
    calibration: Calibration

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N, D) image features, N prompts -> (N, K) probabilities."""
        return self.calibration(self.head(joint_features(images, self.text.encode(prompts))))[:, 0]


class Scorer:
    """Scores images; made by `train.py`, or read with `Scorer.load`.

    aspects: those that the image alone decides, in the head's order. description: what else `scorer.json` tells:
    training data, metrics, and so on. prompted: where there is one, it alone tells alignment, and only to a prompt.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: OrdinalHead,
        calibration: Calibration,
        aspects: Sequence[str],
        description: dict[str, Any] | None = None,
        prompted: PromptedHead | None = None,
    ):
        self.encoder = encoder
        self.head = head.eval()
        self.calibration = calibration
        self.aspects = tuple(aspects)
        self.description = description or {}
        self.prompted = prompted
        self.head.round_to_half()  # what is saved is what scores
        if prompted:
            prompted.head.eval().round_to_half()

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Scorer":
        """Read a scorer folder and build its encoder.

        Raises UserError for a folder that is not a scorer or was damaged, an encoder that cannot be built here, and an
        encoder that is not the one the head learnt from: its scores would mean nothing.
        """
        folder = Path(path)
        read = _read_description(folder)
        config = {**read["encoder"]["config"], "device": device}
        tuned = _read_weights(folder, read["tuned_sha256"], TUNED) if "tuned_sha256" in read else None
        encoder = build_encoder(config, tuned)
        if encoder.fingerprint != read["encoder"]["fingerprint"]:
            raise UserError(
                f"{folder} learnt from encoder {read['encoder']['name']} {read['encoder']['fingerprint'][:12]}, and "
                f"here that name builds {encoder.fingerprint[:12]} (other weights or preprocessing): "
                "install the weights it learnt from, or train the scorer again"
            )
        head = OrdinalHead(read["encoder"]["dim"], len(read["aspects"]), len(GRADES), **read["head"])
        _lay_in(head, folder, read["weights_sha256"], WEIGHTS)
        prompted = _read_prompted(folder, read["prompted"], config, encoder.dim) if "prompted" in read else None
        return cls(encoder, head, _calibration(read["calibration"]), read["aspects"], read["description"], prompted)

    def save(self, path: str | Path, card: str = "") -> Path:
        """Write the folder; `card` becomes its README.md. Returns the folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = _weights(self.head)
        identity = self._identity()
        record = {
            "format": FORMAT,
            "fingerprint": _fingerprint(identity),
            **identity,
            "description": self.description,
        }
        write_atomic(folder / WEIGHTS, weights)
        if self.encoder.tuned:
            write_atomic(folder / TUNED, self.encoder.tuned_weights())
        if self.prompted:
            write_atomic(folder / ALIGNMENT, _weights(self.prompted.head))
        write_atomic(folder / CARD, card)
        write_atomic(folder / DESCRIPTION, json.dumps(record, indent=1) + "\n")
        return folder

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over all that scores depend on."""
        return _fingerprint(self._identity())

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str | None] | None = None) -> list[Score]:
        """Score RGB images; an image's score does not depend on its neighbours (to 1e-5).

        prompts: of each image, where known. Only alignment depends on them.
        """
        if not images:
            return []
        with torch.inference_mode():
            return self.score_features(self.encoder.encode_images(list(images)), prompts)

    def preprocess(self, image: Image.Image) -> tuple[Tensor, ...]:
        """An RGB image → what `score_preprocessed` takes; safe in threads."""
        return self.encoder.preprocess(image)

    def score_preprocessed(
        self, items: Sequence[tuple[Tensor, ...]], prompts: Sequence[str | None] | None = None
    ) -> list[Score]:
        """Score preprocessed images as one minibatch; prompts as in `__call__`."""
        if not items:
            return []
        with torch.inference_mode():
            return self.score_features(self.encoder.encode(self.encoder.collate(items)), prompts)

    def score_features(self, features: Any, prompts: Sequence[str | None] | None = None) -> list[Score]:
        """Score (N, D) features of the scorer's encoder; prompts as in `__call__`: N of them, or ValueError."""
        features = torch.as_tensor(features, dtype=torch.float32, device="cpu")
        if prompts is not None and len(prompts) != len(features):
            raise ValueError(f"{len(prompts)} prompts are not one for each of {len(features)} images")
        with torch.inference_mode():
            probabilities = self.calibration(self.head(features))  # (N, A, K)
            scores = [self._score(row) for row in probabilities]
            return self._with_alignment(scores, features, prompts) if self.prompted and prompts else scores

    def _with_alignment(self, scores: list[Score], features: Tensor, prompts: Sequence[str | None]) -> list[Score]:
        known = [row for row, prompt in enumerate(prompts) if prompt]
        if self.prompted and known:
            told = self.prompted(features[known], [prompts[row] or "" for row in known])  # (M, K)
            for row, probabilities in zip(known, told.tolist(), strict=True):
                alignment = {PROMPTED: dict(zip(GRADES, probabilities, strict=True))}
                scores[row] = replace(scores[row], aspects=scores[row].aspects | alignment, prompt_read=True)
        return scores

    def _score(self, probabilities: Tensor) -> Score:
        named = {
            aspect: dict(zip(GRADES, row, strict=True))
            for aspect, row in zip(self.aspects, probabilities.tolist(), strict=True)
        }
        quality = named["quality"]
        expected = sum(index * quality[grade] for index, grade in enumerate(GRADES))
        score = min(max(expected / (len(GRADES) - 1), 0.0), 1.0)
        grade = GRADES[int(predicted_grade(np.array([list(quality.values())]))[0])]
        return Score(score, grade, quality, named)

    def _identity(self) -> dict[str, Any]:
        tuned = {"tuned_sha256": _sha256(self.encoder.tuned_weights())} if self.encoder.tuned else {}
        return {
            "encoder": {
                "name": self.encoder.name,
                "dim": self.encoder.dim,
                "fingerprint": self.encoder.fingerprint,
                "config": {key: value for key, value in self.encoder.config.items() if key != "device"},
            },
            "grades": list(GRADES),
            "aspects": list(self.aspects),
            "head": self.head.config,
            "calibration": asdict(self.calibration),
            "weights_sha256": _sha256(_weights(self.head)),
            **tuned,
            **({"prompted": _prompted_identity(self.prompted)} if self.prompted else {}),
        }


def _fingerprint(record: Mapping[str, Any]) -> str:
    identity = {key: record[key] for key in (*IDENTITY, *FURTHER) if key in IDENTITY or key in record}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} is not a scorer (no {DESCRIPTION} in it): name a folder that train.py made")
    try:
        read = json.loads(path.read_text())
        known = read["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: copy the folder again, or train the scorer again") from None
    if not known:
        raise UserError(
            f"{path} has format {read['format']}, and this artgate reads {FORMAT}: install the one it is from"
        )
    if not all(key in read for key in IDENTITY) or _fingerprint(read) != read.get("fingerprint"):
        raise UserError(f"{path} was changed (its fingerprint is another): copy the folder again, or train it again")
    if read["grades"] != list(GRADES):
        raise UserError(f"{path} has grades {read['grades']}, and this artgate has {list(GRADES)}: train it again")
    return read


def _prompted_identity(prompted: PromptedHead) -> dict[str, Any]:
    return {
        "text": {"name": prompted.text.name, "dim": prompted.text.dim, "fingerprint": prompted.text.fingerprint},
        "head": prompted.head.config,
        "calibration": asdict(prompted.calibration),
        "weights_sha256": _sha256(_weights(prompted.head)),
    }


def _read_prompted(folder: Path, read: Mapping[str, Any], config: Mapping[str, Any], dim: int) -> PromptedHead:
    text = build_text_encoder(config)
    if text is None or text.fingerprint != read["text"]["fingerprint"]:
        raise UserError(
            f"{folder} learnt from prompts as {read['text']['name']} {read['text']['fingerprint'][:12]} reads them, "
            f"and here that name builds {text.fingerprint[:12] if text else 'none'} (other weights or tokenizer): "
            "install those it learnt from, or train the scorer again"
        )
    head = OrdinalHead(joint_dim(dim, text.dim), 1, len(GRADES), **read["head"])
    _lay_in(head, folder, read["weights_sha256"], ALIGNMENT)
    return PromptedHead(text, head, _calibration(read["calibration"]))


def _calibration(read: Mapping[str, Any]) -> Calibration:
    return Calibration(tuple(read["temperature"]), tuple(tuple(bias) for bias in read["bias"]))


def _weights(head: OrdinalHead) -> bytes:
    halved = {name for name, _ in head.named_parameters()}
    state = head.state_dict().items()
    return save({key: (value.half() if key in halved else value).contiguous() for key, value in state})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lay_in(head: OrdinalHead, folder: Path, sha256: str, name: str) -> None:
    weights = _read_weights(folder, sha256, name)
    try:
        head.load_state_dict({key: value.float() for key, value in weights.items()})
    except RuntimeError:
        raise UserError(f"{folder / name} does not fit {DESCRIPTION}: copy the folder again") from None


def _read_weights(folder: Path, sha256: str, name: str) -> dict[str, Tensor]:
    path = folder / name
    data = path.read_bytes() if path.is_file() else b""
    try:
        if hashlib.sha256(data).hexdigest() == sha256:
            return load(data)
    except SafetensorError:
        pass
    raise UserError(f"{path} is missing or is not what {DESCRIPTION} names ({sha256[:12]}): copy the folder again")
