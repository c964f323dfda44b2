"""Losses: right values, right gradients, and nothing odd on odd masks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.measure import losses
from diffusion_perception.core.measure.losses import LOSSES, Reduction

H, W = 12, 10
CAMERA = torch.tensor([[14.0, 0.0, 4.6], [0.0, 9.0, 6.2], [0.0, 0.0, 1.0]])
NOT_SMOOTH = ("hdn-range", "hdn-space")  # no gradient flows through the median of the prediction, as published


@pytest.fixture(params=LOSSES.values(), ids=list(LOSSES))
def loss(request):
    return request.param


def target_of(loss, batch=2, seed=0, dtype=torch.float32):
    """A random target as the loss takes it."""
    draw = torch.Generator().manual_seed(seed)
    if loss.name == "cross-entropy":
        return torch.randint(0, 5, (batch, 1, H, W), generator=draw).to(dtype)
    channels = 3 if loss.name in ("angular", "scale-invariant") else 1
    target = torch.rand((batch, channels, H, W), generator=draw, dtype=torch.float64).to(dtype)
    return target if loss.name == "scale-invariant" else target * 2 - 1


def prediction_of(loss, target, seed=1):
    """A random prediction that is neither perfect nor hopeless."""
    perfect = target.new_zeros(len(target), 5, H, W) if loss.name == "cross-entropy" else target
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(perfect.shape, generator=draw, dtype=torch.float64).to(perfect)
    return perfect + 0.3 * noise


def extras(batch, first=0):
    return {"intrinsics": CAMERA.expand(batch, 3, 3), "seeds": torch.arange(first, first + batch)}


def unequal_masks(batch=2):
    """A full mask, a sparse one, ..."""
    draw = torch.Generator().manual_seed(7)
    share = torch.linspace(1, 0.3, batch).view(-1, 1, 1, 1)
    return torch.rand((batch, 1, H, W), generator=draw) <= share


def value_and_gradient(loss, prediction, target, valid, weight=None, **given_extras):
    prediction = prediction.clone().requires_grad_()
    value = loss(prediction, target, valid, **given_extras).mean(weight)
    value.backward()
    return value.detach(), prediction.grad


# What every loss holds


def test_a_perfect_prediction_costs_its_floor_and_another_costs_more(loss):
    target, valid = target_of(loss), unequal_masks()
    perfect = loss(loss.perfect(target), target, valid, **extras(2)).mean()
    other = loss(prediction_of(loss, target), target, valid, **extras(2)).mean()
    assert perfect.item() == pytest.approx(loss.floor, abs=1e-5)
    assert other > loss.floor + 1e-3


def test_the_sums_of_images_are_the_sums_of_their_batch(loss):
    target, valid = target_of(loss, 3, dtype=torch.float64), unequal_masks(3)
    prediction = prediction_of(loss, target)
    whole = loss(prediction, target, valid, **extras(3))
    parts = [loss(prediction[i : i + 1], target[i : i + 1], valid[i : i + 1], **extras(1, i)) for i in range(3)]
    added = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(added.total, whole.total, rtol=1e-12, atol=1e-12)
    assert added.weight.tolist() == whole.weight.tolist()


def test_two_processes_with_unequal_masks_have_the_gradient_of_one_with_both(loss):
    target, valid = target_of(loss, 2, dtype=torch.float64), unequal_masks(2)
    prediction = prediction_of(loss, target)
    value, gradient = value_and_gradient(loss, prediction, target, valid, **extras(2))
    mine = [(prediction[i : i + 1], target[i : i + 1], valid[i : i + 1]) for i in range(2)]
    weight = sum(loss.weight(y, v, **extras(1, i)) for i, (_, y, v) in enumerate(mine))
    parts = [value_and_gradient(loss, *sample, weight=weight, **extras(1, i)) for i, sample in enumerate(mine)]
    assert sum(part.item() for part, _ in parts) == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient, rtol=1e-10, atol=1e-12)


def test_the_weight_is_known_before_the_prediction(loss):
    target, valid = target_of(loss), unequal_masks()
    known = loss.weight(target, valid, **extras(2))
    for seed in (1, 2):
        reduction = loss(prediction_of(loss, target, seed), target, valid, **extras(2))
        assert reduction.weight.tolist() == known.tolist()
        assert reduction.weight.dtype == torch.int64
        assert not reduction.weight.requires_grad


def test_no_valid_pixel_is_a_loss_of_zero_with_a_gradient_of_zero(loss):
    target, valid = target_of(loss), torch.zeros(2, 1, H, W, dtype=torch.bool)
    value, gradient = value_and_gradient(loss, prediction_of(loss, target), target, valid, **extras(2))
    assert value == 0
    assert gradient is not None
    assert gradient.abs().max() == 0
    assert loss.weight(target, valid, **extras(2)).sum() == 0


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_what_is_not_valid_does_not_matter(loss, garbage):
    target, valid = target_of(loss), unequal_masks()
    prediction = prediction_of(loss, target)
    value, gradient = value_and_gradient(loss, prediction, target, valid, **extras(2))
    spoiled = value_and_gradient(
        loss, prediction.masked_fill(~valid, garbage), target.masked_fill(~valid, garbage), valid, **extras(2)
    )
    torch.testing.assert_close(spoiled[0], value, rtol=0, atol=0)
    torch.testing.assert_close(spoiled[1], gradient, rtol=0, atol=0)
    assert gradient.masked_fill(valid, 0).abs().max() == 0


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NOT_SMOOTH])
def test_gradients_are_right(name):
    loss = LOSSES[name]
    target, valid = target_of(loss, dtype=torch.float64)[..., :5, :4], unequal_masks()[..., :5, :4]
    prediction = prediction_of(loss, target_of(loss, dtype=torch.float64))[..., :5, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, target, valid, **extras(2)).mean(), prediction)


def test_half_precision_is_computed_in_float32(loss):
    target, valid = target_of(loss).half(), unequal_masks()
    prediction = prediction_of(loss, target_of(loss)).half()
    expected = loss(prediction.float(), target.float(), valid, **extras(2)).mean()
    assert loss(prediction, target, valid, **extras(2)).mean().item() == pytest.approx(expected.item(), rel=1e-6)


def test_autocast_does_not_change_a_loss(loss):
    target, valid = target_of(loss), unequal_masks()
    prediction = prediction_of(loss, target)
    expected = loss(prediction, target, valid, **extras(2)).mean()
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss(prediction, target, valid, **extras(2)).mean()
    assert cast.item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_descent_along_the_gradient_lowers_the_loss(loss):
    target, valid = target_of(loss, dtype=torch.float64), unequal_masks()
    prediction = prediction_of(loss, target)
    value, gradient = value_and_gradient(loss, prediction, target, valid, **extras(2))
    step = 1e-4 * prediction.norm() / gradient.norm()
    assert loss(prediction - step * gradient, target, valid, **extras(2)).mean() < value


maps = st.sampled_from(["random", "constant", "zero", "two values", "one spike"])
masks = st.sampled_from(["all", "none", "one pixel", "one column", "sparse"])


def drawn_map(kind, shape, magnitude, seed):
    draw = torch.Generator().manual_seed(seed)
    random = torch.rand(shape, generator=draw) * 2 - 1
    spike = torch.zeros(shape)
    spike[..., 1, 2] = 1
    values = {
        "random": random,
        "constant": torch.ones(shape),
        "zero": torch.zeros(shape),
        "two values": (random > 0).float(),
        "one spike": spike,
    }
    return values[kind] * magnitude


def drawn_mask(kind, seed):
    valid = torch.zeros(2, 1, H, W, dtype=torch.bool)
    if kind == "all":
        valid[:] = True
    elif kind == "one pixel":
        valid[1, 0, seed % H, seed % W] = True
    elif kind == "one column":
        valid[:, :, :, seed % W] = True
    elif kind == "sparse":
        valid = torch.rand((2, 1, H, W), generator=torch.Generator().manual_seed(seed)) < 0.1
    return valid


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.tuples(maps, maps),
    mask=masks,
    magnitudes=st.tuples(*[st.sampled_from([1e-30, 1e-8, 1.0, -1.0, -2.0, 1e8, 1e30])] * 2),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize("name", LOSSES)
def test_finite_values_never_give_nan(name, kinds, mask, magnitudes, seed):
    loss, valid = LOSSES[name], drawn_mask(mask, seed)
    channels = 3 if name in ("angular", "scale-invariant") else 1
    prediction = drawn_map(kinds[0], (2, channels, H, W), magnitudes[0], seed)
    target = drawn_map(kinds[1], (2, channels, H, W), magnitudes[1], seed + 1)
    if name == "cross-entropy":
        prediction, target = prediction.expand(-1, 4, -1, -1), torch.full((2, 1, H, W), seed % 4)
    value, gradient = value_and_gradient(loss, prediction, target, valid, **extras(2))
    assert not value.isnan()
    assert value >= -1e-12  # 1 - dice rounds
    assert not gradient.isnan().any()


def test_shapes_that_would_broadcast_are_refused(loss):
    target, valid = target_of(loss), unequal_masks()
    prediction = prediction_of(loss, target)
    with pytest.raises(ValueError, match=r"give \(B, C, H, W\)"):
        loss(prediction[:1], target, valid, **extras(2))
    with pytest.raises(ValueError, match=r"give \(B, C, H, W\)"):
        loss(prediction, target, valid[:, 0], **extras(2))
    with pytest.raises(ValueError, match="bool"):
        loss(prediction, target, valid.float(), **extras(2))


@pytest.mark.parametrize("name", [loss.name for loss in LOSSES.values() if loss.needs])
def test_a_loss_says_what_it_misses(name):
    target = target_of(LOSSES[name])
    with pytest.raises(ValueError, match=r"got no .*seeds: add it"):
        LOSSES[name](target, target, unequal_masks())


def test_factors_are_those_of_the_published_trainer():
    others = {"ssi": 0.5, "ssi-median": 0.5, "gradient": 2, "vertical-gradient": 2, "hdn-range": 0.5, "hdn-space": 0.5}
    assert {name: loss.factor for name, loss in LOSSES.items()} == {name: others.get(name, 1) for name in LOSSES}


def test_a_term_that_counted_nothing_costs_nothing():
    reduction = Reduction(torch.tensor([6.0, 0.0]), torch.tensor([3, 0]))
    assert reduction.mean() == 2
    assert reduction.mean(torch.tensor([12, 5])) == 0.5


# What each loss is


def arrays(loss, batch=2):
    target, valid = target_of(loss, batch, dtype=torch.float64), unequal_masks(batch)
    prediction = prediction_of(loss, target)
    return (prediction, target, valid), (prediction.numpy(), target.numpy(), valid.numpy())


def test_mse_and_l1_average_over_valid_values():
    (p, y, v), (pa, ya, va) = arrays(LOSSES["scale-invariant"])
    where = np.broadcast_to(va, pa.shape)
    assert losses.mse(p, y, v).mean().item() == pytest.approx(np.mean((pa - ya)[where] ** 2))
    assert losses.l1(p, y, v).mean().item() == pytest.approx(np.mean(np.abs(pa - ya)[where]))


def test_ssi_is_the_l1_after_numpys_least_squares():
    loss = LOSSES["ssi"]
    tensors, (pa, ya, va) = arrays(loss)
    errors = []
    for p, y, v in zip(pa, ya, va):
        design = np.stack([p[v], np.ones(v.sum())], 1)
        solution = np.linalg.lstsq(design, y[v], rcond=None)[0]
        assert solution[0] > 0
        errors.append(np.abs(design @ solution - y[v]))
    assert loss(*tensors).mean().item() == pytest.approx(np.mean(np.concatenate(errors)), rel=1e-10)


def test_ssi_scales_by_medians_where_the_fit_is_upside_down():
    target = target_of(LOSSES["ssi"], dtype=torch.float64)
    valid = unequal_masks()
    prediction = -0.5 * target  # least squares would give s = -2
    p, y = prediction.numpy() + 2, target.numpy() + 2
    errors = []
    for i, v in enumerate(valid.numpy()):
        middle = (v.sum() - 1) // 2
        ratio = np.sort(y[i][v])[middle] / np.sort(p[i][v])[middle]
        errors.append(np.abs(p[i][v] * ratio - y[i][v]))
    expected = np.mean(np.concatenate(errors))
    assert losses.scale_shift_invariant(prediction, target, valid).mean().item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("constant", np.linspace(-1, 1, 21))
def test_ssi_of_a_constant_prediction_compares_it_at_the_targets_median(constant):
    target, valid = target_of(LOSSES["ssi"], 1, dtype=torch.float64), torch.ones(1, 1, H, W, dtype=torch.bool)
    expected = (target - target.median()).abs().mean().item()
    prediction = torch.full_like(target, constant)
    assert losses.scale_shift_invariant(prediction, target, valid).mean().item() == pytest.approx(expected, rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1, 100), shift=st.floats(-50, 50), seed=st.integers(0, 100))
@pytest.mark.parametrize("name", ["ssi", "ssi-median", "hdn-range", "hdn-space"])
def test_scale_and_shift_of_the_prediction_do_not_matter(name, scale, shift, seed):
    loss, valid = LOSSES[name], unequal_masks()
    target = target_of(loss, seed=seed, dtype=torch.float64)
    prediction = prediction_of(loss, target, seed)
    moved = loss(prediction * scale + shift, target, valid, **extras(2)).mean().item()
    assert moved == pytest.approx(loss(prediction, target, valid, **extras(2)).mean().item(), rel=1e-8)


def test_a_prediction_that_is_affine_in_the_target_is_perfect_for_ssi():
    target, valid = target_of(LOSSES["ssi"]), unequal_masks()
    assert losses.scale_shift_invariant(0.2 * target + 5, target, valid).mean() < 1e-6


def test_median_ssi_is_the_papers_formula():
    loss = LOSSES["ssi-median"]
    tensors, (pa, ya, va) = arrays(loss)

    def normalised(x):
        off = x - np.sort(x)[(len(x) - 1) // 2]
        return off / np.mean(np.abs(off))

    errors = [np.abs(normalised(p[v]) - normalised(y[v])) for p, y, v in zip(pa, ya, va)]
    assert loss(*tensors).mean().item() == pytest.approx(np.mean(np.concatenate(errors)), rel=1e-10)


def slow_gradient(p, y, valid, step, directions):
    total, count = 0.0, 0
    for image, truth, mask in zip(p[:, 0], y[:, 0], valid[:, 0]):
        gap, v = (image - truth)[::step, ::step], mask[::step, ::step]
        count += v.sum()
        for i, j in np.ndindex(gap.shape):
            for di, dj in directions:
                k, m = i + di, j + dj
                if k < gap.shape[0] and m < gap.shape[1] and v[i, j] and v[k, m]:
                    total += abs(gap[k, m] - gap[i, j])
    return total / count


def test_gradient_compares_both_directions_at_every_scale():
    tensors, tables = arrays(LOSSES["gradient"])
    expected = sum(slow_gradient(*tables, step, [(1, 0), (0, 1)]) for step in (1, 2, 4, 8))
    assert losses.gradient(*tensors).mean().item() == pytest.approx(expected, rel=1e-10)
    one_scale = losses.gradient(*tensors, scales=1).mean().item()
    assert one_scale == pytest.approx(slow_gradient(*tables, 1, [(1, 0), (0, 1)]), rel=1e-10)


def test_the_published_gradient_sees_only_vertical_steps():
    tensors, tables = arrays(LOSSES["vertical-gradient"])
    expected = slow_gradient(*tables, 1, [(1, 0)])
    assert losses.vertical_gradient(*tensors).mean().item() == pytest.approx(expected, rel=1e-10)
    ramp = torch.arange(W, dtype=torch.float32).expand(1, 1, H, W)
    zero, valid = torch.zeros_like(ramp), torch.ones(1, 1, H, W, dtype=torch.bool)
    assert losses.vertical_gradient(ramp, zero, valid).mean() == 0
    assert losses.gradient(ramp, zero, valid).mean() > 0


def test_angular_is_the_mean_angle_whatever_the_length():
    tensors, (pa, ya, va) = arrays(LOSSES["angular"])
    cosine = (pa * ya).sum(1) / np.linalg.norm(pa, axis=1) / np.linalg.norm(ya, axis=1)
    expected = np.mean(np.arccos(np.clip(cosine, -1 + 1e-4, 1 - 1e-4))[va[:, 0]])
    assert losses.angular(*tensors).mean().item() == pytest.approx(expected, rel=1e-10)
    assert LOSSES["angular"].floor == pytest.approx(math.acos(0.9999), rel=1e-12)
    prediction, target, valid = tensors
    assert losses.angular(prediction * 1e6, target, valid).mean().item() == pytest.approx(expected, rel=1e-10)


def test_a_normal_of_length_zero_is_not_counted():
    target, valid = torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    target[0, :, 0, 0] = torch.tensor([0.0, 0.0, 1.0])
    prediction = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    reduction = losses.angular(prediction, target, valid)
    assert reduction.weight.tolist() == [1]
    assert reduction.mean().item() == pytest.approx(math.pi / 2)


STRETCHED = np.array([[381.6, 0.0, 320.0], [0.0, 988.6, 240.0], [0.0, 0.0, 1.0]])
"""Virtual KITTI's camera in a picture that genpercept-depth brought to 480x640."""


