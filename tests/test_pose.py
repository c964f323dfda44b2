"""Pose: painted people are found where they are, whatever their number, their size and the border of the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import painted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import RECIPE, person, picture

from diffusion_perception.core.crops import Box
from diffusion_perception.core.heatmaps import find_keypoints
from diffusion_perception.core.perception_map import Convention, Crops, PerceptionMap
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.pose import (
    Person,
    crop_size,
    passes_of_people,
    people_of,
    predict_people,
    similarity,
    suppressed,
)
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.skeletons import COCO, SKELETONS


def gaussians(points: np.ndarray, size: tuple[int, int], spread: float) -> torch.Tensor:
    """(1, K, h, w)."""
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    maps = [(-((x - column) ** 2 + (y - row) ** 2) / (2 * spread**2)).exp() for column, row in points]
    return torch.stack(maps)[None]


@given(st.floats(0.12, 0.88), st.floats(0.12, 0.88), st.sampled_from([(64, 48, 2.0), (96, 72, 3.0), (300, 400, 12.5)]))
@settings(max_examples=40, deadline=None)
def test_a_gaussian_is_found_to_a_fraction_of_a_cell(across, down, shape):
    height, width, spread = shape
    points = np.array([[across * width, down * height]])
    found, value = find_keypoints(gaussians(points, (height, width), spread))
    assert np.abs(found[0].numpy() - points).max() <= 0.02 * spread
    assert value.item() > 0.9


def test_the_middle_of_a_cell_is_half_a_cell_from_its_corner():
    maps = torch.zeros(1, 2, 16, 12)
    maps[0, 0, 5, 7] = 1
    found, value = find_keypoints(maps)
    assert found[0, 0].tolist() == pytest.approx([7.5, 5.5], abs=1e-6)
    assert value.tolist() == [[1, 0]]


def test_noise_and_borders_never_lead_further_than_a_cell():
    random = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 5, 24, 18, generator=random)
    found, _ = find_keypoints(maps)
    index = maps.flatten(2).argmax(2)
    cells = torch.stack([index % 18, index // 18], -1) + 0.5
    assert (found - cells).abs().max() <= 1
    assert found.isfinite().all()


BOXES = [Box(20, 30, 60, 120), Box(150, 10, 90, 100), Box(260, 60, 50, 130)]


@pytest.mark.parametrize("flip_test", [False, True])
def test_people_are_found_where_they_are(flip_test):
    seen = predict_people(painted.perceiver(), picture((200, 330), BOXES), [BOXES], flip_test=flip_test)
    assert seen.values.shape == (3, 64, 48, 3)
    (people,) = people_of(seen)
    assert len(people) == 3
    for box in BOXES:
        nearest = min(people, key=lambda one: np.abs(one.points[0] - person(box)[0]).sum())
        assert np.abs(nearest.points - person(box)).max() <= 0.01 * max(box.width, box.height)
        assert nearest.seen().all()


def test_without_sides_in_the_names_a_mirrored_ear_would_be_the_other_one():
    seen = predict_people(painted.perceiver(), picture((200, 330), BOXES[:1]), [BOXES[:1]], flip_test=True)
    assert seen.values[..., 1].max() > 0.9  # the mean of two that agree
    none = replace(RECIPE, keypoints="nose, one_ear, other_ear", limbs="")
    blurred = predict_people(painted.perceiver(none), picture((200, 330), BOXES[:1]), [BOXES[:1]], flip_test=True)
    assert blurred.values[..., 1].max() < 0.6


def test_a_person_cut_by_the_border_keeps_what_is_inside():
    beyond = Box(-30, -20, 100, 200)
    inside = [Box(0, 0, 70, 180)]
    image = picture((200, 120), inside)
    (people,) = people_of(predict_people(painted.perceiver(), image, [[beyond]]))
    assert np.abs(people[0].points - person(inside[0])).max() <= 2


def test_no_person_is_no_entry_and_no_pass():
    perceiver = painted.perceiver()
    seen = predict_people(perceiver, torch.zeros(2, 3, 64, 64), [[], []])
    assert seen.values.shape == (0, 64, 48, 3)
    assert people_of(seen) == [[], []]
    assert perceiver.backbone.seen == []
    assert passes_of_people(0, 8, True) == 0


def test_forty_people_in_two_images_are_seen_in_batches_and_stay_apart():
    boxes = [Box(20 + 60 * (i % 8), 10 + 100 * (i // 8), 40, 80) for i in range(20)]
    images = torch.cat([picture((420, 520), boxes), picture((420, 520), boxes[:10])])
    perceiver, ticks = painted.perceiver(), []
    seen = predict_people(perceiver, images, [boxes, boxes], batch_size=16, tick=lambda: ticks.append(1))
    assert perceiver.backbone.seen == [16, 16, 8]
    assert len(ticks) == passes_of_people(40, 16, False) == 6
    first, second = people_of(seen)
    assert len(first) == 20
    noses = {tuple(np.round(one.points[0] / 10).astype(int)) for one in first}
    assert noses == {tuple(np.round(person(box)[0] / 10).astype(int)) for box in boxes}
    assert sum(one.seen()[0] for one in second) == 10
    one_by_one = [predict_people(painted.perceiver(), images[:1], [[box]]).values for box in boxes[:3]]
    assert torch.equal(torch.cat(one_by_one), seen.values[:3])


def test_boxes_outside_the_picture_are_refused():
    with pytest.raises(ValueError, match="lies outside the picture of 64x64 pixels"):
        predict_people(painted.perceiver(), torch.zeros(1, 3, 64, 64), [[Box(70, 0, 5, 5)]])


@pytest.mark.parametrize("padding", [1.0, 1.25, 2.0])
def test_a_persons_area_is_that_of_the_padded_crop(padding):
    """MMPose widens a box to the crop's aspect, enlarges it, and gives OKS-NMS the product of the sides."""
    wide, tall = Box(20, 60, 240, 40), Box(20, 10, 60, 180)
    for box, sides in ((wide, (240, 240 / 0.75)), (tall, (180 * 0.75, 180))):
        seen = predict_people(painted.perceiver(), picture((200, 330), [box]), [[box]], padding=padding)
        assert people_of(seen)[0][0].area == pytest.approx(sides[0] * sides[1] * padding**2)


