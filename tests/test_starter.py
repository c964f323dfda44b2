"""The starter checkpoint: what its file says, and that it sees more than nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from starter import STAGES, WEIGHTS, config_of

from diffusion_perception.core.checkpoints.checkpoint import open_all, open_checkpoint
from diffusion_perception.core.checkpoints.tensors import read_metadata
from diffusion_perception.core.display.colour import PALETTES
from diffusion_perception.core.measure.align import ALIGNMENTS
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.host import load_perceiver

FILE = WEIGHTS / "starter.safetensors"
VIEWS = Path(__file__).parent / "data" / "scenes"
TASKS = {"depth", "normal", "mask", "segmentation", "albedo"}


def test_it_is_small_and_says_what_it_is():
    assert FILE.stat().st_size <= 30_000_000
    found = {checkpoint.recipe.id: checkpoint for checkpoint in open_all(FILE)}
    assert set(found) >= TASKS
    for checkpoint in found.values():
        assert checkpoint.recipe.licence == "Apache-2.0"
        assert checkpoint.recipe.data
        assert checkpoint.context is not None
    assert found["segmentation"].recipe.palette in PALETTES
    assert found["normal"].recipe.axes == ("right", "up", "back")
    assert read_metadata(FILE)["modelspec.title"]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_a_config_that_can_be_read(stage, tmp_path):
    config = config_of(stage, VIEWS, tmp_path, tmp_path / "before" if stage.begins else None, factor=0.5)
    assert set(config.tasks) == TASKS
    assert config.steps > 0


def test_it_learns_from_rooms_and_from_the_shots_beside_them(tmp_path):
    for folder in ("train", "val", "shots/train", "shots/val"):
        (tmp_path / folder).mkdir(parents=True)
    config = config_of(STAGES[0], tmp_path, tmp_path / "out", None, factor=1)
    assert [Path(source.root) for source in config.data] == [tmp_path / "train", tmp_path / "shots" / "train"]
    assert [Path(source.root) for source in config.validation] == [tmp_path / "val", tmp_path / "shots" / "val"]
    (tmp_path / "shots" / "train").rmdir()
    (source,) = config_of(STAGES[0], tmp_path, tmp_path / "out", None, factor=1).data
    assert Path(source.root) == tmp_path / "train"


@pytest.mark.parametrize("task", ["depth", "normal"])
def test_its_light_decoders_give_nearly_what_the_whole_one_gives(task):
    checkpoint = open_checkpoint(FILE, task=task)
    whole = load_perceiver(checkpoint)
    light = load_perceiver(checkpoint, decoder="light")
    image = open_dataset("folder", task, root=str(VIEWS / "val"))[0].image[None]
    with torch.inference_mode():
        one, other = (predict(perceiver, image).values for perceiver in (whole, light))
    assert 0 < (one - other).abs().mean() < 0.1 * one.std()


def test_depth_of_rooms_it_never_saw_beats_one_depth_everywhere():
    perceiver = load_perceiver(open_checkpoint(FILE, task="depth"))
    errors = {"starter": [], "constant": []}
    for split in ("val", "test"):
        records = open_dataset("folder", "depth", root=str(VIEWS / split))
        for sample in (records[i] for i in range(len(records))):
            with torch.inference_mode():
                seen = predict(perceiver, sample.image[None]).values.movedim(-1, 1)
            for name, values in (("starter", seen), ("constant", torch.zeros_like(seen))):
                aligned = ALIGNMENTS["least-square"](values, sample.target[None], sample.valid[None])
                relative = (aligned - sample.target[None]).abs() / sample.target[None].clamp(min=1e-6)
                errors[name].append(relative[sample.valid[None]].mean())
    assert torch.stack(errors["starter"]).mean() < 0.8 * torch.stack(errors["constant"]).mean()
