"""Which layers come after which, and how fast each learns."""

import pytest
import timm
from scoring.encoder_samples import tiny_clip
from scoring.test_finetuning import finetune
from torch import nn

from artgate.errors import UserError
from artgate.scoring.backbones import PooledFeatures, SideBySide
from artgate.scoring.encoders import build_encoder
from artgate.scoring.layers import distances, learning_groups, let_learn


def lite():
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return PooledFeatures(network, "last+stages", power=True)


def test_groups_are_counted_from_the_output_in_each_of_two_networks():
    alone = distances(lite())
    some = {"conv_head": 0, "blocks.6.0.conv_pw": 0, "blocks.5.0.conv_pw": 1, "conv_stem": 7}  # as timm groups them
    assert {name: alone[f"network.{name}.weight"] for name in some} == some
    pair = distances(SideBySide([lite(), lite()]))
    assert pair == {f"networks.{each}.{name}": group for each in (0, 1) for name, group in alone.items()}


def test_blocks_of_a_clip_lie_between_its_patches_and_its_projection(tmp_path):
    apart = distances(build_encoder(tiny_clip(tmp_path)).network)
    assert [apart[f"visual.transformer.resblocks.{block}.mlp.c_fc.weight"] for block in range(3)] == [3, 2, 1]
    assert apart["visual.proj"] == apart["visual.ln_post.weight"] == 0
    assert apart["visual.conv1.weight"] == apart["visual.positional_embedding"] == 4


def test_each_group_learns_slower_than_that_after_it_and_only_matrices_decay():
    network = let_learn(lite(), finetune("all", learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1))
    groups = learning_groups(network, finetune("all", learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = dict(network.named_parameters())
    assert rates[id(named["network.conv_head.weight"])] == pytest.approx(1e-3)
    assert rates[id(named["network.blocks.5.0.conv_pw.weight"])] == pytest.approx(0.5e-3)
    assert rates[id(named["network.conv_stem.weight"])] == pytest.approx(1e-3 * 0.5**7)
    assert len(rates) == len(named)
    for group in groups:
        dimensions = {parameter.ndim > 1 for parameter in group["params"]}
        assert dimensions == {group["weight_decay"] > 0}


def test_additions_alone_learn_and_few_they_are():
    network = let_learn(lite(), finetune("lora", rank=2))
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert learning and all("lora" in name for name in learning)
    count = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert count < 0.05 * sum(parameter.numel() for parameter in network.parameters())
    assert sum(len(group["params"]) for group in learning_groups(network, finetune("lora"))) == len(learning)


def test_a_network_without_an_order_is_refused():
    with pytest.raises(UserError, match="cannot tell the order of the layers of Sequential"):
        distances(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
