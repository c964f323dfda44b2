"""A new task is one row of core's table and one of the trainer's: it is then learnt, measured, predicted and shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from PIL import Image

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.display.picture import LEVEL_MEANINGS, as_map, ready
from diffusion_perception.core.display.selection import Selection, select, selectors
from diffusion_perception.core.perception_map import PerceptionMap
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS, Task, tasks_where
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import to_toml
from diffusion_perception.trainer.data.measured import levels
from diffusion_perception.trainer.data.targets import Target, level
from diffusion_perception.trainer.data.tasks import TASK_DATA, TaskData
from diffusion_perception.trainer.data.truth import Kind, Level

FOG = Task("fog", "Density of fog", 1, mask="level", selector="level", metrics=("mae",), aliases=("haze",))
"""A level of each pixel."""
TAUGHT = TaskData("fog", Target(level), (Kind("fog", Level),), levels)
HEIGHT, WIDTH = 37, 50


@pytest.fixture
def rows(monkeypatch):
    """The new task, in both tables."""
    monkeypatch.setitem(TASKS, "fog", FOG)
    monkeypatch.setitem(TASK_DATA, "fog", TAUGHT)


@pytest.fixture
def place(tmp_path) -> Path:
    """Foggy pictures, larger than the run's; what no pixel of may be trusted is stored as 7."""
    for folder, count in (("train", 4), ("val", 2)):
        for index in range(count):
            density = np.repeat(np.linspace(0.1 * index, 1, 48)[:, None], 40, 1)
            for kind, values in (("images", 0.3 + 0.6 * density[..., None].repeat(3, -1)), ("fog", density)):
                (tmp_path / folder / kind).mkdir(parents=True, exist_ok=True)
                runs.save(tmp_path / folder / kind / str(index), np.round(values * 255).astype(np.uint8))
        (tmp_path / folder / "dataset.toml").write_text('name = "moor"\n[fog]\ninvalid = 7\n')
    runs.write_vae(tmp_path / "vae")
    tiny.save_picture(tmp_path / "photo.png", HEIGHT, WIDTH)
    return tmp_path


def trained(place: Path) -> Path:
    """The checkpoint of two steps, by the command line."""
    validation = [{"root": str(place / "val")}]
    config = runs.config(place, tasks=["fog"], validation=validation, samples=1, objective={"loss": "both"})
    (place / "fog.toml").write_text(to_toml(config))
    assert main(["train", str(place / "fog.toml")]) == 0
    return place / "run" / "last.safetensors"


def predicted(place: Path, model: Path, *more: str) -> np.ndarray:
    """Raw values of the photograph, by the command line."""
    assert main(["predict", "--model", str(model), "--out", str(place / "out"), *more, str(place / "photo.png")]) == 0
    return np.load(place / "out" / "photo.npy")


def test_a_new_task_is_learnt_and_measured(rows, place):
    checkpoint = open_checkpoint(trained(place))
    assert (checkpoint.recipe.row, checkpoint.recipe.data) == (FOG, "moor")
    lines = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "fog" in line.get("loss", {})] == [1, 2]
    (measured,) = [line["validation"] for line in lines if "validation" in line]
    assert 0 < measured["fog/mae"] < 1
    assert measured["score"] == pytest.approx(measured["fog/mae"])  # mae is 0 where it is perfect
    with Image.open(place / "run" / "samples" / "fog_0_0000002.png") as sample:
        truth = np.asarray(sample)[:, 40:80, 0]
    assert np.abs(truth - np.linspace(0, 255, 48)[:, None]).max() <= 1


def test_a_new_task_is_predicted_by_either_of_its_names_and_shown(rows, place):
    model = trained(place)
    values = predicted(place, model)
    assert (values.shape, values.dtype) == ((HEIGHT, WIDTH), np.float32)
    assert np.ptp(values) > 0
    assert np.array_equal(values, predicted(place, model, "--task", "haze"))
    with Image.open(place / "out" / "photo.png") as picture:
        assert np.abs(np.asarray(picture) - values[..., None] * 255).max() <= 0.5 + 1e-4
    recipe = open_checkpoint(model).recipe
    map = PerceptionMap("fog", torch.from_numpy(values)[None, ..., None], recipe.convention(), recipe.id)
    image, mask = ready(map)
    assert np.array_equal(mask[0].numpy(), values)
    assert np.array_equal(image[0].numpy(), np.repeat(values[..., None], 3, -1))


def test_nodes_take_a_new_task_where_they_take_those_that_are_shown_alike(rows):
    values, meaning = torch.tensor([0.2, 0.4, 0.5, 1.0]).view(1, 1, 4, 1), LEVEL_MEANINGS["white is selected"]
    came = as_map(PerceptionMap("fog", values, Recipe("fog").convention(), "fog"), meaning, tuple(selectors()))
    assert torch.equal(select(came), values[..., 0])
    assert select(came, Selection("threshold")).flatten().tolist() == [0, 0, 0, 1]
    assert tasks_where(selector="level") == ("mask", "matte", "fog")


def test_half_a_new_task_is_refused_in_one_sentence(monkeypatch, place, capfd):
    monkeypatch.setitem(TASKS, "fog", FOG)
    (place / "fog.toml").write_text(to_toml(runs.config(place, tasks=["fog"])))
    assert main(["train", str(place / "fog.toml")]) == 2
    assert "no truth for the task 'fog': take one of depth" in capfd.readouterr().err