def plane(camera, normal, height, width, distance=3.0):
    """Depth (1, 1, H, W) of the plane normal . point = distance, by the ray through the middle of each pixel."""
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.linalg.inv(camera) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    return torch.from_numpy((distance / (np.asarray(normal) @ rays)).reshape(1, 1, height, width))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-70.3, 33.9)])
def test_virtual_normals_of_a_plane_are_the_planes_in_a_stretched_camera(shift):
    camera = STRETCHED + [[0, 0, shift[0]], [0, 0, shift[1]], [0, 0, 0]]
    normal = np.array([0.1, 0.3, 0.9]) / np.linalg.norm([0.1, 0.3, 0.9])
    pixels = torch.stack(
        [torch.randperm(480 * 640, generator=torch.Generator().manual_seed(k))[:500] for k in range(3)]
    )
    points = losses.lifted(plane(camera, normal, 480, 640)[0, 0], pixels, torch.from_numpy(camera), 0.0)
    found = losses.plane_normals(points[:, losses.well_spread(points)])
    assert len(found) > 40
    np.testing.assert_allclose(found * found[:, 2:].sign(), np.broadcast_to(normal, found.shape), atol=1e-6)


def test_virtual_normals_of_two_planes_differ_by_what_their_normals_do():
    first, second = (np.array(n) / np.linalg.norm(n) for n in ([0.1, 0.3, 0.9], [-0.2, 0.1, 0.95]))
    truth, seen = (plane(STRETCHED, normal, 48, 64, 2.0) for normal in (first, second))
    valid = torch.ones(1, 1, 48, 64, dtype=torch.bool)
    camera = torch.from_numpy(STRETCHED)[None]
    loss = losses.virtual_normal(seen, truth, valid, camera, [5], offset=0)
    assert loss.weight.item() > 30
    assert loss.mean().item() == pytest.approx(np.abs(first - second).sum(), rel=1e-6)


