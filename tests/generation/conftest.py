"""Tiny pipelines on disk and in memory, built once a session."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import build_scorer
from tiny_models import Family, build_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Path]:
    """Family → folder of its tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    return lambda family: folder / family if (folder / family).exists() else build_tiny(family, folder / family)


@pytest.fixture(scope="session")
def loaded(tiny: Callable[[Family], Path]) -> Callable[[Family], Any]:
    """Family → its tiny model, loaded."""
    from artgate.generation.models import DiffusionModel, load_model

    models: dict[Family, DiffusionModel] = {}

    def load(family: Family) -> DiffusionModel:
        if family not in models:
            models[family] = load_model({"name": family, "model": str(tiny(family)), "licence": "none"})
        return models[family]

    return load


@pytest.fixture(scope="session")
def model(tiny: Callable[[Family], Path]) -> Path:
    """Folder of the tiny checkpoint that whole batches are made with. Not to be written to."""
    return tiny("sd1")


@pytest.fixture(scope="session")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a scorer with a taste of its own. Not to be written to."""
    return build_scorer(tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As on one core: a forked child may not enter the parent's threads, and last bits depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
