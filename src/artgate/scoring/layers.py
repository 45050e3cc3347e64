"""Which layers of an encoder learn, and how fast: groups of layers counted from the output, or low-rank additions."""

import re
from collections.abc import Iterator
from typing import Any

from timm.models import group_parameters
from torch import nn

from artgate.errors import UserError
from artgate.scoring.config import FinetuneConfig

# The image towers of open_clip that are not timm's: what numbers a group, and what comes after the last.
BLOCK = re.compile(r"(?:resblocks\.|layer|stages\.)(\d+)")
AFTER = re.compile(r"\b(ln_post|proj|attn_pool|attnpool|head|norm)\b")


def distances(network: nn.Module) -> dict[str, int]:
    """Parameter -> how many groups of layers lie between it and the output; groups are as timm makes them.

    Raises UserError for a network whose layers have no order that is known.
    """
    found: dict[str, int] = {}
    for prefix, module in towers(network):
        groups = _timm_groups(module) if hasattr(module, "group_matcher") else _open_clip_groups(module)
        last = max(groups.values())
        found |= {f"{prefix}{name}": last - group for name, group in groups.items()}
    # What belongs to no tower, such as a projection behind one, is next to the output.
    found = {name: found.get(name, 0) for name, _ in network.named_parameters()}
    if len(set(found.values())) < 2:
        raise UserError(
            f"finetune cannot tell the order of the layers of {type(network).__name__}: use finetune=none, "
            "or an encoder of timm or open_clip's transformers"
        )
    return found


def let_learn(network: nn.Module, config: FinetuneConfig) -> nn.Module:
    """Mark what learns by `requires_grad`; for lora, a network with additions around the given one."""
    network.requires_grad_(False)
    if config.checkpointing:
        _checkpoint(network)
    if config.mode == "lora":
        return _with_additions(network, config)
    apart = distances(network)
    groups = config.groups if config.mode == "last" and config.groups else len(apart)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(apart[name] < groups)
    return network


def merged(network: nn.Module) -> nn.Module:
    """The network with low-rank additions merged into its weights, under their own names; others as they are."""
    return network.merge_and_unload() if hasattr(network, "merge_and_unload") else network  # type: ignore[operator]


def learning_groups(network: nn.Module, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Parameters that learn, in groups with their learning rate and weight decay, as torch's optimisers take them.

    The last group of layers learns at `learning_rate`, each before it slower by `layer_decay`; low-rank additions learn
    alike. Biases and scales do not decay.
    """
    apart = {} if config.mode == "lora" else distances(network)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((apart.get(name, 0), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * config.layer_decay**distance,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (distance, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def towers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Name and module of the parts that have an order of their own: timm's models, or open_clip's image towers."""
    if hasattr(network, "group_matcher") and not hasattr(network, "trunk"):
        yield prefix, network
        return
    known = [name for name, _ in network.named_children()]
    if "resblocks" in known or {"transformer", "layer4"} & set(known):
        yield prefix, network
        return
    for name, child in network.named_children():
        yield from towers(child, f"{prefix}{name}.")


def _timm_groups(network: Any) -> dict[str, int]:
    return {name: int(group) for name, group in group_parameters(
        network, network.group_matcher(coarse=True), reverse=True
    ).items()}  # fmt: skip


def _open_clip_groups(network: nn.Module) -> dict[str, int]:
    names = [name for name, _ in network.named_parameters()]
    blocks = {name: int(match[1]) + 1 for name in names if (match := BLOCK.search(name))}
    last = max(blocks.values(), default=0) + 1
    return {name: blocks.get(name, last if AFTER.search(name) else 0) for name in names}


def _with_additions(network: nn.Module, config: FinetuneConfig) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=_targets(network), bias="none")
    return get_peft_model(network, settings)


def _targets(network: nn.Module) -> list[str]:
    """Matrices of attention and of what lies between; of convolutions those that mix channels at one place."""
    attention = {name for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)}
    found = [
        name
        for name, module in network.named_modules()
        if name.rpartition(".")[0] not in attention
        and (
            isinstance(module, nn.Linear)
            or (isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size == (1, 1))
        )
    ]
    return sorted([*attention, *found])


def _checkpoint(network: nn.Module) -> None:
    for _, tower in towers(network):
        tower.set_grad_checkpointing(True)  # type: ignore[operator]
