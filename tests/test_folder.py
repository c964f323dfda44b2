"""The plain folder: what is written comes back as raw values, and what is broken is named."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_perception.core.display.map_files import exr32
from diffusion_perception.core.geometry import NORMAL_AXES
from diffusion_perception.scenes.cameras import look_at
from diffusion_perception.scenes.views import View, dataset_toml, write_view
from diffusion_perception.trainer.data.arrays import BrokenRecord, read_array
from diffusion_perception.trainer.data.folder import PlainFolder
from diffusion_perception.trainer.data.published import open_dataset, open_folder
from diffusion_perception.trainer.data.truth import DatasetError, spread_colours

H, W = 12, 16
RANDOM = np.random.default_rng(0)


def encoded_png(array: np.ndarray) -> bytes:
    """Any of OpenCV's PNGs, from RGB order."""
    flipped = array[..., [2, 1, 0, *range(3, array.shape[-1])]] if array.ndim == 3 else array
    return cv2.imencode(".png", np.ascontiguousarray(flipped))[1].tobytes()


def encoded_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def encoded_exr(array: np.ndarray) -> bytes:
    return exr32(array[..., None] if array.ndim == 2 else array)


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def picture(height: int = H, width: int = W) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)


def folder_of(root: Path, kind: str, truths: dict[str, bytes], toml: str = "", suffix: str = ".png") -> Path:
    """A plain folder with a random picture for each truth."""
    for stem, data in truths.items():
        put(root / "images" / f"{stem}.png", encoded_png(picture()))
        put(root / kind / f"{stem}{suffix}", data)
    if toml:
        put(root / "dataset.toml", toml)
    return root


def test_depth_in_millimetres_comes_back_in_metres_and_zero_is_not_valid(tmp_path):
    levels = RANDOM.integers(1, 60000, (H, W)).astype(np.uint16)
    levels[2, 3] = 0
    image = picture()
    put(tmp_path / "images/a.png", encoded_png(image))
    put(tmp_path / "depth/a.png", encoded_png(levels))
    put(tmp_path / "dataset.toml", '[depth]\nunit = "mm"\n')
    dataset = PlainFolder(tmp_path, "depth")
    sample = dataset[0]
    assert len(dataset) == 1
    assert dataset.convention.metric
    assert dataset.convention.near == "low"
    assert sample.image.dtype == sample.target.dtype == torch.float32
    assert sample.valid.dtype == torch.bool
    assert torch.equal(sample.image, torch.from_numpy(image).movedim(-1, 0) / 255)
    assert np.allclose(sample.target[0].numpy(), levels / 1000, rtol=1e-6)
    assert sample.valid.sum() == H * W - 1
    assert not sample.valid[0, 2, 3]
    assert sample.meta["record"] == "a"


UNITS = {'"mm"': 0.001, '"cm"': 0.01, '"m"': 1.0, "0.001": 0.001, "2": 2.0}


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_a_name_or_the_metres_of_one_level(tmp_path, unit):
    folder_of(tmp_path, "depth", {"a": encoded_png(np.full((H, W), 7, np.uint16))}, f"[depth]\nunit = {unit}\n")
    assert torch.allclose(PlainFolder(tmp_path, "depth")[0].target, torch.tensor(7 * UNITS[unit]))


@pytest.mark.parametrize(("suffix", "encode"), [(".npy", encoded_npy), (".exr", encoded_exr)])
def test_float_depth_is_in_metres_and_what_is_no_distance_is_not_valid(tmp_path, suffix, encode):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")
    depth = RANDOM.uniform(0.5, 9, (H, W)).astype(np.float32)
    depth[0, :4] = [np.nan, np.inf, -1, 0]
    folder_of(tmp_path, "depth", {"a": encode(depth)}, suffix=suffix)
    sample = PlainFolder(tmp_path, "depth")[0]
    assert sample.target.isfinite().all()
    assert sample.valid.sum() == H * W - 4
    assert np.array_equal(sample.target[sample.valid].numpy(), depth.flatten()[4:])


