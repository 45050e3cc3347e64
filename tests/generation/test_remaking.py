"""An accepted artwork is made again from its sidecar; what is not as it was is named."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import composed, configured, ledger
from PIL import Image
from sd_parsers import ParserManager

from artgate.artworks.decode import decode
from artgate.artworks.parameters import read_parameters
from artgate.errors import UserError
from artgate.generation.artwork_file import SAMPLERS
from artgate.generation.config import MovedConfig
from artgate.generation.production import generate, run
from artgate.generation.remaking import compare, psnr, read_sidecar, remake
from artgate.generation.schedulers import SCHEDULERS

FORMATS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def enlarged(model: Path, scorer: Path, tmp_path_factory) -> dict[str, Path]:
    """Format → the sidecar of an artwork that was enlarged, then fitted to its final size."""
    sidecars = {}
    for format in FORMATS:
        root = tmp_path_factory.mktemp(format) / "batch"
        options = [f"image.format={format}", "image.quality=90", "upscaler=embedded_animevideov3", "target=1"]
        made = ["application.width=64", "application.height=64"]
        sized = ["application.final_width=200", "application.final_height=180"]
        prompt = "prompts.prompts=['a (frog:1.3), painting \\[é]']"
        generate(configured(model, scorer, root, "gate.threshold=0", *options, *made, *sized, prompt))
        (sidecars[format],) = (root / "accepted" / "sidecars").iterdir()
    return sidecars


def artwork_of(sidecar: Path) -> Path:
    (path,) = (sidecar.parents[1] / "images").glob(f"{sidecar.stem}.*")
    return path


def changed(sidecar: Path, folder: Path, change: Any) -> Path:
    """A copy of the batch in which the sidecar is changed."""
    copy = shutil.copytree(sidecar.parents[2], folder / "batch") / "accepted" / "sidecars" / sidecar.name
    told = json.loads(copy.read_text())
    change(told)
    copy.write_text(json.dumps(told))
    return copy


@pytest.mark.parametrize("format", FORMATS)
def test_prompts_and_seeds_survive_enlargement_and_fitting(enlarged: dict[str, Path], format: str):
    path = artwork_of(enlarged[format])
    line = ledger(enlarged[format].parents[2])[0]
    assert path.suffix == f".{FORMATS[format]}"
    data = path.read_bytes()
    assert decode(data).size == (200, 180)
    ours = read_parameters(data)
    assert ours is not None
    assert (ours.prompt, ours.negative_prompt, ours.seed) == (line["prompt"], line["negative_prompt"], line["seed"])
    assert (ours.sampler, ours.steps, ours.guidance, ours.size) == ("Euler a", 2, 3.0, (64, 64))
    assert ours.extras["Hires resize"] == "200x180"
    with Image.open(io.BytesIO(data)) as image:
        theirs = ParserManager().parse(image)
    (sampler,) = theirs.samplers
    assert sampler.name == ours.sampler and theirs.metadata["Size"] == "64x64"
    assert [prompt.value for prompt in sampler.prompts] == [line["prompt"]]
    assert sampler.parameters == {"cfg_scale": "3.0", "seed": str(line["seed"]), "steps": "2"}


@pytest.mark.parametrize("format", FORMATS)
def test_an_artwork_is_made_again_bit_by_bit(enlarged: dict[str, Path], tmp_path: Path, capsys, format: str):
    out = tmp_path / f"again.{FORMATS[format]}"
    run(composed("generate", "mode=remake", f"sidecar={enlarged[format]}", f"out={out}"))
    assert out.read_bytes() == artwork_of(enlarged[format]).read_bytes()
    told = capsys.readouterr().out
    assert told.endswith(f"remade {out}\nbefore enlargement: bit-identical\nas delivered: bit-identical\n")


def test_what_is_made_again_does_not_hang_on_the_scorer_nor_on_threads(enlarged, tmp_path: Path):
    def change(told: dict[str, Any]) -> None:
        told["config"]["scorer"] = "/no/longer/there"
        told["models"]["scorer"]["fingerprint"] = "0" * 64

    sidecar = changed(enlarged["png"], tmp_path, change)
    torch.set_num_threads(2)
    try:
        remade = remake(sidecar)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert remade.data == artwork_of(sidecar).read_bytes()
    assert not remade.notes


def test_other_versions_are_named_and_other_models_refused(enlarged, tmp_path: Path, capsys):
    def older(told: dict[str, Any]) -> None:
        told["versions"] |= {"torch": "1.0", "processor": "abacus"}

    def other(told: dict[str, Any]) -> None:
        told["models"]["diffusion"] = {"name": "dreamy", "fingerprint": "f" * 64}

    sidecar = changed(enlarged["png"], tmp_path / "older", older)
    run(composed("generate", "mode=remake", f"sidecar={sidecar}", f"out={tmp_path}"))
    told = capsys.readouterr().out
    assert f"warning: made with torch 1.0, and here is {version('torch')}" in told
    assert "warning: made with processor abacus" in told and told.count("warning") == 2
    assert (tmp_path / artwork_of(sidecar).name).exists()
    with pytest.raises(UserError, match=r"was made with diffusion dreamy f{12}, and what is loaded now is embedded"):
        remake(changed(enlarged["png"], tmp_path / "other", other))


def test_another_picture_is_told_from_a_rounding(enlarged, tmp_path: Path, capsys):
    def reseeded(told: dict[str, Any]) -> None:
        told["candidate"]["seed"] += 1

    sidecar = changed(enlarged["png"], tmp_path / "reseeded", reseeded)
    out = tmp_path / "out.png"
    with pytest.raises(UserError, match=r"is not the picture that .* tells of \(PSNR \d\d?\.\d dB\)"):
        run(composed("generate", "mode=remake", f"sidecar={sidecar}", f"out={out}"))
    assert out.exists() and re.search(r"as delivered: PSNR \d\d?\.\d dB", capsys.readouterr().out)
    # one grey level in one value of a picture: 84.0 dB
    sidecar = changed(enlarged["png"], tmp_path / "rounded", lambda told: told["small"].update(sha256="0" * 64))
    small = sidecar.parents[2] / "small" / f"{sidecar.stem}.png"
    pixels = np.asarray(Image.open(small)).copy()
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(small)
    before, after = compare(sidecar, remake(sidecar))
    assert before.decibels == pytest.approx(10 * math.log10(255**2 * pixels.size)) and after.decibels == math.inf


def test_a_sidecar_alone_makes_the_artwork_and_says_what_cannot_be_compared(enlarged, tmp_path: Path, capsys):
    alone = tmp_path / "a" / "b" / "told.json"
    alone.parent.mkdir(parents=True)
    shutil.copyfile(enlarged["png"], alone)
    with contextlib.chdir(alone.parent):  # named without any folder
        run(composed("generate", "mode=remake", f"sidecar={alone.name}", f"outputs={tmp_path}"))
    assert (tmp_path / "remade" / artwork_of(enlarged["png"]).name).exists()
    assert "bit-identical\nas delivered: nothing to compare with" in capsys.readouterr().out
    told = json.loads(alone.read_text())
    alone.write_text(json.dumps(told | {"small": {"sha256": "0" * 64}}))
    before, _ = compare(alone, remake(alone))
    assert before.decibels is None and "not bit-identical; how like, cannot be told" in before.told


@pytest.mark.parametrize("elsewhere", [False, True])
def test_another_picture_is_told_of_a_sidecar_alone_where_nothing_accounts_for_it(
    enlarged, tmp_path: Path, capsys, elsewhere: bool
):
    told = json.loads(enlarged["png"].read_text())
    told["candidate"]["seed"] += 1
    told["versions"] |= {"torch": "1.0"} if elsewhere else {}
    alone = tmp_path / "told.json"
    alone.write_text(json.dumps(told))
    command = composed("generate", "mode=remake", f"sidecar={alone}", f"out={tmp_path / 'out.png'}")
    if elsewhere:
        run(command)
        assert "out.png is like the picture that" in capsys.readouterr().out.splitlines()[-1]
    else:
        with pytest.raises(UserError, match=r"out\.png is not the picture .* libraries and processor are the same"):
            run(command)
    assert (tmp_path / "out.png").exists()


@pytest.fixture(scope="module")
def relative(model: Path, scorer: Path, tmp_path_factory) -> Path:
    """The sidecar of an artwork whose model and base picture were named relative to the folder that it was made in."""
    made_in = tmp_path_factory.mktemp("made_in")
    shutil.copytree(model, made_in / "models" / "mine")
    Image.new("RGB", (64, 64), "teal").save(made_in / "teal.png")
    prompt = "prompts.prompts=[{prompt: a frog, basemap: teal.png}]"
    with contextlib.chdir(made_in):
        overrides = ("gate.threshold=0", "target=1", prompt, "basemap.strength=0.5")
        generate(configured(Path("models/mine"), scorer, Path("batch"), *overrides))
    (sidecar,) = (made_in / "batch" / "accepted" / "sidecars").iterdir()
    assert json.loads((made_in / "batch" / "config.json").read_text())["diffusion"]["model"] == "models/mine"
    return sidecar


def test_models_named_by_relative_paths_are_found_from_elsewhere(relative: Path, tmp_path: Path):
    with contextlib.chdir(tmp_path):
        assert remake(relative).data == artwork_of(relative).read_bytes()


def test_what_has_moved_is_told_with_its_cure(relative: Path, tmp_path: Path):
    project = shutil.copytree(relative.parents[3], tmp_path / "project")
    told = json.loads(relative.read_text())
    told["paths"] = {name: str(tmp_path / "gone" / name) for name in told["paths"]}
    assert set(told["paths"]) == {"models/mine", "teal.png"}
    sidecar = project / "batch" / "accepted" / "sidecars" / relative.name
    sidecar.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"gone/models/mine, which is not there any more: .* moved\.model=…"):
        remake(sidecar)
    with pytest.raises(UserError, match=r"moved\.model some/where is not there: give where models/mine lies by now"):
        remake(sidecar, MovedConfig(model="some/where"))
    moved = [f"moved.model={project / 'models' / 'mine'}", f"moved.basemap={project}"]
    run(composed("generate", "mode=remake", f"sidecar={sidecar}", f"out={tmp_path / 'a.png'}", *moved))
    assert (tmp_path / "a.png").read_bytes() == artwork_of(relative).read_bytes()
    with contextlib.chdir(project):  # all of it has moved
        assert remake(sidecar).data == artwork_of(relative).read_bytes()
    with pytest.raises(UserError, match=r"moved\.lora is given, and .* names nothing of the kind: leave it out"):
        remake(sidecar, MovedConfig(lora="x"))
    del told["paths"]  # as former versions wrote it
    sidecar.write_text(json.dumps(told))
    with contextlib.chdir(project):
        assert remake(sidecar).data == artwork_of(relative).read_bytes()
    with (
        contextlib.chdir(tmp_path),
        pytest.raises(UserError, match=r"run it where generate\.py ran then, or say .* moved\.model=FOLDER"),
    ):
        remake(sidecar)
    with pytest.raises(UserError, match="moved is for mode=remake"):
        run(composed("generate", "moved.model=x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: give the JSON of an accepted artwork"),
        ("{", "is damaged"),
        ("[1]", "holds .* and no JSON object"),
        ('{"image_id": "a", "candidate": {}, "models": {}}', "is no sidecar of an accepted artwork: it has no config"),
        (
            '{"image_id": "../../a", "candidate": {}, "models": {}, "config": {}}',
            "image_id '../../a', which is not 64 hex digits",
        ),
    ],
)
def test_what_is_no_sidecar_is_refused(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "sidecar.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_sidecar(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told["config"].update(gate=3), r"\.json: gate"),
        (
            lambda told: told["config"]["diffusion"].update(model="/no/model"),
            "diffusion.model '/no/model' is not there",
        ),
    ],
)
def test_a_sidecar_that_was_changed_by_hand_is_refused(enlarged, tmp_path: Path, change: Any, message: str):
    with pytest.raises(UserError, match=message):
        remake(changed(enlarged["png"], tmp_path, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": 3}, "config 3, which is not a JSON object"),
        ({"config": {}}, "no config.diffusion"),
        ({"config": {"diffusion": 3}}, "config.diffusion 3, which is not a JSON object"),
        ({"sampler": 7}, "sampler 7, which is not a JSON object"),
        ({"sampler": {"slots": "x"}}, "sampler.slots 'x', which is not a whole number from 1 on, or null"),
        ({"models": 5}, "models 5, which is not a JSON object of models"),
        ({"models": {"diffusion": "x"}}, "models.diffusion 'x', which is not a JSON object with name and fingerprint"),
        ({"candidate": {"index": 0}}, "no candidate.prompt"),
        ({"candidate": {"index": 0, "prompt": 5}}, "candidate.prompt 5, which is not a text"),
        ({"versions": [1]}, "versions [1], which is not a JSON object of texts"),
        ({"small": [1]}, "small [1], which is not a JSON object with the sha256"),
        ({"small": {}}, "no small.sha256"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_field_of_another_type_is_told_with_its_cure_before_anything_is_loaded(
    enlarged, tmp_path: Path, change: dict[str, Any], message: str
):
    path = tmp_path / "sidecar.json"
    path.write_text(json.dumps(json.loads(enlarged["png"].read_text()) | change))
    with pytest.raises(UserError, match=rf"sidecar\.json has {re.escape(message)}.*changed by hand; restore it"):
        read_sidecar(path)


def test_where_it_may_not_be_written(enlarged, tmp_path: Path):
    sidecar = changed(enlarged["png"], tmp_path, lambda told: None)
    for out, message in (
        (tmp_path / "out.jpg", "does not end as a PNG file does, which the artwork is: give out.png"),
        (artwork_of(sidecar), "is the artwork itself, which is kept as it is: give another file"),
    ):
        with pytest.raises(UserError, match=message):
            run(composed("generate", "mode=remake", f"sidecar={sidecar}", f"out={out}"))
    assert artwork_of(sidecar).read_bytes() == artwork_of(enlarged["png"]).read_bytes()
    for wrong in (["mode=remake"], ["sidecar=x.json"], ["out=x.png"]):
        with pytest.raises(UserError, match=r"go together|out x\.png is for mode=remake"):
            run(composed("generate", *wrong))


@pytest.mark.slow
def test_on_a_lesser_processor_it_is_the_same_to_the_eye(enlarged, tmp_path: Path):
    """Sums without this machine's wide registers are what another machine computes."""
    lesser = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    code = (
        "import sys; from pathlib import Path; from artgate.generation.remaking import compare, remake\n"
        "remade = remake(Path(sys.argv[1])); print(compare(Path(sys.argv[1]), remade)[0].decibels, remade.notes)"
    )
    command = [sys.executable, "-c", code, str(enlarged["png"])]
    done = subprocess.run(command, env={**os.environ, **lesser}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decibels, _, notes = done.stdout.strip().splitlines()[-1].partition(" ")
    assert float(decibels) >= 50
    assert "made with processor" in notes and "DEFAULT" in notes


def test_psnr_is_that_of_its_definition():
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (51, 51, 51))
    assert psnr(black, black) == math.inf
    assert psnr(black, grey) == pytest.approx(20 * math.log10(255 / 51))


def test_schedulers_are_told_by_the_names_that_others_know():
    """As in A1111's list; what only we have keeps our name."""
    assert set(SCHEDULERS) - set(SAMPLERS) == {"ddpm"} and set(SAMPLERS) <= set(SCHEDULERS)
