"""An exported scorer in artgate's own hands: torchvision's preprocessing, onnxruntime's arithmetic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from artgate.errors import UserError
from artgate.scoring.portable import DESCRIPTION, explained, open_session, read_description
from artgate.scoring.preprocessing import Preprocessing
from artgate.scoring.scorer import Score


def is_exported(folder: Path) -> bool:
    """Whether `artgate export` made this folder."""
    return (folder / DESCRIPTION).is_file()


class ExportedScorer:
    """Scores images as the `Scorer` that it was exported from, in less time; of what stands beside prompts, nothing.

    fingerprint: of the model. Raises UserError for a folder that was changed, and where onnxruntime is not installed.
    """

    prompted = None

    def __init__(self, folder: str | Path):
        try:
            self.description = read_description(folder)
            # One thread: `score_files` gives each core a minibatch of its own.
            self._session = open_session(folder, self.description, threads=1)
        except ImportError:
            raise UserError("onnxruntime is not installed: `pip install 'artgate[export]'`") from None
        except (ValueError, KeyError) as error:
            raise UserError(f"{folder} is no exported scorer ({error}): export it again") from None
        self.fingerprint: str = self.description["sha256"]
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in self.description["preprocessing"].items()
        }
        self._preprocess = Preprocessing(**settings)

    def preprocess(self, image: Image.Image) -> tuple[torch.Tensor, ...]:
        """An RGB image → what `score_preprocessed` takes; safe in threads."""
        return self._preprocess(image)

    def score_preprocessed(
        self, items: Sequence[tuple[torch.Tensor, ...]], prompts: Sequence[str | None] | None = None
    ) -> list[Score]:
        """Score preprocessed images, one by one: onnxruntime gains nothing from more at once on one thread."""
        return [self._score([view.numpy().reshape(1, -1, *view.shape[-3:]) for view in item]) for item in items]

    def __call__(self, images: Sequence[Image.Image]) -> list[Score]:
        """Score RGB images."""
        return self.score_preprocessed([self.preprocess(image) for image in images])

    def _score(self, views: Sequence[np.ndarray[Any, Any]]) -> Score:
        """views: one (1, V, size, size, 3) array a size."""
        feed = dict(zip(self.description["inputs"], views, strict=True))
        return Score(**explained(self._session.run(["probabilities"], feed)[0][0], self.description))