def test_depth_beyond_near_and_far_is_not_valid(tmp_path):
    depth = np.tile(np.arange(W, dtype=np.float32), (H, 1))
    toml = "[depth]\nnear = 2\nfar = 10.0\ninvalid = [5, 6]\n"
    folder_of(tmp_path, "depth", {"a": encoded_npy(depth)}, toml, ".npy")
    kept = PlainFolder(tmp_path, "depth")[0].valid[0, 0].nonzero().flatten().tolist()
    assert kept == [3, 4, 7, 8, 9]


def test_depth_along_the_line_of_sight_becomes_planar(tmp_path):
    f, z = 20.0, 3.0
    u, v = np.meshgrid(np.arange(W) + 0.5 - W / 2, np.arange(H) + 0.5 - H / 2)
    distance = (z * np.sqrt((u / f) ** 2 + (v / f) ** 2 + 1)).astype(np.float32)  # a wall across the view
    folder_of(tmp_path, "depth", {"a": encoded_npy(distance)}, '[depth]\nkind = "ray"\n', ".npy")
    put(tmp_path / "camera/a.json", json.dumps({"K": [[f, 0, W / 2], [0, f, H / 2], [0, 0, 1]]}))
    sample = PlainFolder(tmp_path, "depth")[0]
    assert torch.allclose(sample.target, torch.tensor(z), atol=1e-5)
    assert sample.meta["intrinsics"][0, 0] == f


def test_a_field_of_view_stands_in_for_a_camera_file(tmp_path):
    toml = '[depth]\nkind = "ray"\n[camera]\nfov_deg = 90\n'
    folder_of(tmp_path, "depth", {"a": encoded_npy(np.ones((H, W), np.float32))}, toml, ".npy")
    assert PlainFolder(tmp_path, "depth")[0].meta["intrinsics"][0, 0] == pytest.approx(W / 2)


def test_depth_along_the_line_of_sight_without_a_camera_is_refused(tmp_path):
    folder_of(tmp_path, "depth", {"a": encoded_npy(np.ones((H, W), np.float32))}, '[depth]\nkind = "ray"\n', ".npy")
    with pytest.raises(DatasetError, match="needs the camera"):
        PlainFolder(tmp_path, "depth")


def test_whole_numbers_of_depth_without_a_unit_are_refused(tmp_path):
    folder_of(tmp_path, "depth", {"a": encoded_png(np.ones((H, W), np.uint16))})
    with pytest.raises(DatasetError, match="say depth.unit"):
        PlainFolder(tmp_path, "depth")


def test_disparity_is_learnt_from_depth_where_it_has_no_folder_of_its_own(tmp_path):
    folder_of(tmp_path, "depth", {"a": encoded_npy(np.full((H, W), 4, np.float32))}, suffix=".npy")
    dataset = PlainFolder(tmp_path, "disparity")
    assert dataset.task == "disparity"
    assert dataset.convention.near == "low"  # the raw values are still depth
    put(tmp_path / "disparity/a.npy", encoded_npy(np.full((H, W), 0.25, np.float32)))
    assert PlainFolder(tmp_path, "disparity").convention.near == "high"


def test_disparity_of_zero_is_infinitely_far_and_valid(tmp_path):
    levels = np.zeros((H, W), np.uint8)
    levels[:, 8:] = 200
    folder_of(tmp_path, "disparity", {"a": encoded_png(levels)})
    assert PlainFolder(tmp_path, "disparity")[0].valid.all()


def unit_vectors() -> np.ndarray:
    vectors = RANDOM.normal(size=(H, W, 3))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.uint8, 0.01), (np.uint16, 5e-5)])
def test_normals_in_colours_come_back_as_unit_vectors(tmp_path, dtype, tolerance):
    vectors, white = unit_vectors(), np.iinfo(dtype).max
    colours = np.round((vectors + 1) / 2 * white).astype(dtype)
    colours[0, 0] = white // 2 + 1  # grey: no direction
    colours[0, 1] = 0
    folder_of(tmp_path, "normal", {"a": encoded_png(colours)}, '[normal]\naxes = "opengl"\n')
    dataset = PlainFolder(tmp_path, "normal")
    sample = dataset[0]
    assert dataset.convention.axes == NORMAL_AXES["opengl"]
    assert dataset.convention.unit
    assert sample.valid.sum() == H * W - 2
    assert np.allclose(sample.target.movedim(0, -1).numpy()[0, 2:], vectors[0, 2:], atol=tolerance)
    assert torch.allclose(sample.target.norm(dim=0)[sample.valid[0]], torch.tensor(1.0), atol=1e-5)


