"""Where a run starts: folders, single files, untrained networks, and the empty prompt without a tokenizer."""

from __future__ import annotations

import pytest
import runs
import tiny
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.trainer.base import ARCHITECTURES, architecture_of, start
from diffusion_perception.trainer.config import Base, ConfigError
from diffusion_perception.trainer.text import encode_empty

WIDTH, BLOCKS = 128, 3


def clip(activation):
    """A tiny text encoder by transformers, with heads of 64 as the real ones have."""
    torch.manual_seed(5)
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=WIDTH // 64,
        hidden_act=activation,
        vocab_size=49408,
        max_position_embeddings=77,
    )
    return CLIPTextModel(config).eval()


def inner(model):
    """{name without text_model.: tensor}, whichever transformers names them."""
    return {name.removeprefix("text_model."): tensor.clone() for name, tensor in model.state_dict().items()}


def as_openclip(tensors):
    """The same weights as OpenCLIP names them."""
    outside = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    inside = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    inside |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    renamed = {theirs: tensors[ours] for ours, theirs in outside.items()}
    for block in range(BLOCKS):
        ours, theirs = f"encoder.layers.{block}.", f"transformer.resblocks.{block}."
        for kind in ("weight", "bias"):
            renamed |= {f"{theirs}{b}.{kind}": tensors[f"{ours}{a}.{kind}"] for a, b in inside.items()}
            parts = [tensors[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
    return renamed


def prompt(padding, length):
    return torch.tensor([[49406, 49407] + [padding] * (length - 2)])


@pytest.mark.parametrize("length", [2, 77])
@pytest.mark.parametrize("prefix", ["cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."])
def test_the_empty_prompt_of_an_sd1_file_is_what_transformers_gives(tmp_path, length, prefix):
    model = clip("quick_gelu")
    save_file({f"{prefix}{name}": tensor for name, tensor in inner(model).items()}, tmp_path / "a.safetensors")
    with torch.no_grad():
        expected = model(prompt(49407, length))[0]
    torch.testing.assert_close(encode_empty(tmp_path / "a.safetensors", length), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("length", [2, 77])
def test_the_empty_prompt_of_an_sd2_file_is_that_of_the_last_block_but_one(tmp_path, length):
    model = clip("gelu")
    tensors = {f"cond_stage_model.model.{name}": tensor for name, tensor in as_openclip(inner(model)).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    with torch.no_grad():
        states = model(prompt(0, length), output_hidden_states=True).hidden_states
        norm = getattr(model, "text_model", model).final_layer_norm
        expected = norm(states[-2])
    torch.testing.assert_close(encode_empty(tmp_path / "a.safetensors", length), expected, rtol=0, atol=2e-5)


def test_a_file_without_a_text_encoder_has_no_empty_prompt(tmp_path):
    save_file({"unet.conv_in.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert encode_empty(tmp_path / "a.safetensors", 2) is None


def test_a_damaged_text_encoder_is_said_to_be_so(tmp_path):
    tensors = {f"cond_stage_model.model.{name}": tensor for name, tensor in as_openclip(inner(clip("gelu"))).items()}
    del tensors["cond_stage_model.model.transformer.resblocks.1.ln_1.weight"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged.*base\.context"):
        encode_empty(tmp_path / "a.safetensors", 2)


def test_a_single_file_as_comfyui_users_have_it_gives_unet_vae_and_context(tmp_path):
    tensors = {**tiny.ldm(tiny.unet(context=WIDTH)), **tiny.ldm_vae(tiny.vae())}
    text = {f"cond_stage_model.model.{name}": tensor for name, tensor in as_openclip(inner(clip("gelu"))).items()}
    path = tmp_path / "base.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in {**tensors, **text}.items()}, path)
    begun = start(Base(path=str(path)))
    shown, timestep, tokens = torch.randn(1, 4, 8, 8), torch.tensor([1]), begun.context("depth", 2)
    assert tokens.shape == (1, 2, WIDTH)
    expected = tiny.unet(context=WIDTH)(shown, timestep, tokens).sample
    # the file cannot say how many heads there are: SD2's rule gives other counts than this network was made with
    assert begun.unet(shown, timestep, tokens).sample.shape == expected.shape
    picture = tiny.picture(32, 32) * 2 - 1
    torch.testing.assert_close(begun.vae.encode(picture).latent_dist.mean, tiny.vae().encode(picture).latent_dist.mean)


def test_a_folder_in_diffusers_layout_starts_with_the_very_weights(tmp_path):
    tiny.write(tmp_path / "unet", tiny.unet())
    tiny.write(tmp_path / "vae", tiny.vae())
    tiny.write_context(tmp_path, tiny.context(tokens=77))
    begun = start(Base(path=str(tmp_path)))
    torch.testing.assert_close(begun.context("normal", 77), tiny.context(tokens=77))
    torch.testing.assert_close(begun.context("normal", 2), tiny.context(tokens=77)[:, :2])
    assert all(torch.equal(tensor, tiny.unet().state_dict()[name]) for name, tensor in begun.unet.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_untrained_networks_obey_the_rules_of_hosts(name):
    shape = ARCHITECTURES[name]
    assert all(width % 32 == 0 and width % shape.widths[0] == 0 for width in shape.widths)
    dims = {width // heads for width, heads in zip(shape.widths, shape.heads)}
    assert len(dims) == 1 or len(set(shape.heads)) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "name a Stable Diffusion model as base.path"),
        ({"architecture": "smal"}, "did you mean 'small'"),
        ({"widths": (48, 64, 64, 64)}, "multiples of 32"),
        ({"widths": (64, 96, 128, 128)}, "multiples of 32 and of the first"),
        ({"widths": (32, 64, 64, 64), "head_dim": 64}, "base.head_dim = 64 does not divide"),
    ],
)
def test_a_start_that_cannot_be_had_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        start(Base(**settings))
    assert "\n" not in str(refused.value)


def test_own_widths_make_a_network_of_that_shape():
    shape = architecture_of(Base(widths=(64, 128, 128, 128), layers=1, head_dim=32, context_dim=96))
    assert (shape.widths, shape.layers, shape.heads, shape.context_dim) == ((64, 128, 128, 128), 1, (2, 4, 4, 4), 96)


def test_a_base_that_is_no_unet_is_refused(tmp_path):
    save_file({"cond_stage_model.weight": torch.zeros(1)}, tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match="expected the weights of a Stable Diffusion UNet"):
        start(Base(path=str(tmp_path / "text.safetensors")))


def test_a_base_without_a_vae_says_how_to_name_one(tmp_path):
    tiny.write(tmp_path / "unet", tiny.unet())
    with pytest.raises(ConfigError, match=r"comes without a VAE: name one as base\.vae"):
        start(Base(path=str(tmp_path)))


def test_training_goes_on_from_a_context_that_was_learnt_before(tmp_path):
    path = tiny.write_own(tmp_path / "own.safetensors", [runs.recipe("depth"), runs.recipe("normal")])
    begun = start(Base(path=str(path)))
    torch.testing.assert_close(begun.context("normal", 2), tiny.context(1))
    torch.testing.assert_close(begun.context("mask", 2), (tiny.context(0) + tiny.context(1)) / 2)
