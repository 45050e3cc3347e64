from dataclasses import dataclass, field

import pytest

from artgate.config import validated
from artgate.errors import UserError


@dataclass
class Files:
    format: str = "png"
    quality: int = 95


@dataclass
class Batch:
    image: Files = field(default_factory=Files)
    prompts: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"image": "webp"}, "batch.image 'webp' is one value, and batch.image has several: give batch.image.format, "),
        ({"image": None}, "batch.image None is one value"),
        ({"prompts": 7}, "batch.prompts is no list: give one in brackets"),
        ({"image": {"quality": "high"}}, "batch.image.quality: Value 'high' of type 'str' could not be converted to"),
        ({"image": {"qality": 9}}, "batch.image.qality is not a setting: did you mean batch.image.quality?"),
    ],
)
def test_what_is_of_the_wrong_type_is_named_with_its_key(given, told):
    with pytest.raises(UserError) as refused:
        validated(Batch, given, "batch")
    assert told in str(refused.value)


def test_what_is_left_out_is_as_the_schema_has_it():
    assert validated(Batch, {"image": {"format": "webp"}}) == Batch(Files("webp", 95), [])
    assert validated(Batch, {"image": Files("webp")}) == Batch(Files("webp", 95), [])
