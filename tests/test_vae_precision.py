"""The benchmark of the VAE's precision: what it takes for a peak, and what it writes into a cell."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from script import load_script
from torch import Tensor

MIB = 2**18
"""Numbers of float32."""


class Hungry:
    """A VAE whose halves hold 96 and 48 MiB for a while: over 32, where glibc takes every block anew."""

    def encode(self, image: Tensor) -> Tensor:
        return torch.ones(96 * MIB)[: image.shape[-1]].clone()

    def decode(self, latent: Tensor) -> Tensor:
        return torch.ones(48 * MIB)[: len(latent)].clone()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figures of a process")
def test_a_peak_is_what_a_call_holds_at_most_and_not_what_came_before():
    kept = torch.ones(64 * MIB)
    seen = load_script("benchmarks/vae_precision.py").peaks(Hungry(), torch.zeros(1, 3, 128, 128))
    assert seen["encode"] == pytest.approx(96, abs=8)
    assert seen["decode"] == pytest.approx(48, abs=8)
    assert len(kept) == 64 * MIB


def test_a_cell_holds_the_metric_and_how_far_the_values_are_from_full_precision():
    script = load_script("benchmarks/vae_precision.py")
    truth = np.full((1, 2, 2, 1), 0.5, np.float32)
    case = script.Case("weights", np.zeros((1, 3, 2, 2)), "depth", script.of_authors(truth))
    row = script.Row("weights", "mean error", [case])
    full, half = [truth.copy()], [truth + np.array([0, 0, 0, 0.25], np.float32).reshape(1, 2, 2, 1)]
    assert script.cell(row, full, full) == "0"
    assert script.cell(row, half, full) == "0.0625 (0.062 / 0.25)"
    assert script.cell(script.Row("weights", "", [script.Case("weights", truth, "depth")]), full, full) == "–"


@pytest.mark.parametrize("task", ["depth", "segmentation"])
def test_an_enlarged_view_keeps_its_truth(task):
    script = load_script("benchmarks/vae_precision.py")
    recipe = next(each.recipe for each in script.open_all(script.STARTER) if each.recipe.row.name == task)
    (small, _), (large, _) = next(script.held_out(recipe)), next(script.enlarged_views(recipe, 160))
    assert large.image.shape == (3, 160, 160)
    assert torch.equal(large.target[:, ::2, ::2], small.target)
    assert torch.equal(large.valid[:, 1::2, 1::2], small.valid)
