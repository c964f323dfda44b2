"""A head is a class and one row: it is trained, written and read again by what was there before."""

from __future__ import annotations

import pytest
import runs
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.heads.table import HEADS, HeadKind
from diffusion_perception.core.pipeline import decode, predict
from diffusion_perception.trainer import host
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare

NAME = "finest"


class FinestHead(nn.Module):
    """Reads one value for each cell of the finest features."""

    def __init__(self, shapes, layers=nn):
        super().__init__()
        outputs, channels, *_ = shapes["read.weight"]
        self.read = layers.Conv2d(channels, outputs, 1)

    def forward(self, features):
        return self.read(features[-1])


@pytest.fixture(autouse=True)
def row(monkeypatch):
    new = HeadKind(FinestHead, lambda widths, width, outputs: {"read.weight": (outputs, widths[0], 1, 1)})
    monkeypatch.setitem(HEADS, NAME, new)


@pytest.fixture
def run(tmp_path):
    settings = {"network": {"head": NAME}, "objective": {"loss": "pixel"}, "recipe": {"codec": "min-max"}}
    made = prepare(runs.config(runs.write_root(tmp_path), **settings))
    before = {name: weight.clone() for name, weight in made.learner.head.state_dict().items()}
    fit(made)
    assert not any(torch.equal(weight, before[name]) for name, weight in made.learner.head.state_dict().items())
    return made


def test_a_new_head_predicts_from_its_file_what_it_did_in_training(run):
    loaded = host.load_perceiver(open_checkpoint(run.out / "last.safetensors"))
    assert loaded.recipe.head == NAME
    with torch.no_grad():
        live = predict(run.learner.eval().perceiver("depth"), tiny.picture(64, 64)).values
        assert (live - predict(loaded, tiny.picture(64, 64)).values).abs().max() < 1e-5


def test_a_new_head_reads_the_features_by_the_weights_in_its_file(run):
    path = run.out / "last.safetensors"
    loaded, weights = host.load_perceiver(open_checkpoint(path)), load_file(path)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        *_, finest = loaded.backbone.features(latent, torch.tensor([loaded.recipe.timestep]), loaded.context)
        expected = F.conv2d(finest, weights["head.finest.read.weight"], weights["head.finest.read.bias"])
        assert torch.allclose(decode(loaded, latent, None, lambda: None), expected, atol=1e-5)