@pytest.mark.parametrize(("suffix", "encode"), [(".npy", encoded_npy), (".exr", encoded_exr)])
def test_float_normals_are_signed_and_zero_is_no_direction(tmp_path, suffix, encode):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")
    vectors = unit_vectors() * 3
    vectors[1, 1] = 0
    toml = '[normal]\naxes = ["right", "down", "forward"]\n'
    folder_of(tmp_path, "normal", {"a": encode(vectors)}, toml, suffix)
    sample = PlainFolder(tmp_path, "normal")[0]
    assert sample.valid.sum() == H * W - 1
    assert np.allclose(sample.target[:, 2, 2].numpy(), vectors[2, 2] / 3, atol=1e-6)


def test_normals_without_axes_are_refused(tmp_path):
    folder_of(tmp_path, "normal", {"a": encoded_npy(unit_vectors())}, suffix=".npy")
    with pytest.raises(DatasetError, match="where red, green and blue point"):
        PlainFolder(tmp_path, "normal")


@pytest.mark.parametrize("axes", ['"left"', '["right", "left", "back"]', '["right", "up"]'])
def test_axes_that_span_no_space_are_refused(tmp_path, axes):
    folder_of(tmp_path, "normal", {"a": encoded_npy(unit_vectors())}, f"[normal]\naxes = {axes}\n", ".npy")
    with pytest.raises(ValueError, match=r"axes|Axes"):
        PlainFolder(tmp_path, "normal")


@pytest.mark.parametrize("task", ["mask", "matte"])
def test_levels_of_every_depth_become_zero_to_one(tmp_path, task):
    alpha = RANDOM.uniform(0, 1, (H, W))
    files = {
        "a.png": encoded_png((alpha * 255).round().astype(np.uint8)),
        "b.png": encoded_png((alpha * 65535).round().astype(np.uint16)),
        "c.npy": encoded_npy(alpha.astype(np.float32)),
        "d.png": encoded_png(np.repeat((alpha * 255).round().astype(np.uint8)[..., None], 3, -1)),
    }
    for name, data in files.items():
        put(tmp_path / "images" / f"{name[0]}.png", encoded_png(picture()))
        put(tmp_path / task / name, data)
    for sample in map(PlainFolder(tmp_path, task).__getitem__, range(4)):
        assert np.allclose(sample.target[0].numpy(), alpha, atol=1 / 255)
        assert sample.valid.all()


def test_a_cut_out_gives_its_alpha(tmp_path):
    cut_out = np.dstack((picture(), RANDOM.integers(0, 256, (H, W)).astype(np.uint8)))
    folder_of(tmp_path, "matte", {"a": encoded_png(cut_out)})
    assert np.allclose(PlainFolder(tmp_path, "matte")[0].target[0].numpy(), cut_out[..., 3] / 255)


def test_a_paletted_mask_gives_the_levels_of_its_colours(tmp_path):
    mask = np.zeros((H, W), np.uint8)
    mask[3:] = 1
    paletted = Image.fromarray(mask, "P")
    paletted.putpalette([0, 0, 0, 255, 255, 255])
    folder_of(tmp_path, "mask", {"a": b""})
    paletted.save(tmp_path / "mask/a.png")
    assert np.array_equal(PlainFolder(tmp_path, "mask")[0].target[0].numpy(), mask)


def test_an_empty_mask_is_truth_but_one_of_ones_and_zeros_is_suspect(tmp_path):
    ones = np.ones((H, W), np.uint8)
    folder_of(tmp_path, "mask", {"a": encoded_png(ones * 0), "b": encoded_png(ones)})
    dataset = PlainFolder(tmp_path, "mask")
    assert dataset[0].valid.all()
    with pytest.raises(BrokenRecord, match="say white = 1"):
        dataset[1]
    put(tmp_path / "dataset.toml", "[mask]\nwhite = 1\n")
    assert PlainFolder(tmp_path, "mask")[1].target.min() == 1


