"""Settings as they may be written down: secrets have no place in a file, a log or a record of a run."""

import re
from collections.abc import Mapping
from typing import Any

# A tokenizer is none.
SECRET = re.compile(r"key|token(?!i[sz]er)|secret|passw|credential", re.IGNORECASE)
MASK = "(not written down)"


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with whatever is named like a secret masked."""
    return {
        key: without_secrets(value) if isinstance(value, Mapping) else MASK if SECRET.search(key) and value else value
        for key, value in settings.items()
    }