def seen_twice(shift: float) -> PerceptionMap:
    """17 joints in the crop of a box of 60x200 pixels, and the same ones `shift` pixels to the right and below."""
    points = np.random.default_rng(1).uniform([8, 6], [40, 58], (17, 2))
    window = torch.tensor([-61.25, -15, 187.5, 250], dtype=torch.float64)  # 200 high, 150 wide, and a quarter more
    moved = points + shift * 64 / 250
    heatmaps = torch.cat([gaussians(points, (64, 48), 2.0), 0.9 * gaussians(moved, (64, 48), 2.0)]).movedim(1, -1)
    crops = Crops((240, 120), 1, (0, 0), torch.stack([window, window]), (1.0, 1.0))
    return PerceptionMap("keypoints", heatmaps.float(), Convention(high=None, skeleton=COCO), crops=crops)


def test_who_is_seen_twice_four_pixels_apart_in_a_box_of_60x200_is_one_person():
    """OKS .961 by the area of the padded crop, 187.5 x 250; .864, and two people, by that of the box."""
    (one,), (two,) = people_of(seen_twice(4)), people_of(seen_twice(4), same=1.0)
    assert (len(one), len(two)) == (1, 2)
    spreads = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    by_area = {
        area: np.exp(-(4**2 + 4**2) / (2 * area * (2 * spreads) ** 2)).mean() for area in (187.5 * 250, 60 * 200)
    }
    assert list(by_area.values()) == pytest.approx([0.961, 0.864], abs=1e-3)
    assert similarity(*two, COCO) == pytest.approx(by_area[187.5 * 250], abs=2e-3)


