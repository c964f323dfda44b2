"""A metric is one row: a task's row then names it, and it measures what is learnt and chooses the best checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from PIL import Image

from diffusion_perception import open_perceiver
from diffusion_perception.core.measure.losses import Reduction
from diffusion_perception.core.measure.metrics import METRICS, Metric
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare

NEAR = 0.47


def near(prediction, target, valid):
    """Percent of each image's pixels that are hardly off."""
    right = (prediction - target).abs() < NEAR
    return Reduction(100 * right.double().mean((1, 2, 3)).sum()[None], torch.tensor([len(right)]))


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setitem(METRICS, "near", Metric("near", "nearly right", near, True, 100, unit="%"))
    monkeypatch.setitem(TASKS, "mask", replace(TASKS["mask"], metrics=("near",)))


def test_a_new_metric_measures_held_out_pictures_as_its_row_says(tmp_path):
    root = runs.write_root(tmp_path)
    fit(prepare(runs.config(root, tasks=["mask"], validation=[{"root": str(root / "val")}])))
    lines = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    (found,) = [line["validation"] for line in lines if "validation" in line]
    perceiver = open_perceiver(root / "run" / "last.safetensors", device="cpu")
    shares = []
    for picture in sorted((root / "val" / "images").iterdir()):
        with Image.open(root / "val" / "mask" / picture.name) as truth:
            apart = np.abs(perceiver(picture).values[0, ..., 0].numpy() - np.asarray(truth) / 255)
        shares.append(100 * (apart < NEAR).mean())
    assert 0 < np.mean(shares) < 100
    assert found["mask/near"] == pytest.approx(np.mean(shares), abs=0.2)
    assert found["score"] == pytest.approx(100 - found["mask/near"])
