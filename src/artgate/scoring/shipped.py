"""Where the scorer is that comes with the package: told without torch, which takes seconds to import."""

from pathlib import Path


def default_scorer_path() -> Path:
    """Its folder."""
    return Path(__file__).parents[1] / "assets" / "scorer"
