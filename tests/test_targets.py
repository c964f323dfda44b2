"""Targets: raw truth becomes the codec's values as the papers did it, finite and masked whatever comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffusion_perception.core.codecs import CODECS
from diffusion_perception.core.display.colour import PALETTES, classify
from diffusion_perception.core.geometry import NORMAL_AXES
from diffusion_perception.core.measure.losses import valid_cells
from diffusion_perception.core.perception_map import Convention
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.config import read
from diffusion_perception.trainer.data import targets
from diffusion_perception.trainer.data.augment import Augmentation
from diffusion_perception.trainer.data.feeds import feed, open_source, recipe_for
from diffusion_perception.trainer.data.targets import TargetOptions, check_fit, options_for
from diffusion_perception.trainer.data.tasks import data_of

METRIC = Convention(high=None, near="low", metric=True)
RELATIVE = Convention(high=None, near="low")
DISPARITY = Convention(low=None, high=None, near="high")
OPENGL = Convention(low=-1.0, axes=NORMAL_AXES["opengl"], unit=True)
CONVENTIONS = {"depth": METRIC, "disparity": METRIC, "normal": OPENGL}
CHANNELS = {"normal": 3, "albedo": 3, "shading": 3, "keypoints": 17}
SHAPE = (10, 14)


def raw(task: str, seed: int = 0, shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    """Plausible truth of a task."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(CHANNELS.get(task, 1), *shape, generator=generator)
    if task == "normal":
        return torch.nn.functional.normalize(values * 2 - 1, dim=0)
    if task == "segmentation":
        return (values * 5).floor()
    return values * 8 + 0.3 if task in ("depth", "disparity", "shading") else values


