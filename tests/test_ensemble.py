"""Members of an ensemble become one map exactly as in the pipelines of Marigold's authors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import MarigoldDepthPipeline, MarigoldNormalsPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from diffusion_perception.core.ensemble import MAX_EDGE, MERGES, direction, merge_affine, merge_median, shrink
from diffusion_perception.core.pipeline import merge_members
from diffusion_perception.core.recipe import Recipe

SEEDS = st.integers(0, 10**6)


def maps(count: int = 3, height: int = 24, width: int = 20, seed: int = 0, spread: float = 0.05) -> Tensor:
    """(E, 1, H, W): one scene, seen under several scales and shifts, with a little noise."""
    random = torch.Generator().manual_seed(seed)
    scene = torch.rand(1, 1, height, width, generator=random)
    scale = 0.5 + torch.rand(count, 1, 1, 1, generator=random)
    shift = torch.rand(count, 1, 1, 1, generator=random) - 0.5
    return scene * scale + shift + spread * torch.randn(count, 1, height, width, generator=random)


def vectors(count: int = 3, height: int = 12, width: int = 10, seed: int = 0) -> Tensor:
    """(E, 3, H, W) of unit length."""
    random = torch.Generator().manual_seed(seed)
    normals = torch.randn(1, 3, height, width, generator=random)
    normals = normals + 0.3 * torch.randn(count, 3, height, width, generator=random)
    return normals / normals.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_depth_is_merged_as_diffusers_merges_it(count):
    members = maps(count)
    expected, deviation = MarigoldDepthPipeline.ensemble_depth(members.clone(), True, True, output_uncertainty=True)
    merged, uncertainty = merge_affine(members)
    assert_close(merged, expected, atol=1e-6, rtol=0)
    assert_close(uncertainty, deviation, atol=1e-6, rtol=0)


def test_depth_larger_than_the_solver_is_merged_as_diffusers_merges_it():
    members = maps(2, 6, MAX_EDGE + 60)
    assert shrink(members).shape == (2, 1, 5, MAX_EDGE)
    expected, _ = MarigoldDepthPipeline.ensemble_depth(members.clone(), True, True)
    assert_close(merge_affine(members)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(60, 80), (96, 64)])
def test_depth_is_aligned_at_edge_50_as_diffusers_does_it_when_told_to(size):
    """GenPercept solves on maps of 50 pixels; the ensemble of diffusers is the one that it was made from."""
    members = maps(5, *size, spread=0.2)
    expected, _ = MarigoldDepthPipeline.ensemble_depth(members.clone(), True, True, max_res=50)
    usual, _ = MarigoldDepthPipeline.ensemble_depth(members.clone(), True, True)
    assert_close(merge_affine(members, 50)[0], expected, atol=1e-6, rtol=0)
    assert (expected - usual).abs().max() > 1e-3
    assert all(MERGES[name](members, 50)[0].shape == MERGES[name](members)[0].shape for name in MERGES)


def test_a_recipe_says_at_which_edge_its_ensemble_is_aligned():
    members = maps(3, 60, 80, spread=0.2)
    recipe = Recipe("depth", paradigm="stochastic", ensemble_size=3)
    expected, _ = MarigoldDepthPipeline.ensemble_depth(members.clone(), True, True, max_res=50)
    usual, _ = MarigoldDepthPipeline.ensemble_depth(members.clone(), True, True)
    assert_close(merge_members(members, 3, replace(recipe, ensemble_edge=50))[0], expected, atol=1e-6, rtol=0)
    assert_close(merge_members(members, 3, recipe)[0], usual, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_normals_are_merged_as_diffusers_merges_them(count):
    members = vectors(count)
    expected, angle = MarigoldNormalsPipeline.ensemble_normals(members.clone(), output_uncertainty=True)
    merged, uncertainty = direction(members)
    assert_close(merged, expected, atol=1e-6, rtol=0)
    assert_close(uncertainty, angle, atol=1e-6, rtol=0)


@settings(max_examples=20)
@given(seed=SEEDS, count=st.integers(2, 4))
def test_scale_and_shift_of_a_member_do_not_matter(seed, count):
    members = maps(count, seed=seed, spread=0)
    merged, uncertainty = merge_affine(members)
    scene = members[0] - members[0].min()
    assert_close(merged[0], scene / scene.max(), atol=0.02, rtol=0)
    assert uncertainty.max() < 0.02


@settings(max_examples=20)
@given(seed=SEEDS)
def test_a_merged_direction_is_one_of_the_members(seed):
    members = vectors(seed=seed)
    merged, uncertainty = direction(members)
    assert ((members - merged).abs().sum(1) == 0).any(0).all()
    assert 0 <= uncertainty.min() <= uncertainty.max() <= 1


@pytest.mark.parametrize("merge", MERGES)
def test_members_that_agree_are_what_they_agree_on(merge):
    member = vectors(1) if merge == "direction" else maps(1)
    if merge == "affine":
        member = (member - member.min()) / (member.max() - member.min())
    merged, uncertainty = MERGES[merge](member.repeat(3, 1, 1, 1))
    assert_close(merged, member, atol=1e-5, rtol=0)
    assert uncertainty.shape == (1, 1, *member.shape[-2:])
    assert uncertainty.max() < 1e-3


@pytest.mark.parametrize("merge", MERGES)
def test_merging_twice_gives_the_same_bits_and_changes_nothing(merge):
    members = vectors() if merge == "direction" else maps()
    before = members.clone()
    first, second = MERGES[merge](members), MERGES[merge](members)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert torch.equal(members, before)


@pytest.mark.parametrize("merge", ["affine", "median"])
def test_flat_members_are_merged_without_nan(merge):
    merged, uncertainty = MERGES[merge](torch.full((3, 1, 8, 8), 0.4))
    assert torch.isfinite(merged).all()
    assert torch.isfinite(uncertainty).all()


def test_the_median_of_an_even_number_is_the_lower_of_the_two():
    members = torch.tensor([0.1, 0.2, 0.6, 0.9]).view(4, 1, 1, 1)
    merged, uncertainty = merge_median(members)
    assert_close(merged.item(), 0.2)
    assert_close(uncertainty.item(), 0.1)


def test_a_deviation_is_averaged_over_channels():
    members = torch.tensor([[0.0, 0.0], [0.1, 0.4], [0.2, 0.8]]).view(3, 2, 1, 1)
    merged, uncertainty = merge_median(members)
    assert_close(merged.flatten(), torch.tensor([0.1, 0.4]))
    assert_close(uncertainty.item(), (0.1 + 0.4) / 2)
