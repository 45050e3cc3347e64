import io

import pytest
from PIL import Image

from artgate.artworks.collection import Collection
from artgate.artworks.files import as_lines
from artgate.artworks.rejects import import_rejected
from artgate.errors import UserError


def batch(root, lines):
    """A batch's folder with a picture for each rejected line."""
    (root / "rejected").mkdir(parents=True)
    for line in lines:
        if line.get("file", "").startswith("rejected/"):
            picture = io.BytesIO()
            Image.effect_noise((64, 48), 20 + line["index"]).save(picture, "WEBP")
            (root / line["file"]).write_bytes(picture.getvalue())
    (root / "candidates.jsonl").write_text(as_lines(lines))
    return root


def line(index, status="rejected", **more):
    told = {"index": index, "prompt": f"a cat {index}", "negative_prompt": "", "seed": 7 + index, "score": 0.25}
    return {**told, "status": status, "reason": "score 0.25 < 0.6", "file": f"rejected/{index:06}.webp", **more}


def test_rejected_candidates_become_a_collection_with_what_is_known_of_them(tmp_path):
    root = batch(tmp_path / "run", [line(0), line(1, "accepted", file="accepted/images/x.png"), line(2)])
    collection = import_rejected(root, tmp_path / "collection")
    assert [artwork.provenance.prompt for artwork in collection] == ["a cat 0", "a cat 2"]
    provenance = next(iter(collection)).provenance
    assert (provenance.source, provenance.source_id, provenance.seed) == ("artgate-rejected", "run/0", 7)
    assert provenance.parameters == {"score": 0.25, "reason": "score 0.25 < 0.6"}
    assert len(import_rejected(root, tmp_path / "collection")) == 2
    assert len(Collection(tmp_path / "collection")) == 2


def test_folders_that_will_not_do_are_told_with_the_cure(tmp_path):
    with pytest.raises(UserError, match=r"is not a batch \(no candidates.jsonl in it\)"):
        import_rejected(tmp_path, tmp_path / "c")
    lines = [line(0, file=None), line(1, file="rejected/gone.webp")]
    root = tmp_path / "run"
    (root / "rejected").mkdir(parents=True)
    (root / "candidates.jsonl").write_text(as_lines(lines))
    with pytest.raises(UserError, match="0 pictures of rejected candidates: generate with keep_rejected=true"):
        import_rejected(root, tmp_path / "c")
    (root / "candidates.jsonl").write_text(as_lines([line(0, file="../secret.webp")]))
    with pytest.raises(UserError, match="names '../secret.webp', outside its folder"):
        import_rejected(root, tmp_path / "c")
    assert not (tmp_path / "c").exists()
