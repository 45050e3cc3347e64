"""How fast encoders learn: `python -m benchmarks.finetuning [--models embedded vit_b32 siglip2_b16] [--threads N]`.

Images/s of one step (forward, loss, backward, optimiser) in each mode of `finetune=`, on pictures that lie in memory,
beside the frozen forward. Wall seconds, and CPU seconds of all threads together: on a machine with other work on it the
latter tell more. One run, the candidates interleaved and repeated; the fastest round counts. It says nothing of
quality: the CLIP architectures have random weights here, written to a local checkpoint and read back as users' are.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from artgate.config import validated
from artgate.scoring.config import FinetuneConfig
from artgate.scoring.encoders import Encoder, build_encoder
from artgate.scoring.heads import OrdinalHead, corn_loss
from artgate.scoring.layers import learning_groups
from artgate.scoring.tuning_module import TuningModule

CONF = Path(__file__).parents[1] / "conf" / "finetune"
CLIP = {"vit_b32": "ViT-B-32", "vit_l14": "ViT-L-14", "siglip2_b16": "ViT-B-16-SigLIP2-256"}
MODES = ("last", "all", "lora")


class Taken(NamedTuple):
    """Seconds of one round."""

    wall: float
    cpu: float


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"{options.minibatch} images to a step, {options.threads} threads, {options.rounds} rounds, the fastest\n")
    print("| encoder | what learns | arithmetic | images/s | images / CPU second |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            for told, encoder in _encoders(name, Path(folder)):
                _benchmark(told, encoder, options)


def _encoders(name: str, folder: Path) -> Iterator[tuple[str, Encoder]]:
    if name == "embedded":
        for sizes in ([224], [448]):
            yield f"embedded, {sizes[0]} px", build_encoder({"kind": "embedded", "sizes": sizes})
        return
    import open_clip
    from safetensors.torch import save_file

    checkpoint = folder / f"{name}.safetensors"
    torch.manual_seed(0)
    save_file(open_clip.create_model(CLIP[name]).state_dict(), checkpoint)
    config = yaml.safe_load((CONF.parent / "encoder" / f"{_config_of(name)}.yaml").read_text())
    encoder = build_encoder({**config, "checkpoint": str(checkpoint)})
    checkpoint.unlink()
    yield f"{CLIP[name]}, {encoder.preprocessing.sizes[0]} px", encoder


def _config_of(name: str) -> str:
    return {"vit_b32": "clip_vit_b32", "vit_l14": "clip_vit_l14", "siglip2_b16": "siglip2_b16_256"}[name]


def _benchmark(told: str, encoder: Encoder, options: argparse.Namespace) -> None:
    (size,) = encoder.preprocessing.sizes
    views = [torch.randint(0, 256, (options.minibatch, size, size, 3), dtype=torch.uint8)]
    steps: dict[tuple[str, str], Callable[[], None]] = {}
    for half in (False, True):
        arithmetic = "bfloat16" if half else "float32"
        steps["nothing: the frozen forward", arithmetic] = _frozen(encoder, views, half)
        for mode in MODES:
            steps[mode, arithmetic] = _step(encoder, views, mode, half)
    steps["last, what is frozen kept in memory", "float32"] = _step(encoder, views, "last", half=False, kept=True)
    if any(isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) for module in encoder.network.modules()):
        steps["all, not channels-last", "float32"] = _step(encoder, views, "all", half=False, plain=True)
    steps["all, checkpointing", "float32"] = _step(encoder, views, "all", half=False, checkpointing=True)
    best: dict[tuple[str, str], Taken] = {}
    for _ in range(options.rounds):
        for key, step in steps.items():
            taken = _timed(step)
            best[key] = Taken(*(min(pair) for pair in zip(taken, best.get(key, taken), strict=True)))
    for (learns, arithmetic), taken in best.items():
        rate, per_cpu = options.minibatch / taken.wall, options.minibatch / taken.cpu
        print(f"| {told} | {learns} | {arithmetic} | {rate:.1f} | {per_cpu:.1f} |", flush=True)


def _frozen(encoder: Encoder, views: list[Tensor], half: bool) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=half):
            encoder.features(views, encoder.network)

    return step


def _step(
    encoder: Encoder,
    views: list[Tensor],
    mode: str,
    half: bool,
    plain: bool = False,
    checkpointing: bool = False,
    kept: bool = False,
) -> Callable[[], None]:
    values: dict[str, Any] = yaml.safe_load((CONF / "_base.yaml").read_text())
    more = {"mode": mode, "groups": 3 if mode == "last" else 0, "checkpointing": checkpointing, "renditions": int(kept)}
    config = validated(FinetuneConfig, values | more)
    head = OrdinalHead(encoder.dim, aspects=1, grades=3, kind="mlp", hidden=64, dropout=0.2, members=4)
    module = TuningModule(encoder, head, config, seed=0).to(encoder.device).train()
    network: Any = module.learner["network"]
    if plain:
        network.to(memory_format=torch.contiguous_format)
    seen = (lambda images: network(images.contiguous())) if plain else network
    optimizer = torch.optim.AdamW(
        [*learning_groups(network, config), {"params": list(module.learner["head"].parameters())}]
    )
    targets = torch.eye(3)[torch.arange(len(views[0])) % 3][:, None].to(encoder.device)

    front = module.front
    records = front.collate([front.record([view]) for view in views[0]]) if front else None

    def step() -> None:
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=half):
            features = front.features(records, network) if front else encoder.features(views, seen)
        loss = corn_loss(
            module.learner["head"](features), targets, torch.ones(targets.shape[:2], device=targets.device)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _timed(step: Callable[[], None]) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("embedded", *CLIP), default=["embedded"])
    parser.add_argument("--minibatch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
