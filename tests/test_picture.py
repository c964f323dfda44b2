"""Tests of core.display.picture: conventions proven on a rendered sphere, and defined answers to broken values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_perception.core.display.picture import (
    CLASS_MEANINGS,
    DEPTH_MEANINGS,
    DEPTH_MODES,
    DIRECTIONS,
    FILE_MEANINGS,
    LEVEL_MEANINGS,
    NORMAL_MEANINGS,
    as_map,
    checked_image,
    classes_of,
    depth_picture,
    from_image,
    in_colours,
    in_range,
    normal_picture,
    palette_of,
    ready,
)
from diffusion_perception.core.geometry import NORMAL_AXES, change_axes
from diffusion_perception.core.perception_map import Convention, PerceptionMap
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS

SIZE = 65
AFFINE = Convention(near="low")
DISPARITY = Convention(near="high")
METRIC = Convention(high=None, near="low", metric=True)
INVERSE_METRES = Convention(high=None, near="high", metric=True)


def sphere():
    """A ball before a wall, along the optical axis: depth in metres, unit normals (right, up, back), where it is."""
    line = torch.linspace(-1.2, 1.2, SIZE)
    x, y = line.expand(SIZE, SIZE), -line[:, None].expand(SIZE, SIZE)  # rows run downwards
    height = (1 - x**2 - y**2).clamp(min=0).sqrt()
    ball = x**2 + y**2 < 1
    normals = torch.where(ball[..., None], torch.stack((x, y, height), -1), torch.tensor([0.0, 0.0, 1.0]))
    return 4 - height, F.normalize(normals, dim=-1), ball


def depth_map(values, convention, task="depth", **rest):
    return PerceptionMap(task, values[..., None] if values.ndim == 3 else values[None, ..., None], convention, **rest)


def as_predicted(axes, unit):
    """The sphere's normals as a network with these axes would give them."""
    values = change_axes(sphere()[1], NORMAL_AXES["opengl"], axes)[None]
    return PerceptionMap("normal", values if unit else (values + 1) / 2, Convention(axes=axes, unit=unit))


MIDDLE = SIZE // 2
LEFT, RIGHT, TOP, BOTTOM, CENTRE = (
    (MIDDLE, MIDDLE - 20),
    (MIDDLE, MIDDLE + 20),
    (MIDDLE - 20, MIDDLE),
    (MIDDLE + 20, MIDDLE),
    (MIDDLE, MIDDLE),
)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("source", NORMAL_AXES)
def test_whatever_axes_a_network_has_controlnet_sees_red_left_green_up_blue_front(source, unit):
    picture = normal_picture(as_predicted(NORMAL_AXES[source], unit))[0]
    assert picture[LEFT][0] > 0.8 > 0.2 > picture[RIGHT][0]
    assert picture[TOP][1] > 0.8 > 0.2 > picture[BOTTOM][1]
    assert picture[CENTRE][2] > 0.99
    assert picture[..., 2].min() >= 0.5
    assert torch.allclose(picture, normal_picture(as_predicted(NORMAL_AXES["opengl"], True))[0], atol=1e-6)


def test_the_other_presets_point_where_their_names_say():
    gl = normal_picture(as_predicted(NORMAL_AXES["controlnet_bae"], False), "opengl")[0]
    dx = normal_picture(as_predicted(NORMAL_AXES["controlnet_bae"], False), "directx")[0]
    cv = normal_picture(as_predicted(NORMAL_AXES["controlnet_bae"], False), "opencv")[0]
    assert gl[RIGHT][0] > 0.8 > 0.2 > gl[LEFT][0]
    assert gl[TOP][1] > 0.8 > 0.2 > gl[BOTTOM][1]
    assert dx[RIGHT][0] > 0.8
    assert dx[BOTTOM][1] > 0.8 > 0.2 > dx[TOP][1]
    assert gl[CENTRE][2] > 0.99
    assert dx[CENTRE][2] > 0.99
    assert cv[CENTRE][2] < 0.01


def test_raw_normals_are_the_values_as_they_came():
    predicted = as_predicted(NORMAL_AXES["opengl"], True)
    assert normal_picture(predicted, "raw").equal(predicted.values)


