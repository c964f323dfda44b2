"""Augmentation: picture, truth, valid mask and camera stay together, and the same seed gives the same sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.geometry import NORMAL_AXES, depth_to_normal
from diffusion_perception.core.perception_map import Convention
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.data.augment import (
    Augmentation,
    Resampling,
    appearance,
    blur,
    crop,
    finish_sample,
    flip,
    generator,
    jpeg,
    paste,
    place_sample,
    resize,
    turn_hue,
)
from diffusion_perception.trainer.data.people import Skeleton, gaussian_heatmaps
from diffusion_perception.trainer.data.records import Sample
from diffusion_perception.trainer.data.tasks import data_of

H, W = 24, 32
PLAIN = Convention()
OPENGL = Convention(low=-1.0, axes=NORMAL_AXES["opengl"], unit=True)
CHANNELS = {"normal": 3, "albedo": 3, "shading": 3, "keypoints": 3}
K = np.array([[40.0, 0.0, 13.0], [0.0, 42.0, 11.0], [0.0, 0.0, 1.0]])
SKELETON = Skeleton(("nose", "left_eye", "right_eye"))


def sample_of(task: str, seed: int = 0, height: int = H, width: int = W) -> Sample:
    """A random sample with everything that a task's samples carry."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=draw)
    target = torch.rand(CHANNELS.get(task, 1), height, width, generator=draw)
    valid = torch.rand(1, height, width, generator=draw) > 0.2
    meta = {"intrinsics": K.copy()}
    if task == "keypoints":
        points = np.array([[10.0, 5.0, 2.0], [12.0, 4.0, 2.0], [9.0, 4.0, 0.0]])
        meta |= {"keypoints": points, "mirror": SKELETON.mirror(), "area": 100.0}
        target = gaussian_heatmaps(points, (height, width))
    return Sample(image, target, valid, meta)


def by(task: str) -> Resampling:
    return data_of(task).resampling


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


def convention_of(task: str) -> Convention:
    return OPENGL if task == "normal" else PLAIN


def same(one: Sample, other: Sample) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("image", "target", "valid"))
    return tensors and all(np.array_equal(one.meta[key], other.meta[key]) for key in one.meta)


def test_flipping_twice_changes_nothing(task):
    sample = sample_of(task)
    assert same(flip(flip(sample, convention_of(task)), convention_of(task)), sample)


