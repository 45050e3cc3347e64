"""All of the line, small: each stage on what the one before it left, and the accepted back to labelling."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from batches import composed
from tiny_models import build_tiny

from artgate.artworks.collection import Collection
from artgate.artworks.parameters import read_parameters
from artgate.artworks.sample import planted_grades
from artgate.artworks.serve import serve_collection
from artgate.labels.consensus import consensus
from artgate.labels.votes import Vote, write_votes

CRAWLER = Path(__file__).parents[1] / "crawler"


@pytest.mark.slow
def test_the_line_from_a_gallery_to_accepted_artworks_and_back_to_labels(sample, tmp_path):
    crawled = _crawl(sample, tmp_path)
    assert [artwork.image_id for artwork in crawled] != []
    assert {artwork.image_id for artwork in crawled} == {artwork.image_id for artwork in sample}

    planted = planted_grades(sample)
    votes = [Vote(artwork.image_id, "planted", "quality", planted[artwork.image_id]) for artwork in crawled]
    write_votes(crawled.root, votes)
    consensus(votes).save(crawled.root)

    metrics = _train(crawled.root, tmp_path / "train")
    assert metrics["scorer"]["srcc"] > 0.3

    summary = _generate(tmp_path / "train" / "scorer", tmp_path)
    assert summary["complete"]
    assert summary["accepted"] == 3

    accepted = Collection(tmp_path / "batch" / "accepted")
    assert len(accepted) == 3
    for artwork in accepted:
        assert artwork.provenance.source == "artgate"
        written = read_parameters(accepted.path(artwork).read_bytes())
        assert written is not None
        assert (written.prompt, written.seed) == (artwork.provenance.prompt, artwork.provenance.seed)
    regraded = [Vote(artwork.image_id, "someone", "quality", "good") for artwork in accepted]
    assert len(consensus(regraded)) == 3


def _crawl(sample: Collection, folder: Path) -> Collection:
    with serve_collection(sample) as server:
        (folder / "site.yaml").write_text(server.site)
        arguments = ["-a", f"site={folder / 'site.yaml'}", "-a", f"collection={folder / 'crawled'}"]
        quick = ["-s", "CRAWL_CONTACT=tester@example.org", "-s", "DOWNLOAD_DELAY=0", "-s", "AUTOTHROTTLE_ENABLED=False"]
        quick += ["-s", "CRAWL_ALLOW_PRIVATE=127.0.0.1"]
        command = [sys.executable, "-m", "scrapy", "crawl", "gallery", *arguments, *quick]
        subprocess.run(command, cwd=CRAWLER, check=True, capture_output=True, timeout=300)
    return Collection(folder / "crawled")


def _train(collection: Path, run: Path) -> dict:
    from artgate.scoring.training import train

    quick = ["encoder.sizes=[96]", "logger=none", "trainer.epochs=20"]
    cfg = composed("train", "experiment=sample", f"data.root={collection}", f"paths.run={run}", *quick)
    cfg.paths.cache = str(run / "cache")
    train(cfg)
    return json.loads((run / "metrics.json").read_text())


def _generate(scorer: Path, folder: Path) -> dict:
    from artgate.generation.production import generate

    model = build_tiny("sd1", folder / "model")
    overrides = [f"diffusion.model={model}", "diffusion.steps=2", "upscaler=embedded_animevideov3", "gate=best_of"]
    batch = [f"scorer={scorer}", f"batch_dir={folder / 'batch'}", "target=3"]
    return generate(composed("generate", "experiment=demo", *overrides, *batch))
