"""Adapters run beside the weights as if they were merged, and sit only where they fit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from tiny_adapters import (
    KINDS,
    adapter_of,
    call,
    delta,
    fixed,
    kinds_of_adapters,
    layers_of,
    low_rank,
    random_adapter,
)
from torch import nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapters import Adapter, Delta, LowRank, check_adapter, merge
from diffusion_perception.core.checkpoints.attachment import Adapted, attach
from diffusion_perception.core.checkpoints.layers import shapes_of
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.trainer.host import DiffusersBackbone


def merged_network(network: UNet2DConditionModel, adapter: Adapter, channels: int = 4) -> UNet2DConditionModel:
    """Another network that holds the sum of both."""
    config = {**network.config, "in_channels": channels}
    twin = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    twin.load_state_dict(merge(adapter, network.state_dict()))
    return twin


EVERY_KIND = [(number, kind) for number in (1, 2) for kind in kinds_of_adapters(tiny.unet(generation=number))]


@pytest.mark.parametrize(("generation", "kind"), EVERY_KIND)
def test_an_attached_adapter_answers_as_if_it_were_merged(generation, kind):
    network = tiny.unet(generation=generation)
    adapter = kinds_of_adapters(network)[kind]
    channels = adapter.in_channels or 4
    adapted = Adapted(DiffusersBackbone(network), adapter)
    expected = call(DiffusersBackbone(merged_network(network, adapter, channels)), channels)
    assert adapted.in_channels == channels
    assert (expected - call(DiffusersBackbone(network))).abs().max() > 1e-3 if channels == 4 else True
    assert (call(adapted, channels) - expected).abs().max() < 1e-5


def test_features_are_those_of_the_merged_network_too():
    network = tiny.unet()
    adapter = kinds_of_adapters(network)["everything at once"]
    adapter = replace(adapter, parts={name: part for name, part in adapter.parts.items() if name != "conv_in"})
    inputs = fixed(1, 4, 8, 8), torch.tensor([1.0]), Context(tiny.context())
    found = Adapted(DiffusersBackbone(network), adapter).features(*inputs)
    expected = DiffusersBackbone(merged_network(network, adapter)).features(*inputs)
    assert all((one - other).abs().max() < 1e-4 for one, other in zip(found, expected))


def test_the_base_is_bit_identical_afterwards_and_wears_no_hook():
    network = tiny.unet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain = call(DiffusersBackbone(network))
    call(Adapted(DiffusersBackbone(network), kinds_of_adapters(network)["everything at once"]), 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(call(DiffusersBackbone(network)), plain)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_no_hook_stays_where_the_call_fails():
    network = tiny.unet()
    adapter = kinds_of_adapters(network)["a widened conv_in"]
    with pytest.raises(InterruptedError), attach(layers_of(network), adapter):
        raise InterruptedError
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_layers_that_are_never_reached_are_told():
    network = tiny.unet()
    adapter = random_adapter(network, KINDS["attention"])
    told = f"no effect on {len(adapter.parts)} of its {len(adapter.parts)} layers"
    with pytest.raises(RuntimeError, match=told), attach(layers_of(network), adapter):
        pass


def test_a_compiled_network_is_adapted_and_then_answers_bit_identically():
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(4, 8, 3, padding=1), "norm": nn.GroupNorm(2, 8)}
    network = nn.Sequential(*layers.values()).requires_grad_(False)
    compiled = torch.compile(network, backend="eager")
    adapter = adapter_of({"conv": low_rank(layers["conv"]), "norm": delta(layers["norm"])})
    x = fixed(1, 4, 8, 8, scale=1.0)
    before = compiled(x)
    with attach(layers, adapter):
        adapted = compiled(x)
    layers = copy.deepcopy(layers)
    for name, tensor in merge(adapter, nn.ModuleDict(layers).state_dict()).items():
        nn.ModuleDict(layers).state_dict()[name].copy_(tensor)
    assert (adapted - layers["norm"](layers["conv"](x))).abs().max() < 1e-5
    assert torch.equal(compiled(x), before)


def test_an_adapter_works_in_its_inputs_precision():
    layer = nn.Linear(6, 4).to(torch.bfloat16)
    adapter = adapter_of({"x": LowRank(fixed(2, 6), fixed(4, 2), 0.5)})
    x = fixed(3, 6, scale=1.0)
    with attach({"x": layer}, adapter):
        found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    expected = layer.float()(x) + x @ (fixed(4, 2) @ fixed(2, 6)).T * 0.5
    assert (found.float() - expected).abs().max() < 0.03


def test_gradients_reach_the_adapter():
    layer = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    down, up = fixed(2, 3, 3, 3).requires_grad_(), fixed(5, 2).requires_grad_()
    with attach({"x": layer}, adapter_of({"x": LowRank(down, up)})):
        layer(fixed(1, 3, 8, 8)).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in (down, up))


def test_circular_padding_of_a_layer_is_kept_beside_it():
    layer = nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")
    part = Delta(fixed(5, 3, 3, 3))
    x = fixed(1, 3, 8, 8)
    with attach({"x": layer}, adapter_of({"x": part})):
        found = layer(x)
    layer.weight.data += part.weight
    assert (found - layer(x)).abs().max() < 1e-6


def base_shapes(width: int, channels: int = 4) -> dict[str, tuple[int, ...]]:
    to_k = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    return {"conv_in.weight": (320, channels, 3, 3), f"{to_k}.weight": (1280, width)}


def for_width(width: int) -> Adapter:
    to_k = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    return adapter_of({to_k: LowRank(fixed(2, width), fixed(1280, 2))})


@pytest.mark.parametrize(
    ("adapter", "base", "sentence"),
    [
        (1024, 768, r"is for SD2.1 \(1024-wide text\), the loaded model is SD1.5"),
        (768, 1024, r"is for SD1.5 \(768-wide text\), the loaded model is SD2.1"),
        (2048, 768, r"is for SDXL \(2048-wide text\), the loaded model is SD1.5"),
        (768, 2048, r"is for SD1.5 \(768-wide text\), the loaded model is SDXL"),
    ],
)
def test_the_wrong_generation_is_named(adapter, base, sentence):
    check_adapter(for_width(adapter), base_shapes(adapter))
    with pytest.raises(CheckpointError, match=sentence):
        check_adapter(for_width(adapter), base_shapes(base))


def test_an_adapter_of_self_attention_goes_by_its_header():
    adapter = adapter_of({"conv_in": LowRank(fixed(2, 4, 3, 3), fixed(320, 2))}, base="sd21")
    with pytest.raises(CheckpointError, match="is for SD2.1"):
        check_adapter(adapter, base_shapes(768))


def test_inpainting_models_are_refused():
    with pytest.raises(CheckpointError, match="inpainting"):
        check_adapter(for_width(768), base_shapes(768, channels=9))


def test_layers_that_the_base_lacks_are_counted_and_named():
    layers = {"down_blocks.0.resnets.7.conv1": LowRank(fixed(2, 4), fixed(4, 2)), "conv_in": Delta(bias=fixed(320))}
    with pytest.raises(CheckpointError, match=r"lacks 2 of its 2 layers .*\(down_blocks.0.resnets.7.conv1, conv_in\)"):
        check_adapter(adapter_of(layers), base_shapes(768))


def test_layers_of_other_kinds_are_refused():
    layer = nn.Embedding(3, 4)
    adapter = adapter_of({"x": Delta(fixed(3, 4))})
    with pytest.raises(ValueError, match="not beside a Embedding"), attach({"x": layer}, adapter):
        layer(torch.tensor([1]))


class Packed(nn.Module):
    """A linear layer that is no nn.Linear, as a host's quantised ones are."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 6, 4
        self.weight = nn.Parameter(torch.randint(-127, 127, (4, 6), dtype=torch.int8), requires_grad=False)
        self.bias = None

    def forward(self, x: torch.Tensor, scale: float = 0.01) -> torch.Tensor:
        return x @ self.weight.float().T * scale


def test_a_quantised_layer_of_another_class_is_known_by_its_sides_and_adapted():
    layer, x = Packed(), fixed(3, 6, scale=1.0)
    assert shapes_of({"x": layer}) == {"x.weight": (4, 6)}
    with attach({"x": layer}, adapter_of({"x": LowRank(fixed(2, 6), fixed(4, 2))})):
        found = layer(x)
    assert (found - layer(x) - x @ (fixed(4, 2) @ fixed(2, 6)).T).abs().max() < 1e-6


@pytest.mark.parametrize("more", [{"scale": 2.0}, {}], ids=["by name", "by place"])
def test_a_layer_that_is_asked_for_more_than_its_product_is_refused_and_not_adapted_wrongly(more):
    layer = Packed()
    adapter = adapter_of({"mid_block.to_q": LowRank(fixed(2, 6), fixed(4, 2))})
    with pytest.raises(RuntimeError, match=r"beside mid_block.to_q: .* (scale|2 inputs)"):  # noqa: SIM117
        with attach({"mid_block.to_q": layer}, adapter):
            layer(fixed(3, 6), *(() if more else (2.0,)), **more)
    assert not layer._forward_hooks
