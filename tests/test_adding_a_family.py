"""A published family is a row of core.checkpoints.families: every row opens as a folder, and so does one added here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.clues import Clues
from diffusion_perception.core.checkpoints.families import FAMILIES, Beside, Family
from diffusion_perception.core.checkpoints.tensors import CheckpointError, pick_vae
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.host import load_vae

UNET = "unet_depth_imagined"
HEAD, DECODER = "plain", "imagined_decoder"


def imagined(clues: Clues, task: str) -> Recipe:
    codec = {"codec": "min-max"} if clues.head else {}
    return Recipe(task, family="imagined", base=clues.architecture.base, tokens=2, head=clues.head, **codec)


def pick_imagined(names: list[str]) -> dict[str, str]:
    """Its decoder's names have a prefix of their own, and stand before those of the VAE's decoder."""
    trained = {name: f"decoder.{name.removeprefix('mine.')}" for name in names if name.startswith("mine.")}
    whole = pick_vae([name for name in names if name not in trained])
    return {**{old: new for old, new in whole.items() if new not in trained.values()}, **trained}


ROW = Family(
    "imagined",
    "Imagined",
    4,
    lambda clues: clues.folder.endswith("_imagined") or clues.head == HEAD,
    imagined,
    preference=9,
    beside=Beside((HEAD,), lambda folder: folder.endswith("_for_imagined"), (DECODER,), pick_imagined, "Imagined 1"),
)


@pytest.fixture
def add(monkeypatch) -> Callable[[Family], None]:
    return lambda row: monkeypatch.setitem(FAMILIES, row.name, row)


def write(folder: Path, *unets: str) -> Path:
    """A folder of UNets with what they share; of each another seed."""
    for seed, name in enumerate(unets):
        tiny.write(folder / name, tiny.unet(seed=seed))
    tiny.write(folder / "vae", tiny.vae())
    tiny.write_context(folder)
    return folder


def write_headless(folder: Path, unet: str) -> Path:
    tiny.write_headless(write(folder) / unet)
    return folder


def write_new_head(folder: Path) -> Path:
    torch.manual_seed(5)
    head = untrained_head(HEAD, (32, 64, 64, 64), 16, 1)
    tiny.write(folder / HEAD, head, "model.safetensors")
    return folder


def write_decoder(folder: Path) -> nn.Module:
    trained = tiny.vae(seed=9).decoder
    (folder / DECODER).mkdir(parents=True)
    tensors = {f"mine.{name}": tensor for name, tensor in trained.state_dict().items()}
    save_file(tensors, folder / DECODER / "model.safetensors")
    return trained


def predicted(tmp_path: Path, *arguments: object) -> np.ndarray:
    """What the command line makes of one picture."""
    image, out = tiny.save_picture(tmp_path / "photo.png", 64, 96), tmp_path / "out"
    words = ("predict", *arguments, "--resolution", 0, "--device", "cpu", "--out", out, image)
    assert main([str(word) for word in words]) == 0
    return np.load(out / "photo.npy")


# Every row there is


ANY_TASK = [
    name
    for name, row in FAMILIES.items()
    if row.channels and not row.vector_dim and not row.fourier and name not in ("rgb-x", "intrinsic-lora")
]
"""Those of plain networks that learn whatever they are taught."""


@pytest.mark.parametrize("name", ANY_TASK)
def test_every_family_opens_as_a_folder_of_two_tasks(tmp_path, name):
    row = FAMILIES[name]
    ending = "_head" if row.beside.heads else ""
    for task in ("depth", "normal"):
        tiny.write(tmp_path / f"unet_{task}{ending}", tiny.unet(row.channels))
    for head in row.beside.heads:
        tiny.write(tmp_path / head, tiny.dpt_head(positive=head == "dpt_head"), "model.safetensors")
    for task in ("depth", "normal"):
        found = open_checkpoint(tmp_path, name, task).recipe
        assert (found.family, found.task, found.head) == (name, task, row.beside.heads[0] if ending else "")


PREFERRED = {"unet_depth_v2": "genpercept", "unet_depth_head": "genpercept-dpt", "unet_depth_v1": "genpercept-v1"}
"""{folder: family} of UNets that may lie in one repository, the preferred one first."""


@pytest.mark.parametrize(("first", "second"), list(combinations(PREFERRED, 2)))
def test_of_two_unets_for_one_task_the_one_of_the_preferred_family_opens(tmp_path, first, second):
    write(tmp_path, first, second)
    tiny.write_head(tmp_path)
    assert open_checkpoint(tmp_path, task="depth").path.name == first
    for folder in (first, second):
        found = open_checkpoint(tmp_path, PREFERRED[folder], "depth")
        assert (found.path.name, found.recipe.family) == (folder, PREFERRED[folder])


# A new one


def test_a_new_row_is_recognised_in_a_folder_and_predicts(add, tmp_path):
    folder = write(tmp_path / "hub", UNET)
    with pytest.raises(CheckpointError, match="nothing beside it says how it was trained"):
        open_checkpoint(folder)
    add(ROW)
    assert open_checkpoint(folder).recipe == Recipe("depth", family="imagined", base="custom", tokens=2)
    assert predicted(tmp_path, "--model", folder).std() > 0.01


@pytest.mark.parametrize(("preference", "seed"), [(9, 1), (-9, 0)])
def test_beside_another_family_s_unet_of_its_task_preference_decides(add, tmp_path, preference, seed):
    add(replace(ROW, preference=preference))
    folder = write(tmp_path / "hub", "unet_depth_v2", UNET)
    alone = write(tmp_path / "alone" / "hub", "unet_depth_v2", UNET) / ("unet_depth_v2", UNET)[seed]
    found, expected = (predicted(tmp_path, "--model", path) for path in (folder, alone))
    np.testing.assert_array_equal(found, expected)
    assert open_checkpoint(folder).path.name == alone.name
    assert open_checkpoint(folder, "imagined", "depth").path.name == UNET  # a named family's own comes first


def test_its_head_is_found_beside_its_unet(add, tmp_path):
    add(ROW)
    folder = write_new_head(write_headless(tmp_path / "depth", "unet"))
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.recipe.family, checkpoint.recipe.head) == ("imagined", HEAD)
    assert predicted(tmp_path, "--model", folder).std() > 0.01


@pytest.mark.parametrize(
    ("unet", "ways"),
    [
        ("unet", "as genpercept-dpt, with dpt_head_identity/ beside it or as imagined, with plain/ beside it"),
        ("unet_depth_for_imagined", "as imagined, with plain/ beside it"),
        ("unet_depth_head", "as genpercept-dpt, with dpt_head_identity/ beside it"),
    ],
)
def test_without_a_head_a_unet_that_needs_one_says_as_what_to_run_it(add, tmp_path, unet, ways):
    add(ROW)
    folder = write_headless(tmp_path / "hub", unet)
    with pytest.raises(CheckpointError, match=f"was trained for a head: run it {ways}.$"):
        open_checkpoint(folder, "genpercept", "depth")


def test_its_decoder_stands_in_the_vae_as_its_row_says(add, tmp_path):
    add(ROW)
    tiny.write(tmp_path / "hub" / UNET, tiny.unet())
    trained = write_decoder(tmp_path / "hub")
    with pytest.raises(CheckpointError, match="is a decoder without its encoder: put the vae/ of Imagined 1 beside it"):
        open_checkpoint(tmp_path / "hub")
    checkpoint = open_checkpoint(write(tmp_path / "hub"))
    assert checkpoint.vae is not None
    assert checkpoint.vae_architecture is not None
    loaded = load_vae(checkpoint.vae, checkpoint.vae_architecture)
    assert all(torch.equal(loaded.decoder.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    encoder = tiny.vae().encoder.state_dict()
    assert all(torch.equal(loaded.encoder.state_dict()[name], tensor) for name, tensor in encoder.items())
