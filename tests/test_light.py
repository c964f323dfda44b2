"""Light halves of the VAE: TAESD's to the last digits, sizes, storage, and what they take the place of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_light import published, random_light, tiny_autoencoder, write_taesd
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from diffusion_perception.core.checkpoints.adapter_file import read_adapter, write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter, LowRank
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.own_file import read_own, write_own
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.checkpoints.tiny_vae_file import (
    Held,
    chosen,
    latents_note,
    meant_for,
    open_light,
    own_light,
)
from diffusion_perception.core.halves import Halves, with_full, with_light
from diffusion_perception.core.multitask import passes_of_tasks, predict_tasks
from diffusion_perception.core.pipeline import denoise, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tiny_vae import LightDecoder, LightEncoder, build_light, untrained
from diffusion_perception.trainer.config import Distillation
from diffusion_perception.trainer.host import Diffusers, DiffusersAutoencoder

DEPTH, NORMAL = (Recipe(task, resolution=64) for task in ("depth", "normal"))
OWN_DEPTH = replace(DEPTH, base="custom")
"""Of a network whose latents are those of a VAE of its own."""
SHAPES = [(4, 4, 3), (1, 2, 1, 1), (2, 1), (1,)]
"""Blocks of each level."""


# Networks


@pytest.mark.parametrize("role", ["decoder", "encoder"])
@pytest.mark.parametrize("name", ["taesd_{}.safetensors", "taesd_{}.pth", "diffusion_pytorch_model.safetensors"])
def test_taesd_computes_what_diffusers_computes(tmp_path, role, name):
    expected, path = tiny_autoencoder(3), tmp_path / name.format(role)
    if "taesd" in name:
        write_taesd(path, role, 3)
    else:
        save_file(expected.state_dict(), path)
    light = Diffusers().light(open_light(path, role, DEPTH).weights)
    shown = {"decoder": torch.randn(2, 4, 6, 9) * 3, "encoder": torch.rand(2, 3, 48, 72) * 2 - 1}[role]
    answer = expected.decode(shown).sample if role == "decoder" else expected.encode(shown).latents
    assert_close(light(shown), answer, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocks", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("role", ["decoder", "encoder"])
def test_a_network_is_read_from_the_shapes_of_its_weights(role, channels, blocks):
    made = random_light(role, channels, 8, blocks)
    again = build_light(tiny.shapes(made.state_dict()))
    again.load_state_dict(made.state_dict())
    shown = torch.randn(1, 4, 3, 5) if role == "decoder" else torch.rand(1, 3, 24, 40) * 2 - 1
    assert torch.equal(again(shown), made(shown))


@settings(max_examples=25)
@given(height=st.integers(8, 70), width=st.integers(8, 70), blocks=st.sampled_from(SHAPES))
def test_sizes_are_those_of_the_vae(height, width, blocks):
    encoder, decoder = LightEncoder(4, blocks[::-1]), LightDecoder(3, 4, blocks)
    latent = encoder(torch.zeros(1, 3, height, width))
    assert latent.shape == (1, 4, height // 8, width // 8)
    assert decoder(latent).shape == (1, 3, height // 8 * 8, width // 8 * 8)


@pytest.mark.parametrize("role", ["decoder", "encoder"])
def test_a_batch_is_its_items_one_by_one(role):
    network = random_light(role)
    shown = torch.randn(3, 4, 4, 4) if role == "decoder" else torch.rand(3, 3, 32, 32)
    assert_close(network(shown), torch.cat([network(item[None]) for item in shown]), rtol=0, atol=1e-5)


def test_a_stray_latent_spoils_only_its_surroundings():
    decoder, latent = random_light(), torch.zeros(1, 4, 16, 16)
    stray = latent.clone()
    stray[..., 0, 0] = 1e4
    changed = (decoder(stray) - decoder(latent)).abs()
    assert changed[..., 64:, 64:].max() == 0
    assert changed.max() < 100


def flops(network, *size):
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() / 1e12


def test_as_trained_by_default_they_are_small_and_quick():
    """Against the whole one-step prediction of SD2.1 at 768x768: UNet 2.138, encoder 2.609, decoder 5.754 TFLOPs."""
    usual = Distillation()
    with torch.device("meta"):
        decoder, encoder = (
            untrained(role, 3, usual.light_width, usual.light_blocks) for role in ("decoder", "encoder")
        )
    assert all(sum(weight.numel() for weight in part.parameters()) <= 2e6 for part in (decoder, encoder))
    decode, encode = flops(decoder, 4, 96, 96), flops(encoder, 3, 768, 768)
    whole = 2.138 + 2.609 + 5.754
    assert (2.138 + 2.609 + decode) / whole <= 0.5
    assert (2.138 + encode + decode) / whole <= 0.3


# In the VAE's place


def test_a_light_decoder_stands_where_the_vae_decodes():
    perceiver, decoder = tiny.perceiver(DEPTH), random_light()
    picture = tiny.picture(64, 64)
    seen = predict(with_light(perceiver, None, decoder), picture, resolution=0).values
    latent = denoise(perceiver, perceiver.autoencoder.encode(picture * 2 - 1))
    expected = DEPTH.target_codec().decode(decoder(latent)).movedim(1, -1)
    assert_close(seen, expected, rtol=0, atol=2e-3)  # pictures of 8-bit levels
    assert (seen - predict(perceiver, picture, resolution=0).values).abs().max() > 1e-2


def test_two_light_halves_need_no_vae_and_one_says_what_is_missing():
    alone = replace(tiny.perceiver(DEPTH), autoencoder=None)
    picture = tiny.picture(40, 48)
    both = with_light(alone, random_light("encoder"), random_light("decoder"))
    assert predict(both, picture).values.shape == (1, 40, 48, 1)
    with pytest.raises(ValueError, match="take a light encoder as well"):
        predict(with_light(alone, None, random_light()), picture)


def test_another_vae_leaves_light_halves_where_they_are():
    decoder, other = random_light(), DiffusersAutoencoder(tiny.vae(5))
    perceiver = with_full(with_light(tiny.perceiver(DEPTH), None, decoder), other)
    assert isinstance(perceiver.autoencoder, Halves)
    assert (perceiver.autoencoder.full, perceiver.autoencoder.light_decoder) == (other, decoder)
    assert with_full(tiny.perceiver(DEPTH), other).autoencoder is other


def test_tasks_with_light_decoders_of_their_own_share_one_encode():
    calls = []

    class Counting(DiffusersAutoencoder):
        def encode(self, image):
            calls.append(image.shape)
            return super().encode(image)

    vae = Counting(tiny.vae())
    plain = [replace(tiny.perceiver(recipe), autoencoder=vae) for recipe in (DEPTH, NORMAL)]
    light = [with_light(one, None, random_light(channels=3, seed=i)) for i, one in enumerate(plain)]
    ticks = []
    together = predict_tasks(light, tiny.picture(64, 64), tick=lambda: ticks.append(1))
    assert len(calls) == 1
    assert len(ticks) == passes_of_tasks(light, 1, 1)
    for one, seen in zip(light, together):
        assert_close(seen.values, predict(one, tiny.picture(64, 64)).values, rtol=0, atol=1e-3)


# On disk


def with_decoder(recipe, name="small", cost=""):
    return replace(recipe, decoder=name, decoder_cost=cost)


def test_a_checkpoint_brings_the_light_halves_that_its_recipes_name(tmp_path):
    decoder, encoder = random_light(), random_light("encoder")
    depth = replace(with_decoder(DEPTH, cost="abs-rel 0.1 -> 0.11"), encoder="image")
    stored = {"decoder": {"small": decoder.state_dict()}, "encoder": {"image": encoder.state_dict()}}
    path = tiny.write_own(tmp_path / "own.safetensors", [depth, NORMAL], light=stored)
    found = open_checkpoint(path, task="depth")
    assert found.recipe == depth
    for held, network in ((found.decoder, decoder), (found.encoder, encoder)):
        assert all(torch.equal(held.load()[name], tensor) for name, tensor in network.state_dict().items())
    other = open_checkpoint(path, task="normal")
    assert (other.decoder, other.encoder) == (None, None)
    assert len(found.unet.shapes) == len(tiny.unet().state_dict())


def test_an_adapter_brings_them_too(tmp_path):
    part = LowRank(torch.zeros(1, 4), torch.zeros(4, 1), 1.0)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    adapter = Adapter(tmp_path / "a.safetensors", {layer: part}, "own", recipes=(with_decoder(DEPTH),))
    decoder = random_light()
    write_adapter(adapter.path, adapter, light={"decoder": {"small": decoder.state_dict()}})
    assert list(read_adapter(adapter.path).parts) == [layer]
    held = own_light(read_own(adapter.path), "decoder", with_decoder(DEPTH))
    assert torch.equal(held.load()["from_latent.weight"], decoder.state_dict()["from_latent.weight"])


def test_a_file_of_its_own_is_for_its_own_recipe(tmp_path):
    path = tmp_path / "light.safetensors"
    stored = {"decoder": {"a": random_light().state_dict(), "b": random_light(channels=3).state_dict()}}
    write_own(path, [with_decoder(DEPTH, "a", "x"), with_decoder(NORMAL, "b")], light=stored)
    assert open_light(path, "decoder", DEPTH).name == "a"
    assert open_light(path, "decoder", DEPTH).cost == "x"
    assert open_light(path, "decoder", NORMAL).name == "b"
    assert meant_for(path, "decoder", NORMAL)
    assert not meant_for(path, "decoder", Recipe("mask"))
    assert not meant_for(path, "encoder", NORMAL)


def test_the_only_decoder_of_a_file_is_used_for_another_task_whose_pictures_it_can_make(tmp_path):
    path = tmp_path / "light.safetensors"
    write_own(path, [with_decoder(DEPTH, "a", "x")], light={"decoder": {"a": random_light().state_dict()}})
    found = open_light(path, "decoder", Recipe("mask"))
    assert (found.name, found.cost) == ("a", "")


def refused(call, *arguments):
    with pytest.raises(CheckpointError) as error:
        call(*arguments)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path):
    mono = tmp_path / "mono.safetensors"
    write_own(mono, [with_decoder(DEPTH, "a")], light={"decoder": {"a": random_light().state_dict()}})
    assert "decoder of 1 channel; normal needs 3" in refused(open_light, mono, "decoder", NORMAL)
    assert "no light encoder, none for depth" in refused(open_light, mono, "encoder", DEPTH)
    assert "light halves of a VAE only" in refused(open_checkpoint, mono)

    decoder = write_taesd(tmp_path / "taesd_decoder.safetensors", "decoder")
    assert "holds a light decoder, not a light encoder" in refused(open_light, decoder, "encoder", DEPTH)
    larger = decoder.rename(tmp_path / "taesdxl_decoder.safetensors")
    assert "latents of SDXL" in refused(open_light, larger, "decoder", DEPTH)
    assert "There is no file" in refused(open_light, decoder, "decoder", DEPTH)

    tensors = published(tiny_autoencoder(), "decoder")
    wide = {**tensors, "1.weight": torch.zeros(64, 16, 3, 3)}
    save_file({name: tensor.contiguous() for name, tensor in wide.items()}, tmp_path / "taesd3_decoder.safetensors")
    assert "latents of 16 channels" in refused(open_light, tmp_path / "taesd3_decoder.safetensors", "decoder", DEPTH)
    del tensors["19.weight"]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "broken.safetensors")
    assert "lack '19.weight'" in refused(open_light, tmp_path / "broken.safetensors", "decoder", DEPTH)
    tiny.write(tmp_path / "vae", tiny.vae())
    assert "no light decoder or encoder" in refused(open_light, tmp_path / "vae" / tiny.WEIGHTS, "decoder", DEPTH)

    lost = tiny.write_own(tmp_path / "lost.safetensors", [with_decoder(DEPTH)])
    assert "lacks the light decoder 'small'" in refused(open_checkpoint, lost)
    assert "brings no light decoder for depth" in refused(chosen, "decoder", "light", DEPTH, None)
    headed = replace(DEPTH, head="dpt_head")
    assert "decoded by its head dpt_head" in refused(chosen, "decoder", "light", headed, None)
    assert chosen("decoder", "full", headed, None) is None


# Whose latents they are


def vae(seed=1, dtype=torch.float32):
    """What tells latents apart stays, whatever precision they are stored in."""
    return Held.of({name: tensor.to(dtype) for name, tensor in tiny.vae(seed).state_dict().items()})


def trained_for(path, recipe, seed=None, name="a"):
    """A light decoder as `train` writes it for a VAE; without seed as it was written before it named one."""
    note = {} if seed is None else latents_note(vae(seed))
    write_own(
        path, [with_decoder(recipe, name, "x")], light={"decoder": {name: random_light().state_dict()}}, metadata=note
    )
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_light_half_of_a_network_with_its_own_vae_fits_where_the_vae_is_the_same(tmp_path, dtype):
    path = trained_for(tmp_path / "light.safetensors", OWN_DEPTH, 1)
    assert open_light(path, "decoder", OWN_DEPTH, vae(1, dtype)).cost == "x"
    assert "is for latents of the VAE it was trained with; depth perceives those of its own VAE, which is another" in (
        refused(open_light, path, "decoder", OWN_DEPTH, vae(5, dtype))
    )
    assert "those of a VAE that did not come with it" in refused(open_light, path, "decoder", OWN_DEPTH)
    assert "perceives those of Stable Diffusion 1.x and 2.x" in refused(open_light, path, "decoder", DEPTH, vae(5))
    # a network of other widths may be trained on Stable Diffusion's VAE
    assert open_light(path, "decoder", DEPTH, vae(1)).name == "a"


def test_light_halves_of_stable_diffusion_are_for_both_its_generations_and_nothing_else(tmp_path):
    taesd = write_taesd(tmp_path / "taesd_decoder.safetensors", "decoder")
    stored = trained_for(tmp_path / "light.safetensors", DEPTH)
    for path in (taesd, stored):
        for base in ("sd15", "sd21"):
            assert open_light(path, "decoder", replace(DEPTH, base=base)).weights.shapes
        assert "is for latents of Stable Diffusion 1.x and 2.x; depth perceives those of its own VAE" in (
            refused(open_light, path, "decoder", OWN_DEPTH, vae())
        )
        assert 'train a light one for it (learn = "decoder")' in (
            refused(chosen, "decoder", str(path), OWN_DEPTH, None, vae())
        )


def test_files_that_name_no_vae_are_for_stable_diffusion_only(tmp_path):
    """As they were written before: of a VAE alone, with a base of which nothing was known."""
    path = trained_for(tmp_path / "light.safetensors", OWN_DEPTH)
    assert open_light(path, "decoder", DEPTH).name == "a"
    assert "latents of a VAE that it does not name" in refused(open_light, path, "decoder", OWN_DEPTH, vae())


def test_a_checkpoint_s_light_half_fits_its_own_vae_and_not_another_checkpoint_s(tmp_path):
    own = with_decoder(OWN_DEPTH)
    stored = {"decoder": {"small": random_light().state_dict()}}
    one = tiny.write_own(tmp_path / "one.safetensors", [own], light=stored)
    found = open_checkpoint(one)
    assert chosen("decoder", "light", found.recipe, found.decoder, found.vae) is found.decoder
    assert chosen("decoder", str(one), OWN_DEPTH, None, found.vae).shapes == found.decoder.shapes
    assert "which is another" in refused(chosen, "decoder", str(one), OWN_DEPTH, None, vae(5))


def test_an_adapter_s_light_half_is_for_the_vae_that_it_was_trained_with(tmp_path):
    part = LowRank(torch.zeros(1, 4), torch.zeros(4, 1), 1.0)
    own = with_decoder(OWN_DEPTH)
    for note in (latents_note(vae()), {}):
        adapter = Adapter(tmp_path / "a.safetensors", {"mid_block.resnets.0.conv1": part}, "own", recipes=(own,))
        write_adapter(adapter.path, adapter, metadata=note, light={"decoder": {"small": random_light().state_dict()}})
        held = own_light(read_own(adapter.path), "decoder", own)
        assert chosen("decoder", "light", own, held, vae()) is held
        if note:
            assert "which is another" in refused(chosen, "decoder", "light", own, held, vae(5))


def test_names_of_light_halves_cannot_be_set_for_a_run():
    for field in ("decoder", "encoder"):
        with pytest.raises(ValueError, match=f"{field} comes with the weights"):
            DEPTH.override([f"{field}=x"])