def normal_of(points):
    """Of the plane a x + b y + c z = 1 through three points, turned as they are."""
    towards = np.linalg.solve(points, np.ones(3))
    turn = np.sign(np.linalg.det(points))
    return turn * towards / np.linalg.norm(towards)


def kept_errors(p, y, v, camera, seed, ratio):
    """One image's |n_y - n_p| triplet by triplet, planes by linear equations, the published ones left out."""
    draw = torch.Generator().manual_seed(seed)
    pixels = np.argwhere(v)
    number = min(int(v.size * ratio), len(pixels))
    orders = [torch.randperm(len(pixels), generator=draw)[:number].numpy() for _ in range(3)]

    def points(depth, chosen):
        rays = np.linalg.inv(camera) @ np.stack([chosen[:, 1] + 0.5, chosen[:, 0] + 0.5, np.ones(3)])
        return (rays * (depth[tuple(chosen.T)] + 2)).T

    errors = []
    for triplet in zip(*orders):
        truth = points(y, pixels[list(triplet)])
        sides = np.stack([truth[1] - truth[0], truth[2] - truth[0], truth[2] - truth[1]])
        length = np.linalg.norm(sides, axis=1)
        cosines = sides @ sides.T / (np.outer(length, length) + 1e-6)
        near = all((np.abs(sides[:, axis]) < 0.005).any() for axis in range(3))
        if (np.abs(cosines) > 0.867).sum() > 3 or near or truth[:, 2].min() <= 1e-5:
            continue
        errors.append(np.abs(normal_of(truth) - normal_of(points(p, pixels[list(triplet)]))).sum())
    return sorted(errors)[int(len(errors) * 0.25) :]


