"""Alignment: numpy's least squares, in every space, per image or over a set."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.measure.align import ALIGNMENTS

H, W = 9, 11
SPACES = {
    "least-square": (lambda depth: depth, lambda x: x),
    "least-square-disparity": (lambda depth: 1 / depth, lambda x: 1 / np.maximum(x, 1e-3)),
    "least-square-sqrt-disparity": (lambda depth: 1 / np.sqrt(depth), lambda x: 1 / np.maximum(x**2, 1e-3)),
    "least-square-log": (np.log, np.exp),
}


def scene(seed=0, batch=2):
    """Depths of 0.5 to 20 m, a rough prediction in (0, 1), a mask."""
    draw = torch.Generator().manual_seed(seed)
    depth = 0.5 + 19.5 * torch.rand((batch, 1, H, W), generator=draw, dtype=torch.float64) ** 2
    noise = torch.rand((batch, 1, H, W), generator=draw, dtype=torch.float64)
    valid = torch.rand((batch, 1, H, W), generator=draw) < 0.8
    return depth, noise, valid


def as_predicted(name, depth, noise):
    """What a model of that space might say: affine in the truth's space, with errors, positive."""
    into, _ = SPACES[name]
    values = torch.from_numpy(into(depth.numpy()))
    values = (values - values.min()) / (values.max() - values.min())
    return 0.1 + 0.7 * values + 0.1 * noise