def test_a_whole_image_has_its_own_area():
    image = picture((128, 96), [Box(0, 0, 96, 128)])
    for seen in (predict_people(painted.perceiver(), image), predict(painted.perceiver(), image)):
        assert people_of(seen)[0][0].area == 96 * 128


def test_without_boxes_the_whole_image_is_one_person():
    image = picture((128, 96), [Box(0, 0, 96, 128)])
    (people,) = people_of(predict_people(painted.perceiver(), image))
    assert len(people) == 1
    assert np.abs(people[0].points - person(Box(0, 0, 96, 128))).max() <= 1
    (same,) = people_of(predict(painted.perceiver(), image))
    assert np.abs(same[0].points - people[0].points).max() <= 1


def test_a_skeleton_of_133_points_is_read():
    whole = SKELETONS["wholebody-133"]
    points = np.stack([np.linspace(5, 43, 133), np.linspace(58, 6, 133)], 1)
    heatmaps = gaussians(points, (64, 48), 2.0).movedim(1, -1).float()
    (people,) = people_of(PerceptionMap("keypoints", heatmaps, Convention(high=None, skeleton=whole)))
    assert np.abs(people[0].points - points).max() <= 0.05


def test_heatmaps_of_another_skeleton_are_refused():
    recipe = replace(RECIPE, keypoints="coco-17", limbs="")
    with pytest.raises(ValueError, match="gives 3 channels, but the recipe names 17 keypoints"):
        predict_people(painted.perceiver(recipe), torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="2 heatmaps for 17 keypoints"):
        people_of(PerceptionMap("keypoints", torch.zeros(1, 8, 8, 2), Convention(skeleton=COCO)))


def test_maps_and_recipes_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="depth predicts depth, no keypoints"):
        predict_people(painted.perceiver(Recipe("depth")), torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="A map of depth came where keypoints are expected"):
        people_of(PerceptionMap("depth", torch.zeros(1, 8, 8, 1), Convention()))


def test_the_crop_has_the_recipes_aspect_and_whole_latent_cells():
    assert crop_size(RECIPE) == (256, 192)
    assert crop_size(replace(RECIPE, aspect=1.0)) == (256, 256)
    assert crop_size(replace(RECIPE, aspect=2.0, resolution=100)) == (48, 96)


def someone(shift: float = 0.0, score: float = 1.0, area: float = 10000.0) -> Person:
    points = np.random.default_rng(0).uniform(0, 100, (17, 2)) + shift
    return Person(points, np.ones(17), score, area)


def test_similarity_is_cocos():
    from diffusion_perception.core.measure.metrics import keypoint_similarity

    one, other = someone(), someone(4.0)
    points, truth = (torch.from_numpy(person.points) for person in (one, other))
    expected = keypoint_similarity(points, truth, torch.ones(17, dtype=torch.bool), 10000.0)
    assert similarity(one, other, COCO) == pytest.approx(expected.item(), rel=1e-12)
    assert similarity(one, one, COCO) == 1


def test_of_two_boxes_around_one_person_the_surer_stays():
    people = [someone(0.5, 0.7), someone(0.0, 0.9), someone(40.0, 0.2)]
    kept = suppressed(people, COCO)
    assert [person.score for person in kept] == [0.9, 0.2]
    assert len(suppressed(people, COCO, same=1.0)) == 3


def test_a_detectors_score_is_a_factor_of_the_persons():
    image = picture((200, 330), BOXES)
    sure, unsure = (
        people_of(predict_people(painted.perceiver(), image, [[BOXES[0]._replace(score=score)]]))[0][0].score
        for score in (1.0, 0.25)
    )
    assert unsure == pytest.approx(sure / 4)
