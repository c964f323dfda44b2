"""Tests of core.checkpoints.ldm_networks: what no host can run is told; weights fill a module or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from diffusion_perception.core.checkpoints.ldm_networks import as_convolution, filled, host_config
from diffusion_perception.core.checkpoints.tensors import CheckpointError, Weights

WEIGHTS = Weights((Path("file.safetensors"),), {}, {})


def test_settings_are_those_of_the_network():
    architecture = tiny.unet_architecture(tiny.unet())
    config = host_config(architecture)
    assert [config["model_channels"] * factor for factor in config["channel_mult"]] == [*architecture.widths]
    assert sum(config["transformer_depth"]) == architecture.layers * sum(architecture.attention)
    assert sum(config["transformer_depth_output"]) == (architecture.layers + 1) * sum(architecture.attention)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widths": (32, 48, 64, 64)}, "of widths (32, 48, 64, 64)"),
        ({"widths": (32, 64, 64, 64), "heads": (1, 4, 8, 8)}, "with (1, 4, 8, 8) attention heads"),
    ],
)
def test_a_network_that_no_host_can_express_is_told(change, said):
    with pytest.raises(CheckpointError, match="cannot run a UNet") as told:
        host_config(replace(tiny.unet_architecture(tiny.unet()), **change))
    assert said in str(told.value)


def test_weights_fill_a_module_or_what_does_not_fit_is_named():
    given = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    layer = filled(nn.Linear(3, 2), given, WEIGHTS)
    assert torch.equal(layer(torch.ones(1, 3)), torch.full((1, 2), 3.0))
    assert not layer.training
    with pytest.raises(CheckpointError, match=r"file\.safetensors is not whole: 1 .*\(bias"):
        filled(nn.Linear(3, 2), {"weight": given["weight"]}, WEIGHTS)


def test_an_attention_of_a_vae_becomes_convolutions_and_nothing_else_does():
    matrix = torch.rand(4, 4)
    assert as_convolution(matrix, "encoder.mid.attn_1.q.weight").shape == (4, 4, 1, 1)
    assert as_convolution(matrix, "encoder.mid.block_1.weight") is matrix
