"""Shortcuts give what the layers themselves give, and leave no trace."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from diffusion_perception.core import cross_attention, doubling, winograd
from diffusion_perception.core.backbone import Context
from diffusion_perception.core.shortcuts import of_unet, of_vae, serve, taken, where_they_suit
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone, residuals


def layer(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a 3x3 convolution that keeps the size of what it is given."""
    return torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5, torch.randn(outputs)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "height", "width"),
    [(2, 5, 7, 10, 6), (1, 256, 256, 32, 48), (1, 8, 8, 2, 2), (1, 4, 3, 70, 2), (1, 4, 3, 2, 1030), (1, 4, 4, 7, 8)],
)
def test_winograd_is_the_convolution(batch, inputs, outputs, height, width):
    picture, (weight, bias) = drawn(batch, inputs, height, width), layer(inputs, outputs)
    right = F.conv2d(picture.double(), weight.double(), bias.double(), padding=1)
    assert (winograd.winograd_convolution(picture, weight, bias) - right).abs().max() < 5e-6
    without = winograd.winograd_convolution(picture, weight, None) - (right - bias[:, None, None].double())
    assert without.abs().max() < 5e-6


def test_winograd_reads_any_memory():
    picture, held = drawn(2, 8, 12, 10), layer(8, 8)
    strided = picture.to(memory_format=torch.channels_last)
    assert torch.equal(winograd.winograd_convolution(strided, *held), winograd.winograd_convolution(picture, *held))


@pytest.mark.parametrize(("height", "width"), [(5, 8), (1, 1), (16, 3)])
def test_a_doubled_picture_is_convolved_before_it_is_doubled(height, width):
    picture, (weight, bias) = drawn(2, 6, height, width), layer(6, 4)
    doubled = F.interpolate(picture.double(), scale_factor=2.0, mode="nearest")
    right = F.conv2d(doubled, weight.double(), bias.double(), padding=1)
    assert (doubling.convolve_doubled(picture, weight, bias) - right).abs().max() < 5e-6


def crossing(tokens: int) -> tuple[Attention, Tensor, Tensor]:
    torch.manual_seed(0)
    attention = Attention(96, 24, heads=3, dim_head=32).eval()
    return attention, drawn(2, 50, 96), drawn(2, tokens, 24)


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_cross_attention_to_a_few_tokens(tokens):
    attention, x, context = crossing(tokens)
    with torch.no_grad():
        right = attention.double()(x.double(), encoder_hidden_states=context.double())
        seen = cross_attention.folded(attention.float(), x, encoder_hidden_states=context)
    assert (seen - right).abs().max() < 1e-6


def tripled(module: Any, inputs: Any, output: Any) -> Any:
    return output * 3


@pytest.mark.parametrize("beside", ["hook", "many tokens", "no context"])
def test_cross_attention_as_written(beside):
    attention, x, context = crossing(77 if beside == "many tokens" else 2)
    if beside == "hook":
        attention.to_q.register_forward_hook(tripled)
    named = {} if beside == "no context" else {"encoder_hidden_states": context}
    if beside == "no context":
        attention.to_k, attention.to_v = attention.to_q, attention.to_q
    with torch.no_grad():
        assert torch.equal(cross_attention.folded(attention, x, **named), attention(x, **named))


def wide_vae() -> AutoencoderKL:
    """Two levels, one of which is wide enough for Winograd's tiles."""
    torch.manual_seed(0)
    return (
        AutoencoderKL(
            block_out_channels=(32, 512), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
        ).eval().requires_grad_(False)
    )  # fmt: skip


def test_a_vae_gives_the_same_and_is_left_as_it_was():
    network = wide_vae()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}
    autoencoder, picture, latent = DiffusersAutoencoder(network), drawn(1, 3, 24, 40).clamp(-1, 1), drawn(1, 4, 12, 20)
    with torch.no_grad():
        right = network.encode(picture).latent_dist.mode() * autoencoder.scaling_factor
        decoded = network.decode(latent / autoencoder.scaling_factor).sample
        with where_they_suit(True):
            seen, made = autoencoder.encode(picture), autoencoder.decode(latent)
    for _ in range(100):
        with taken(of_vae(network, [])):
            pass
    assert 0 < (seen - right).abs().max() < 1e-5
    assert 0 < (made - decoded).abs().max() < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert attributes == {name: set(vars(module)) for name, module in network.named_modules()}


def test_residual_blocks_give_the_very_same_numbers_and_leave_what_they_are_given():
    blocks = list(residuals(tiny.vae()))
    assert len(blocks) == sum(isinstance(layer, ResnetBlock2D) for layer in tiny.vae().modules())
    assert {way.layer.conv_shortcut is None for way in blocks} == {True, False}
    for way in blocks:
        given = torch.randn(2, way.layer.in_channels, 12, 10)
        kept = given.clone()
        with torch.inference_mode():
            assert torch.equal(way.function(given, None), way.layer(given, None))
        assert torch.equal(given, kept)


def test_residual_blocks_of_other_kinds_are_left_alone():
    plain = {"in_channels": 32, "temb_channels": None}
    other = [
        ResnetBlock2D(**plain, output_scale_factor=2.0),
        ResnetBlock2D(**plain, down=True),
        ResnetBlock2D(**plain, non_linearity="gelu"),
        ResnetBlock2D(in_channels=32, temb_channels=8),
    ]
    assert list(residuals(nn.ModuleList(other))) == []


def test_a_unet_gives_the_same_and_is_left_as_it_was():
    network = tiny.unet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    given, context = (drawn(1, 4, 8, 8), torch.tensor([7.0])), drawn(1, 2, tiny.WIDTH)
    with torch.no_grad():
        right = network(*given, encoder_hidden_states=context, return_dict=False)[0]
        with where_they_suit(True):
            seen = DiffusersBackbone(network)(*given, Context(context))
    for _ in range(100):
        with taken(of_unet(network)):
            pass
    assert 0 < (seen - right).abs().max() < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any("forward" in vars(module) for module in network.modules())


def test_nothing_is_left_by_an_error():
    network = tiny.unet()
    with pytest.raises(ZeroDivisionError), taken(of_unet(network)):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in network.modules())


def test_what_was_put_on_a_layer_before_is_put_back():
    network = wide_vae()
    convolution = network.decoder.get_submodule("mid_block.resnets.0.conv1")
    own = convolution._conv_forward
    convolution._conv_forward = own
    with taken(of_vae(network, [])):
        assert convolution._conv_forward is winograd.winograd_convolution
    assert convolution._conv_forward is own


def test_they_serve_only_where_they_were_measured():
    network, latent = nn.Sequential(nn.Conv2d(4, 4, 3)), drawn(1, 4, 8, 8)
    assert not serve(network, latent), "there is something to learn"
    with torch.no_grad():
        assert not serve(network, latent), "nobody said that they suit"
    with torch.no_grad(), where_they_suit(True):
        assert serve(network, latent)
        assert not serve(network, latent.half())
        assert not serve(network, latent.to("meta"))
        assert not serve(torch.compile(network), latent)  # pyright: ignore[reportArgumentType]
