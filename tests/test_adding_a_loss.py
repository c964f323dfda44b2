"""A loss is one row, which says what it compares: pictures, values with 0 = black, or scores of classes."""

from __future__ import annotations

import pytest
import runs
import torch

from diffusion_perception.core.measure.losses import LOSSES, Loss, Reduction
from diffusion_perception.trainer import base, objective
from diffusion_perception.trainer.config import Config, ConfigError, Network
from diffusion_perception.trainer.config import Objective as Settings
from diffusion_perception.trainer.data.batches import Batch
from diffusion_perception.trainer.train import prepare


def brightness(prediction, target, valid):
    """Not a loss to learn by: it tells what it was shown."""
    return Reduction((target * valid).sum()[None] + 0 * prediction.sum(), valid.sum()[None])


@pytest.mark.parametrize(("space", "black", "white"), [("picture", -1.0, 1.0), ("value", 0.0, 1.0)])
def test_a_new_loss_is_shown_what_its_row_says(tmp_path, monkeypatch, space, black, white):
    monkeypatch.setattr(base, "load_vae", lambda *parts: runs.PatchVAE())
    monkeypatch.setitem(LOSSES, "brightness", Loss("brightness", brightness, space=space))
    settings = {"loss": "pixel", "pixel_losses": {"depth": ["brightness"]}}
    model = prepare(runs.config(runs.write_root(tmp_path), objective=settings)).learner
    target = torch.full((1, 3, 16, 24), -1.0)
    target[..., :8] = 1.0
    batch = Batch("depth", torch.zeros_like(target), target, torch.ones(1, 1, 16, 24).bool(), torch.tensor([0]))
    counted = model.weights(batch)
    assert counted.weight.tolist() == [16 * 24]
    assert model(batch).tolist() == pytest.approx([16 * 8 * white + 16 * 16 * black])


SCORED = Settings(loss="pixel", pixel_losses={"segmentation": ["focal"]})


@pytest.fixture
def focal(monkeypatch):
    monkeypatch.setitem(LOSSES, "focal", Loss("focal", brightness, space="score"))


def test_a_new_loss_of_class_scores_may_teach_a_head(focal):
    recipe = runs.recipe("segmentation", head="upernet", codec="class-scores")
    objective.check_objective(Config(network=Network(head="upernet"), objective=SCORED), {"segmentation": recipe})


def test_a_new_loss_of_class_scores_cannot_teach_colours(focal):
    with pytest.raises(ConfigError, match=r'focal compares class scores.*set network\.head = "upernet"'):
        objective.check_objective(Config(objective=SCORED), {"segmentation": runs.recipe("segmentation")})