def sphere(axes: tuple[str, ...], offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Normals (3, H, W) of a ball seen from the front, `offset` of its radius left of the middle, and where it is."""
    x = ((torch.arange(W) + 0.5) / W * 2 - 1)[None].expand(H, W) * 1.2 + offset
    y = -((torch.arange(H) + 0.5) / H * 2 - 1)[:, None].expand(H, W) * 1.2
    inside = x**2 + y**2 < 1
    z = (1 - x**2 - y**2).clamp(min=0).sqrt()
    components = {"right": x, "left": -x, "up": y, "down": -y, "back": z, "forward": -z}
    return torch.stack([components[axis] for axis in axes]) * inside, inside[None]


@pytest.mark.parametrize("axes", [*NORMAL_AXES.values(), ("up", "back", "left")])
@pytest.mark.parametrize("unit", [True, False])
def test_a_flipped_balls_normals_are_those_of_a_ball_on_the_other_side(axes, unit):
    left, left_valid = sphere(axes, 0.3)
    right, right_valid = sphere(axes, -0.3)
    if not unit:
        left, right = (left + 1) / 2, (right + 1) / 2
    flipped = flip(Sample(torch.zeros(3, H, W), left, left_valid, {}), Convention(axes=axes, unit=unit))
    assert torch.equal(flipped.valid, right_valid)
    assert torch.allclose(flipped.target * right_valid, right * right_valid, atol=1e-6)


def test_normals_of_a_flipped_depth_are_the_flipped_normals():
    draw = torch.Generator().manual_seed(1)
    depth = 3 + torch.nn.functional.interpolate(torch.rand(1, 1, 4, 5, generator=draw), (H, W), mode="bicubic")[0]
    sample = Sample(torch.zeros(3, H, W), depth, torch.ones(1, H, W, dtype=torch.bool), {"intrinsics": K})

    def normals(of: Sample) -> torch.Tensor:
        return depth_to_normal(of.target, torch.from_numpy(of.meta["intrinsics"]).float()[None])[0].movedim(-1, 0)

    direct = normals(flip(sample, PLAIN))
    turned = flip(Sample(sample.image, normals(sample), sample.valid, {}), OPENGL).target
    assert torch.allclose(direct, turned, atol=1e-3)


def test_flipped_people_change_their_sides():
    flipped = flip(sample_of("keypoints"), PLAIN)
    assert flipped.meta["keypoints"].tolist() == [[W - 10, 5, 2], [W - 9, 4, 0], [W - 12, 4, 2]]
    assert torch.allclose(flipped.target, gaussian_heatmaps(flipped.meta["keypoints"], (H, W)), atol=1e-6)


def points_of(depth: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """Where the pixels' surfaces lie."""
    x = (torch.arange(depth.shape[-1]) + 0.5 - matrix[0, 2]) / matrix[0, 0]
    y = (torch.arange(depth.shape[-2])[:, None] + 0.5 - matrix[1, 2]) / matrix[1, 1]
    return torch.stack((x * depth[0], y * depth[0], depth[0]))


@settings(deadline=None)
@given(st.integers(0, H - 4), st.integers(0, W - 4), st.integers(1, 4), st.integers(1, 4))
def test_a_crops_camera_sees_the_same_points(top, left, height, width):
    sample = sample_of("depth")
    cropped = crop(sample, top, left, height, width)
    whole = points_of(sample.target, K)[:, top : top + height, left : left + width]
    assert torch.allclose(points_of(cropped.target, cropped.meta["intrinsics"]), whole, atol=1e-5)
    assert torch.equal(cropped.valid, sample.valid[:, top : top + height, left : left + width])


def test_a_resized_pictures_camera_sees_the_same_plane():
    x, y = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    depth = torch.from_numpy(1 / (0.3 + 0.1 * (x - 13) / 40 + 0.2 * (y - 11) / 42)).float()[None]  # a slanted plane
    sample = Sample(torch.zeros(3, H, W), depth, torch.ones(1, H, W, dtype=torch.bool), {"intrinsics": K})
    small = resize(sample, by("mask"), (H // 2, W // 2))
    points = points_of(small.target, small.meta["intrinsics"])[:, 1:-1, 1:-1]
    assert torch.allclose(0.1 * points[0] + 0.2 * points[1] + 0.3 * points[2], torch.tensor(1.0), atol=2e-3)


def test_resized_keypoints_are_drawn_anew_with_the_same_spread():
    sample = resize(sample_of("keypoints"), by("keypoints"), (48, 16))
    assert sample.meta["keypoints"][0].tolist() == [5.0, 10.0, 2.0]
    assert torch.equal(sample.target, gaussian_heatmaps(sample.meta["keypoints"], (48, 16)))
    assert sample.target[2].max() == 0
    assert sample.meta["area"] == 100.0


@pytest.mark.parametrize("size", [(12, 16), (33, 21), (48, 64)])
@pytest.mark.parametrize("task", ["depth", "disparity", "normal", "segmentation"])
def test_labels_are_never_mixed(task, size):
    before = sample_of(task)
    after = resize(before, by(task), size)
    assert after.target.shape[1:] == after.valid.shape[1:] == after.image.shape[1:] == size
    assert set(after.target[0].flatten().tolist()) <= set(before.target[0].flatten().tolist())


def test_truth_and_its_mask_come_from_the_same_pixels():
    sample = sample_of("depth")
    marked = Sample(sample.image, sample.target.where(sample.valid, torch.tensor(99.0)), sample.valid, {})
    for size in ((12, 16), (17, 19), (50, 40)):
        after = resize(marked, by("depth"), size)
        assert torch.equal(after.valid, after.target != 99)


@pytest.mark.parametrize("size", [(12, 16), (17, 19), (50, 40)])
def test_interpolation_leaves_out_what_is_not_valid(size):
    sample = sample_of("mask")
    constant = torch.full_like(sample.target, 0.25).where(sample.valid, torch.tensor(1e6))
    after = resize(Sample(sample.image, constant, sample.valid, {}), by("mask"), size)
    assert torch.allclose(after.target[after.valid], torch.tensor(0.25), atol=1e-5)
    assert 0 < after.valid.float().mean() < 1


def test_nothing_valid_stays_nothing_valid(task):
    sample = sample_of(task)
    after = resize(Sample(sample.image, sample.target, ~(sample.valid | True), sample.meta), by(task), (12, 16))
    assert not after.valid.any()
    assert after.target.isfinite().all()


def test_published_resizing_takes_single_pixels_of_the_picture_too():
    sample = sample_of("depth")
    after = resize(sample, by("depth"), (12, 16), "nearest-exact", "nearest-exact")
    assert torch.equal(after.image, sample.image[:, 1::2, 1::2])
    assert torch.equal(after.target, sample.target[:, 1::2, 1::2])


EVERYTHING = Augmentation(size=(16, 24), shape="crop", least_crop=0.5, flip=0.5, jitter=0.8, blur=0.5, jpeg=0.5)


def augmented(task: str, *numbers: int) -> Sample:
    random = generator(*numbers)
    return finish_sample(
        place_sample(sample_of(task), convention_of(task), EVERYTHING, random), by(task), EVERYTHING, random
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=4, max_size=4))
def test_the_same_numbers_give_the_same_sample(numbers):
    assert same(augmented("depth", *numbers), augmented("depth", *numbers))


def test_every_epoch_looks_different(task):
    looks = [augmented(task, 7, 0, epoch, 3) for epoch in range(6)]
    assert not any(same(looks[0], other) for other in looks[1:])
    assert all(look.image.shape == (3, 16, 24) for look in looks)
    assert all(look.image.min() >= 0 and look.image.max() <= 1 for look in looks)


def test_generators_of_different_numbers_differ():
    seeds = [(1,), (1, 0), (0, 1), (1, 0, 0), (0, 1, 0)]
    assert len({generator(*numbers).random() for numbers in seeds}) == len(seeds)


def test_picture_truth_and_mask_move_together():
    ramp = torch.linspace(0, 1, H * W).view(1, H, W)
    settings = Augmentation(size=(16, 24), shape="crop", least_crop=0.6, flip=0.5, image_filter="nearest-exact")
    for number in range(20):
        random = generator(number)
        sample = Sample(ramp.expand(3, H, W), ramp.clone(), ramp > 0.5, {})
        after = finish_sample(place_sample(sample, PLAIN, settings, random), by("depth"), settings, random)
        assert torch.equal(after.image[:1], after.target)
        assert torch.equal(after.valid, after.target > 0.5)


def test_what_is_pasted_covers_picture_and_truth_alike():
    ground = Sample(torch.zeros(3, H, W), torch.full((1, H, W), 0.25), torch.ones(1, H, W, dtype=torch.bool), {})
    share = torch.linspace(0, 1, W).expand(1, H, W)
    unknown = share > 0.9
    pasted = paste(ground, Sample(torch.ones(3, H, W), share, ~unknown, {}))
    assert torch.allclose(pasted.image, share.where(~unknown, torch.zeros(())).expand(3, H, W))
    assert torch.allclose(pasted.target[~unknown], (share + (1 - share) * 0.25)[~unknown])
    assert (pasted.target[unknown] == 0.25).all()
    larger = Sample(torch.ones(3, 2 * H, 3 * W), torch.ones(1, 2 * H, 3 * W), torch.ones(1, 2 * H, 3 * W) > 0, {})
    assert (paste(ground, larger).image == 1).all()


def test_nothing_is_done_unless_asked_for(task):
    sample, random, nothing = sample_of(task), generator(0), Augmentation()
    placed = place_sample(sample, convention_of(task), nothing, random)
    assert same(finish_sample(placed, by(task), nothing, random), sample)


@pytest.mark.parametrize(("size", "kept"), [((16, 16), (H, H)), ((10, 40), (8, W)), ((24, 32), (H, W))])
def test_a_crop_keeps_the_aspect_and_all_it_can(size, kept):
    settings = Augmentation(size=size, shape="crop")
    assert place_sample(sample_of("depth"), PLAIN, settings, generator(0)).image.shape[1:] == kept


def test_turning_the_hue_keeps_grey_and_luma():
    image = torch.rand(3, H, W, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    turned = turn_hue(image, 0.1)
    assert torch.allclose((turned * luma).sum(0), (image * luma).sum(0), atol=1e-3)
    assert torch.allclose(turn_hue(image.mean(0).expand(3, H, W), 0.3), image.mean(0).expand(3, H, W), atol=2e-3)
    assert torch.allclose(turn_hue(turned, -0.1), image, atol=1e-5)


def test_blur_keeps_the_mean_of_a_flat_picture_and_lowers_contrast():
    image = torch.rand(3, H, W, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(blur(torch.full((3, H, W), 0.3), 1.7), torch.tensor(0.3), atol=1e-6)
    assert blur(image, 1.5).std() < 0.5 * image.std()
    assert torch.equal(blur(image, 0.0), image)


def test_jpeg_of_full_quality_is_close_and_of_low_quality_is_not():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(image[None], (64, 64), mode="bilinear")[0]
    assert (jpeg(smooth, 100) - smooth).abs().mean() < 0.01
    assert (jpeg(smooth, 5) - smooth).abs().mean() > 0.01


def test_appearance_never_leaves_the_range():
    settings = Augmentation(jitter=1, brightness=3, contrast=3, saturation=3, hue=0.5, blur=1, jpeg=1)
    for number in range(10):
        image = appearance(sample_of("depth").image, settings, generator(number))
        assert 0 <= image.min() <= image.max() <= 1


WRONG = [{"flip": 1.5}, {"copy_paste": -0.1}, {"least_crop": 0.0}, {"size": (4, 4)}, {"jpeg_quality": 0}, {"hue": -1}]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\."):
        Augmentation(**wrong)
