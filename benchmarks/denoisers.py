"""Ways to run the embedded model's denoiser on a CPU: precision, memory layout, compiler, ONNX Runtime, caching.

    python -m benchmarks.denoisers

One core, minibatches as the slots of a core have them. Times are processor seconds an image-evaluation, the quickest of
rounds that alternate between the ways; ratios are to float32 as it is. Deviations are of the output, relative to its
spread. Then what bfloat16 changes in finished pictures, and whether with a cache they still depend on their prompt and
seed alone.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_first_block_cache as first_block_cache
from diffusers.hooks import apply_pyramid_attention_broadcast as attention_broadcast

from artgate.generation.checkpoints import EMBEDDED
from artgate.generation.models import DiffusionModel, load_model
from artgate.generation.prompts import Candidate
from artgate.generation.sampler import Finished, SlotSampler

SLOTS, STEPS = 4, 20
CANDIDATES = [Candidate(number, f"a painting of a castle, number {number}", "", number) for number in range(8)]
Call = Callable[[], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="of a minibatch: 4 slots a core, with and without prompt")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes a C++ compiler")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        speeds(ways(arguments.rows, arguments.compile), arguments.rows, arguments.rounds)
    precision()
    caching()


def ways(rows: int, compiled: bool) -> dict[str, Call]:
    """Name → one call of the denoiser on the same inputs."""
    torch.manual_seed(0)
    latents, text = torch.randn(rows, 8, 8, 8), torch.randn(rows, 77, 192)
    times = torch.linspace(10, 990, rows).long()

    def call(unet: torch.nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> Call:
        inputs = latents.to(dtype, memory_format=layout), times, text.to(dtype)
        return lambda: unet(*inputs, return_dict=False)[0].float()

    made = {
        "float32": call(unet(), torch.float32, torch.contiguous_format),
        "float32, channels last": call(
            unet().to(memory_format=torch.channels_last), torch.float32, torch.channels_last
        ),
        "bfloat16": call(unet().to(torch.bfloat16), torch.bfloat16, torch.contiguous_format),
        "bfloat16, channels last": call(
            unet().to(torch.bfloat16, memory_format=torch.channels_last), torch.bfloat16, torch.channels_last
        ),
        "ONNX Runtime": onnx_call(latents, times, text),
    }
    if compiled:
        made["torch.compile"] = call(torch.compile(unet()), torch.float32, torch.contiguous_format)
    return made


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(EMBEDDED / "unet").eval()


def onnx_call(latents: torch.Tensor, times: torch.Tensor, text: torch.Tensor) -> Call:
    import onnxruntime

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet()

        def forward(self, latents: torch.Tensor, times: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.unet(latents, times, text, return_dict=False)[0]
            return output

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "unet.onnx"
        torch.onnx.export(Plain(), (latents, times, text), path, dynamo=True, external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tensors = (latents, times, text)
    inputs = {item.name: tensor.numpy() for item, tensor in zip(session.get_inputs(), tensors, strict=True)}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def speeds(calls: dict[str, Call], rows: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    outputs: dict[str, torch.Tensor] = {}
    for name, call in [*calls.items()] * (rounds + 1):
        begun = time.process_time()
        outputs[name] = call()
        seconds[name].append(time.process_time() - begun)
    plain, spread = min(seconds["float32"][1:]), outputs["float32"].std()
    print(f"{'denoiser':26}{'ms a row':>10}{'faster':>8}{'deviation':>11}")
    for name, times in seconds.items():
        quickest = min(times[1:])  # the first warms up
        deviation = float((outputs[name] - outputs["float32"]).abs().mean() / spread)
        print(f"{name:26}{quickest / rows * 1e3:10.2f}{plain / quickest:8.2f}{deviation:11.5f}", flush=True)


def embedded(dtype: str = "float32") -> DiffusionModel:
    return load_model({"name": "embedded", "model": "embedded", "licence": "MIT", "device": "cpu", "dtype": dtype})


def painted(model: DiffusionModel, candidates: list[Candidate]) -> tuple[dict[int, torch.Tensor], float]:
    """(latents by index, processor seconds)."""
    sampler = SlotSampler(model, "dpmpp_2m", steps=STEPS, guidance=3.0, slots=SLOTS)
    begun = time.process_time()
    made = {item.candidate.index: item.latents for item in sampler.run(candidates) if isinstance(item, Finished)}
    return made, time.process_time() - begun


def precision() -> None:
    whole, half = embedded(), embedded("bfloat16")
    (ours, seconds), (theirs, half_seconds) = painted(whole, CANDIDATES), painted(half, CANDIDATES)
    differences = [pixels(whole, ours[k]) - pixels(half, theirs[k]) for k in ours]
    noise = sorted(10 * np.log10(255**2 / np.mean(difference**2)) for difference in differences)
    print(f"bfloat16 pictures: {seconds / half_seconds:.2f} times as fast, PSNR to float32's ", end="")
    print(f"{noise[0]:.1f} (least), {noise[len(noise) // 2]:.1f} dB (median)", flush=True)


def pixels(model: DiffusionModel, latents: torch.Tensor) -> np.ndarray:
    return np.asarray(model.decode(latents[None])[0]).astype(np.float64)


def caching() -> None:
    """What diffusers' caches do to slots."""
    try:
        first_block_cache(unet(), FirstBlockCacheConfig(threshold=0.1))
    except IndexError as error:
        print(f"FirstBlockCache on a U-Net: {type(error).__name__}: {error}")
    model, now = embedded(), [500]
    plain, seconds = painted(model, CANDIDATES)
    settings = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=3,
        cross_attention_block_skip_range=3,
        current_timestep_callback=lambda: now[0],
    )
    attention_broadcast(model._denoiser, settings)
    among, cached_seconds = painted(model, CANDIDATES)
    alone, _ = painted(model, CANDIDATES[-1:])
    last = CANDIDATES[-1].index
    deviation = float((among[last] - alone[last]).abs().mean() / plain[last].std())
    print(
        f"Pyramid Attention Broadcast: {seconds / cached_seconds:.2f} times as fast; candidate {last} among others ",
        end="",
    )
    print(f"differs from itself alone by {deviation:.3f} of its spread")


if __name__ == "__main__":
    main()