@pytest.mark.parametrize("ratio", [0.2, 0.7])
def test_virtual_normals_leave_out_what_the_paper_does_and_the_quarter_that_is_best(ratio):
    tensors, (pa, ya, va) = arrays(LOSSES["vnl"])
    kept = []
    for i in range(2):
        kept += kept_errors(pa[i, 0], ya[i, 0], va[i, 0], CAMERA.double().numpy(), 40 + i, ratio)
    reduction = losses.virtual_normal(*tensors, **extras(2, 40), sample_ratio=ratio)
    assert reduction.weight.tolist() == [len(kept)]
    assert len(kept) > 10
    assert reduction.mean().item() == pytest.approx(np.mean(kept), rel=1e-5)


def test_triplets_on_a_line_close_together_or_behind_the_camera_are_dropped():
    corner = torch.tensor([[0.0, 0.0, 3.0], [1.0, 0.2, 3.1], [0.3, 1.0, 2.8]])
    line = torch.tensor([[0.0, 0.0, 3.0], [1.0, 0.2, 3.1], [2.0, 0.5, 3.2]])
    close = 0.004 * corner + torch.tensor([0.0, 0.0, 3.0])
    behind = corner - torch.tensor([0.0, 0.0, 3.0])
    # as published, a short distance along each axis is enough, be it between different points
    aligned = torch.tensor([[0.0, 0.0, 3.0], [1.0, 0.0, 3.0], [0.0, 1.0, 3.0]])
    kept = losses.well_spread(torch.stack([corner, line, close, behind, aligned], 1))
    assert kept.tolist() == [True, False, False, False, False]