def test_a_mask_can_be_inverted_and_have_unknown_levels(tmp_path):
    levels = np.full((H, W), 255, np.uint8)
    levels[0], levels[1] = 0, 128
    folder_of(tmp_path, "mask", {"a": encoded_png(levels)}, "[mask]\ninvert = true\ninvalid = 128\n")
    sample = PlainFolder(tmp_path, "mask")[0]
    assert sample.target[0, 0].min() == 1
    assert sample.target[0, 2:].max() == 0
    assert not sample.valid[0, 1].any()
    assert sample.valid.sum() == H * W - W


def test_a_coloured_picture_is_no_mask(tmp_path):
    folder_of(tmp_path, "mask", {"a": encoded_png(picture())})
    with pytest.raises(BrokenRecord, match="in colours"):
        PlainFolder(tmp_path, "mask")[0]


def test_class_numbers_come_back_and_ignored_ones_are_not_valid(tmp_path):
    index = RANDOM.integers(0, 3, (H, W)).astype(np.uint8)
    index[0, 0] = 255
    folder_of(tmp_path, "segmentation", {"a": encoded_png(index)}, '[segmentation]\nclasses = ["x", "y", "z"]\n')
    dataset = PlainFolder(tmp_path, "segmentation")
    sample = dataset[0]
    assert sample.target.shape == (1, H, W)
    assert np.array_equal(sample.target[0].numpy()[1:], index[1:])
    assert sample.valid.sum() == H * W - 1
    assert dataset.palette is not None
    assert dataset.palette.classes == ("x", "y", "z")


def test_colours_of_a_palette_become_class_numbers(tmp_path):
    index = RANDOM.integers(0, 3, (H, W))
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    noisy = (table[index].astype(int) + RANDOM.integers(-9, 10, (H, W, 3))).clip(0, 255).astype(np.uint8)
    toml = '[segmentation]\npalette = ["ff0000", "00ff00", "0000ff"]\n'
    folder_of(tmp_path, "segmentation", {"a": encoded_png(noisy)}, toml)
    assert np.array_equal(PlainFolder(tmp_path, "segmentation")[0].target[0].numpy(), index)


def test_paletted_class_numbers_are_read_as_numbers(tmp_path):
    index = RANDOM.integers(0, 3, (H, W)).astype(np.uint8)
    paletted = Image.fromarray(index, "P")
    paletted.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    folder_of(tmp_path, "segmentation", {"a": b""}, '[segmentation]\nclasses = ["x", "y", "z"]\n')
    paletted.save(tmp_path / "segmentation/a.png")
    assert np.array_equal(PlainFolder(tmp_path, "segmentation")[0].target[0].numpy(), index)


def test_colours_of_another_palette_and_unknown_classes_are_broken(tmp_path):
    toml = '[segmentation]\npalette = ["ff0000", "00ff00"]\n'
    folder_of(tmp_path, "segmentation", {"a": encoded_png(picture())}, toml)
    folder_of(tmp_path, "segmentation", {"b": encoded_png(np.full((H, W), 7, np.uint8))})
    dataset = PlainFolder(tmp_path, "segmentation")
    with pytest.raises(BrokenRecord, match="no colour of the palette"):
        dataset[0]
    with pytest.raises(BrokenRecord, match="class 7"):
        dataset[1]


@settings(deadline=None)
@given(st.integers(1, 216))
def test_made_up_colours_are_all_different(count):
    colours = spread_colours(count)
    assert len(set(colours)) == count
    assert colours == spread_colours(216)[:count]


def test_albedo_and_shading_become_linear_light(tmp_path):
    level = np.full((H, W, 3), 188, np.uint8)
    level[0] = 0
    folder_of(tmp_path, "albedo", {"a": encoded_png(level)})
    toml = '[shading]\ncolour = "linear"\nscale = 8\n'
    folder_of(tmp_path, "shading", {"a": encoded_png(np.full((H, W), 16384, np.uint16))}, toml)
    albedo, shading = PlainFolder(tmp_path, "albedo")[0], PlainFolder(tmp_path, "shading")[0]
    assert albedo.target[0, 5, 5].item() == pytest.approx(0.503, abs=2e-3)
    assert not albedo.valid[0, 0].any()
    assert albedo.valid[0, 1:].all()
    assert shading.target.shape == (3, H, W)
    assert torch.allclose(shading.target, torch.tensor(2.0), atol=1e-3)


