"""A checkpoint is assembled the same way on every host, from what is at hand, and nothing is read in vain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from tiny_adapters import KINDS, random_adapter, saved, spelled

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.assemble import assemble
from diffusion_perception.core.checkpoints.bases import open_adapted
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import Diffusers, load_perceiver

BAKED = tiny.context(seed=11)
RECIPE = Recipe("depth", tokens=2, base="custom")


class Third(Diffusers):
    """Another host: it notes what it is asked for, and has an empty prompt of its own for SD2.1."""

    advice = "bring one {width} wide with {tokens} tokens"

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "asked", [])

    def backbone(self, weights, architecture):
        self.asked.append("backbone")
        return super().backbone(weights, architecture)

    def encode_prompt(self, text_encoder: Path, tokens: list[int]):
        self.asked.append(f"{text_encoder.name} {len(tokens)}")
        return tiny.context(seed=21, tokens=len(tokens))

    def empty_prompt(self, base: str, tokens: int):
        return tiny.context(seed=31) if (base, tokens) == ("custom", 2) else None


@pytest.fixture
def bare(tmp_path):
    """A checkpoint that came without a text context."""
    return open_checkpoint(tiny.write_own(tmp_path / "bare.safetensors", [RECIPE], contexts={}))


def test_a_given_context_comes_before_the_files_and_that_before_the_encoders_and_that_before_the_hosts(bare, tmp_path):
    host, given = Third(), Context(tiny.context(seed=41))
    encoder = tmp_path / "text_encoder"
    asked = {
        "given": (replace(bare, context=Context(BAKED), text_encoder=encoder), given, given.tokens),
        "file": (replace(bare, context=Context(BAKED), text_encoder=encoder), None, BAKED),
        "encoder": (replace(bare, text_encoder=encoder), None, tiny.context(seed=21)),
        "host": (bare, None, tiny.context(seed=31)),
    }
    for name, (checkpoint, context, expected) in asked.items():
        assert torch.equal(assemble(checkpoint, host, context=context).context.tokens, expected), name
    assert [word for word in host.asked if word != "backbone"] == ["text_encoder 2"]


def test_a_recipe_of_all_tokens_has_its_prompt_padded(bare, tmp_path):
    host = Third()
    checkpoint = replace(bare, recipe=replace(bare.recipe, tokens=0), text_encoder=tmp_path / "text_encoder")
    assert assemble(checkpoint, host).context.tokens.shape == (1, 77, tiny.WIDTH)
    assert host.asked == ["text_encoder 77", "backbone"]


def test_what_is_missing_is_told_in_the_hosts_words_before_weights_are_read(bare):
    host = Third()
    with pytest.raises(CheckpointError, match=f"without a text context: bring one {tiny.WIDTH} wide with 5 tokens."):
        assemble(replace(bare, recipe=replace(bare.recipe, tokens=5)), host)
    with pytest.raises(CheckpointError, match="brings no light decoder"):
        assemble(bare, host, decoder="light")
    assert host.asked == []


def test_guidance_leads_away_from_what_is_given_else_from_the_file_else_from_the_empty_prompt(tmp_path):
    recipe = RECIPE
    one = open_checkpoint(tiny.write_own(tmp_path / "one.safetensors", [recipe], contexts={"depth": BAKED}))
    guided = replace(one, recipe=replace(recipe, guidance_scale=3.0))
    given = Context(tiny.context(seed=51))
    assert assemble(one, Third()).negative is None
    assert torch.equal(assemble(guided, Third(), negative=given).negative.tokens, given.tokens)
    assert torch.equal(assemble(guided, Third()).negative.tokens, BAKED)
    assert assemble(replace(guided, context=None), Third()).negative is None  # the host's own came with nothing


def test_a_checkpoint_without_a_vae_gives_a_perceiver_without_one(bare):
    perceiver = assemble(replace(bare, vae=None), Third())
    assert perceiver.autoencoder is None
    assert isinstance(perceiver, Perceiver)


def test_two_hosts_give_the_same_numbers(bare):
    image, context = tiny.picture(64, 64), Context(BAKED)
    perceivers = assemble(bare, Third(), context=context), load_perceiver(bare, context=context)
    maps = [predict(perceiver, image, resolution=0) for perceiver in perceivers]
    assert torch.equal(maps[0].values, maps[1].values)


def test_an_adapter_goes_beside_the_weights(tmp_path):
    base = tiny.write_own(tmp_path / "base.safetensors", [RECIPE], contexts={"depth": BAKED})
    parts = random_adapter(tiny.unet(), KINDS["attention"])
    file = saved(tmp_path / "adapter.safetensors", spelled(parts, "diffusers"))
    checkpoint, adapter = open_adapted(open_networks(base), file, family="genpercept", task="depth")
    image = tiny.picture(64, 64)
    perceivers = [assemble(checkpoint, Third(), adapter=each) for each in (None, adapter)]
    plain, adapted = (predict(perceiver, image, resolution=0) for perceiver in perceivers)
    assert not torch.equal(plain.values, adapted.values)
