"""The way to a checkpoint on the hub, with a hub on loopback: what is fetched, what is cached, what is said if not."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from tiny_models import add_safety_checker, build_tiny

COMMIT = "c" * 40
SCRIPT = """
import sys
from artgate.errors import exits_cleanly
from artgate.generation.checkpoints import checkpoint_folder, lora_file, variant_of

@exits_cleanly
def main():
    model, variant = sys.argv[1], sys.argv[2] or None
    if model.endswith("lora"):
        return print(lora_file(model, "pytorch_lora_weights.safetensors"))
    folder = checkpoint_folder(model, None, variant, 2.3, safety=len(sys.argv) < 4)
    print(folder, variant_of(folder, variant))

main()
"""


@contextmanager
def hub(repositories: dict[str, Path], requests: list[str]) -> Iterator[str]:
    """A server that answers for the repositories (name → folder) as huggingface.co does."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            repository = next((name for name in repositories if name in path), None)
            if repository is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            folder = repositories[repository]
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if path.startswith("api/models/"):
                kind = {"type": "file", "oid": "0" * 40}
                tree = [{**kind, "path": name, "size": (folder / name).stat().st_size} for name in files]
                info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self.answer(200, json.dumps(tree if "/tree/" in path else info).encode(), {})
            name = path.split(f"/resolve/{COMMIT}/")[-1] if COMMIT in path else path.split("/resolve/main/")[-1]
            if name not in files:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            requests.append(name)
            data = (folder / name).read_bytes()
            self.answer(200, data, {"ETag": f'"{sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

        def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as address:
        yield address


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(home: Path, endpoint: str, model: str, variant: str = "", *off: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", SCRIPT, model, variant, *off]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def repository(tmp_path):
    """A repository as published ones are: pickles and other precisions beside the safetensors."""
    folder = build_tiny("sd1", tmp_path / "repository")
    for name in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_flax_model.msgpack", "v1-5.ckpt", "README.md"):
        (folder / name).write_bytes(b"not for us")
    for weights in list(folder.rglob("*model.safetensors")):
        (weights.parent / f"{weights.stem}.fp16.safetensors").write_bytes(weights.read_bytes())
    return folder


def test_a_checkpoint_is_fetched_once_and_only_the_files_that_are_read(repository, tmp_path):
    requests: list[str] = []
    with hub({"owner/model": repository}, requests) as endpoint:
        fetched = ask(tmp_path / "home", endpoint, "owner/model", "fp16")
        assert fetched.returncode == 0, fetched.stderr
        assert fetched.stdout.split()[1] == "fp16"
        assert "downloading owner/model (2.3 GB)" in fetched.stderr
        weights = {name for name in requests if name.endswith((".safetensors", ".bin", ".ckpt", ".msgpack"))}
        assert weights == {
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "text_encoder/model.fp16.safetensors",
        }
        assert "tokenizer/vocab.json" in requests
    requests.clear()
    again = ask(tmp_path / "home", endpoint, "owner/model", "fp16")  # the hub is gone
    assert (again.returncode, again.stdout) == (0, fetched.stdout)


def test_a_repository_without_the_variant_gives_its_plain_weights(repository, tmp_path):
    for weights in repository.rglob("*.fp16.safetensors"):
        weights.unlink()
    with hub({"owner/model": repository}, []) as endpoint:
        fetched = ask(tmp_path / "home", endpoint, "owner/model", "fp16")
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.split()[1] == "None"


@pytest.mark.slow
def test_a_safety_checker_that_is_named_is_fetched_or_missed_or_switched_off(repository, tmp_path):
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    add_safety_checker(repository, [picture, picture.rotate(90)], picture)
    requests: list[str] = []
    with hub({"owner/model": repository}, requests) as endpoint:
        off = ask(tmp_path / "home", endpoint, "owner/model", "", "off")
        assert off.returncode == 0, off.stderr
        assert not [name for name in requests if name.startswith(("safety_checker", "feature_extractor"))]
        fetched = ask(tmp_path / "home", endpoint, "owner/model")  # what is cached lacks it
        assert fetched.returncode == 0, fetched.stderr
        assert {"safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json"} <= set(requests)
    shutil.rmtree(repository / "safety_checker")
    with hub({"owner/model": repository}, []) as endpoint:
        missed = ask(tmp_path / "another_home", endpoint, "owner/model")
    assert missed.returncode == 2
    assert missed.stderr.splitlines()[-1] == (
        "error: owner/model names a safety checker and has no safety_checker/config.json: "
        "say diffusion.safety_checker=off to have the pictures unchecked"
    )
    # cached without it, and no network: both cures are named
    cached = ask(tmp_path / "another_home", endpoint, "owner/model")
    assert cached.returncode == 2
    assert "without safety_checker/config.json, say diffusion.safety_checker=off" in cached.stderr


def test_a_lora_is_fetched_from_its_repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    with hub({"owner/lora": folder}, []) as endpoint:
        fetched = ask(tmp_path / "home", endpoint, "owner/lora")
    assert fetched.returncode == 0, fetched.stderr
    assert Path(fetched.stdout.strip()).read_bytes() == b"weights"


def test_a_repository_that_is_not_there_is_named(tmp_path):
    with hub({}, []) as endpoint:
        asked = ask(tmp_path / "home", endpoint, "owner/model")
    assert asked.returncode == 2
    assert asked.stderr.splitlines()[-1].startswith("error: owner/model is not on the hub: check the name")


def test_a_repository_of_pickles_is_refused(repository, tmp_path):
    for weights in repository.rglob("*.safetensors"):
        weights.unlink()
    with hub({"owner/model": repository}, []) as endpoint:
        asked = ask(tmp_path / "home", endpoint, "owner/model")
    assert asked.returncode == 2
    assert "owner/model is no diffusers checkpoint with safetensors weights" in asked.stderr


class Silent(BaseHTTPRequestHandler):
    """A network that takes connections and never answers."""

    def do_GET(self) -> None:
        time.sleep(60)


@pytest.mark.parametrize("network", ["refused", pytest.param("silent", marks=pytest.mark.slow)])
def test_without_a_network_the_error_comes_soon_and_names_the_cures(tmp_path, network):
    with serving(Silent) as address:
        endpoint = address if network == "silent" else "http://127.0.0.1:9"
        began = time.monotonic()
        asked = ask(tmp_path / "home", endpoint, "owner/model", "fp16")
        seconds = time.monotonic() - began
    assert asked.returncode == 2
    assert "Traceback" not in asked.stderr
    message = asked.stderr.splitlines()[-1]
    assert message.startswith("error: owner/model is not in the cache and cannot be downloaded (")
    assert "`hf download owner/model` where there is a network (2.3 GB)" in message
    assert "name a local folder" in message
    assert "`experiment=demo`, which needs no download" in message
    assert seconds < 40  # 5 s of patience, the rest is importing on a busy machine


def test_an_interrupted_download_is_taken_up_again(repository, tmp_path):
    with hub({"owner/model": repository}, []) as endpoint:
        folder = Path(ask(tmp_path / "home", endpoint, "owner/model").stdout.split()[0])
        (folder / "unet" / "diffusion_pytorch_model.safetensors").resolve().unlink()
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        again = ask(tmp_path / "home", endpoint, "owner/model")
    assert again.returncode == 0, again.stderr
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
