"""A way of naming an adapter's tensors is rows of core.checkpoints.adapter_names: some are added here and read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
from tiny_adapters import DELTAS, KINDS, LAYOUT, assert_same, random_adapter, saved, spelled

from diffusion_perception.core.checkpoints import adapter_names
from diffusion_perception.core.checkpoints.adapter_file import is_adapter, read_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter
from diffusion_perception.core.checkpoints.bases import recipe_of
from diffusion_perception.core.checkpoints.families import FAMILIES, Family
from diffusion_perception.core.recipe import Recipe


@pytest.fixture
def endings(monkeypatch) -> None:
    """Of a trainer that calls the two matrices otherwise."""
    rows = ((re.compile(rf"(.+?)\.{end}"), role, "imagined") for end, role in (("narrow", "down"), ("wide", "up")))
    monkeypatch.setattr(adapter_names, "ENDINGS", (*rows, *adapter_names.ENDINGS))


def written(path: Path, adapter: Adapter) -> Path:
    pairs = {name: {"narrow": part.down, "wide": part.up} for name, part in adapter.parts.items()}
    return saved(path, {f"{name}.{end}": tensor for name, pair in pairs.items() for end, tensor in pair.items()})


def test_new_endings_are_read_and_have_the_name_of_their_rows(endings, tmp_path):
    adapter = random_adapter(tiny.unet(), DELTAS["whole weights"])
    path = written(tmp_path / "lora.safetensors", adapter)
    read = read_adapter(path, LAYOUT)
    assert is_adapter(path)
    assert read.spelling == "imagined"
    assert_same(read, adapter)


@pytest.mark.parametrize("spelling", ["diffusers layers", "peft in diffusers", "comfyui"])
def test_a_new_prefix_is_read_before_every_old_spelling(monkeypatch, tmp_path, spelling):
    monkeypatch.setattr(adapter_names, "PREFIXES", (("wrapped.in.", ""), *adapter_names.PREFIXES))
    adapter = random_adapter(tiny.unet(), KINDS["every Linear"])
    tensors = {f"wrapped.in.{name}": tensor for name, tensor in spelled(adapter, spelling).items()}
    assert_same(read_adapter(saved(tmp_path / "lora.safetensors", tensors), LAYOUT), adapter)


def test_a_family_whose_adapters_are_spelled_so_is_recognised_by_it(endings, monkeypatch, tmp_path):
    row = Family("imagined", "Imagined", 4, lambda clues: clues.adapter == "imagined", recipe)
    monkeypatch.setitem(FAMILIES, row.name, row)
    file = written(tmp_path / "depth" / "lora.safetensors", random_adapter(tiny.unet(), KINDS["attention"]))
    found = recipe_of(read_adapter(file, LAYOUT), tiny.unet_architecture(tiny.unet()))
    assert (found.family, found.task) == ("imagined", "depth")


def recipe(clues, task: str) -> Recipe:
    return Recipe(task, family="imagined", base=clues.architecture.base)
