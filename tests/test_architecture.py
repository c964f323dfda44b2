"""The shape of a network is read from its weights, and its names are those that diffusers' own converters give."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from diffusion_perception.core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from diffusion_perception.core.checkpoints.ldm_names import (
    modern,
    rename,
    unet_prefixes,
    unet_to_diffusers,
    vae_prefixes,
    vae_to_diffusers,
)

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def unet(attention: tuple[bool, ...] = (True, True, True, False), **config: Any) -> UNet2DConditionModel:
    """A UNet without weights, all levels but the last with attention unless said otherwise."""
    blocks = [CROSS if attends else PLAIN for attends in attention]
    defaults: dict[str, Any] = {
        "block_out_channels": (32, 64, 96, 96)[: len(attention)],
        "down_block_types": tuple(down for down, _ in blocks),
        "up_block_types": tuple(up for _, up in reversed(blocks)),
        "cross_attention_dim": 64,
        "attention_head_dim": 4,
    }
    with torch.device("meta"):
        return UNet2DConditionModel(**{**defaults, **config})


def vae(widths: tuple[int, ...] = (32, 64, 64, 64), layers: int = 2) -> AutoencoderKL:
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=("DownEncoderBlock2D",) * len(widths),  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * len(widths),  # pyright: ignore[reportArgumentType]
            latent_channels=4,
        )


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return tiny.shapes(network.state_dict())


UNETS = {
    "SD 2 with 4 channels": {"use_linear_projection": True, "attention_head_dim": [1, 2, 3, 3]},
    "SD 1 with 8 channels": {"in_channels": 8, "attention_head_dim": 8},
    "one block a level": {"layers_per_block": 1},
    "three levels": {"attention": (True, True, False)},
    "attention only inside": {"attention": (False, True, True, False)},
    "a class embedding": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4},
}


@pytest.fixture(params=UNETS.values(), ids=list(UNETS))
def network(request) -> UNet2DConditionModel:
    return unet(**request.param)


def test_a_unet_is_rebuilt_from_its_weights_and_head_counts(network):
    architecture = UNetArchitecture.from_weights(shapes(network)).with_config(network.config)
    with torch.device("meta"):
        rebuilt = UNet2DConditionModel.from_config(architecture.config())
    assert shapes(rebuilt) == shapes(network)
    assert [m.heads for m in rebuilt.modules() if hasattr(m, "heads")] == [
        m.heads for m in network.modules() if hasattr(m, "heads")
    ]


def test_a_vae_is_rebuilt_from_its_weights():
    for network in (vae(), vae((32, 32, 64), 1)):
        architecture = VAEArchitecture.from_weights(shapes(network))
        with torch.device("meta"):
            rebuilt = AutoencoderKL.from_config(architecture.config())
        assert shapes(rebuilt) == shapes(network)


def test_head_counts_follow_the_generation_where_no_config_says_them():
    real = {"block_out_channels": (320, 640, 1280, 1280)}
    second = unet(use_linear_projection=True, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], **real)
    first = unet(cross_attention_dim=768, attention_head_dim=8, **real)
    assert UNetArchitecture.from_weights(shapes(second)).heads == (5, 10, 20, 20)
    assert UNetArchitecture.from_weights(shapes(first)).heads == (8, 8, 8, 8)
    assert UNetArchitecture.from_weights(shapes(second)).base == "sd21"
    assert UNetArchitecture.from_weights(shapes(first)).base == "sd15"
    assert UNetArchitecture.from_weights(shapes(unet())).base == "custom"


def test_the_real_sd21_has_as_many_weights_as_published():
    network = unet(
        block_out_channels=(320, 640, 1280, 1280), use_linear_projection=True, cross_attention_dim=1024,
        attention_head_dim=[5, 10, 20, 20],
    )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == 865_910_724
    assert (
        len(rename(network.state_dict(), {ours: ldm for ldm, ours in unet_prefixes((True, True, True, False), 2)}))
        == 686
    )


# What is no Stable Diffusion UNet


def refusal(network_shapes: dict[str, tuple[int, ...]]) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what the caller asserts on
        UNetArchitecture.from_weights(network_shapes)
    return str(error.value)


def test_an_sdxl_unet_is_called_one_in_either_spelling():
    sdxl = unet(
        attention=(False, True, True), transformer_layers_per_block=(1, 2, 3), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=112,
    )  # fmt: skip
    assert "holds an SDXL UNet; this version runs SD 1.x and SD 2.x" in refusal(shapes(sdxl))
    without = {name: shape for name, shape in shapes(sdxl).items() if not name.startswith("add_embedding")}
    assert "holds an SDXL UNet" in refusal(without)


def test_what_is_no_unet_is_told_by_what_it_lacks():
    assert "conv_in.weight is not among its 2 tensors" in refusal({"a.weight": (1,), "b.weight": (1,)})
    assert "it holds none" in refusal({})
    without_text = {k: v for k, v in shapes(unet()).items() if "attn2" not in k}
    assert "attn2.to_k.weight is not among" in refusal(without_text)


@pytest.mark.parametrize(
    ("field", "value"),
    [("norm_num_groups", 16), ("act_fn", "gelu"), ("freq_shift", 1), ("resnet_time_scale_shift", "scale_shift")],
)
def test_a_config_that_weights_do_not_show_and_nothing_can_run_is_refused(field, value):
    architecture = UNetArchitecture.from_weights(shapes(unet()))
    with pytest.raises(ValueError, match=f"its config says {field}={value!r}; Stable Diffusion UNets have"):
        architecture.with_config({field: value})


@pytest.mark.parametrize("heads", [[4, 4], [5, 5, 5, 5]])
def test_head_counts_that_cannot_be_are_refused(heads):
    with pytest.raises(ValueError, match="attention heads, which do not divide the widths"):
        UNetArchitecture.from_weights(shapes(unet())).with_config({"attention_head_dim": heads})


def test_a_vae_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="expected a Stable Diffusion VAE with 4 latent channels, found 16"):
        VAEArchitecture.from_weights({"encoder.conv_in.weight": (8, 3, 3, 3), "post_quant_conv.weight": (16, 16, 1, 1)})
    with pytest.raises(ValueError, match="found none"):
        VAEArchitecture.from_weights({"encoder.conv_in.weight": (8, 3, 3, 3)})


def test_the_vae_of_sdxl_is_told_by_its_scaling_factor():
    with pytest.raises(ValueError, match="it is the VAE of SDXL; expected one of Stable Diffusion"):
        VAEArchitecture.from_weights(shapes(vae())).with_config({"scaling_factor": 0.13025})


def test_a_vae_config_may_state_its_scaling_factor_or_leave_it_out():
    architecture = VAEArchitecture.from_weights(shapes(vae()))
    assert architecture.with_config({}).scaling_factor == 0.18215
    assert architecture.with_config({"scaling_factor": None}).scaling_factor == 0.18215
    assert architecture.with_config({"scaling_factor": 0.13}).scaling_factor == 0.13


# Names


def numbered(names) -> dict[str, torch.Tensor]:
    """A tensor for each name that tells it from all others."""
    return {name: torch.full((1,), float(index)) for index, name in enumerate(sorted(names))}


def as_names(tensors: dict[str, torch.Tensor], original: dict[str, torch.Tensor]) -> dict[str, str]:
    """{original name: new name}, by what the tensors hold."""
    found = {tensor.flatten()[0].item(): name for name, tensor in tensors.items()}
    return {name: found[tensor.item()] for name, tensor in original.items() if tensor.item() in found}


def test_unet_names_are_those_of_diffusers_converter(network):
    attention = tuple("CrossAttn" in block for block in network.config.down_block_types)
    layers = network.config.layers_per_block
    ours_to_ldm = {ours: ldm for ldm, ours in unet_prefixes(attention, layers)}
    ldm = numbered(rename(network.state_dict(), ours_to_ldm).values())
    assert len(ldm) == len(network.state_dict())
    converted = convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": v for k, v in ldm.items()}, network.config)
    assert unet_to_diffusers(ldm) == as_names(converted, ldm)
    assert set(converted) == set(network.state_dict())


@pytest.mark.parametrize(("widths", "layers"), [((32, 64, 64, 64), 2), ((32, 64), 1)])
def test_vae_names_are_those_of_diffusers_converter(widths, layers):
    network = vae(widths, layers)
    ours_to_ldm = {ours: ldm for ldm, ours in vae_prefixes(len(widths), layers)}
    ldm = {k: v.view(1, 1, 1, 1) if ".attn_1." in k else v for k, v in
           numbered(rename(network.state_dict(), ours_to_ldm).values()).items()}  # fmt: skip
    assert len(ldm) == len(network.state_dict())
    converted = convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in ldm.items()}, network.config)
    assert vae_to_diffusers(ldm) == as_names(converted, ldm)
    assert set(converted) == set(network.state_dict())


def test_the_longest_prefix_wins_and_unknown_names_are_left_out():
    assert rename(["a.b.weight", "a.c.weight", "z.weight"], {"a": "x", "a.b": "y"}) == {
        "a.b.weight": "y.weight",
        "a.c.weight": "x.c.weight",
    }


def test_old_names_of_the_vaes_attention_are_read():
    old = ["query.weight", "key.bias", "value.weight", "proj_attn.bias", "group_norm.weight"]
    new = ["to_q.weight", "to_k.bias", "to_v.weight", "to_out.0.bias", "group_norm.weight"]
    prefix = "encoder.mid_block.attentions.0."
    assert [modern(prefix + name) for name in old] == [prefix + name for name in new]
    assert modern("decoder.up_blocks.0.key.weight") == "decoder.up_blocks.0.key.weight"