def test_renormalising_restores_the_length_that_averaging_took():
    predicted = as_predicted(NORMAL_AXES["opengl"], True)
    short = replace(predicted, values=predicted.values * 0.7)
    assert torch.allclose(normal_picture(short), normal_picture(predicted), atol=1e-6)
    kept = normal_picture(short, renormalise=False) * 2 - 1
    assert torch.allclose(kept.norm(dim=-1), torch.full(kept.shape[:-1], 0.7), atol=1e-5)


def test_normals_that_say_nothing_face_the_camera():
    values = torch.full((1, 2, 2, 3), 127 / 255)
    values[0, 0, 0] = torch.nan
    lost = PerceptionMap("normal", values, Convention(axes=NORMAL_AXES["opencv"]))
    assert torch.allclose(normal_picture(lost), torch.tensor([0.5, 0.5, 1.0]).expand(1, 2, 2, 3))


def test_normals_without_axes_are_refused_and_those_of_an_image_are_read_as_said():
    unsaid = PerceptionMap("normal", torch.rand(1, 4, 4, 3), Convention())
    with pytest.raises(ValueError, match="do not say where their axes point"):
        normal_picture(unsaid)
    said = as_map(unsaid, NORMAL_MEANINGS["opengl"], ("normal",))
    image = as_map(unsaid.values, NORMAL_MEANINGS["opengl"], ("normal",))
    assert normal_picture(said).equal(normal_picture(image))