def test_virtual_normals_do_not_depend_on_the_scale_of_the_scene():
    target = target_of(LOSSES["vnl"]) + 2
    valid = unequal_masks()
    loss = losses.virtual_normal(target * 3, target, valid, **extras(2), offset=0)
    assert loss.mean() < 1e-6


def test_the_same_seeds_draw_the_same_and_others_draw_others():
    for name in ("vnl", "hdn-range", "hdn-space"):
        loss = LOSSES[name]
        target, valid = target_of(loss), unequal_masks()
        prediction = prediction_of(loss, target)
        first, again, other = (loss(prediction, target, valid, **extras(2, seed)).total for seed in (3, 3, 4))
        assert first.equal(again)
        assert not first.equal(other)


def slow_hdn(p, y):
    def normalised(x):
        off = x - np.sort(x)[(len(x) - 1) // 2]
        return off / np.maximum(np.mean(np.abs(off)), 1e-6)

    return np.abs(normalised(p) - normalised(y)).sum()


def test_no_gradient_flows_through_hdns_median():
    torch.manual_seed(0)
    prediction = torch.rand(31, dtype=torch.float64, requires_grad=True)
    error = losses.hdn_error(prediction, torch.rand(31, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(error, prediction)
    # else the loss, which does not change with an offset, would have a gradient that adds up to 0
    assert gradient.sum().abs() > 1e-3


def test_hdn_in_space_normalises_inside_boxes_and_the_whole_image():
    (p, y, v), (pa, ya, va) = arrays(LOSSES["hdn-space"], 1)
    draw = torch.Generator().manual_seed(0)
    (tops, bottoms), (lefts, rights) = losses.segments(H, draw, 20), losses.segments(W, draw, 20)
    total, count = 0.0, 0
    for box in [*zip(tops, bottoms, lefts, rights), (0, H, 0, W)]:
        window = (0, 0, slice(*box[:2]), slice(*box[2:]))
        inside = va[window]
        if inside.any():
            total += slow_hdn(pa[window][inside], ya[window][inside])
            count += inside.sum()
    reduction = losses.hdn_space(p, y, v, [0])
    assert reduction.weight.tolist() == [count]
    assert reduction.mean().item() == pytest.approx(total / count, rel=1e-9)


def test_boxes_are_an_eighth_to_a_half_of_a_side():
    for length in (1, 5, 8, 64, 480):
        starts, ends = losses.segments(length, torch.Generator().manual_seed(1), 5000)
        assert (min(starts), max(starts)) == (0, length - length // 8 - 1)
        assert max(end - start for start, end in zip(starts, ends)) == max(length // 2 - 1, 1)
        for start, end in zip(starts, ends):
            assert 0 <= start < end <= length
            assert end == length or end - start >= length // 8


def test_depth_ranges_are_at_least_a_tenth_of_the_whole_range():
    depth = torch.linspace(2, 7, 10001, dtype=torch.float64)
    masks = losses.depth_ranges(depth, torch.Generator().manual_seed(0), 200)
    assert max((depth[mask].min().item() - 2) / 5 for mask in masks) > 0.74
    for mask in masks:
        inside = depth[mask]
        assert (inside.max() - inside.min()) / 5 > 0.0999
        assert (inside.min() - 2) / 5 <= 0.7501
        assert mask.nonzero().diff(dim=0).max() == 1


def test_hdn_in_depth_normalises_inside_ranges():
    (p, y, v), (pa, ya, va) = arrays(LOSSES["hdn-range"], 1)
    masks = losses.depth_ranges(y[0][v[0]], torch.Generator().manual_seed(0), 10)
    pv, yv = pa[va], ya[va]
    chosen = [mask.numpy() for mask in masks]
    total = sum(slow_hdn(pv[mask], yv[mask]) for mask in chosen if mask.any())
    expected = total / sum(mask.sum() for mask in chosen)
    assert losses.hdn_range(p, y, v, [0]).mean().item() == pytest.approx(expected, rel=1e-9)


def test_dice_is_one_less_the_overlap_of_hard_masks():
    p, y = torch.zeros(2, 1, 20, 20), torch.zeros(2, 1, 20, 20)
    p[:, :, :10], y[0, :, 5:15] = 1, 1  # 200 pixels each, 100 of them shared; in the second picture there is nothing
    everywhere = torch.ones(2, 1, 20, 20, dtype=torch.bool)
    per_image = [losses.dice(p[i : i + 1] * 2 - 1, y[i : i + 1] * 2 - 1, everywhere[:1]).mean() for i in range(2)]
    assert [value.item() for value in per_image] == pytest.approx([1 - 201 / 401, 1 - 1 / 201])


def test_the_laplacian_pyramid_matches_one_built_by_matrices():
    (p, y, v), (pa, ya, _) = arrays(LOSSES["laplacian"], 1)
    everywhere = torch.ones_like(v)

    def kernel_matrix(n):
        m = np.zeros((n, n))
        for i in range(n):
            for k, w in zip(range(i - 2, i + 3), (1, 4, 6, 4, 1)):
                if 0 <= k < n:
                    m[i, k] = w
        return m

    gap, expected = pa[0, 0] - ya[0, 0], 0.0
    for level in range(4):
        rows, columns = kernel_matrix(gap.shape[0]), kernel_matrix(gap.shape[1])
        down_r, down_c = (m / m.sum(1, keepdims=True) for m in (rows, columns))
        low = (down_r @ gap @ down_c.T)[::2, ::2]
        up_r, up_c = (m[:, ::2] / m[:, ::2].sum(1, keepdims=True) for m in (rows, columns))
        expected += 2**level * np.abs(gap - up_r @ low @ up_c.T).mean()
        gap = low
    expected += 2**4 * np.abs(gap).mean()
    assert losses.laplacian_pyramid(p, y, everywhere).mean().item() == pytest.approx(expected, rel=1e-9)


def test_the_laplacian_pyramid_sees_a_constant_offset_on_any_mask():
    target, valid = target_of(LOSSES["laplacian"]), unequal_masks()
    levels = losses.laplacian_pyramid(target + 0.5, target, valid)
    assert levels.total[:4].abs().max() < 1e-4
    assert levels.mean().item() == pytest.approx(16 * 0.5, rel=1e-5)


def test_scale_invariant_is_the_residual_of_numpys_least_squares():
    loss = LOSSES["scale-invariant"]
    tensors, (pa, ya, va) = arrays(loss)
    errors = []
    for p, y, v in zip(pa, ya, np.broadcast_to(va, pa.shape)):
        scale = np.linalg.lstsq(p[v][:, None], y[v], rcond=None)[0]
        errors.append((scale * p[v] - y[v]) ** 2)
    assert loss(*tensors).mean().item() == pytest.approx(np.mean(np.concatenate(errors)), rel=1e-10)
    prediction, target, valid = tensors
    assert loss(prediction * 7, target, valid).mean().item() == pytest.approx(loss(*tensors).mean().item(), rel=1e-10)


def test_cross_entropy_is_minus_the_log_of_the_right_classs_share():
    (p, y, v), (pa, ya, va) = arrays(LOSSES["cross-entropy"])
    share = np.exp(pa) / np.exp(pa).sum(1, keepdims=True)
    right = np.take_along_axis(share, ya.astype(int), 1)
    assert losses.cross_entropy(p, y, v).mean().item() == pytest.approx(-np.log(right[va]).mean(), rel=1e-10)


def test_a_label_without_a_logit_is_refused_unless_it_is_not_valid():
    logits, valid = torch.zeros(1, 4, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    classes = torch.tensor([[[[0, 1], [3, 255]]]])
    with pytest.raises(ValueError, match="class 255 for 4 logits"):
        losses.cross_entropy(logits, classes, valid)
    assert losses.cross_entropy(logits, classes, classes < 255).mean().item() == pytest.approx(math.log(4))


def test_a_latent_cell_is_valid_if_all_its_pixels_are():
    valid = torch.ones(1, 1, 20, 17, dtype=torch.bool)
    valid[0, 0, 9, 3] = False
    assert losses.valid_cells(valid)[0, 0].tolist() == [[True, True], [False, True]]
