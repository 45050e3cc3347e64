"""A scorer as one ONNX model that runs without torch: preprocessed image in, probabilities of every aspect out.

The folder holds `model.onnx` (normalisation, encoder at all sizes, head, calibration), `model.json` (preprocessing,
grades, aspects, the scorer's fingerprint) and `score.py`, a copy of `portable.py`, which scores images with them.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artgate import __version__
from artgate.artworks.decode import Refused, decode
from artgate.artworks.files import write_atomic
from artgate.artworks.importers import image_files
from artgate.errors import UserError
from artgate.labels.grades import GRADES
from artgate.scoring import portable
from artgate.scoring.portable import explained, preprocess
from artgate.scoring.scorer import Scorer
from artgate.scoring.weights import first_line

PRECISIONS = ("float32", "int8")
OPSET = 18
CLIENT = "score.py"
# What an exported scorer may differ from the scorer: in float32 by probabilities, in int8 by the order of images.
TOLERANCE = 1e-4
LEAST_RANK_CORRELATION = 0.995
# Ranges of activations are settled after some dozens of images; a rank correlation wants some hundreds.
CALIBRATION_IMAGES = 64
CHECK_IMAGES = 256
LEAST_IMAGES = CALIBRATION_IMAGES + 64

Views = list[np.ndarray]


def export_scorer(
    scorer: Scorer, folder: str | Path, precision: str = "float32", images: str | Path | None = None
) -> dict[str, Any]:
    """Write the export of `scorer` to `folder`; returns what its model.json tells.

    An aspect that is told only beside a prompt is left out. precision: `int8` rounds the encoder's weights and
    activations to 8 bits, whose ranges are measured on `images`, a folder of pictures such as will be scored.
    Raises UserError for a missing library, an encoder that cannot be exported, and a result that is not the scorer's:
    in float32 by 1e-4 in any probability, in int8 below a rank correlation of .995 on `images`.
    """
    _check(scorer, precision, images)
    _check_folder(Path(folder))
    calibration, check = _pictures(Path(str(images))) if precision == "int8" else ([], [])
    model = _onnx_model(scorer)
    differences: dict[str, float] = {"largest_difference": _largest_difference(scorer, model)}
    if precision == "int8":
        small = _quantised(model, _views_of(scorer, calibration))
        differences = _agreement(scorer, model, small, _views_of(scorer, check))
        model = small
    description = _description(scorer, model, precision) | differences
    _write(Path(folder), model, description)
    return description


class _WholeScorer(torch.nn.Module):
    """One (B, V, size, size, 3) uint8 tensor a size → (B, A, K) probabilities and (B, D) features."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self.network = scorer.encoder.network
        self.head = scorer.head
        self._normalise = scorer.encoder.preprocessing.normalise
        self._calibrate = scorer.calibration

    def forward(self, sizes: list[Tensor]) -> tuple[Tensor, Tensor]:
        parts = []
        for views in sizes:
            features = self.network(self._normalise(views.flatten(0, 1))).float()  # (B V, D')
            parts.append(features.unflatten(0, views.shape[:2]).mean(1))
        features = torch.cat(parts, dim=1)  # (B, D)
        return self._calibrate(self.head(features)).float(), features


def _onnx_model(scorer: Scorer) -> bytes:
    sizes = scorer.encoder.preprocessing.sizes
    # More than one of each, or the exporter takes it for a constant.
    example = [torch.zeros(2, 2, size, size, 3, dtype=torch.uint8) for size in sizes]
    batch, views = torch.export.Dim("B"), torch.export.Dim("V")
    try:
        with _quietly(), torch.no_grad():
            traced = torch.export.export(
                _WholeScorer(scorer).eval(), (example,), dynamic_shapes=([{0: batch, 1: views} for _ in sizes],)
            )
            exported = torch.onnx.export(
                traced.run_decompositions(_decompositions()),
                input_names=_inputs(scorer),
                output_names=["probabilities", "features"],
                opset_version=OPSET,
                verbose=False,
            )
            assert exported is not None
            return _without_traces(exported.model_proto)
    # Tracing runs the network's own code on stand-ins, and may fail in as many ways as there are networks.
    except Exception as error:
        raise UserError(
            f"encoder {scorer.encoder.name} cannot be exported ({first_line(error)}): score with the scorer itself"
        ) from error