def test_a_valid_folder_and_transparent_pixels_take_truth_away(tmp_path):
    trusted = np.zeros((H, W), np.uint8)
    trusted[:6] = 255
    see_through = np.dstack((picture(), np.full((H, W), 255, np.uint8)))
    see_through[:, :4, 3] = 0
    folder_of(tmp_path, "depth", {"a": encoded_npy(np.ones((H, W), np.float32))}, suffix=".npy")
    put(tmp_path / "images/a.png", encoded_png(see_through))
    put(tmp_path / "valid/a.png", encoded_png(trusted))
    valid = PlainFolder(tmp_path, "depth")[0].valid[0]
    assert valid[:6, 4:].all()
    assert valid.sum() == 6 * (W - 4)


def test_transparent_truth_is_not_valid(tmp_path):
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:3] = 0
    normal = np.dstack((np.full((H, W, 3), (128, 128, 255), np.uint8), alpha))
    folder_of(tmp_path, "normal", {"a": encoded_png(normal)}, '[normal]\naxes = "opengl"\n')
    folder_of(tmp_path, "albedo", {"a": encoded_png(normal)})
    for task in ("normal", "albedo"):
        valid = PlainFolder(tmp_path, task)[0].valid[0]
        assert not valid[:3].any()
        assert valid[3:].all()


def test_a_matte_holds_where_its_picture_is_transparent(tmp_path):
    see_through = np.dstack((picture(), np.zeros((H, W), np.uint8)))
    folder_of(tmp_path, "matte", {"a": encoded_png(np.zeros((H, W), np.uint8))})
    put(tmp_path / "images/a.png", encoded_png(see_through))
    assert PlainFolder(tmp_path, "matte")[0].valid.all()


def test_subfolders_pair_by_their_path_and_pictures_of_every_kind_are_read(tmp_path):
    for name in ("x/1.png", "y/1.jpg", "z.webp", "t.tif"):
        put(tmp_path / "images" / name, b"")
        Image.fromarray(picture()).save(tmp_path / "images" / name)
        put((tmp_path / "mask" / name).with_suffix(".png"), encoded_png(np.full((H, W), 255, np.uint8)))
    dataset = PlainFolder(tmp_path, "mask")
    assert [dataset[place].meta["record"] for place in range(4)] == ["t", "x/1", "y/1", "z"]
    assert {tuple(dataset[place].image.shape) for place in range(4)} == {(3, H, W)}


def test_sixteen_bit_pictures_keep_their_bits(tmp_path):
    deep = RANDOM.integers(0, 65536, (H, W, 3)).astype(np.uint16)
    folder_of(tmp_path, "mask", {"a": encoded_png(np.full((H, W), 255, np.uint8))})
    put(tmp_path / "images/a.png", encoded_png(deep))
    assert np.allclose(PlainFolder(tmp_path, "mask")[0].image.movedim(0, -1).numpy(), deep / 65535, atol=1e-6)


def test_a_picture_lies_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    put(tmp_path / "images/a.jpg", b"")
    Image.fromarray(picture(W, H)).save(tmp_path / "images/a.jpg", exif=exif)
    put(tmp_path / "mask/a.png", encoded_png(np.full((H, W), 255, np.uint8)))
    assert PlainFolder(tmp_path, "mask")[0].image.shape == (3, H, W)


def test_a_list_of_names_picks_records(tmp_path):
    white = encoded_png(np.full((H, W), 255, np.uint8))
    folder_of(tmp_path, "mask", dict.fromkeys("abcd", white))
    put(tmp_path / "train.txt", "c\na\n")
    dataset = PlainFolder(tmp_path, "mask", tmp_path / "train.txt")
    assert [dataset[place].meta["record"] for place in range(2)] == ["c", "a"]


def good_and(tmp_path: Path, broken: dict[str, bytes], toml: str = "") -> PlainFolder:
    """Four good depth records beside broken ones."""
    good = dict.fromkeys(("w1", "w2", "w3", "w4"), encoded_npy(np.full((H, W), 2, np.float32)))
    folder_of(tmp_path, "depth", {**good, **broken}, toml, ".npy")
    return PlainFolder(tmp_path, "depth")


