"""A VAE that makes other latents is refused, a fine-tuned one is said, the same one runs silently."""

from __future__ import annotations

from ast import literal_eval

import pytest
import tiny
import torch
from tiny_vaes import disturbed, stored

from diffusion_perception.core.checkpoints import vae_latents
from diffusion_perception.core.checkpoints.describe import describe_latents
from diffusion_perception.core.checkpoints.tensors import network, pick_vae
from diffusion_perception.core.checkpoints.tiny_vae_file import Held, latents_of
from diffusion_perception.core.checkpoints.vae_latents import KnownVAE, connected_vae_note, recognised
from diffusion_perception.core.recipe import Recipe

SD21, SD15, CUSTOM = (Recipe("depth", base=base) for base in ("sd21", "sd15", "custom"))


def of(tensors):
    return latents_of(Held.of(tensors))


OWN = of(tiny.vae().state_dict())


def refused(recipe, own, connected):
    with pytest.raises(ValueError, match="connect") as told:
        connected_vae_note(recipe, own, connected)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_vae_is_told_by_layers_from_its_first_to_its_last_and_hosts_names_are_no_hindrance(tmp_path):
    assert len(OWN) == 7
    ldm = {name.removeprefix("first_stage_model."): tensor for name, tensor in tiny.ldm_vae(tiny.vae()).items()}
    assert of(ldm) == OWN
    path = tiny.write_ldm(tmp_path / "sd.safetensors")
    assert latents_of(network((path,), pick_vae)) == OWN
    assert latents_of(None) == {}
    assert of({"decoder.1.weight": torch.zeros(4)}) == {}


@pytest.mark.parametrize("recipe", [SD15, SD21, CUSTOM], ids=lambda recipe: recipe.base)
def test_the_same_vae_is_silent_a_fine_tuned_one_said_another_refused(recipe):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert connected_vae_note(recipe, OWN, of(stored(tiny.vae().state_dict(), dtype))) == ""
    for share in (0.02, 0.1, 0.3):
        note = connected_vae_note(recipe, OWN, of(disturbed(tiny.vae().state_dict(), share)))
        assert "near it" in note
        assert "\n" not in note
    assert "makes other latents than the one that depth has" in refused(recipe, OWN, of(tiny.vae(5).state_dict()))


def test_a_vae_with_another_decoder_is_silent():
    tensors = tiny.vae().state_dict()
    other = {name: value * 2 if name.startswith(("decoder", "post")) else value for name, value in tensors.items()}
    assert connected_vae_note(SD21, OWN, of(other)) == ""


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_a_vae_of_8_bits_cannot_be_told_and_runs_where_latents_are_everybodys(dtype):
    rounded = of(stored(tiny.vae().state_dict(), dtype))
    assert rounded == {}
    assert connected_vae_note(SD21, OWN, rounded) == ""
    assert "cannot be compared" in refused(CUSTOM, OWN, rounded)


def test_without_a_vae_to_compare_with_an_unknown_one_runs_and_a_known_one_is_looked_up(monkeypatch):
    right, wrong = OWN, of(tiny.vae(5).state_dict())
    for latents in (right, wrong):
        assert connected_vae_note(SD21, {}, latents) == ""
    rows = (KnownVAE("of Stable Diffusion", ("sd15", "sd21"), right), KnownVAE("the VAE of SDXL", (), wrong))
    monkeypatch.setattr(vae_latents, "KNOWN_VAES", rows)
    for recipe in (SD15, SD21):
        assert connected_vae_note(recipe, {}, right) == ""
        assert "is the VAE of SDXL or made from it" in refused(recipe, {}, wrong)
        assert "the VAE of SDXL" in refused(recipe, {}, of(disturbed(tiny.vae(5).state_dict(), 0.1)))
        assert connected_vae_note(recipe, {}, of(tiny.vae(6).state_dict())) == ""
        assert connected_vae_note(recipe, {}, {}) == ""
    # what a network of its own kind perceives nobody knows; where the checkpoint has a VAE that one decides
    assert connected_vae_note(CUSTOM, {}, wrong) == ""
    assert connected_vae_note(SD21, wrong, wrong) == ""
    assert recognised(of(stored(tiny.vae().state_dict(), torch.bfloat16))) is rows[0]


def test_a_row_is_what_info_prints(monkeypatch):
    line = describe_latents(Held.of(tiny.vae().state_dict()))["latents"]
    assert "\n" not in line
    monkeypatch.setattr(vae_latents, "KNOWN_VAES", (KnownVAE("x", (), literal_eval(line)),))
    assert "is x or made from it" in refused(SD21, {}, OWN)
