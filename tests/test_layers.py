"""Tests of core.display.layers: OpenEXR reads the channels that compositing programs look for, with their values."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusion_perception.core.display.layers import Style, channel_words, encode_frame, frames_of, planes_of
from diffusion_perception.core.display.map_files import KEY
from diffusion_perception.core.perception_map import Convention, Crops, PerceptionMap
from diffusion_perception.core.srgb import to_linear

openexr = pytest.importorskip("OpenEXR")
METRIC = Convention(high=None, near="low", metric=True)
PICTURE = torch.rand(2, 6, 9, 3, generator=torch.Generator().manual_seed(0))
ALPHA = torch.rand(2, 6, 9, generator=torch.Generator().manual_seed(1))


def image(values: torch.Tensor = PICTURE) -> PerceptionMap:
    return PerceptionMap("image", values, Convention())


def matte(values: torch.Tensor = ALPHA) -> PerceptionMap:
    return PerceptionMap("matte", values[..., None], Convention())


def read(maps, over=None, frame=0, **style):
    """({channel: (H, W)}, what the header says of the layers) of one frame."""
    data = encode_frame(planes_of(maps, over, Style(**style)), frame, {"workflow": "{}"})
    with openexr.File(io.BytesIO(data), separate_channels=True) as file:
        assert file.header()["workflow"] == "{}"
        return {name: c.pixels for name, c in file.channels().items()}, json.loads(file.header()[KEY])


def test_depth_is_z_in_single_precision_whatever_the_rest_is():
    z = torch.full((1, 6, 9, 1), 70000.0)
    z[0, 0, 0] = torch.inf
    channels, meaning = read([PerceptionMap("depth", z, METRIC)])
    assert list(channels) == ["Z"]
    assert channels["Z"].dtype == np.float32
    assert channels["Z"][1, 1] == 70000
    assert channels["Z"][0, 0] == 0  # unknown
    assert meaning == {"Z": {"task": "depth", "low": 0.0, "near": "low", "unit": "metres"}}


def test_normals_are_right_up_and_towards_the_camera_whatever_axes_they_came_in():
    right, up, back = F.normalize(torch.tensor([0.2, 0.3, 0.9]), dim=0).tolist()
    came = torch.tensor([-right, up, back]).expand(1, 6, 9, 3)
    bae = PerceptionMap("normal", (came * 0.5 + 1) / 2, Convention(axes=("left", "up", "back")))
    opencv = torch.tensor([right, -up, -back]).expand(1, 6, 9, 3)
    other = PerceptionMap("normal", opencv, Convention(low=-1.0, axes=("right", "down", "forward"), unit=True))
    for normals in (bae, other):
        channels, _ = read([normals], precision="single")
        assert sorted(channels) == ["N.X", "N.Y", "N.Z"]
        for name, value in (("N.X", right), ("N.Y", up), ("N.Z", back)):
            assert np.abs(channels[name] - value).max() < 1e-6


@pytest.mark.parametrize("alpha", ["multiplied", "straight"])
@pytest.mark.parametrize("colours", ["linear light", "as they are"])
@pytest.mark.parametrize("own", [True, False])
def test_a_picture_is_r_g_b_and_a_multiplied_by_it_or_not_in_linear_light_or_not(alpha, colours, own):
    picture = image(torch.cat((PICTURE, ALPHA[..., None]), -1)) if own else image()
    channels, meaning = read([picture], None if own else matte(), 1, precision="single", colours=colours, alpha=alpha)
    light = to_linear(PICTURE[1].numpy()) if colours == "linear light" else PICTURE[1].numpy()
    expected = light * (ALPHA[1].numpy()[..., None] if alpha == "multiplied" else 1)
    assert np.abs(np.stack([channels[name] for name in "RGB"], -1) - expected).max() < 1e-6
    assert np.array_equal(channels["A"], ALPHA[1].numpy())
    assert meaning["RGB"]["alpha"] == alpha
    assert meaning["RGB"].get("encoding") == ("linear" if colours == "linear light" else None)


def test_light_is_decoded_as_its_map_says():
    values = torch.full((1, 2, 2, 3), 0.5)
    for encoding, expected in (("linear", 0.5), ("srgb", 0.21404), ("gamma-2.2", 0.5**2.2), ("", 0.21404)):
        told = PerceptionMap("albedo", values, Convention(encoding=encoding))
        channels, meaning = read([told], precision="single")
        assert channels["albedo.G"][0, 0] == pytest.approx(expected, abs=1e-5)
        assert meaning["albedo"]["encoding"] == "linear"
        assert read([told], colours="as they are")[0]["albedo.G"][0, 0] == 0.5


def test_all_that_there_is_lies_in_one_file_and_a_second_of_a_kind_gets_a_number():
    shape = (2, 6, 9)
    maps = [
        image(),
        PerceptionMap("depth", torch.rand(*shape, 1), Convention(near="low")),
        PerceptionMap("disparity", torch.rand(*shape, 1), Convention(near="high")),
        PerceptionMap("normal", torch.rand(*shape, 3), Convention(axes=("right", "up", "back"))),
        PerceptionMap("segmentation", torch.full((*shape, 1), 2049.0), Convention(classes=True, palette="rooms")),
        PerceptionMap("mask", torch.rand(*shape, 1), Convention()),
        PerceptionMap("roughness", torch.rand(*shape, 1), Convention()),
        PerceptionMap("albedo", torch.rand(*shape, 3), Convention()),
        PerceptionMap("depth", torch.rand(*shape, 1), Convention(near="low")),
        image(),
    ]
    channels, meaning = read(maps, matte())
    assert sorted(channels) == sorted(
        "R G B A Z disparity.Y N.X N.Y N.Z segmentation.Y mask.A roughness.Y albedo.R albedo.G albedo.B depth_2.Y "
        "image_2.R image_2.G image_2.B".replace("depth_2.Y", "depth_2.Z").split()
    )
    assert (channels["segmentation.Y"] == 2049).all()
    assert {channel for channel, values in channels.items() if values.dtype == np.float32} == {
        "Z", "disparity.Y", "segmentation.Y", "depth_2.Z"
    }  # fmt: skip
    assert set(meaning) == {
        "RGB", "A", "Z", "disparity", "N", "segmentation", "mask", "roughness", "albedo", "depth_2", "image_2"
    }  # fmt: skip
    assert channel_words(planes_of(maps[:4], matte(), Style())) == "RGB, A, Z, disparity.Y, N.XYZ"


def test_a_matte_alone_is_the_alpha_and_one_map_serves_all_frames():
    channels, _ = read([], matte())
    assert list(channels) == ["A"]
    depth = PerceptionMap("depth", torch.rand(1, 6, 9, 1), Convention(near="low"))
    planes = planes_of([image(), depth], matte(ALPHA[:1]), Style(precision="single"))
    assert frames_of(planes) == 2
    (first, _), (second, _) = (read([image(), depth], matte(ALPHA[:1]), frame) for frame in (0, 1))
    assert np.array_equal(first["Z"], second["Z"])
    assert not np.array_equal(first["R"], second["R"])


HEATMAPS = PerceptionMap("keypoints", torch.rand(1, 6, 9, 17), Convention())
CROPS = Crops((6, 9), 1, (0,), torch.tensor([[0.0, 0, 9, 6]], dtype=torch.float64), (1.0,))
WRONG = {
    "nothing": ([], "nothing to save"),
    "another size": ([image(), image(torch.rand(1, 6, 8, 3))], "The image is 9 x 6, the image 8 x 6: take maps of one"),
    "other numbers": ([image(), image(torch.rand(3, 6, 9, 3))], "2 and 3 frames of one"),
    "too many channels": ([HEATMAPS], "17 channels, and a layer 1, 3 or 4"),
    "crops": ([PerceptionMap("keypoints", HEATMAPS.values, Convention(), crops=CROPS)], "in crops of their own"),
}


@pytest.mark.parametrize(("maps", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_stored_together_is_refused_in_a_sentence(maps, words):
    with pytest.raises(ValueError, match=words):
        planes_of(maps, None, Style())


@pytest.mark.parametrize("style", [{"precision": "double"}, {"colours": "bright"}, {"alpha": "bent"}])
def test_a_choice_that_there_is_not_is_refused(style):
    with pytest.raises(ValueError, match="choose one of"):
        planes_of([image()], None, Style(**style))