def test_missing_pairs_and_empty_files_are_named_skipped_and_counted(tmp_path, caplog):
    folder_of(tmp_path, "depth", {"b": b""}, suffix=".npy")
    put(tmp_path / "images/alone.png", encoded_png(picture()))
    put(tmp_path / "depth/orphan.npy", encoded_npy(np.ones((H, W), np.float32)))
    dataset = good_and(tmp_path, {})
    assert len(dataset) == 4
    assert len(dataset.faults) == 3
    for name in ("b.npy is empty (0 bytes)", "depth/alone (of any kind of file) is missing", "images/orphan"):
        assert any(name in fault for fault in dataset.faults)
        assert name in caplog.text
    assert "3 of 7 records skipped" in caplog.text


BROKEN = {
    "cut off": (encoded_npy(np.ones((H, W), np.float32))[:-20], "cannot be read"),
    "another size": (encoded_npy(np.ones((H, W + 1), np.float32)), "the picture is 16x12, but its truth 17x12"),
    "NaN only": (encoded_npy(np.full((H, W), np.nan, np.float32)), "no pixel of its truth is valid"),
    "all zero": (encoded_npy(np.zeros((H, W), np.float32)), "no pixel of its truth is valid"),
    "five channels": (encoded_npy(np.ones((H, W, 5), np.float32)), "has shape"),
    "pickled": (encoded_npy(np.array([{"a": 1}], object)), "cannot be read"),
    "words": (encoded_npy(np.full((H, W), "x")), "not numbers"),
    "no array": (b"abc", "cannot be read"),
    "complex": (encoded_npy(np.ones((H, W), np.complex64)), "not numbers"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_record_is_named_and_never_a_target(tmp_path, what):
    data, reason = BROKEN[what]
    dataset = good_and(tmp_path, {"x": data})
    assert dataset[0].valid.all()
    with pytest.raises(BrokenRecord) as raised:
        dataset[4]
    assert reason in str(raised.value)
    assert "x" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_a_picture_cut_off_anywhere_is_broken(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BrokenRecord, match="a\\" + suffix):
        read_array(path)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255))
@pytest.mark.parametrize("deep", [False, True])
def test_a_png_with_one_wrong_byte_is_broken_or_right(tmp_path_factory, deep, place, by):
    kind = np.uint16 if deep else np.uint8
    array = np.random.default_rng(1).integers(0, 65536, (20, 20, 3)).astype(kind)
    data = bytearray(encoded_png(array))
    data[place % len(data)] = (data[place % len(data)] + by) % 256
    path = tmp_path_factory.mktemp("png") / "a.png"
    path.write_bytes(data)
    try:
        found = read_array(path)
    except BrokenRecord:
        return
    assert np.array_equal(found, array)


def test_more_than_half_broken_is_an_error(tmp_path):
    for stem in ("a", "b", "c"):
        put(tmp_path / "images" / f"{stem}.png", encoded_png(picture()))
    put(tmp_path / "depth/a.npy", encoded_npy(np.ones((H, W), np.float32)))
    with pytest.raises(DatasetError, match="2 of 3 records are broken"):
        PlainFolder(tmp_path, "depth")


def test_two_files_of_one_name_are_broken(tmp_path):
    dataset_root = folder_of(tmp_path, "mask", dict.fromkeys("abc", encoded_png(np.full((H, W), 255, np.uint8))))
    Image.fromarray(picture()).save(dataset_root / "images/a.jpg")
    dataset = PlainFolder(dataset_root, "mask")
    assert len(dataset) == 2
    assert "have one name" in dataset.faults[0]


WRONG_TOML = {
    "[depth]\nunits = 1": "did you mean 'unit'",
    "[detph]\nunit = 1": "did you mean 'depth'",
    "nmae = 'x'": "did you mean 'name'",
    "[depth]\nunit = 'feet'": "take mm, cm, m",
    "[depth]\nunit = true": "expected",
    "[depth]\nnear = 'x'": "expected float",
    "[depth]\nkind = 'spherical'": "'planar', 'ray'",
    "format = 2": "update the pack",
    "[depth": "is not TOML",
}


