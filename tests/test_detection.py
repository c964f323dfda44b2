"""What a checkpoint is, family by family and layout by layout: told by content, asked for in words, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_families
import torch
from diffusers import DDIMScheduler, LCMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_family_references import READ
from test_reference import decode, encode
from tiny_adapters import KINDS, random_adapter, saved, spelled
from tiny_families import DDIM, LCM, PARTS, PUBLISHED, TRAILING, ZERO, Published

from diffusion_perception.core.checkpoints.adapters import Adapter
from diffusion_perception.core.checkpoints.bases import open_adapted
from diffusion_perception.core.checkpoints.checkpoint import UnsuitedError, open_all, open_checkpoint
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.checkpoints.tensors import CheckpointError
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


ONE_OF_EACH = tiny_families.one_of_each(PUBLISHED)
BARE = {
    **{f"{name}, one file fp16": (row, LAYOUTS["one file fp16"]) for name, row in ROWS.items()},
    **{f"{name}, {layout}": (row, lay) for name, row in ONE_OF_EACH.items() for layout, lay in LAYOUTS.items()},
}


@pytest.mark.parametrize(("row", "lay"), BARE.values(), ids=BARE)
def test_bare_weights_are_told_by_shapes_and_names_or_ask(tmp_path, row, lay):
    """Where they ask, a person names family and task, and the run is theirs."""
    path = lay(tmp_path / "models", NEUTRAL, row)
    check_nameless(path, row)
    path = path.rename(path.with_name(row.name + path.suffix))
    if row.named:
        found = [checkpoint.recipe for checkpoint in open_all(path)]
        assert [(recipe.family, recipe.task) for recipe in found] == [(row.family, task) for task in row.tasks]
    else:
        asked(path, row)
    recipe = open_checkpoint(path, row.family, row.tasks[0]).recipe
    assert (recipe.family, recipe.task) == (row.family, row.tasks[0])
    assert differing(recipe, without_index(row)) == {}


def check_nameless(path: Path, row: Published) -> None:
    """Weights under a name that says nothing."""
    first = row.tasks[0]
    if not row.alone:
        asked(path, row)
    elif len(row.tasks) > 1 or row.family == "depthmaster":
        assert [checkpoint.recipe.task for checkpoint in open_all(path)] == list(row.tasks)
    else:
        asked(path, row)
        assert open_checkpoint(path, task=first).recipe.family == row.family
    assert open_checkpoint(path, row.family, first).recipe.family == row.family


def without_index(row: Published) -> dict[str, Any]:
    """What the run is as far as bare weights and their name can tell it."""
    stated = ("encoding", "up_to_scale") if "olbedo" in row.repository else ()
    return {name: value for name, value in row.run.items() if name not in stated}


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ""])
@pytest.mark.parametrize("name", ["unet_disparity_dpt_head_v2", NEUTRAL])
def test_a_unet_without_its_head_is_not_run_through_the_vae(tmp_path, name, ending):
    """It has no way out of its own."""
    path = tiny.write_headless(tmp_path / name)
    if ending:
        tensors = load_file(path / tiny.WEIGHTS)
        path = tmp_path / f"{name}{ending}"
        torch.save(tensors, path) if ending == ".bin" else save_file(tensors, path)
    for family in ("auto", "genpercept"):
        with pytest.raises(UnsuitedError, match="was trained for a head|does not say|nothing beside it says"):
            open_checkpoint(path, family, "" if family == "auto" else "disparity")


def test_a_unet_with_its_head_is_told_by_it(tmp_path):
    tiny.write_head(tiny.write_headless(tmp_path / "hub" / "unet_disparity_dpt_head_v2").parent)
    recipe = open_checkpoint(tmp_path / "hub").recipe
    assert (recipe.family, recipe.task, recipe.codec) == ("genpercept-dpt", "disparity", "min-max")


# The project's own file, which says it once and for all


def export(out: Path, *words: Any) -> list[Recipe]:
    assert main([str(word) for word in ("export", "--out", out, *words)]) == 0
    return [checkpoint.recipe for checkpoint in open_all(out)]


SEVERAL = {name: row for name, row in ROWS.items() if len(row.tasks) > 1 or row.family in ("e2e-ft", "lotus-g")}


@each(SEVERAL)
def test_an_exported_repository_holds_every_recipe_and_prompt(tmp_path, row):
    home = tiny_families.write(tmp_path, row)
    out = tmp_path / "out" / f"{NEUTRAL}.safetensors"
    recipes = export(out, "--model", home)
    assert recipes == [checkpoint.recipe for checkpoint in open_all(home)]
    with safe_open(out, "pt") as held:
        texts = {recipe.id: held.get_tensor(f"context.{recipe.id}") for recipe in recipes}
    for recipe in recipes:
        expected = tiny_families.prompt(recipe.task) if recipe.prompt else tiny.context(tokens=77)
        wanted = expected[:, : recipe.tokens or 77]
        torch.testing.assert_close(texts[recipe.id].float(), wanted, atol=1e-3, rtol=1e-3)
        assert open_checkpoint(out, task=recipe.task).recipe == recipe


def test_each_recipe_of_an_exported_file_predicts(tmp_path):
    """Of several targets by one pass, and of several prompts."""
    for name in ("marigold-iid-appearance-v1-1", "rgb-to-x"):
        out = tmp_path / f"{NEUTRAL}-{name[:3]}.safetensors"
        recipes = export(out, "--model", tiny_families.write(tmp_path, ROWS[name]))
        picture = tiny.save_picture(tmp_path / "picture.png", 48, 64)
        for recipe in recipes:
            words = ["predict", "--model", out, "--task", recipe.task, "--set", "steps=1", "--resolution", 64]
            assert main([str(word) for word in (*words, "--out", tmp_path / "maps" / recipe.task, picture)]) == 0


@pytest.mark.parametrize(
    ("name", "task"),
    [("marigold-depth-v1-1", "depth"), ("rgb-to-x", ""), ("rgb-to-x", "normal"), ("genpercept-models", "depth")],
)
def test_what_a_person_named_is_written_into_the_file(tmp_path, name, task):
    row = ROWS[name]
    path = LAYOUTS["one file"](tmp_path / "models", NEUTRAL, row)
    tiny.write(path.parent / "vae", tiny.vae())
    tiny_families.write_texts(path.parent, row)
    asked(path, row)
    named = ["--model", path, "--family", row.family, *(["--task", task] if task else [])]
    recipes = export(tmp_path / "out" / "said.safetensors", *named)
    assert [recipe.task for recipe in recipes] == ([task] if task else list(row.tasks))
    assert {recipe.family for recipe in recipes} == {row.family}


def test_one_text_is_not_written_for_several_prompts(tmp_path, capsys):
    home = tiny_families.write(tmp_path, ROWS["rgb-to-x"])
    text = home / "text_embeds.safetensors:normal"
    words = ["export", "--model", home, "--context", text, "--out", tmp_path / "out.safetensors"]
    assert main([str(word) for word in words]) != 0
    assert "have a prompt each: name one with --task" in capsys.readouterr().err
    recipes = export(tmp_path / "one.safetensors", *words[1:5], "--task", "normal")
    assert [recipe.task for recipe in recipes] == ["normal"]


def test_an_ambiguous_file_says_which_family_its_name_means(tmp_path, capsys):
    for name, family in (("marigold-depth-v1-1", "marigold"), ("the_RGB_one", "rgb-x")):
        path = LAYOUTS["one file"](tmp_path, name, ROWS["marigold-depth-v1-1"])
        with pytest.raises(UnsuitedError, match=r"weights fit marigold, e2e-ft, rgb-x.* \(by its name (.*)\)") as said:
            open_checkpoint(path)
        assert said.value.args[0].endswith(f"(by its name {family}).")
        assert main(["predict", "--model", str(path), "--out", str(tmp_path), str(path)]) != 0
        assert "name its family and task" in capsys.readouterr().err


# Adapters of one spelling, told by their rank


def lora(rank: int) -> Adapter:
    return random_adapter(tiny.unet(generation=1), KINDS["attention"], rank=rank)


def base_folder(root: Path) -> Path:
    home = tiny.write(root / "base" / "unet", tiny.unet(generation=1)).parent
    tiny.write(home / "vae", tiny.vae())
    return home


@pytest.mark.parametrize("place", ["sd_single_{}_pytorch_model.bin", "{}.safetensors", "{}/pytorch_lora_weights.bin"])
@pytest.mark.parametrize(("rank", "family"), [(4, "dmp"), (8, "intrinsic-lora"), (16, "dmp")])
@pytest.mark.parametrize("task", ["depth", "normal", "albedo", "shading"])
def test_the_rank_tells_intrinsic_lora_from_dmp(tmp_path, rank, family, task, place):
    path = saved(tmp_path / place.format(task), spelled(lora(rank), "diffusers processors"))
    path = path.parent if path.stem == "pytorch_lora_weights" else path
    base = open_networks(base_folder(tmp_path))
    recipe = open_adapted(base, path)[0].recipe
    assert (recipe.family, recipe.task) == (family, task)
    steps = {"dmp": (5, "v_prediction", "deterministic"), "intrinsic-lora": (1, "sample", "one-step")}
    assert (recipe.steps, recipe.prediction_type, recipe.paradigm) == steps[family]


PROMPTS = {"depth": "depth map", "normal": "surface normal", "albedo": "albedo", "shading": "shading"}


@pytest.mark.parametrize("task", PROMPTS)
def test_intrinsic_lora_asks_for_its_prompt_and_runs_with_it(tmp_path, capsys, task):
    adapter = lora(8)
    path = saved(tmp_path / f"sd_single_{task}.bin", spelled(adapter, "diffusers processors"))
    text = tiny.context(seed=41, tokens=77)
    save_file({"it": text}, tmp_path / "prompt.safetensors")
    picture = tiny.save_picture(tmp_path / "picture.png", 64, 96)
    words = ["predict", "--adapter", path, "--base", base_folder(tmp_path), "--resolution", 64]
    words += ["--out", tmp_path / "maps"]
    assert main([str(word) for word in (*words, picture)]) != 0
    said = capsys.readouterr().err
    assert f"for its prompt {PROMPTS[task]!r}" in said
    assert "--context FILE" in said
    context = ("--context", tmp_path / "prompt.safetensors")
    assert main([str(word) for word in (*words, *context, picture)]) == 0
    seen = torch.from_numpy(np.load(tmp_path / "maps" / "picture.npy")).reshape(64, 96, -1).movedim(-1, 0)[None]
    unet = deepcopy(tiny.unet(generation=1))
    for name, part in adapter.parts.items():
        unet.get_submodule(name).weight += part.up @ part.down
    with torch.no_grad():
        z = encode(tiny.vae(), tiny.picture(64, 96) * 2 - 1)
        decoded = decode(tiny.vae(), unet(z, 999, text).sample)
    assert (seen - READ[task](decoded)).abs().max() <= 1e-4


# Impostors


def repository(root: Path, name: str, index: dict[str, Any], scheduler: dict[str, Any], channels: int = 8) -> Path:
    row = Published(name, "", ("depth",), index, scheduler, (channels, 4))
    return tiny_families.write(root, row)


FIRST_INDEX = {"_class_name": "MarigoldPipeline", **PARTS}
AFFINE = {**FIRST_INDEX, **tiny_families.AFFINE}
DEPTH = {"_class_name": "MarigoldDepthPipeline", **PARTS, **tiny_families.AFFINE}
IMPOSTORS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "cocogold": ("marigold-coco-segmentation", FIRST_INDEX, DDIM, "paints white what a prompt names"),
    "cocogold with the keys of depth": ("marigold-coco-segmentation", AFFINE, DDIM, "different tasks"),
    "cocogold, renamed": (NEUTRAL, FIRST_INDEX, DDIM, "nothing in it says its task"),
    "monoalbedo": ("monoalbedo", FIRST_INDEX, DDIM, "nothing in it says its task"),
    "monoalbedo with the keys of depth": ("monoalbedo", AFFINE, DDIM, "different tasks"),
    "Marigold's first index": (NEUTRAL, FIRST_INDEX, DDIM, "nothing in it says its task"),
    "E2E-FT under Marigold's class and another name": ("marigold-depth-tuned", DEPTH, TRAILING, "does not say how"),
    "Marigold without its scheduler": ("marigold-depth-v1-1", DEPTH, {}, "scheduler_config.json"),
    "8 channels under the plain class": (NEUTRAL, {"_class_name": "StableDiffusionPipeline"}, DDIM, "does not say how"),
    "a scheduler of diffusers' defaults": ("marigold-depth", DEPTH, {"_class_name": "DDIMScheduler"}, "=linear"),
    "a scheduler that clips": (
        "marigold-depth", DEPTH, {name: value for name, value in DDIM.items() if name != "clip_sample"}, "clip_sample="
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "index", "scheduler", "word"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_an_impostor_is_refused_or_asked_about(tmp_path, name, index, scheduler, word):
    with pytest.raises(UnsuitedError, match=word):
        open_checkpoint(repository(tmp_path, name, index, scheduler))


def test_a_family_resemblance_is_refused_in_words(tmp_path):
    """See-through, whose index has no place for its UNet, and RollingDepth, whose schedule is Marigold's."""
    index = {key: value for key, value in DEPTH.items() if key != "unet"}
    with pytest.raises(CheckpointError, match="See-through"):
        open_checkpoint(repository(tmp_path, "seethroughv0.0.1_marigold", index, ZERO))
    with pytest.raises(CheckpointError, match="frames of a video"):
        open_checkpoint(repository(tmp_path, "rollingdepth-v1-0", {"_class_name": "RollingDepthPipeline"}, ZERO))