DEPTHS = {
    "metric": lambda z: depth_map(z, METRIC),
    "affine": lambda z: depth_map((z - 3) / 1.0, AFFINE),
    "disparity": lambda z: depth_map(1 / z, DISPARITY, "disparity"),
    "metric disparity": lambda z: depth_map(1 / z, INVERSE_METRES, "disparity"),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_for_controlnet_near_is_white_whatever_the_values_mean(kind):
    depth, _, ball = sphere()
    picture, said = depth_picture(DEPTHS[kind](depth))
    assert picture.shape == (1, SIZE, SIZE, 3)
    assert picture[0][CENTRE].tolist() == [1, 1, 1]
    assert (picture[0][~ball] == 0).all()
    assert "near is white" in said
    order = depth.flatten().argsort(descending=True)
    assert (picture[0, ..., 0].flatten()[order].diff() >= 0).all()


@pytest.mark.parametrize("mode", DEPTH_MODES)
@pytest.mark.parametrize("kind", DEPTHS)
def test_the_direction_that_is_asked_for_is_the_picture_s_in_every_mode(kind, mode):
    depth, _, ball = sphere()
    for direction in ("near is white", "near is black"):
        picture, said = depth_picture(DEPTHS[kind](depth), mode, direction=direction)
        assert (picture[0, ball].mean() > picture[0, ~ball].mean()) == (direction == "near is white")
        assert direction in said
        turned, said = depth_picture(DEPTHS[kind](depth), mode, invert=True, direction=direction)
        assert torch.allclose(turned, 1 - picture, atol=1e-6)
        assert direction not in said


def test_the_conversion_is_said_and_done():
    depth, _, _ = sphere()
    for kind, formula, expected in (
        ("metric", "1/z", (1 / depth - 1 / 4) / (1 / 3 - 1 / 4)),
        ("affine", "1 - d", 1 - (depth - 3)),
        ("disparity", "d as it is", (1 / depth - 1 / 4) / (1 / 3 - 1 / 4)),
    ):
        picture, said = depth_picture(DEPTHS[kind](depth))
        assert formula in said
        assert torch.allclose(picture[0, ..., 0], expected, atol=1e-5)


def test_min_max_and_percentile_keep_the_direction_of_the_values():
    values = torch.linspace(0.2, 0.8, 101).expand(1, 1, 101)
    straight, said = depth_picture(depth_map(values, AFFINE), "min-max")
    assert torch.allclose(straight[0, 0, :, 0], torch.linspace(0, 1, 101), atol=1e-6)
    assert "near is black" in said
    cut, said = depth_picture(depth_map(values, AFFINE), "percentile", percentiles=(10, 90))
    low, high = np.percentile(values, (10, 90))
    assert torch.allclose(cut[..., 0], ((values - low) / (high - low)).clip(0, 1).float(), atol=1e-5)
    assert "percentiles 10 to 90" in said


def test_raw_depth_is_not_touched():
    values = torch.tensor([[[0.5, 70.0]]])
    picture, said = depth_picture(depth_map(values, METRIC), "raw")
    assert picture[..., 0].equal(values)
    assert "not clamped" in said


def test_a_batch_is_stretched_by_itself_or_together():
    values = torch.stack((torch.linspace(0, 0.5, 20).view(4, 5), torch.linspace(0, 1, 20).view(4, 5)))
    alone, _ = depth_picture(depth_map(values, DISPARITY))
    together, said = depth_picture(depth_map(values, DISPARITY), per_batch=True)
    assert alone[:, -1, -1, 0].tolist() == [1, 1]
    assert together[:, -1, -1, 0].tolist() == [0.5, 1]
    assert "per batch" in said


def test_a_batch_equals_its_images_one_by_one():
    values = torch.rand(3, 8, 9)
    for mode in DEPTH_MODES:
        whole, _ = depth_picture(depth_map(values, METRIC), mode)
        assert whole.equal(torch.cat([depth_picture(depth_map(v, METRIC), mode)[0] for v in values]))


def test_inverting_turns_the_picture_round():
    values = torch.rand(1, 8, 9)
    straight, _ = depth_picture(depth_map(values, DISPARITY))
    turned, said = depth_picture(depth_map(values, DISPARITY), invert=True)
    assert torch.allclose(straight + turned, torch.ones_like(straight))
    assert "near is black" in said


def test_with_a_colormap_near_is_red_in_spectral():
    depth, _, _ = sphere()
    picture, said = depth_picture(DEPTHS["metric"](depth), colormap="spectral")
    red, _, blue = picture[0][CENTRE]
    assert red > 0.5 > blue
    assert "spectral" in said


@pytest.mark.parametrize("mode", DEPTH_MODES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("convention", [AFFINE, DISPARITY, METRIC, INVERSE_METRES])
def test_unknown_pixels_look_far_away_and_do_not_move_the_others(convention, direction, mode):
    values = torch.rand(1, 6, 6) + 0.5
    broken = values.clone()
    broken[0, 0, 0], broken[0, 0, 1], broken[0, 0, 2] = torch.nan, torch.inf, -torch.inf
    valid = torch.ones(1, 6, 6, dtype=torch.bool)
    valid[0, 0, 3:] = False
    broken[0, 0, 3:] = 1e9
    picture, said = depth_picture(depth_map(broken, convention, valid=valid), mode, direction=direction)
    expected, _ = depth_picture(depth_map(values[:, 1:], convention), mode, direction=direction)
    assert picture[:, 1:].equal(expected)
    black = "near is black" in said and (mode != "raw" or "inverted" in said)
    assert (picture[0, 0] == (1 if black else 0)).all()


def test_depth_that_was_not_measured_is_far_and_not_infinitely_near():
    picture, _ = depth_picture(depth_map(torch.tensor([[[0.0, -1.0, 2.0, 4.0]]]), METRIC))
    assert picture[0, 0, :, 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("value", "expected"), [(0.0, 1.0), (0.3, 0.7), (1.0, 0.0)])
def test_a_constant_depth_has_nothing_to_stretch_and_stays(value, expected):
    picture, _ = depth_picture(depth_map(torch.full((1, 4, 4), value), AFFINE))
    assert torch.allclose(picture, torch.full_like(picture, expected))


@settings(deadline=None)
@given(
    arrays(np.float32, (2, 3, 4), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.sampled_from([AFFINE, DISPARITY, METRIC, INVERSE_METRES]),
    st.sampled_from([mode for mode in DEPTH_MODES if mode != "raw"]),
    st.booleans(),
)
def test_no_depth_whatsoever_gives_nan_or_leaves_the_range(values, convention, mode, per_batch):
    picture, _ = depth_picture(depth_map(torch.from_numpy(values), convention), mode, per_batch)
    assert picture.isfinite().all()
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize("percentiles", [(98, 2), (5, 5), (-1, 50), (0, 101)])
def test_percentiles_that_make_no_range_are_refused(percentiles):
    with pytest.raises(ValueError, match="make no range"):
        depth_picture(depth_map(torch.rand(1, 4, 4), AFFINE), "percentile", percentiles=percentiles)


def test_percentiles_that_coincide_fall_back_to_the_ends():
    values = torch.zeros(1, 10, 10)
    values[0, 0, 0] = 0.5
    picture, _ = depth_picture(depth_map(values, DISPARITY), "percentile")
    assert picture[0, 0, 0, 0] == 1


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'fog'.*controlnet"):
        depth_picture(depth_map(torch.rand(1, 4, 4), AFFINE), "fog")


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 0, 4, 3), (1, 4, 4, 2), (4,)])
def test_an_image_without_pixels_or_with_odd_channels_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        from_image(torch.zeros(shape), DEPTH_MEANINGS["near is white"])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_an_image_with_a_broken_pixel_is_refused(broken):
    image = torch.rand(1, 4, 4, 3)
    image[0, 1, 2, 0] = broken
    with pytest.raises(ValueError, match="NaN or infinite"):
        from_image(image, DEPTH_MEANINGS["near is white"])


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (2, 4, 5, 1), (2, 4, 5, 3), (2, 4, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_images_of_any_channels_and_precision_and_masks_are_read(shape, dtype):
    image = torch.rand(shape).to(dtype)
    before = image.clone()
    for meanings in (DEPTH_MEANINGS, NORMAL_MEANINGS, LEVEL_MEANINGS, CLASS_MEANINGS):
        for meaning in meanings.values():
            made = from_image(image, meaning)
            assert made.values.dtype == torch.float32
            assert made.values.is_contiguous()
            assert made.values.shape[1:] == (4, 5, TASKS[meaning.task].channels)
    assert image.equal(before)


@pytest.mark.parametrize("shape", [(2, 1, 64, 96), (1, 1, 64, 96), (2, 1, 16, 17), (1, 1, 3, 5), (3, 1, 5, 2)])
def test_a_mask_may_have_its_channel_where_torch_has_it(shape):
    mask = torch.rand(shape)
    assert torch.equal(checked_image(mask)[..., 0], mask[:, 0])
    (read,) = (from_image(mask, meaning) for meaning in [FILE_MEANINGS["values 0..1"]])
    assert torch.equal(read.values, mask[:, 0, ..., None])


@pytest.mark.parametrize("shape", [(1, 1, 64, 3), (2, 1, 5, 4), (1, 1, 7, 1)])
def test_a_picture_of_one_row_is_no_mask(shape):
    assert checked_image(torch.rand(shape)).shape == shape


def test_a_gray_image_keeps_its_very_values():
    gray = torch.rand(1, 7, 7, 1)
    assert from_image(gray.expand(-1, -1, -1, 3), DEPTH_MEANINGS["near is white"]).values.equal(gray)


def test_a_photo_is_in_colours_and_a_gray_picture_that_was_compressed_is_not():
    noise = torch.rand(1, 40, 40, 1, generator=torch.Generator().manual_seed(0))
    tint = torch.tensor([0.02, 0.0, -0.02])
    assert not in_colours(noise)
    assert not in_colours(noise[..., 0])
    assert not in_colours((noise + tint).clamp(0, 1))
    assert in_colours(torch.cat([noise, 1 - noise, noise], -1))


ONE_LINERS = {
    "metric": (depth_map(torch.tensor([[[1.0, 2.5, torch.nan]]]), METRIC), "1 to 2.5, near is low in metres"),
    "disparity": (depth_map(torch.zeros(1, 1, 3), DISPARITY, "disparity"), "0 to 0, near is high"),
    "unknown": (depth_map(torch.full((1, 1, 3), torch.nan), AFFINE), "no known values, near is low"),
    "normals": (
        PerceptionMap("normal", torch.ones(1, 1, 3, 3), Convention(axes=NORMAL_AXES["opengl"])),
        "1 to 1, axes right, up, back",
    ),
    "classes": (PerceptionMap("segmentation", torch.ones(1, 1, 3, 3), Convention(palette="rooms")), "colours of rooms"),
}


@pytest.mark.parametrize("kind", ONE_LINERS)
def test_a_map_is_one_line_for_a_person(kind):
    map, words = ONE_LINERS[kind]
    assert str(map).startswith(f"{map.task} of 1 x 3 x 1, ")
    assert str(map).endswith(words)


def test_a_map_of_another_task_is_refused():
    with pytest.raises(ValueError, match="map of normal came where depth or disparity"):
        as_map(as_predicted(NORMAL_AXES["opengl"], True), DEPTH_MEANINGS["metres"], ("depth", "disparity"))


def test_an_empty_map_is_refused():
    with pytest.raises(ValueError, match="is empty"):
        as_map(depth_map(torch.zeros(0, 4, 4), AFFINE), DEPTH_MEANINGS["metres"], ("depth",))


def test_a_map_says_itself_what_it_means():
    own = depth_map(torch.rand(1, 4, 4), AFFINE)
    assert as_map(own, DEPTH_MEANINGS["metres"], ("depth",)).convention == AFFINE


def read_classes(map, picked=""):
    """Clean colours, the mask of the classes that are named, and how clear they are."""
    palette = palette_of(map)
    found = classes_of(map, palette)
    return found.picture(), found.mask(palette.indices(picked)), found.clearness


def test_a_colour_map_becomes_clean_palette_colours_with_a_mask_and_a_confidence():
    meaning = CLASS_MEANINGS["colours of ade20k"]
    colours = torch.tensor([[[[6, 230, 230], [150, 5, 61], [120, 120, 120]]]]) / 255
    dirty = from_image(colours + 0.01, meaning)
    clean, mask, confidence = read_classes(dirty, "person, 2")
    assert clean.equal(colours)
    assert mask.tolist() == [[[1, 1, 0]]]
    assert (confidence > 0.5).all()
    assert (read_classes(dirty)[1] == 0).all()


def test_what_is_unknown_is_of_no_class():
    values = torch.full((1, 1, 2, 3), 120 / 255)
    values[0, 0, 0, 1] = torch.nan
    broken = PerceptionMap("segmentation", values, Convention(palette="ade20k"))
    clean, mask, confidence = read_classes(broken, "wall")
    assert clean.isfinite().all()
    assert mask.tolist() == [[[0, 1]]]
    assert confidence.tolist() == [[[0, 1]]]


def test_a_palette_that_nobody_knows_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'cityscapes'.*ade20k"):
        palette_of(PerceptionMap("segmentation", torch.rand(1, 2, 2, 3), Convention(palette="cityscapes")))


def test_an_open_range_is_the_image_s_own():
    values = torch.tensor([0.0, 1.0, 4.0]).view(1, 1, 3, 1)
    shading = PerceptionMap("shading", values, Convention(high=None))
    assert in_range(shading).flatten().tolist() == [0, 0.25, 1]
    half = PerceptionMap("matte", values, Convention(high=2.0))
    assert in_range(half).flatten().tolist() == [0, 0.5, 1]


READY_CONVENTIONS = {
    "depth": METRIC,
    "disparity": DISPARITY,
    "normal": Convention(-1, 1, axes=NORMAL_AXES["opengl"], unit=True),
    "segmentation": Convention(palette="nyu40"),
}


@pytest.mark.parametrize("task", tiny.PICTURED)
@pytest.mark.parametrize("count", [1, 3])
def test_every_task_has_a_picture_ready_for_controlnet_and_a_mask(task, count):
    values = torch.rand(count, 6, 7, TASKS[task].channels)
    values[0, 0, 0] = torch.nan
    before = values.clone()
    image, mask = ready(PerceptionMap(task, values, READY_CONVENTIONS.get(task, Convention())))
    for made, shape in ((image, (count, 6, 7, 3)), (mask, (count, 6, 7))):
        assert made.shape == shape
        assert made.dtype == torch.float32
        assert made.is_contiguous()
        assert made.isfinite().all()
        assert made.min() >= 0
        assert made.max() <= 1
    assert mask[0, 0, 0] == 0
    assert values.nan_to_num(9).equal(before.nan_to_num(9))


def test_the_mask_of_a_matte_is_the_matte_and_that_of_a_depth_its_near_part():
    matte = torch.rand(2, 5, 5, 1)
    assert ready(PerceptionMap("matte", matte, Convention()))[1].equal(matte[..., 0])
    image, mask = ready(depth_map(torch.rand(2, 5, 5) + 1, METRIC))
    assert mask.equal(image[..., 0])


def test_normals_of_unknown_axes_and_maps_of_unknown_palette_still_have_a_picture():
    values = torch.rand(1, 4, 4, 3)
    assert ready(PerceptionMap("segmentation", values, Convention()))[0].equal(values)
    assert ready(PerceptionMap("normal", values, Convention()))[0].isfinite().all()


def numbered(*numbers: float, **rest) -> PerceptionMap:
    values = torch.tensor(numbers).view(1, 1, -1, 1)
    return PerceptionMap("segmentation", values, Convention(high=None, palette="ade20k", classes=True), **rest)


def test_class_numbers_become_colours_a_mask_and_a_confidence_as_colours_do():
    map = numbered(2, 12, 0, uncertainty=torch.tensor([[[0.0, 0.25, 1.0]]]))
    colours = torch.tensor([[[[6, 230, 230], [150, 5, 61], [120, 120, 120]]]]) / 255
    clean, mask, confidence = read_classes(map, "person, 2")
    assert clean.equal(colours)
    assert mask.tolist() == [[[1, 1, 0]]]
    assert confidence.tolist() == [[[1, 0.75, 0]]]
    assert ready(map)[0].equal(colours)


def test_class_numbers_tell_apart_classes_of_one_colour():
    map = numbered(6, 48)
    for name, expected in (("road", [1, 0]), ("skyscraper", [0, 1])):
        assert read_classes(map, name)[1].flatten().tolist() == expected


def test_unknown_class_numbers_are_of_no_class():
    map = numbered(0, torch.nan, 0, valid=torch.tensor([[[True, True, False]]]))
    clean, mask, confidence = read_classes(map, "wall")
    assert clean.isfinite().all()
    assert mask.tolist() == confidence.tolist() == [[[1, 0, 0]]]


@pytest.mark.parametrize(("numbers", "named"), [((3, 150), 150), ((3, -1), -1), ((-2, 0, 149), -2), ((-1, 151), 151)])
def test_class_numbers_beyond_the_palette_are_refused_by_name(numbers, named):
    with pytest.raises(ValueError, match=f"The map holds class {named}, and the palette ade20k has 150: set palette="):
        ready(numbered(*numbers))


def test_the_classes_that_were_found_are_told_with_their_share_the_largest_first():
    map = numbered(2, 2, 0, 12, torch.nan)
    assert classes_of(map, palette_of(map)).said() == "sky 50.0%, wall 25.0%, person 25.0%"


def test_class_numbers_without_a_palette_still_have_a_picture():
    map = replace(numbered(0, 1, 2), convention=Convention(high=None, classes=True))
    assert ready(map)[0][..., 0].flatten().tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("up_to_scale", [False, True])
def test_linear_light_is_shown_as_diffusers_shows_marigolds(up_to_scale):
    from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor

    light = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(3)) * 0.6
    stated = {"target_names": ["shading"], "shading": {"prediction_space": "linear", "up_to_scale": up_to_scale}}
    (theirs,) = MarigoldImageProcessor.visualize_intrinsics(light, stated)
    convention = Convention(encoding="linear", up_to_scale=up_to_scale)
    ours = ready(PerceptionMap("shading", light.movedim(1, -1), convention))[0][0]
    assert (ours - torch.from_numpy(np.asarray(theirs["shading"]) / 255)).abs().max() <= 1 / 255


@pytest.mark.parametrize("task", ["depth", "disparity", "normal", "mask", "albedo", "shading", "segmentation"])
def test_a_video_is_shown_as_its_frames_are(task):
    """However many are looked at together; some of their pixels are not known."""
    row, generator = TASKS[task], torch.Generator().manual_seed(0)
    convention = Recipe(task, palette="nyu40" if task == "segmentation" else "").convention()
    values = torch.rand(19, 6, 5, row.channels, generator=generator)
    valid = torch.rand(19, 6, 5, generator=generator) > 0.1
    video = PerceptionMap(task, values, convention, valid=valid)
    image, mask = ready(video)
    for number in range(19):
        one = slice(number, number + 1)
        alone, its_mask = ready(PerceptionMap(task, values[one], convention, valid=valid[one]))
        assert torch.equal(image[number], alone[0])
        assert torch.equal(mask[number], its_mask[0])
