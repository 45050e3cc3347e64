import hashlib
import json
from dataclasses import fields, replace

import pytest

from artgate.artworks.artwork import Artwork, Provenance, file_name_of, image_id_of
from artgate.errors import UserError

ID = hashlib.sha256(b"picture").hexdigest()
FULL = Provenance(
    source="civitai",
    source_id="123",
    page_url="https://example.org/123",
    image_url="https://example.org/123.png",
    creator="Ada",
    licence="CC0-1.0",
    terms="as of 2024",
    prompt='a "fox"\nin snow',
    negative_prompt="blurry",
    generator="sdxl",
    sampler="DPM++ 2M",
    seed=2**64 - 1,
    steps=20,
    guidance=7.0,
    parameters={"Clip skip": 2, "loras": ["a", "b"], "empty": None},
    http_status=200,
    collected_at="2024-05-01T10:00:00+00:00",
)
ARTWORK = Artwork(ID, file_name_of(ID, "PNG"), 640, 480, "PNG", "ab" * 32, 77, FULL)


def test_image_id_is_the_sha256_of_the_bytes():
    assert image_id_of(b"picture") == ID
    assert file_name_of(ID, "JPEG") == f"images/{ID}.jpg"


@pytest.mark.parametrize("provenance", [FULL, Provenance()])
def test_a_record_survives_its_json(provenance):
    artwork = replace(ARTWORK, provenance=provenance)
    assert Artwork.from_json(json.loads(json.dumps(artwork.to_json()))) == artwork


def test_the_json_is_flat_starts_with_file_name_and_has_the_same_types_when_nothing_is_known():
    full, bare = ARTWORK.to_json(), replace(ARTWORK, provenance=Provenance()).to_json()
    assert next(iter(full)) == "file_name"
    assert set(full) == {f.name for f in (*fields(Artwork), *fields(Provenance))} - {"provenance"}
    assert {k: type(v) for k, v in full.items()} == {k: type(v) for k, v in bare.items()}
    assert {type(v) for v in full.values()} == {str, int}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file_name": "../../etc/passwd"}, "file_name must be"),
        ({"image_id": "../x", "file_name": "images/../x.png"}, "image_id '../x'"),
        ({"seed": "many"}, "not valid"),
        ({"parameters": "{"}, "not valid"),
        ({"image_id": 7}, "not valid"),
    ],
)
def test_a_crafted_record_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        Artwork.from_json({**ARTWORK.to_json(), **change})


def test_an_imagefolders_line_that_is_no_artwork_says_how_to_import_it():
    with pytest.raises(UserError, match=r"no 'image_id'.*artgate import"):
        Artwork.from_json({"file_name": "images/a.png", "text": "a fox"})


def test_columns_that_others_added_are_ignored():
    assert Artwork.from_json({**ARTWORK.to_json(), "caption": "a fox"}) == ARTWORK