TAKEN = {
    "normals under the class of depths": (
        "my-maps", {**FIRST_INDEX, "use_full_z_range": False}, DDIM, ("marigold", "normal", "half-sphere"),
    ),
    "an albedo that its folder names": ("my-albedo", FIRST_INDEX, DDIM, ("marigold", "albedo", "")),
    "ApDepth": ("ApDepth", DEPTH, DDIM, ("marigold", "depth", "")),
    "E2E-FT under Marigold's class": ("marigold-e2e-ft-depth", DEPTH, TRAILING, ("e2e-ft", "depth", "")),
    "E2E-FT's normals, likewise": (
        "marigold-e2e-ft-normals", {**FIRST_INDEX, "use_full_z_range": True}, TRAILING,
        ("e2e-ft", "normal", "early-unit-vector"),
    ),
    "a VAE that is upcast, as SDXL's": ("marigold-normals-lcm-v0-1", {**FIRST_INDEX, "use_full_z_range": True}, LCM,
        ("marigold", "normal", "unit-vector"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "index", "scheduler", "told"), TAKEN.values(), ids=TAKEN)
def test_what_calls_itself_otherwise_is_still_told(tmp_path, name, index, scheduler, told):
    home = repository(tmp_path, name, index, scheduler)
    config = home / "vae" / "config.json"
    tiny.write_json(config, {**json.loads(config.read_text()), "force_upcast": True})
    recipe = open_checkpoint(home).recipe
    assert (recipe.family, recipe.task, recipe.codec) == told
    assert recipe.base == "custom"  # by the width of the tiny text, whatever the VAE says


def test_a_depthmaster_without_its_block_is_not_run_as_anything(tmp_path):
    row = replace(ROWS["DepthMaster"], fourier=False)
    with pytest.raises(UnsuitedError, match="index \\(MarigoldPipeline\\) does not say|missing beside it"):
        open_checkpoint(tiny_families.write(tmp_path, row))


# What a scheduler's file leaves out


@pytest.mark.parametrize("kind", [DDIMScheduler, LCMScheduler])
def test_what_a_scheduler_leaves_out_is_as_diffusers_has_it(tmp_path, kind):
    """Of all that a recipe can express, with the rest as Marigold needs it."""
    stated = {"beta_schedule": "scaled_linear", "clip_sample": False, "_class_name": kind.__name__}
    recipe = open_checkpoint(repository(tmp_path, "marigold-depth", DEPTH, stated)).recipe
    config = kind.from_config(stated).config
    assert recipe.beta_start == config["beta_start"]
    assert recipe.beta_end == config["beta_end"]
    assert recipe.spacing == config["timestep_spacing"]
    assert recipe.steps_offset == config["steps_offset"]
    assert recipe.final_alpha_one == config["set_alpha_to_one"]
    assert recipe.prediction_type == config["prediction_type"]
    assert recipe.zero_snr == config["rescale_betas_zero_snr"]
    if kind is LCMScheduler:
        assert recipe.original_steps == config["original_inference_steps"]
        assert recipe.timestep_scaling == config["timestep_scaling"]