def everywhere(shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    return torch.ones(1, *shape, dtype=torch.bool)


def options(task: str, **changes: object) -> TargetOptions:
    base = {"colours": PALETTES["nyu40"].colours} if task == "segmentation" else {}
    return TargetOptions(**{**base, **changes})


def normalise(task: str, *rest: Any) -> targets.Normalised:
    return targets.normalise(data_of(task).target, *rest)


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


def test_no_valid_pixel_gives_finite_values_and_no_valid_pixel(task):
    values, valid = normalise(task, raw(task), ~everywhere(), CONVENTIONS.get(task, Convention()), options(task))
    assert values.isfinite().all()
    assert not valid.any()
    assert valid.dtype == torch.bool


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_values_lie_in_the_codecs_range_whatever_comes(data):
    task = data.draw(st.sampled_from([name for name in TASKS if name not in ("segmentation", "keypoints")]))
    shape = (CHANNELS.get(task, 1), 4, 5)
    numbers = st.floats(-(2.0**120), 2.0**120, width=32)
    target = torch.from_numpy(data.draw(hnp.arrays(np.float32, shape, elements=numbers)))
    valid = torch.from_numpy(data.draw(hnp.arrays(bool, (1, 4, 5))))
    span = data.draw(st.sampled_from(["", "quantile", "min-max", "whole", "upper", "unit", "metric"]))
    values, known = normalise(task, target, valid, CONVENTIONS.get(task, Convention()), TargetOptions(span=span))
    assert values.isfinite().all()
    assert (known <= valid).all()
    assert values.min() >= -1e-6
    assert values.max() <= 1 + 1e-6


@pytest.mark.parametrize("task", sorted({*TASKS} - {"keypoints"}))  # which have a head, not a codec
def test_the_codec_gives_back_what_it_was_given(task):
    values, _ = normalise(task, raw(task), everywhere(), CONVENTIONS.get(task, Convention()), options(task))
    codec = CODECS["unit-range"](channels=values.shape[0])
    picture = codec.encode(values[None])
    assert picture.shape == (1, 3, *SHAPE)
    assert picture.abs().max() <= 1
    assert torch.allclose(codec.decode(picture)[0], values, atol=1e-6)


def published_depth(depth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Section 4.3 of the published trainer, in numpy."""
    low, high = np.quantile(depth[valid & (depth > 0)], [0.02, 0.98])
    return np.clip((depth - low) / (high - low) * 2 - 1, -1, 1)


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_affine_depth_is_the_published_one(seed):
    depth = raw("depth", seed)
    valid = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed)) > 0.2
    depth[0, :2] = 0.0  # nothing measured: passes through, and is clipped
    values, known = normalise("depth", depth, valid, METRIC, TargetOptions())
    expected = published_depth(depth.numpy().astype(np.float64), valid.numpy())
    assert np.allclose(values.numpy() * 2 - 1, expected, atol=1e-5)
    assert torch.equal(known, valid & (depth > 0))


@settings(deadline=None)
@given(st.floats(0.01, 100))
def test_affine_depth_does_not_care_for_the_unit(scale):
    one, _ = normalise("depth", raw("depth"), everywhere(), METRIC, TargetOptions())
    other, _ = normalise("depth", raw("depth") * scale, everywhere(), RELATIVE, TargetOptions())
    assert torch.allclose(one, other, atol=1e-4)


def test_sky_beyond_the_valid_range_does_not_stretch_the_target():
    depth = raw("depth")
    valid = everywhere()
    with_sky, sky_valid = depth.clone(), valid.clone()
    with_sky[0, 0], sky_valid[0, 0] = 655.35, False
    without, _ = normalise("depth", depth[:, 1:], valid[:, 1:], METRIC, TargetOptions())
    values, _ = normalise("depth", with_sky, sky_valid, METRIC, TargetOptions())
    assert torch.allclose(values[:, 1:], without)
    assert (values[:, 0] == 1).all()  # and is as far as can be in the picture that the autoencoder sees


def test_what_was_not_measured_is_near_as_published_or_far_if_wanted():
    depth = raw("depth")
    depth[0, 0] = 0
    published, _ = normalise("depth", depth, everywhere(), METRIC, TargetOptions())
    far, known = normalise("depth", depth, everywhere(), METRIC, TargetOptions(fill="far"))
    assert (published[0, 0] == 0).all()
    assert (far[0, 0] == 1).all()
    assert torch.equal(far[0, 1:], published[0, 1:])
    assert not known[0, 0].any()


def test_disparity_is_one_over_depth_from_end_to_end():
    depth = raw("depth")
    valid = everywhere()
    depth[0, 0], valid[0, 0] = -1.0, False
    values, known = normalise("disparity", depth, valid, METRIC, TargetOptions())
    inverse = 1 / depth[0, 1:].double()
    expected = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    assert torch.allclose(values[0, 1:].double(), expected, atol=1e-6)
    assert (values[0, 0] == 0).all()
    assert torch.equal(known, valid)


def test_quantiles_of_disparity_have_an_effect_if_asked_for():
    values, _ = normalise("disparity", raw("depth"), everywhere(), METRIC, TargetOptions(span="quantile"))
    assert (values == 1).sum() > 1
    assert (values == 0).sum() > 1


def test_relative_disparity_is_stretched_whatever_its_scale_and_shift():
    given = raw("mask")
    one, known = normalise("disparity", given, everywhere(), DISPARITY, TargetOptions())
    other, _ = normalise("disparity", given * 30 - 7, everywhere(), DISPARITY, TargetOptions())
    assert torch.allclose(one, other, atol=1e-5)
    assert known.all()


def test_disparity_that_is_not_valid_is_as_far_as_can_be():
    given, valid = raw("mask"), everywhere()
    given[0, 0], valid[0, 0] = 50.0, False
    values, _ = normalise("disparity", given, valid, DISPARITY, TargetOptions())
    assert (values[0, 0] == 0).all()
    assert values[0, 1:].max() == 1


@pytest.mark.parametrize(("task", "convention"), [("depth", DISPARITY), ("disparity", RELATIVE)])
def test_an_unknown_shift_cannot_be_inverted(task, convention):
    with pytest.raises(ValueError, match="unknown shift"):
        normalise(task, raw("depth"), everywhere(), convention, TargetOptions())


@pytest.mark.parametrize(("curve", "function"), [("sqrt", np.sqrt), ("log", np.log)])
def test_curves_come_before_the_span(curve, function):
    depth = raw("depth")
    values, _ = normalise("depth", depth, everywhere(), METRIC, TargetOptions(span="min-max", curve=curve))
    bent = function(depth.numpy().astype(np.float64))
    assert np.allclose(values.numpy(), (bent - bent.min()) / np.ptp(bent), atol=1e-5)


def test_a_logarithm_of_nothing_is_not_valid():
    disparity = raw("depth")
    disparity[0, 0] = 0
    _, known = normalise("disparity", disparity, everywhere(), DISPARITY, TargetOptions(curve="log"))
    assert not known[0, 0].any()
    assert known[0, 1:].all()


@pytest.mark.parametrize("clip", [True, False])
def test_metric_depth_stays_in_metres_up_to_its_scale(clip):
    depth = raw("depth")
    depth[0, 0] = 30.0
    values, _ = normalise("depth", depth, everywhere(), METRIC, TargetOptions(span="metric", scale=10.0, clip=clip))
    assert torch.equal(values[0, 1:], depth[0, 1:])
    assert (values[0, 0] == (10 if clip else 30)).all()


def test_dmps_depth_is_scaled_by_eight_metres_and_not_clamped():
    recipe = Recipe("depth", codec="unbounded", target_scale=8.0, metric=True)
    depth = raw("depth") * 3
    values, _ = normalise("depth", depth, everywhere(), METRIC, options_for(recipe))
    assert torch.allclose(recipe.target_codec().encode(values[None])[0, 0], depth[0] / 8 * 2 - 1)


def test_normals_have_length_one_and_a_vector_without_length_is_not_valid():
    vectors = raw("normal") * 5
    vectors[:, 0, 0] = 0
    values, known = normalise("normal", vectors, everywhere(), OPENGL, TargetOptions(unit=True))
    assert not known[0, 0, 0]
    assert known.sum() == SHAPE[0] * SHAPE[1] - 1
    assert torch.allclose(values.norm(dim=0)[known[0]], torch.tensor(1.0), atol=1e-6)
    assert (values[:, 0, 0] == 0).all()
    coded, _ = normalise("normal", vectors, everywhere(), OPENGL, TargetOptions())
    assert torch.allclose(coded, (values + 1) / 2)
    assert (coded[:, 0, 0] == 0.5).all()  # grey: a picture of 0, as is published


@pytest.mark.parametrize("source", NORMAL_AXES)
@pytest.mark.parametrize("wanted", NORMAL_AXES)
def test_normals_end_along_the_recipes_axes(source, wanted):
    signs = {"right": (0, 1), "left": (0, -1), "up": (1, 1), "down": (1, -1), "back": (2, 1), "forward": (2, -1)}
    truth = raw("normal")  # along right, up, back

    def along(axes: tuple[str, ...]) -> torch.Tensor:
        return torch.stack([truth[signs[axis][0]] * signs[axis][1] for axis in axes])

    convention = Convention(low=-1.0, axes=NORMAL_AXES[source], unit=True)
    given = along(NORMAL_AXES[source])
    values, _ = normalise("normal", given, everywhere(), convention, TargetOptions(axes=NORMAL_AXES[wanted], unit=True))
    assert torch.allclose(values, along(NORMAL_AXES[wanted]), atol=1e-6)


@pytest.mark.parametrize("task", ["mask", "matte"])
def test_masks_are_plain_or_stretched_from_end_to_end_as_published(task):
    level = raw(task) * 0.5 + 0.2
    plain, _ = normalise(task, level, everywhere(), Convention(), TargetOptions())
    stretched, _ = normalise(task, level, everywhere(), Convention(), TargetOptions(span="whole"))
    constant, _ = normalise(task, level * 0 + 0.7, everywhere(), Convention(), TargetOptions(span="whole"))
    assert torch.equal(plain, level)
    assert torch.allclose(stretched, (level - level.min()) / (level.max() - level.min()), atol=1e-6)
    assert (constant == 0).all()


def test_classes_are_painted_and_found_again():
    index = raw("segmentation")
    values, _ = normalise("segmentation", index, everywhere(), Convention(), options("segmentation"))
    found, _ = classify(values.movedim(0, -1)[None], PALETTES["nyu40"])
    assert torch.equal(found[0], index[0].long())
    numbers, _ = normalise("segmentation", index, everywhere(), Convention(), TargetOptions(classes=True))
    assert torch.equal(numbers, index)


def test_colours_without_classes_stay_or_are_stretched_as_published():
    colours = raw("albedo") * 0.5 + 0.1
    plain, _ = normalise("segmentation", colours, everywhere(), Convention(), TargetOptions())
    stretched, _ = normalise("segmentation", colours, everywhere(), Convention(), TargetOptions(span="whole"))
    assert torch.equal(plain, colours)
    assert stretched.min() == 0
    assert stretched.max() == 1
    with pytest.raises(ValueError, match="colours only"):
        normalise("segmentation", colours, everywhere(), Convention(), TargetOptions(classes=True))


@pytest.mark.parametrize(("colours", "match"), [((), "need colours"), (("000000",), "has class 4")])
def test_classes_without_colours_are_refused(colours, match):
    with pytest.raises(ValueError, match=match):
        normalise("segmentation", raw("segmentation"), everywhere(), Convention(), TargetOptions(colours=colours))


def test_albedo_is_on_the_srgb_curve_unless_it_is_to_be_linear():
    linear = raw("albedo")
    values, _ = normalise("albedo", linear, everywhere(), Convention(), TargetOptions())
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.numpy() ** (1 / 2.4) - 0.055)
    assert np.allclose(values.numpy(), expected, atol=1e-5)
    same, _ = normalise("albedo", linear, everywhere(), Convention(), TargetOptions(transfer="linear"))
    assert torch.equal(same, linear)


def test_shading_is_scaled_by_its_upper_quantile_and_keeps_zero():
    light = raw("shading")
    light[:, 0, 0] = 0
    values, _ = normalise("shading", light, everywhere(), Convention(), TargetOptions(transfer="linear"))
    assert (values[:, 0, 0] == 0).all()
    top = np.quantile(light.numpy(), 0.98)
    assert np.allclose(values.numpy(), (light.numpy() / top).clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("task", ["albedo", "shading"])
def test_dmps_light_is_learnt_as_its_bytes_are_stored(task, tmp_path):
    """Stretched to its ends before it was stored: a second span would saturate what lies above a quantile."""
    stored = np.linspace(1, 255, 48 * 64).round().astype(np.uint8).reshape(48, 64)
    for folder, pixels in (("images", np.stack([stored] * 3, -1)), (task, stored)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "ramp.png")
    config = read(None, {"preset": f"dmp-{task}", "data": [{"root": str(tmp_path)}]})
    recipe = recipe_for(task, config, "sd15")
    (source,) = config.sources(task)
    records = open_source(source, recipe, config.size)
    values, valid = feed(config, recipe, source, records, Augmentation()).supervision.normalise(records[0])
    assert valid.all()
    assert np.abs(values.numpy() - stored / 255).max() < 1e-5


def test_a_latent_cell_counts_only_if_all_its_pixels_do():
    valid = torch.ones(1, 1, 17, 24, dtype=torch.bool)
    valid[0, 0, 3, 9] = False
    cells = valid_cells(valid)
    assert cells.shape == (1, 1, 2, 3)
    assert cells.flatten().tolist() == [True, False, True, True, True, True]


def test_the_recipe_says_what_its_targets_are():
    assert options_for(Recipe("depth")).span == ""
    assert options_for(Recipe("depth", target_scale=-1.0)).span == "min-max"
    metric = options_for(Recipe("depth", target_scale=10.0, metric=True))
    assert (metric.span, metric.scale, metric.clip) == ("metric", 10.0, True)
    assert options_for(Recipe("normal", codec="unit-vector")).unit
    assert not options_for(Recipe("normal")).unit
    assert options_for(Recipe("segmentation", palette="coco")).colours == PALETTES["coco"].colours
    assert options_for(Recipe("segmentation"), ("ff0000",)).colours == ("ff0000",)


@settings(deadline=None)
@given(st.sampled_from([1.0, 8.0, 80.0]))
def test_a_scaled_recipe_still_fills_its_codec(scale):
    recipe = Recipe("depth", target_scale=scale)
    values, _ = normalise("depth", raw("depth"), everywhere(), METRIC, options_for(recipe))
    assert recipe.target_codec().encode(values[None]).amax().item() == pytest.approx(1)


def test_truth_that_does_not_fit_the_recipe_is_refused():
    with pytest.raises(ValueError, match="no metric depth"):
        check_fit("mine", "depth", RELATIVE, TargetOptions(span="metric"))
    with pytest.raises(ValueError, match="unknown shift"):
        check_fit("mine", "depth", DISPARITY, TargetOptions())
    check_fit("mine", "disparity", DISPARITY, TargetOptions())


def test_unknown_tasks_and_quantiles_that_are_no_range_are_refused():
    with pytest.raises(ValueError, match="'smell'"):
        normalise("smell", raw("mask"), everywhere(), Convention(), TargetOptions())
    with pytest.raises(ValueError, match="no range"):
        TargetOptions(quantiles=(0.9, 0.1))
