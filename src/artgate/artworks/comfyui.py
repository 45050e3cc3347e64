"""The generation parameters of a ComfyUI graph: what the sampler's inputs come from.

The graph (`prompt` in a file's metadata) maps node ids to {"class_type", "inputs"}; an input is a value or a link
[node id, output number]. Which text is the positive prompt is told by the links alone.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from artgate.artworks.text import clean_text

MAX_JSON = 2 * 2**20
MAX_NODES = 5_000

TEXT_INPUTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value", "string_a", "string_b")
MODEL_INPUTS = ("ckpt_name", "unet_name", "model_name")


class Graph(NamedTuple):
    """What a ComfyUI graph says, as found: texts are cleaned, the numbers are yet to be checked."""

    prompt: str
    negative_prompt: str
    settings: dict[str, Any]


def read_graph(text: str) -> Graph | None:
    """The prompts and settings of the sampler that made the picture; None if `text` holds no graph with a sampler."""
    nodes = _nodes(text)
    samplers = [name for name, inputs in nodes.items() if _is_sampler(inputs)]
    if not samplers:
        return None
    # Of two passes, the one that starts from noise decides the picture; the other refines or enlarges it.
    inputs = nodes[max(samplers, key=lambda name: _share_of_noise(nodes[name]))]
    guider = _linked(nodes, inputs.get("guider"))
    source = {**guider, **inputs}
    return Graph(
        prompt=_texts(nodes, source.get("positive") or source.get("conditioning")),
        negative_prompt=_texts(nodes, source.get("negative")),
        settings={
            "seed": _value(nodes, source, ("seed", "noise_seed", "noise")),
            "steps": _value(nodes, source, ("steps", "sigmas")),
            "guidance": _value(nodes, source, ("cfg",)),
            "sampler": _value(nodes, source, ("sampler_name", "sampler")),
            "scheduler": _value(nodes, source, ("scheduler", "sigmas")),
            "model": _model(nodes, source.get("model")),
        },
    )


def _nodes(text: str) -> dict[str, dict[str, Any]]:
    """Each node's inputs by its id; {} for anything that is not a graph."""
    if len(text) > MAX_JSON:
        return {}
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(graph, dict) or len(graph) > MAX_NODES:
        return {}
    return {
        name: node["inputs"]
        for name, node in graph.items()
        # A node that zeroes a conditioning says that its text does not count.
        if isinstance(node, dict)
        and isinstance(node.get("inputs"), dict)
        and node.get("class_type") != "ConditioningZeroOut"
    }


def _is_sampler(inputs: Mapping[str, Any]) -> bool:
    guided = _is_link(inputs.get("positive")) or _is_link(inputs.get("guider"))
    return guided and any(name in inputs for name in ("sampler_name", "seed", "noise_seed", "sampler", "noise"))


def _share_of_noise(inputs: Mapping[str, Any]) -> float:
    denoise = inputs.get("denoise", 1.0)
    share = float(denoise) if isinstance(denoise, int | float) and 0 <= denoise <= 1 else 1.0
    return share if inputs.get("add_noise") != "disable" else -1.0


def _texts(nodes: Mapping[str, dict[str, Any]], start: object) -> str:
    """All texts that flow into the link `start`, in the order of the inputs, each once, joined by commas."""
    waiting, seen, texts = [start], set[tuple[str, int]](), dict[str, None]()
    while waiting and len(seen) < MAX_NODES:
        value = waiting.pop()
        if isinstance(value, str):
            texts[clean_text(value)] = None
        elif _is_link(value) and (key := (str(value[0]), value[1])) not in seen:  # type: ignore[index]
            seen.add(key)
            waiting.extend(reversed(list(_sources(nodes.get(key[0], {}), output=key[1]))))
    return clean_text(", ".join(text for text in texts if text))


def _sources(inputs: Mapping[str, Any], output: int) -> Iterator[object]:
    """The inputs of a node that make up its `output`: texts, and what conditionings it passes on."""
    if "positive" in inputs and "negative" in inputs:  # ControlNet and its like hand both through, in this order
        yield inputs["negative" if output == 1 else "positive"]
        return
    for name, value in inputs.items():
        if name in TEXT_INPUTS or (name.startswith("conditioning") and _is_link(value)):
            yield value


def _value(nodes: Mapping[str, dict[str, Any]], inputs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first input of one of these names, looked up in the node that it links to where it is a link."""
    for name in names:
        value = inputs.get(name)
        if _is_link(value):
            linked = _linked(nodes, value)
            value = next((linked[n] for n in (*names, "value", "int") if n in linked), None)
        if isinstance(value, str | int | float):
            return value
    return None


def _model(nodes: Mapping[str, dict[str, Any]], link: object) -> str:
    """The checkpoint at the end of a chain of model links (LoRAs and patches pass the model on)."""
    for _ in range(len(nodes)):
        inputs = _linked(nodes, link)
        for name in MODEL_INPUTS:
            if isinstance(inputs.get(name), str):
                return clean_text(inputs[name], 200)
        link = inputs.get("model")
    return ""


def _linked(nodes: Mapping[str, dict[str, Any]], link: object) -> dict[str, Any]:
    return nodes.get(str(link[0]), {}) if _is_link(link) else {}  # type: ignore[index]


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int
