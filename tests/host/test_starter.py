"""The starter checkpoint that the pack ships gives in ComfyUI what `predict` gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from graph import perceive_file
from PIL import Image

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.perceiver import read_upright

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "weights" / "starter.safetensors"
VIEW = sorted((ROOT / "tests" / "data" / "scenes" / "test" / "images").iterdir())[0]


@pytest.fixture(scope="module")
def picture(comfyui):
    """A rendered room, in a shape that the networks must be fitted to."""
    file = comfyui.input / "room.png"
    Image.open(VIEW).convert("RGB").resize((230, 170)).save(file)
    return file


@pytest.mark.parametrize("task", ["depth", "normal", "mask", "segmentation", "albedo"])
def test_the_nodes_and_predict_agree(comfyui, picture, task):
    graph, saved = perceive_file(STARTER.name, picture.name, f"starter/{task}", task=task)
    ours = np.load(comfyui.submit(graph).files(saved.name)[0])
    with torch.inference_mode():
        theirs = predict(load_perceiver(open_checkpoint(STARTER, task=task)), read_upright(picture)).values[0].numpy()
    assert np.abs(ours.reshape(theirs.shape) - theirs).max() <= 5e-4