@pytest.mark.parametrize("text", WRONG_TOML)
def test_a_wrong_dataset_toml_is_refused_in_one_sentence(tmp_path, text):
    folder_of(tmp_path, "depth", {"a": encoded_npy(np.ones((H, W), np.float32))}, text, ".npy")
    with pytest.raises(DatasetError, match=WRONG_TOML[text]) as raised:
        PlainFolder(tmp_path, "depth")
    assert "dataset.toml" in str(raised.value) or "depth.unit" in str(raised.value)


def test_a_folder_without_the_truth_says_what_it_holds(tmp_path):
    folder_of(tmp_path, "mask", {"a": encoded_png(np.zeros((H, W), np.uint8))})
    with pytest.raises(DatasetError, match="has no depth/ to learn depth from; it holds images/, mask/"):
        PlainFolder(tmp_path, "depth")
    with pytest.raises(DatasetError, match="There is no folder"):
        PlainFolder(tmp_path / "nowhere", "depth")
    with pytest.raises(DatasetError, match="no truth for the task 'smell'"):
        PlainFolder(tmp_path, "smell")


def test_a_dataset_travels_to_another_process(tmp_path):
    dataset = good_and(tmp_path, {})
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1].target, dataset[1].target)


RENDERED = ("depth", "disparity", "normal", "mask", "matte", "segmentation", "albedo", "shading", "keypoints")


def rendered_view() -> View:
    """A person before a wall, as the renderer describes it."""
    vectors = unit_vectors()
    depth = RANDOM.uniform(1, 5, (H, W)).astype(np.float32)
    person = np.zeros((H, W), bool)
    person[2:10, 4:9] = True
    depth[0, 0], vectors[0, 0] = 0, 0
    colours = RANDOM.uniform(0.2, 0.9, (H, W, 3)).astype(np.float32)
    joints = np.column_stack((RANDOM.uniform(4, 9, 17), RANDOM.uniform(2, 10, 17), np.full(17, 2.0)))
    return View(
        picture(), depth, vectors, colours, colours * 3,
        np.where(person, 6, 1).astype(np.uint8), np.where(person, 5, 0).astype(np.uint16),
        look_at(np.zeros(3), np.array([0.0, 0.0, -1.0]), 0.0, 60.0), (5,), person.astype(np.float32), {5: joints},
    )  # fmt: skip


@pytest.mark.parametrize("depth_format", ["png", "npy"])
def test_what_the_renderer_writes_is_read_back(tmp_path, depth_format):
    view = rendered_view()
    write_view(tmp_path, "0001_00", view, depth_format)
    put(tmp_path / "dataset.toml", dataset_toml("rooms", depth_format))
    samples = {task: open_folder(str(tmp_path), task)[0] for task in RENDERED}

    def values(task: str) -> np.ndarray:
        return samples[task].target.movedim(0, -1).numpy()

    assert np.allclose(values("depth")[..., 0], view.depth, atol=5.1e-4 if depth_format == "png" else 0)
    assert not samples["depth"].valid[0, 0, 0]
    assert samples["depth"].valid.sum() == H * W - 1
    assert np.allclose(values("normal")[1:], view.normal[1:], atol=5e-5)
    assert not samples["normal"].valid[0, 0, 0]
    assert np.allclose(values("albedo"), view.albedo, atol=5e-3)
    assert np.allclose(values("shading"), view.shading, atol=1e-4)
    assert np.array_equal(values("segmentation")[..., 0], view.segmentation)
    assert np.array_equal(values("mask")[..., 0], view.segmentation == 6)
    assert samples["keypoints"].target.shape == (17, 256, 192)
    assert samples["depth"].meta["intrinsics"][0, 2] == W / 2


def test_readers_are_opened_by_name(tmp_path):
    folder_of(tmp_path, "mask", {"a": encoded_png(np.full((H, W), 255, np.uint8))})
    assert len(open_dataset("folder", "mask", root=str(tmp_path))) == 1
    with pytest.raises(DatasetError, match="did you mean 'hypersim'"):
        open_dataset("hipersim", "depth", root=str(tmp_path))
    with pytest.raises(DatasetError, match="do not fit"):
        open_dataset("folder", "mask", path=str(tmp_path))
