from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from artgate.errors import UserError
from artgate.generation.basemap import build_basemap, smooth_noise
from artgate.generation.prompts import Candidate

ONE, TWO = Candidate(0, "a", "", 1), Candidate(1, "a", "", 2)


def pixels(cfg, candidate=ONE, width=64, height=48):
    picture = build_basemap(cfg, width, height)(candidate)
    assert picture.mode == "RGB"
    assert picture.size == (width, height)
    return np.asarray(picture).astype(int)


def test_none_begins_from_noise():
    assert build_basemap({"kind": "none"}, 64, 64)(ONE) is None


def test_colour_is_that_colour_everywhere():
    assert (pixels({"kind": "colour", "colours": ["#204060"]}) == [0x20, 0x40, 0x60]).all()


@pytest.mark.parametrize(
    ("direction", "first", "last"), [("down", (0, 9), (47, 9)), ("right", (9, 0), (9, 63)), ("out", (23, 31), (0, 0))]
)
def test_tone_goes_from_the_first_colour_to_the_last(direction, first, last):
    picture = pixels({"kind": "tone", "colours": ["black", "red", "white"], "direction": direction})
    assert picture[first].sum() < 20
    assert (picture[last] == 255).all()
    assert (abs(picture - [255, 0, 0]).sum(-1) < 20).any()  # through red


def test_tone_down_is_even_across():
    picture = pixels({"kind": "tone", "colours": ["black", "white"]})
    assert (picture == picture[:, :1]).all()
    assert (np.diff(picture[:, 0, 0]) > 0).all()


def test_noise_is_of_the_seed_and_spans_the_colours():
    cfg = {"kind": "noise", "colours": ["black", "white"]}
    one, two = pixels(cfg), pixels(cfg, TWO)
    assert (one == pixels(cfg)).all()
    assert abs(one - two).mean() > 20
    assert one.min() == 0
    assert one.max() == 255


@pytest.mark.parametrize("cells", [2, 8])
def test_noise_is_smooth_at_the_scale_of_its_cells(cells):
    noise = smooth_noise(np.random.default_rng(0), 128, 128, cells, octaves=1)
    step = abs(np.diff(noise, axis=1))
    assert step.max() < 6 * cells / 128  # no jump, at the borders of cells neither
    assert step.mean() > 0.2 * cells / 128  # and not flat


def test_more_octaves_add_detail():
    coarse, fine = (smooth_noise(np.random.default_rng(0), 128, 128, 2, octaves) for octaves in (1, 5))
    assert abs(np.diff(fine)).mean() > 1.5 * abs(np.diff(coarse)).mean()


def test_background_covers_the_size_without_distortion_and_each_seed_takes_one(tmp_path):
    wide = Image.new("RGB", (200, 50), "red")
    wide.paste("blue", (75, 0, 125, 50))  # the middle 50x50, which a square is cut from
    wide.save(tmp_path / "a.png")
    Image.new("RGB", (40, 40), "lime").save(tmp_path / "b.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("not a picture")
    cfg = {"kind": "background", "files": [str(tmp_path)]}
    cut = pixels(cfg, TWO, 64, 64)
    assert (cut[:, 4:-4] == [0, 0, 255]).all()
    assert (cut.mean((0, 1)) > [-1, -1, 250]).all()
    assert (pixels(cfg, ONE, 64, 64) == [0, 255, 0]).all()


def test_a_candidates_own_picture_goes_before_the_kind(tmp_path):
    Image.new("RGB", (64, 64), "lime").save(tmp_path / "own.png")
    own = Candidate(0, "a", "", 1, basemap=str(tmp_path / "own.png"))
    assert (pixels({"kind": "colour", "colours": ["red"]}, own) == [0, 255, 0]).all()
    assert (pixels({"kind": "none"}, own) == [0, 255, 0]).all()


def test_a_broken_picture_is_told_of(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match=r"base picture .*broken.png cannot be used: "):
        build_basemap({"kind": "background", "files": [str(tmp_path / "broken.png")]}, 64, 64)(ONE)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"kind": "gradient"}, "basemap.kind 'gradient' is not one of none, colour"),
        ({"kind": "tone", "colours": ["red"]}, "basemap.kind tone needs 2 or more basemap.colours, not 1"),
        ({"kind": "colour", "colours": ["reddish"]}, "basemap colour 'reddish' is not known"),
        ({"kind": "tone", "colours": ["red", "blue"], "direction": "up"}, "basemap.direction 'up' is not one of down"),
        ({"strength": 1.5}, r"basemap.strength 1.5 is outside \(0, 1\]"),
        ({"kind": "noise", "colours": ["red", "blue"], "cells": 0}, r"basemap.cells 0 is outside \[1, 256\]"),
        ({"kind": "background"}, "basemap.kind background needs basemap.files"),
        ({"kind": "background", "files": ["no.png"]}, "basemap.files 'no.png': no picture there"),
    ],
)
def test_settings_that_cannot_work_are_refused(cfg, message):
    with pytest.raises(UserError, match=message):
        build_basemap(cfg, 64, 64)


@pytest.mark.parametrize("path", sorted(Path("conf/basemap").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_basemap_of_conf_paints(path, tmp_path):
    Image.new("RGB", (64, 64), "lime").save(tmp_path / "own.png")
    cfg = OmegaConf.load(path)
    if OmegaConf.is_missing(cfg, "files"):
        cfg.files = [str(tmp_path)]
    picture = build_basemap(cfg, 96, 64)(ONE)
    assert (picture is None) == (path.stem == "none")