def numpys_answer(name, prediction, depth, valid):
    """The published evaluation of one image or of many as one, with numpy.linalg.lstsq."""
    into, back = SPACES[name]
    design = np.stack([prediction[valid], np.ones(valid.sum())], 1)
    (scale, shift), *_ = np.linalg.lstsq(design, into(depth[valid]), rcond=None)
    return np.maximum(np.clip(back(prediction * scale + shift), 0.6, 15), 1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_every_fit_is_numpys(name):
    depth, noise, valid = scene()
    prediction = as_predicted(name, depth, noise)
    aligned = ALIGNMENTS[name](prediction, depth, valid, depth_range=(0.6, 15))
    for i in range(2):
        expected = numpys_answer(name, *(t[i, 0].numpy() for t in (prediction, depth, valid)))
        np.testing.assert_allclose(aligned[i, 0].numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("name", SPACES)
def test_one_fit_for_the_batch_is_numpys_over_all_its_pixels(name):
    depth, noise, valid = scene(batch=3)
    prediction = as_predicted(name, depth, noise)
    aligned = ALIGNMENTS[name](prediction, depth, valid, depth_range=(0.6, 15), together=True)
    expected = numpys_answer(name, *(t.numpy() for t in (prediction, depth, valid)))
    np.testing.assert_allclose(aligned.numpy(), expected, rtol=1e-10)


def test_a_whole_set_can_be_fitted_batch_by_batch():
    depth, noise, valid = scene(batch=5)
    prediction = as_predicted("least-square", depth, noise)
    row = ALIGNMENTS["least-square"]
    pieces = [slice(0, 1), slice(1, 4), slice(4, 5)]
    first, *rest = (row.measure(prediction[i], depth[i], valid[i]).together() for i in pieces)
    fit = row.solve(sum(rest, first))
    expected = row(prediction, depth, valid, together=True)
    torch.testing.assert_close(row.apply(prediction, fit), expected, rtol=1e-12, atol=0)


def test_the_scale_alone_is_numpys():
    depth, noise, valid = scene()
    prediction = noise + 0.2 * depth
    aligned = ALIGNMENTS["scale"](prediction, depth, valid)
    for i in range(2):
        p, y, v = (t[i, 0].numpy() for t in (prediction, depth, valid))
        (scale,), *_ = np.linalg.lstsq(p[v][:, None], y[v], rcond=None)
        np.testing.assert_allclose(aligned[i, 0].numpy(), np.maximum(p * scale, 1e-6), rtol=1e-10)


def test_none_only_clips():
    prediction = torch.tensor([[[[-3.0, 0.0, 5.0, 90.0]]]])
    valid = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    aligned = ALIGNMENTS["none"](prediction, torch.ones_like(prediction), valid, depth_range=(0.0, 80.0))
    assert aligned.flatten().tolist() == pytest.approx([1e-6, 1e-6, 5, 80])


def perfect_for(name, depth):
    """A prediction that the row aligns to the truth exactly."""
    if name in SPACES:
        return 3 * torch.from_numpy(SPACES[name][0](depth.numpy())) + 2
    return depth / 3 if name == "scale" else depth


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_what_a_row_may_change_it_recovers(name):
    depth, _, valid = scene()
    prediction = perfect_for(name, depth)
    aligned = ALIGNMENTS[name](prediction, depth, valid)
    torch.testing.assert_close(aligned, depth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_what_is_not_valid_does_not_matter_to_the_fit(name):
    depth, _, valid = scene()
    prediction = perfect_for(name, depth)
    spoiled = [values.masked_fill(~valid, math.nan) for values in (prediction, depth)]
    row = ALIGNMENTS[name]
    torch.testing.assert_close(
        row.apply(prediction, row.solve(row.measure(*spoiled, valid))), depth, rtol=1e-9, atol=1e-9
    )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["random", "constant", "zero", "negative"]),
    mask=st.sampled_from(["all", "none", "one"]),
    magnitude=st.sampled_from([1e-30, 1.0, 1e30]),
)
@pytest.mark.parametrize("name", ALIGNMENTS)
def test_any_finite_prediction_becomes_a_finite_depth_in_range(name, seed, kind, mask, magnitude):
    depth, noise, _ = scene(seed)
    prediction = {"random": noise, "constant": noise * 0 + 0.3, "zero": noise * 0, "negative": -noise}[kind] * magnitude
    valid = torch.zeros(2, 1, H, W, dtype=torch.bool)
    if mask == "all":
        valid[:] = True
    elif mask == "one":
        valid[0, 0, seed % H, seed % W] = True
    aligned = ALIGNMENTS[name](prediction, depth, valid, depth_range=(0.5, 80))
    assert aligned.isfinite().all()
    assert aligned.min() >= 0.5
    assert aligned.max() <= 80


@pytest.mark.parametrize("constant", np.geomspace(1e-3, 1e3, 20))
def test_a_prediction_that_is_constant_where_valid_becomes_the_mean_depth_everywhere(constant):
    depth, noise, valid = scene()
    aligned = ALIGNMENTS["least-square"](torch.where(valid, constant, noise), depth, valid)
    for i in range(2):
        assert aligned[i].unique().tolist() == pytest.approx([depth[i][valid[i]].mean().item()])


def test_disparities_are_fitted_only_where_prediction_and_truth_are_positive():
    depth = torch.tensor([[[[1.0, 2.0, 4.0, 0.0, 8.0]]]], dtype=torch.float64)
    prediction = torch.tensor([[[[2.0, 1.0, 0.5, 9.0, -7.0]]]], dtype=torch.float64)
    valid = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    aligned = ALIGNMENTS["least-square-disparity"](prediction, depth, valid)
    # s = 0.5, t = 0; the negative disparity goes to 1e-3
    assert aligned.flatten().tolist() == pytest.approx([1, 2, 4, 2 / 9, 1000])


def test_the_fit_can_run_on_fewer_columns_and_applies_to_all_pixels():
    height, width, edge = 30, 50, 16
    draw = torch.Generator().manual_seed(3)
    depth = 1 + torch.rand((1, 1, height, width), generator=draw, dtype=torch.float64)
    prediction = depth * 0.2 + 0.05 * torch.rand((1, 1, height, width), generator=draw, dtype=torch.float64)
    valid = torch.rand((1, 1, height, width), generator=draw) < 0.7
    factor = edge / width
    columns = [min(int(j / factor), width - 1) for j in range(int(width * factor))]
    p, y, v = (t[0, 0].numpy()[:, columns] for t in (prediction, depth, valid))
    scale, shift = np.linalg.lstsq(np.stack([p[v], np.ones(v.sum())], 1), y[v], rcond=None)[0]
    aligned = ALIGNMENTS["least-square"](prediction, depth, valid, max_edge=edge)
    np.testing.assert_allclose(aligned.numpy(), prediction.numpy() * scale + shift, rtol=1e-10)
    whole = ALIGNMENTS["least-square"](prediction, depth, valid)
    same = ALIGNMENTS["least-square"](prediction, depth, valid, max_edge=1024)
    assert same.equal(whole)
    assert not aligned.equal(whole)


def test_a_small_spread_on_a_large_offset_keeps_its_digits():
    depth, _, valid = scene()
    prediction = 1e6 + depth * 1e-3
    aligned = ALIGNMENTS["least-square"](prediction, depth, valid)
    torch.testing.assert_close(aligned, depth, rtol=1e-5, atol=1e-5)
    added = ALIGNMENTS["least-square"](prediction, depth, valid, together=True)
    torch.testing.assert_close(added, depth, rtol=1e-5, atol=1e-5)


def test_the_type_of_the_prediction_is_kept_but_not_below_float32():
    depth, noise, valid = scene()
    for given_type, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.half, torch.float32),
    ):
        assert ALIGNMENTS["least-square"](noise.to(given_type), depth.to(given_type), valid).dtype == kept


def test_moments_of_nothing_change_nothing():
    depth, noise, valid = scene()
    row = ALIGNMENTS["least-square"]
    moments, nothing = row.measure(noise, depth, valid), row.measure(noise, depth, valid & False)
    for added in (moments + nothing, nothing + moments):
        for one, other in zip(vars(added).values(), vars(moments).values()):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    fit = row.solve(nothing)
    assert (fit.scale.tolist(), fit.shift.tolist()) == ([1, 1], [0, 0])
