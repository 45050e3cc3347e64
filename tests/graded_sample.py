"""Collections with grades for the tests of training: the painted sample's planted grades stand in for annotators."""

import shutil
from pathlib import Path

import numpy as np

from artgate.artworks.collection import Collection
from artgate.artworks.sample import planted_grades
from artgate.labels.grades import GRADES, Grades


def graded_copy(sample: Collection, folder: Path) -> Collection:
    """A copy of the sample, with grades.jsonl."""
    shutil.copytree(sample.root, folder)
    collection = Collection(folder)
    Grades({image_id: {"quality": one_hot(grade)} for image_id, grade in planted_grades(collection).items()}).save(
        folder
    )
    return collection


def one_hot(grade: str) -> np.ndarray:
    return np.eye(len(GRADES))[GRADES.index(grade)]