def _without_traces(model: Any) -> bytes:
    """The exporter notes where in which file of this machine each node comes from: nobody else's business."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
    data: bytes = model.SerializeToString()
    return data


def _decompositions() -> dict[Any, Any]:
    """torch's, and what ONNX has no operation for."""

    def cumprod(values: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
        parts = list(values.to(dtype or values.dtype).unbind(dim))
        for place in range(1, len(parts)):
            parts[place] = parts[place - 1] * parts[place]
        return torch.stack(parts, dim)

    return torch.export.default_decompositions() | {torch.ops.aten.cumprod.default: cumprod}


def _largest_difference(scorer: Scorer, model: bytes) -> float:
    """Between the scorer's and the model's probabilities, on images of many shapes: files to probabilities."""
    session = _session(model)
    settings = asdict(scorer.encoder.preprocessing)
    largest = 0.0
    for image in _made_images():
        views = [view[None] for view in preprocess(image, **settings)]
        found = session.run(["probabilities"], dict(zip(_inputs(scorer), views, strict=True)))[0][0]  # (A, K)
        (score,) = scorer([image])
        expected = np.array([list(score.aspects[aspect].values()) for aspect in scorer.aspects])
        largest = max(largest, float(np.abs(found - expected).max()))
    if not largest <= TOLERANCE:
        raise UserError(
            f"the exported model differs from the scorer by {largest:.1e}, and {TOLERANCE:.0e} is the limit: "
            "score with the scorer itself"
        )
    return largest


def _made_images() -> Iterator[Image.Image]:
    rng = np.random.default_rng(0)
    for width, height in ((512, 512), (640, 360), (300, 450), (97, 64)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        fine = rng.integers(0, 32, (height, width, 3), dtype=np.uint8)
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        yield Image.fromarray((smooth // 8 * 7 + fine).astype(np.uint8))


def _quantised(model: bytes, calibration: Iterator[Views]) -> bytes:
    """The model with its encoder in 8 bits: a scale for each output channel of the weights, one for each activation.

    Clips and sums are in 8 bits too, or each would go through float32 and back. The head stays as it is: it costs
    nothing, and the score is only as fine as its input.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            views = next(calibration, None)
            return None if views is None else dict(zip(inputs, views, strict=True))

    with tempfile.TemporaryDirectory() as folder, _quietly():
        prepared, small = Path(folder) / "prepared.onnx", Path(folder) / "small.onnx"
        (Path(folder) / "model.onnx").write_bytes(model)
        quant_pre_process(str(Path(folder) / "model.onnx"), str(prepared), skip_symbolic_shape=True)
        inputs, exact = _inputs_and_exact(prepared.read_bytes())
        quantize_static(
            str(prepared),
            str(small),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Clip", "Add"],
            nodes_to_exclude=exact,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return small.read_bytes()


def _inputs_and_exact(model: bytes) -> tuple[list[str], list[str]]:
    """The names of the inputs, and of the nodes that stay in float32.

    These are what the features do not come from, and sums with a constant, which are none of the network's branches.
    """
    import onnx

    graph = onnx.load_model_from_string(model).graph
    constants = {constant.name for constant in graph.initializer}
    constants.update(name for node in graph.node if node.op_type == "Constant" for name in node.output)
    needed, exact = {"features"}, []
    for node in reversed(graph.node):
        in_encoder = bool(needed.intersection(node.output))
        if in_encoder:
            needed.update(node.input)
        if not in_encoder or (node.op_type == "Add" and constants.intersection(node.input)):
            exact.append(node.name)
    return [given.name for given in graph.input], exact


def _agreement(scorer: Scorer, exact: bytes, small: bytes, check: Iterator[Views]) -> dict[str, float]:
    """How the scores of the two models agree, on images that set no ranges."""
    from scipy.stats import spearmanr

    sessions = [_session(model) for model in (exact, small)]
    description = _description(scorer, small, "int8")
    scores: list[list[float]] = [[], []]
    for views in check:
        feed = dict(zip(_inputs(scorer), views, strict=True))
        for session, into in zip(sessions, scores, strict=True):
            into.append(explained(session.run(["probabilities"], feed)[0][0], description)["score"])
    correlation = float(spearmanr(*scores)[0])
    difference = np.abs(np.array(scores[0]) - np.array(scores[1]))
    if not correlation >= LEAST_RANK_CORRELATION:
        raise UserError(
            f"in int8 the scores of {len(difference)} images have rank correlation {correlation:.4f} with the "
            f"scorer's, and {LEAST_RANK_CORRELATION} is the limit: export with --precision float32"
        )
    return {
        "rank_correlation": correlation,
        "mean_difference": float(difference.mean()),
        "largest_difference": float(difference.max()),
    }


def _pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files to measure ranges on and files to check by, both from all over the folder."""
    files = image_files(folder)
    if len(files) < LEAST_IMAGES:
        raise UserError(
            f"{folder} holds {len(files)} images, and int8 needs {LEAST_IMAGES} or more: name another folder"
        )
    order = [files[place] for place in np.random.default_rng(0).permutation(len(files))]
    return order[:CALIBRATION_IMAGES], order[CALIBRATION_IMAGES:][:CHECK_IMAGES]


def _views_of(scorer: Scorer, files: Sequence[Path]) -> Iterator[Views]:
    settings = asdict(scorer.encoder.preprocessing)
    for file in files:
        try:
            yield [view[None] for view in preprocess(decode(file.read_bytes(), file.name), **settings)]
        except Refused:
            continue  # what scoring would not take either


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _inputs(scorer: Scorer) -> list[str]:
    return [f"views{place}_{size}" for place, size in enumerate(scorer.encoder.preprocessing.sizes)]


def _description(scorer: Scorer, model: bytes, precision: str) -> dict[str, Any]:
    return {
        "format": portable.FORMAT,
        "scorer": scorer.fingerprint,
        "encoder": scorer.encoder.name,
        "precision": precision,
        "preprocessing": asdict(scorer.encoder.preprocessing),
        "inputs": _inputs(scorer),
        "grades": list(GRADES),
        "aspects": list(scorer.aspects),
        "opset": OPSET,
        "artgate": __version__,
        "sha256": hashlib.sha256(model).hexdigest(),
    }


def _write(folder: Path, model: bytes, description: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / portable.MODEL, model)
    write_atomic(folder / CLIENT, Path(portable.__file__).read_bytes())
    # The last, for it names the others' hash: what a kill leaves behind is refused.
    write_atomic(folder / portable.DESCRIPTION, json.dumps(description, indent=1) + "\n")


def _check(scorer: Scorer, precision: str, images: str | Path | None) -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"{missing[0]} is not installed: `pip install 'artgate[export]'`")
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}: choose from these")
    if precision == "int8" and images is None:
        raise UserError("int8 measures its ranges on real images: give --images FOLDER of such as will be scored")
    if scorer.encoder.config["precision"] != "float32":
        raise UserError(
            f"the scorer's encoder runs in {scorer.encoder.config['precision']}, which onnxruntime has not on a CPU: "
            "train it with encoder.precision=float32"
        )
    try:
        preprocess(next(_made_images()), **asdict(scorer.encoder.preprocessing))
    except ValueError as error:
        raise UserError(f"the scorer's preprocessing cannot be exported yet ({error}): score with the scorer") from None


def _check_folder(folder: Path) -> None:
    """Complain now of a folder that could not be written once all is computed."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise UserError(f"cannot write {folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"cannot write {folder}: {there} may not be written to; name another folder")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter and the quantiser tell of their own progress."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
