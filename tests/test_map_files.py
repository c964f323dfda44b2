"""Tests of core.display.map_files: what was written is read back by other people's readers."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_perception.core.display.map_files import (
    FORMATS,
    KEY,
    exr32,
    name_of,
    pages,
    png16,
    png_text,
    quantise,
)
from diffusion_perception.core.display.picture import FILE_MEANINGS, from_image
from diffusion_perception.core.perception_map import Convention, PerceptionMap
from diffusion_perception.core.whole_file import write_whole

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

METRIC = Convention(high=None, near="low", metric=True)
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def read_exr(data):
    """(H, W, C) float32 in the order R, G, B, A, as FFmpeg reads it."""
    decoder = av.CodecContext.create("exr", "r")
    (frame,) = decoder.decode(av.Packet(data))
    return frame.format.name, frame.to_ndarray().reshape(frame.height, frame.width, -1)


def read_png(data):
    """(H, W, C) uint16 in the order R, G, B, A, as OpenCV reads it."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels[..., order[pixels.shape[-1]]]


def encoded(map, format="png16"):
    return [FORMATS[format].encode(page, ()) for page in pages(map)]


def said_in(data):
    return json.loads(Image.open(io.BytesIO(data)).info[KEY])


@settings(deadline=None)
@given(SIZES.flatmap(lambda size: st.sampled_from((1, 3, 4)).flatmap(lambda c: arrays(np.float32, (*size, c)))))
def test_an_exr_gives_back_every_bit(values):
    _, read = read_exr(exr32(values))
    assert read.view(np.uint32).tolist() == values.view(np.uint32).tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_with_alpha_is_saved_straight_and_says_so(channels):
    """(240/255, ...) at half cover stays that bright: what a reader of EXR multiplies is told in the file."""
    picture = torch.tensor([0.4706, 0.2, 0.9, 0.5][:channels]).expand(1, 4, 6, channels)
    saved = from_image(picture, FILE_MEANINGS["values 0..1"])
    (exr,), (png,) = encoded(saved, "exr32"), encoded(saved)
    assert np.allclose(read_exr(exr)[1], picture[0].numpy())
    assert said_in(png).get("alpha") == ("straight" if channels == 4 else None)
    assert (b'"alpha": "straight"' in exr) == (channels == 4)


def test_an_exr_is_of_32_bit_floats_below_zero_and_above_one_too():
    values = np.linspace(-70, 70, 5 * 7 * 3, dtype=np.float32).reshape(5, 7, 3)
    kind, read = read_exr(exr32(values))
    assert "f32" in kind
    assert np.array_equal(read, values)


def test_an_exr_with_what_it_means_is_read_by_openexr():
    openexr = pytest.importorskip("OpenEXR")
    values = np.random.default_rng(0).normal(size=(6, 9, 3)).astype(np.float32)
    with openexr.File(io.BytesIO(exr32(values, {KEY: '{"task": "normal"}'}))) as file:
        assert file.header()[KEY] == '{"task": "normal"}'
        assert np.array_equal(file.channels()["RGB"].pixels, values)


def test_an_exr_holds_as_many_channels_as_a_map_may_have():
    data = exr32(np.zeros((2, 3, 17), np.float32))
    header, pixels = data[: -2 * (8 + 17 * 3 * 4)], data[-2 * (8 + 17 * 3 * 4) :]
    assert header.count(struct.pack("<iB3xii", 2, 0, 1, 1)) == 17
    assert struct.unpack("<ii", pixels[:8]) == (0, 17 * 3 * 4)


@settings(deadline=None)
@given(SIZES.flatmap(lambda size: st.sampled_from((1, 3, 4)).flatmap(lambda c: arrays(np.uint16, (*size, c)))))
def test_a_png_gives_back_every_level(levels):
    assert np.array_equal(read_png(png16(levels)), levels)


def test_a_png_carries_texts_beside_its_pixels():
    data = png16(np.zeros((2, 2, 1), np.uint16), [png_text("prompt", "{}"), png_text("Title", "depth")])
    assert Image.open(io.BytesIO(data)).info == {"prompt": "{}", "Title": "depth"}


def test_a_png_of_too_many_channels_is_refused():
    with pytest.raises(ValueError, match="1 to 4 channels, this map has 17"):
        png16(np.zeros((2, 2, 17), np.uint16))


def test_levels_are_rounded_to_the_nearest_and_clamped():
    values = np.array([-1.0, 0.0, 0.4 / 65535, 0.6 / 65535, 0.5, 1.0, 7.0], np.float32)
    assert quantise(values, 0, 1).tolist() == [0, 0, 0, 1, 32768, 65535, 65535]


