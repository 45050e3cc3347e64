"""Tiny pipelines on disk and in memory, built once a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
