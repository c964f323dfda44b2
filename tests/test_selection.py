"""Tests of core.display.selection: what of a map becomes a mask."""

from __future__ import annotations

import pytest
import torch

from diffusion_perception.core.display.selection import LEVEL_MODES, Selection, select, selectors
from diffusion_perception.core.perception_map import Convention, PerceptionMap

ADE = Convention(palette="ade20k")
METRIC = Convention(high=None, near="low", metric=True)


def levels(*values, task="matte", **rest):
    return PerceptionMap(task, torch.tensor(values).view(1, 1, -1, 1), Convention(), **rest)


def test_soft_keeps_the_prediction():
    assert select(levels(0.2, 0.5, 0.9)).flatten().tolist() == pytest.approx([0.2, 0.5, 0.9])


def test_a_threshold_comes_after_the_min_max_of_the_image():
    dim = levels(0.0, 0.1, 0.3, 0.4)
    assert select(dim, Selection("threshold")).flatten().tolist() == [0, 0, 1, 1]
    assert select(dim, Selection("threshold", threshold=0.9)).flatten().tolist() == [0, 0, 0, 1]


def test_what_is_at_the_threshold_is_selected_as_the_paper_has_it():
    """ "Below 0.5 is 0, others are 1": a byte of 128 of 0..256, halfway between the ends of its image."""
    assert select(levels(0.0, 0.5, 1.0, task="mask"), Selection("threshold")).flatten().tolist() == [0, 1, 1]
    assert select(levels(0.25, 0.375, 0.5), Selection("threshold")).flatten().tolist() == [0, 1, 1]


def test_the_matting_clamp_is_the_paper_s():
    alpha = levels(0.0, 0.04, 0.06, 0.25, 0.46, 0.48, 0.5)
    assert select(alpha, Selection("matting clamp")).flatten().tolist() == pytest.approx([0, 0, 0.12, 0.5, 0.92, 1, 1])


@pytest.mark.parametrize("mode", LEVEL_MODES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_image_without_or_full_of_subject_stays_so(mode, value):
    assert (select(levels(value, value, value), Selection(mode)) == value).all()


def test_images_are_stretched_each_by_itself():
    values = torch.tensor([[0.0, 0.4], [0.0, 1.0]]).view(2, 1, 2, 1)
    both = select(PerceptionMap("mask", values, Convention()), Selection("threshold"))
    assert both.flatten().tolist() == [0, 1, 0, 1]


def test_classes_are_picked_by_their_colour():
    colours = torch.tensor([[[[6, 230, 230], [150, 5, 61], [120, 120, 120]]]]) / 255
    segmentation = PerceptionMap("segmentation", colours, ADE)
    assert select(segmentation, Selection(classes="sky, person")).flatten().tolist() == [1, 1, 0]
    assert select(segmentation, Selection(classes="0", invert=True)).flatten().tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="No class is picked"):
        select(segmentation)


def test_classes_are_picked_by_their_number():
    convention = Convention(high=None, palette="ade20k", classes=True)
    segmentation = PerceptionMap("segmentation", torch.tensor([2.0, 12.0, 0.0]).view(1, 1, 3, 1), convention)
    assert select(segmentation, Selection(classes="sky, person")).flatten().tolist() == [1, 1, 0]
    assert select(segmentation, Selection(classes="0", invert=True)).flatten().tolist() == [1, 1, 0]


def test_a_range_of_depth_is_in_the_map_s_own_unit():
    depth = PerceptionMap("depth", torch.tensor([0.0, 1.0, 2.5, 7.0]).view(1, 1, 4, 1), METRIC)
    assert select(depth, Selection(low=1, high=3)).flatten().tolist() == [0, 1, 1, 0]
    assert select(depth, Selection(low=1, high=3, invert=True)).flatten().tolist() == [0, 0, 0, 1]


def test_what_is_unknown_is_never_selected():
    valid = torch.tensor([[[True, False, True]]])
    broken = levels(1.0, 1.0, torch.nan, valid=valid)
    for invert in (False, True):
        assert select(broken, Selection(invert=invert))[0, 0, 1:].tolist() == [0, 0]


def test_a_task_without_a_mask_is_refused_with_those_that_have_one():
    with pytest.raises(ValueError, match=r"'normal'.*segmentation"):
        select(PerceptionMap("normal", torch.rand(1, 2, 2, 3), Convention()))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'hard'.*threshold"):
        select(levels(0.5), Selection("hard"))


@pytest.mark.parametrize("task", selectors())
def test_every_mask_is_float_contiguous_and_leaves_the_map_alone(task):
    values = torch.rand(2, 5, 6, 3 if task == "segmentation" else 1)
    before = values.clone()
    convention = ADE if task == "segmentation" else Convention(near="low")
    mask = select(PerceptionMap(task, values, convention), Selection(classes="wall"))
    assert mask.shape == (2, 5, 6)
    assert mask.dtype == torch.float32
    assert mask.is_contiguous()
    assert values.equal(before)