def test_metric_depth_is_stored_in_millimetres_and_says_so():
    z = torch.tensor([[1.0, 2.5, 12.3456, 65.0], [90.0, 0.0, torch.nan, torch.inf]])[None, ..., None]
    depth = PerceptionMap("depth", z, METRIC)
    (data,) = encoded(depth)
    assert read_png(data)[..., 0].tolist() == [[1000, 2500, 12346, 65000], [65535, 0, 0, 0]]
    assert said_in(data) == {
        "task": "depth", "low": 0.0, "near": "low", "unit": "metres", "black": 0.0, "white": 65.535
    }  # fmt: skip
    assert name_of("map", 7, depth, "png16") == "map_00007_mm.png"
    assert name_of("map", 7, depth, "exr32") == "map_00007_.exr"


def test_normals_and_scaled_maps_use_their_convention_s_range():
    unit = PerceptionMap("normal", torch.tensor([[[[-1.0, 0.0, 1.0]]]]), Convention(unit=True))
    assert read_png(encoded(unit)[0]).tolist() == [[[0, 32768, 65535]]]
    scaled = PerceptionMap("matte", torch.tensor([[[[0.0], [1.0], [2.0]]]]), Convention(high=2.0))
    assert read_png(encoded(scaled)[0])[..., 0].tolist() == [[0, 32768, 65535]]


def test_a_map_of_open_range_says_which_values_are_black_and_white():
    values = torch.tensor([[[[0.5], [3.0], [8.0]]], [[[1.0], [1.5], [2.0]]]])
    first, second = encoded(PerceptionMap("shading", values, Convention(low=None, high=None)))
    assert (said_in(first)["black"], said_in(first)["white"]) == (0.5, 8.0)
    assert read_png(second)[..., 0].tolist() == [[0, 32768, 65535]]


@pytest.mark.parametrize("value", [0.0, 5.0, torch.nan])
def test_a_constant_or_unknown_map_of_open_range_is_saved_too(value):
    flat = PerceptionMap("disparity", torch.full((1, 2, 2, 1), value), Convention(low=None, high=None, near="high"))
    assert len(np.unique(read_png(encoded(flat)[0]))) == 1


def test_raw_formats_keep_the_values_of_every_image():
    values = torch.randn(2, 4, 5, 1) * 30
    depth = PerceptionMap("depth", values, METRIC)
    for data, expected in zip(encoded(depth, "npy"), values, strict=True):
        read = np.load(io.BytesIO(data), allow_pickle=False)
        assert read.dtype == np.float32
        assert np.array_equal(read, expected[..., 0].numpy())
    normals = PerceptionMap("normal", torch.randn(1, 4, 5, 3), Convention(unit=True))
    assert np.load(io.BytesIO(encoded(normals, "npy")[0])).shape == (4, 5, 3)
    assert np.array_equal(read_exr(encoded(depth, "exr32")[1])[1], values[1].numpy())


def test_an_image_with_alpha_keeps_it():
    image = torch.rand(1, 4, 5, 4)
    saved = from_image(image, FILE_MEANINGS["values 0..1"])
    assert np.array_equal(read_exr(encoded(saved, "exr32")[0])[1], image[0].numpy())
    assert np.abs(read_png(encoded(saved)[0]) / 65535 - image[0].numpy()).max() <= 0.5 / 65535 + 1e-7


def test_an_image_of_metres_is_saved_as_one_channel_of_depth():
    saved = from_image(torch.full((1, 2, 2, 3), 3.5), FILE_MEANINGS["depth in metres"])
    assert read_png(encoded(saved)[0]).tolist() == [[[3500], [3500]]] * 2


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "map_00001_.npy"
    for data in (b"first", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_said_in_one_sentence(tmp_path):
    with pytest.raises(OSError, match=r"^Could not write .*map\.exr \(No such file.*\): free some space or") as error:
        write_whole(tmp_path / "gone" / "map.exr", b"data")
    assert "\n" not in str(error.value)


def test_a_file_that_finds_no_room_leaves_no_half_behind(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "map.exr"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match="Could not write"):
            write_whole(path, bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["map.exr"]
    assert path.read_bytes() == b"old"


def test_a_file_says_how_its_values_code_light():
    convention = Convention(encoding="linear", up_to_scale=True)
    (page,) = pages(PerceptionMap("shading", torch.rand(1, 4, 4, 3), convention))
    assert page.meaning["encoding"] == "linear"
    assert page.meaning["up to scale"] is True
