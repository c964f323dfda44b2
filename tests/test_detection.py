"""What a checkpoint is, family by family and layout by layout: told by content, asked for in words, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from diffusers import DDIMScheduler, LCMScheduler
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_families import DDIM, LCM, PARTS, PUBLISHED, TRAILING, ZERO, Published

from diffusion_perception.core.checkpoints.checkpoint import UnsuitedError, open_all, open_checkpoint
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main

NEUTRAL = "my-model"
ROWS = {row.repository: row for row in PUBLISHED}


def each(rows: dict[str, Published]) -> Any:
    return pytest.mark.parametrize("row", rows.values(), ids=rows)


def differing(recipe: Recipe, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name, value in fields.items() if getattr(recipe, name) != value}


def asked(path: Path, row: Published) -> None:
    """It asks, and names the family among those that fit, or asks for the task alone."""
    with pytest.raises(UnsuitedError) as refused:
        open_checkpoint(path)
    said = str(refused.value)
    fitting = said.partition("its weights fit ")[2].split(" (")[0].rstrip(".").split(", ")
    assert row.family in fitting or "nothing in it says its task: name one of" in said, said


# Whole repositories


@each(ROWS)
def test_a_repository_tells_family_task_and_run(tmp_path, row):
    found = open_all(tiny_families.write(tmp_path, row))
    assert [checkpoint.recipe.task for checkpoint in found] == list(row.tasks)
    assert {checkpoint.recipe.family for checkpoint in found} == {row.family}
    assert differing(found[0].recipe, row.run) == {}


@each(ROWS)
def test_a_repository_under_another_name_is_the_same_or_asks(tmp_path, row):
    """Indexes and schedulers go along; what only the name told is asked for."""
    home = tiny_families.write(tmp_path, row).rename(tmp_path / NEUTRAL)
    try:
        found = open_all(home)[0].recipe
    except UnsuitedError:
        return asked(home, row)
    assert (found.family, found.task) == (row.family, row.tasks[0])
    assert differing(found, row.run) == {}


# What was lifted out of one


def lone_folder(home: Path, name: str, row: Published) -> Path:
    return tiny.write(home / name, row.network)


def in_a_file(names: Callable[..., Any], dtype: torch.dtype, ending: str) -> Callable[..., Path]:
    def lay(home: Path, name: str, row: Published) -> Path:
        path = home / f"{name}{ending}"
        home.mkdir(exist_ok=True)
        tensors = names(row, dtype)
        torch.save(tensors, path) if ending == ".bin" else save_file(tensors, path)
        return path

    return lay


LAYOUTS = {
    "a lone folder": lone_folder,
    "one file": in_a_file(tiny_families.diffusers_names, torch.float32, ".safetensors"),
    "one file fp16": in_a_file(tiny_families.diffusers_names, torch.float16, ".safetensors"),
    "one file by LDM's names": in_a_file(tiny_families.ldm_names, torch.float16, ".safetensors"),
    "a .bin": in_a_file(tiny_families.diffusers_names, torch.float16, ".bin"),
}


@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
@each(ROWS)
def test_bare_weights_are_told_by_their_name_or_ask(tmp_path, row, lay):
    """Then a person names family and task, and the answer is theirs."""
    path = lay(tmp_path / "models", row.name, row)
    if row.named:
        found = open_all(path)
        assert [(each.recipe.family, each.recipe.task) for each in found] == [(row.family, task) for task in row.tasks]
    else:
        asked(path, row)
    recipe = open_checkpoint(path, row.family, row.tasks[0]).recipe
    assert (recipe.family, recipe.task) == (row.family, row.tasks[0])
    assert differing(recipe, without_index(row)) == {}


@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
@each(ROWS)
def test_bare_weights_without_a_name_are_told_by_their_shapes_or_ask(tmp_path, row, lay):
    path = lay(tmp_path / "models", NEUTRAL, row)
    if row.alone and (len(row.tasks) > 1 or row.family == "depthmaster"):
        assert open_all(path)[0].recipe.family == row.family
    elif row.alone:
        assert open_checkpoint(path, task=row.tasks[0]).recipe.family == row.family
        asked(path, row)
    else:
        asked(path, row)
    assert open_checkpoint(path, row.family, row.tasks[0]).recipe.family == row.family


def without_index(row: Published) -> dict[str, Any]:
    """What the run is as far as bare weights and their name can tell it."""
    stated = ("encoding", "up_to_scale") if "olbedo" in row.repository else ()
    return {name: value for name, value in row.run.items() if name not in stated}
