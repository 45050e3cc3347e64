"""Encoder, head and calibration as one artefact: image -> Score. What crosses from scoring to generation.

The folder holds `scorer.json` (encoder, grades, aspects, calibration, what it learnt from and how well),
`head.safetensors` (weights in float16) and `README.md`, the model card.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

FORMAT = 1
DESCRIPTION, WEIGHTS, CARD = "scorer.json", "head.safetensors", "README.md"
# The keys of scorer.json that scores depend on.
IDENTITY = ("encoder", "grades", "aspects", "head", "calibration", "weights_sha256")


@dataclass(frozen=True)
class Score:
    """What a scorer thinks of one image.

    score: expected grade of quality / 2, in [0, 1], from calibrated probabilities. grade: quality's median.
    probabilities: of quality's grades. aspects: the same for every aspect the scorer knows, quality included.
    """

    score: float
    grade: str
    probabilities: dict[str, float]
    aspects: dict[str, dict[str, float]]


class Scorer:
    """Scores images; made by `train.py`, or read with `Scorer.load`.

    description: what else `scorer.json` tells: training data, metrics, and so on.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: OrdinalHead,
        calibration: Calibration,
        aspects: Sequence[str],
        description: dict[str, Any] | None = None,
    ):
        self.encoder = encoder
        self.head = head.eval()
        self.calibration = calibration
        self.aspects = tuple(aspects)
        self.description = description or {}
        self.head.round_to_half()  # what is saved is what scores

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Scorer":
        """Read a scorer folder and build its encoder.

        Raises UserError for a folder that is not a scorer or was damaged, an encoder that cannot be built here, and an
        encoder that is not the one the head learnt from: its scores would mean nothing.
        """
        folder = Path(path)
        read = _read_description(folder)
        encoder = build_encoder({**read["encoder"]["config"], "device": device})
        if encoder.fingerprint != read["encoder"]["fingerprint"]:
            raise UserError(
                f"{folder} learnt from encoder {read['encoder']['name']} {read['encoder']['fingerprint'][:12]}, and "
                f"here that name builds {encoder.fingerprint[:12]} (other weights or preprocessing): "
                "install the weights it learnt from, or train the scorer again"
            )
        head = OrdinalHead(read["encoder"]["dim"], len(read["aspects"]), len(GRADES), **read["head"])
        weights = _read_weights(folder, read["weights_sha256"])
        try:
            head.load_state_dict({key: value.float() for key, value in weights.items()})
        except RuntimeError:
            raise UserError(f"{folder / WEIGHTS} does not fit {DESCRIPTION}: copy the folder again") from None
        calibration = Calibration(
            tuple(read["calibration"]["temperature"]), tuple(tuple(bias) for bias in read["calibration"]["bias"])
        )
        return cls(encoder, head, calibration, read["aspects"], read["description"])

    def save(self, path: str | Path, card: str = "") -> Path:
        """Write the folder; `card` becomes its README.md. Returns the folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = self._weights()
        identity = self._identity(weights)
        record = {
            "format": FORMAT,
            "fingerprint": _fingerprint(identity),
            **identity,
            "description": self.description,
        }
        write_atomic(folder / WEIGHTS, weights)
        write_atomic(folder / CARD, card)
        write_atomic(folder / DESCRIPTION, json.dumps(record, indent=1) + "\n")
        return folder

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over all that scores depend on."""
        return _fingerprint(self._identity(self._weights()))

    def __call__(self, images: Sequence[Image.Image]) -> list[Score]:
        """Score RGB images; an image's score does not depend on its neighbours (to 1e-5)."""
        if not images:
            return []
        with torch.inference_mode():
            return self.score_features(self.encoder.encode_images(list(images)))

    def score_features(self, features: Any) -> list[Score]:
        """Score (N, D) features of the scorer's encoder."""
        features = torch.as_tensor(features, dtype=torch.float32, device="cpu")
        with torch.inference_mode():
            probabilities = self.calibration(self.head(features))  # (N, A, K)
        return [self._score(row) for row in probabilities]

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

    def _weights(self) -> bytes:
        halved = {name for name, _ in self.head.named_parameters()}
        state = self.head.state_dict().items()
        return save({key: (value.half() if key in halved else value).contiguous() for key, value in state})

    def _identity(self, weights: bytes) -> dict[str, Any]:
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
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }


def default_scorer_path() -> Path:
    """Folder of the scorer that comes with the package."""
    return Path(__file__).parents[1] / "assets" / "scorer"


def _fingerprint(record: Mapping[str, Any]) -> str:
    identity = {key: record[key] for key in IDENTITY}
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


def _read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    data = path.read_bytes() if path.is_file() else b""
    try:
        if hashlib.sha256(data).hexdigest() == sha256:
            return load(data)
    except SafetensorError:
        pass
    raise UserError(f"{path} is missing or is not what {DESCRIPTION} names ({sha256[:12]}): copy the folder again")
