"""The project's adapter file holds the whole adapter and its manifest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from tiny_adapters import KINDS, adapter_of, assert_same, kinds_of_adapters, low_rank, random_adapter

from diffusion_perception.core.checkpoints import fingerprint as prints
from diffusion_perception.core.checkpoints.adapter_file import describe_adapter, read_adapter, write_adapter
from diffusion_perception.core.checkpoints.bases import recipe_of
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.recipe import Recipe


def test_the_own_file_reads_back_with_its_manifest(tmp_path):
    network = tiny.unet(generation=1)
    recipe = Recipe("depth", family="dmp", tokens=0, steps=5, paradigm="deterministic", licence="MIT", data="bedrooms")
    parts = kinds_of_adapters(network)["everything at once"].parts | {"conv_out": low_rank(network.conv_out, scale=0.3)}
    base = prints.fingerprint(network.state_dict().__getitem__)
    adapter = adapter_of(dict(parts), base="sd15", fingerprint=base, recipes=(recipe,), licence="MIT", data="bedrooms")
    path = tmp_path / "own.safetensors"
    write_adapter(path, adapter, contexts={"depth": tiny.context(tokens=77)})
    read = read_adapter(path)
    scale = torch.tensor(0.3).item()  # in single precision
    assert_same(read, replace(adapter, parts=parts | {"conv_out": replace(parts["conv_out"], scale=scale)}))
    for field in ("base", "fingerprint", "recipes", "licence", "data"):
        assert getattr(read, field) == getattr(adapter, field)
    assert recipe_of(read, tiny.unet_architecture(network)) == recipe


def test_info_shows_recipe_base_rank_and_licence(tmp_path):
    recipe = Recipe("normal", licence="MIT", data="rooms")
    adapter = random_adapter(tiny.unet(), KINDS["attention"], rank=4)
    adapter = replace(adapter, recipes=(recipe,), base="sd21", licence="MIT", data="rooms")
    write_adapter(tmp_path / "own.safetensors", adapter)
    told = describe_adapter(tmp_path / "own.safetensors")
    assert (told["base"], told["rank"], told["alpha"], told["licence"]) == ("sd21", 4, 4.0, "MIT")
    assert told["recipes"][0]["task"] == "normal"


def test_an_own_file_of_several_tasks_asks_for_one(tmp_path):
    recipes = (Recipe("normal"), Recipe("depth"))
    adapter = replace(random_adapter(tiny.unet(), KINDS["attention"]), recipes=recipes)
    architecture = tiny.unet_architecture(tiny.unet())
    assert recipe_of(adapter, architecture, task="depth").task == "depth"
    with pytest.raises(CheckpointError, match="name one of them"):
        recipe_of(adapter, architecture)
    with pytest.raises(CheckpointError, match="not for matte"):
        recipe_of(adapter, architecture, task="matte")
