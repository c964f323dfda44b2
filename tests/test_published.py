"""Readers: a few records of each published dataset, made in its exact layout, come back as what they mean."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_perception.core.display.colour import PALETTES
from diffusion_perception.core.display.map_files import exr32
from diffusion_perception.core.geometry import depth_to_normal
from diffusion_perception.trainer.data.arrays import BrokenRecord
from diffusion_perception.trainer.data.hypersim import Hypersim, facing, tone_map
from diffusion_perception.trainer.data.normals_of_depth import normals_of_depth
from diffusion_perception.trainer.data.people import Skeleton, gaussian_heatmaps, window_around
from diffusion_perception.trainer.data.published import (
    DATASETS,
    SOURCES,
    DepthList,
    Dis5k,
    JsonLists,
    P3m10k,
    VirtualKitti2,
    coco_keypoints,
)
from diffusion_perception.trainer.data.truth import DatasetError

RANDOM = np.random.default_rng(0)
H, W = 48, 64


def save(path: Path, array: np.ndarray) -> None:
    """By OpenCV, RGB order, any of its kinds; a JPEG of the best quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flipped = array[..., ::-1] if array.ndim == 3 else array
    assert cv2.imwrite(str(path), np.ascontiguousarray(flipped), [cv2.IMWRITE_JPEG_QUALITY, 100])


def picture(height: int = H, width: int = W) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)


# Hypersim

Writer = Callable[[Path, np.ndarray], None]


@pytest.fixture
def hdf5() -> Writer:
    h5py = pytest.importorskip("h5py")

    def write(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset("dataset", data=array, compression="gzip")

    return write


SPLIT_HEADER = "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"


def hypersim_frame(write: Writer, root: Path, scene: str, frame: int) -> dict[str, np.ndarray]:
    """A slanted plane, seen by Hypersim's camera at 1/16 of its size, in half precision as published."""
    f = 886.81 * W / 1024
    x, y = np.meshgrid((np.arange(W) + 0.5 - W / 2) / f, (np.arange(H) + 0.5 - H / 2) / f)
    z = 1 / (0.25 + 0.05 * x + 0.1 * y)
    entity = np.ones((H, W), np.int32)
    entity[0] = -1
    distance = z * np.sqrt(x**2 + y**2 + 1)
    distance[0] = np.nan
    normal = np.broadcast_to(np.array([-0.05, 0.1, 0.25]) / np.linalg.norm([0.05, 0.1, 0.25]), (H, W, 3)).copy()
    normal[:, : W // 2] *= -1  # published normals look either way
    semantic = RANDOM.integers(-1, 41, (H, W)).astype(np.int16)
    colour = RANDOM.uniform(0, 3, (H, W, 3))
    reflectance = RANDOM.uniform(0.1, 1, (H, W, 3))
    geometry = root / scene / "images/scene_cam_00_geometry_hdf5"
    final = root / scene / "images/scene_cam_00_final_hdf5"
    write(geometry / f"frame.{frame:04d}.depth_meters.hdf5", distance.astype(np.float16))
    write(geometry / f"frame.{frame:04d}.normal_cam.hdf5", normal.astype(np.float16))
    write(geometry / f"frame.{frame:04d}.render_entity_id.hdf5", entity)
    write(geometry / f"frame.{frame:04d}.semantic.hdf5", semantic)
    write(final / f"frame.{frame:04d}.color.hdf5", colour.astype(np.float16))
    write(final / f"frame.{frame:04d}.diffuse_reflectance.hdf5", reflectance.astype(np.float16))
    write(final / f"frame.{frame:04d}.diffuse_illumination.hdf5", (reflectance * 4).astype(np.float16))
    return {"z": z, "semantic": semantic, "colour": colour, "reflectance": reflectance, "entity": entity}


@pytest.fixture
def hypersim(hdf5, tmp_path) -> tuple[Path, dict[str, np.ndarray]]:
    rows = [
        "ai_001_001,cam_00,0,True,,train", "ai_001_001,cam_00,1,True,,val", "ai_001_001,cam_00,2,False,bad,train",
        "ai_001_001,cam_00,3,True,,train", "ai_050_001,cam_00,0,True,,train",
    ]  # fmt: skip
    (tmp_path / "metadata_images_split_scene_v1.csv").write_text(SPLIT_HEADER + "\n".join(rows) + "\n")
    arrays = hypersim_frame(hdf5, tmp_path, "ai_001_001", 0)
    for frame in (1, 3):
        hypersim_frame(hdf5, tmp_path, "ai_001_001", frame)
    return tmp_path, arrays


def test_hypersims_splits_leave_out_what_is_not_public_and_scenes_not_fetched(hypersim):
    root, _ = hypersim
    assert [frame.name for frame in Hypersim(str(root), "depth").records] == [
        "ai_001_001/cam_00/frame.0000",
        "ai_001_001/cam_00/frame.0003",
    ]
    assert len(Hypersim(str(root), "depth", "val")) == 1
    assert len(Hypersim(str(root), "depth", "all")) == 3
    with pytest.raises(DatasetError, match="no split 'trian': it has train, val"):
        Hypersim(str(root), "depth", "trian")


def test_hypersims_distances_become_planar_depth_and_the_void_is_not_valid(hypersim):
    root, arrays = hypersim
    sample = Hypersim(str(root), "depth")[0]
    assert not sample.valid[0, 0].any()
    assert sample.valid[0, 1:].all()
    assert np.allclose(sample.target[0, 1:].numpy(), arrays["z"][1:], rtol=2e-3)  # half precision
    assert sample.meta["intrinsics"][0, 0] == pytest.approx(886.81 / 16)


def test_hypersims_normals_face_the_camera_and_agree_with_its_depth(hypersim):
    root, _ = hypersim
    depth, normal = Hypersim(str(root), "depth")[0], Hypersim(str(root), "normal")[0]
    matrix = torch.from_numpy(depth.meta["intrinsics"]).float()[None]
    from_depth = depth_to_normal(depth.target, matrix, depth.valid)[0].movedim(-1, 0)
    cosine = (from_depth * normal.target).sum(0)[2:-1, 1:-1]
    assert cosine.min() > 0.99
    assert not normal.valid[0, 0].any()


def test_hypersims_classes_are_nyus(hypersim):
    root, arrays = hypersim
    dataset = Hypersim(str(root), "segmentation")
    sample = dataset[0]
    known = (arrays["semantic"] > 0) & (arrays["entity"] != -1)
    assert np.array_equal(sample.valid[0].numpy(), known)
    assert np.array_equal(sample.target[0].numpy()[known], arrays["semantic"][known])
    assert dataset.palette == PALETTES["nyu40"]
    assert PALETTES["nyu40"].classes[1] == "wall"  # 1 in the published table


def test_hypersims_albedo_and_shading_are_linear(hypersim):
    root, arrays = hypersim
    albedo, shading = Hypersim(str(root), "albedo")[0], Hypersim(str(root), "shading")[0]
    assert np.allclose(albedo.target.movedim(0, -1).numpy(), arrays["reflectance"], atol=1e-3)
    assert torch.allclose(shading.target, albedo.target * 4, atol=5e-3)


def test_hypersims_picture_shows_the_90th_percentile_at_its_published_brightness(hypersim):
    root, arrays = hypersim
    hit = arrays["entity"] != -1
    brightness = arrays["colour"] @ [0.3, 0.59, 0.11]
    scale = 0.8**2.2 / np.percentile(brightness[hit], 90)
    expected = (arrays["colour"] * scale) ** (1 / 2.2)
    found = Hypersim(str(root), "depth")[0].image.movedim(0, -1).numpy()
    assert np.allclose(found, expected.clip(0, 1), atol=2e-3)


def test_tone_mapping_of_darkness_and_of_nothing_is_finite():
    dark = np.zeros((4, 5, 3))
    assert (tone_map(dark, np.ones((4, 5), bool)) == 0).all()
    assert np.isfinite(tone_map(dark + np.nan, np.zeros((4, 5), bool))).all()


def test_hypersims_previews_stand_in_for_colours_that_were_not_fetched(hypersim):
    root, _ = hypersim
    for frame in (0, 3):
        (root / f"ai_001_001/images/scene_cam_00_final_hdf5/frame.{frame:04d}.color.hdf5").unlink()
        flat = np.full((H, W, 3), 77, np.uint8)
        save(root / f"ai_001_001/images/scene_cam_00_final_preview/frame.{frame:04d}.tonemap.jpg", flat)
    assert torch.allclose(Hypersim(str(root), "depth")[0].image, torch.tensor(77 / 255), atol=1 / 255)


def test_hypersims_missing_and_damaged_frames_are_named(hypersim):
    root, _ = hypersim
    folder = root / "ai_001_001/images/scene_cam_00_geometry_hdf5"
    (folder / "frame.0003.depth_meters.hdf5").unlink()
    (folder / "frame.0000.depth_meters.hdf5").write_bytes(b"damaged")
    dataset = Hypersim(str(root), "depth")
    assert len(dataset) == 1
    assert "frame.0003.depth_meters.hdf5 is missing" in dataset.faults[0]
    with pytest.raises(BrokenRecord, match=r"frame\.0000\.depth_meters\.hdf5 cannot be read"):
        dataset[0]


def test_a_split_of_hypersim_without_its_table_is_refused(hypersim):
    root, _ = hypersim
    (root / "metadata_images_split_scene_v1.csv").unlink()
    with pytest.raises(DatasetError, match="is missing: fetch it"):
        Hypersim(str(root), "depth")


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_no_normal_looks_away_once_they_face_the_camera(seed):
    vectors = torch.nn.functional.normalize(torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(seed)), dim=0)
    matrix = np.array([[10.0, 0, 6], [0, 10.0, 4.5], [0, 0, 1]])
    turned = facing(vectors, matrix)
    x, y = (torch.arange(12) + 0.5 - 6) / 10, -(torch.arange(9)[:, None] + 0.5 - 4.5) / 10
    ray = torch.stack((x.expand(9, 12), y.expand(9, 12), -torch.ones(9, 12)))
    assert ((turned * ray).sum(0) / ray.norm(dim=0)).max() <= 1e-3
    assert torch.equal(turned.abs(), vectors.abs())


# Virtual KITTI 2


def vkitti(root: Path, scene: str = "Scene01", frames: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """The archives unpacked side by side, in KITTI's size."""
    depth = RANDOM.integers(100, 9000, (375, 1242)).astype(np.uint16)
    depth[:200] = 65535  # sky
    for frame in frames:
        inside = f"{scene}/clone/frames/{{0}}/Camera_0/{{0}}_{frame:05d}"
        save(root / "vkitti_2.0.3_rgb" / (inside.format("rgb") + ".jpg"), picture(375, 1242))
        save(root / "vkitti_2.0.3_depth" / (inside.format("depth") + ".png"), depth)
    return depth


def test_virtual_kitti_is_in_centimetres_cropped_and_without_its_sky(tmp_path):
    depth = vkitti(tmp_path)
    dataset = VirtualKitti2(str(tmp_path))
    sample = dataset[0]
    assert len(dataset) == 2
    assert sample.image.shape == (3, 352, 1216)
    expected = depth[23:, 13:1229] / 100
    assert np.allclose(sample.target[0].numpy(), expected, rtol=1e-5)
    assert np.array_equal(sample.valid[0].numpy(), expected < 80)
    assert sample.meta["intrinsics"][0, 2] == pytest.approx(621 - 13)
    assert sample.meta["intrinsics"][1, 2] == pytest.approx(187.5 - 23)


def test_virtual_kitti_whole_and_by_scene(tmp_path):
    vkitti(tmp_path)
    vkitti(tmp_path, "Scene20", (7,))
    assert VirtualKitti2(str(tmp_path), crop=False)[0].image.shape == (3, 375, 1242)
    assert len(VirtualKitti2(str(tmp_path), scenes=("Scene20",))) == 1
    assert len(VirtualKitti2(str(tmp_path), "disparity")) == 3


def test_virtual_kitti_names_frames_without_a_pair(tmp_path):
    vkitti(tmp_path, frames=(0, 1, 2, 3))
    (tmp_path / "vkitti_2.0.3_depth/Scene01/clone/frames/depth/Camera_0/depth_00001.png").unlink()
    (tmp_path / "vkitti_2.0.3_rgb/Scene01/clone/frames/rgb/Camera_0/rgb_00002.jpg").write_bytes(b"")
    dataset = VirtualKitti2(str(tmp_path))
    assert len(dataset) == 2
    assert "rgb_00002.jpg is empty" in dataset.faults[0]
    assert "Scene01/clone: frame 00001 of Camera_0 has no depth" in dataset.faults[1]


def slanted() -> np.ndarray:
    """Whole centimetres of a surface that falls away to the right and upwards, in Virtual KITTI's size."""
    rows, columns = np.mgrid[:375, :1242]
    return (1500 + 2 * columns - 3 * rows).astype(np.uint16)


def slanted_normals() -> np.ndarray:
    """Of that surface along left, up, back: across two of its tangents, point by point."""
    rows, columns = np.mgrid[:375, :1242].astype(np.float64)

    def point(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        z = 1500 + 2 * u - 3 * v
        return np.stack([(u - 620.5) * z / 725.0087, (v - 187) * z / 725.0087, z], -1)  # right, down, forward

    here = point(columns, rows)
    away = np.cross(point(columns + 1e-3, rows) - here, point(columns, rows + 1e-3) - here)
    towards = -away / np.linalg.norm(away, axis=-1, keepdims=True)
    assert ((towards * here).sum(-1) < 0).all()
    return towards * [-1, -1, -1]


def test_virtual_kittis_normals_are_those_of_its_depth(tmp_path):
    vkitti(tmp_path, frames=(0,))
    depth = slanted()
    depth[:, 600:610] = 65535  # a strip of sky
    save(tmp_path / "vkitti_2.0.3_depth/Scene01/clone/frames/depth/Camera_0/depth_00000.png", depth)
    dataset = VirtualKitti2(str(tmp_path), "normal")
    sample = dataset[0]
    assert dataset.convention.axes == ("left", "up", "back")
    assert np.array_equal(sample.valid[0].numpy(), (depth < 8000)[23:, 13:1229])
    cosine = (sample.target.movedim(0, -1).numpy() * slanted_normals()[23:, 13:1229]).sum(-1)
    angle = np.degrees(np.arccos(cosine.clip(-1, 1)))[sample.valid[0].numpy()]
    assert angle.max() < 0.2  # a pixel is 0.08 degrees wide, and the normal is that of this or the next one


def test_normals_of_depth_do_not_lean_at_the_edge_of_a_thing():
    depth = np.full((40, 60), 3000.0)
    depth[10:30, 20:45] = 1000
    camera = np.array([[100.0, 0, 30], [0, 100.0, 20], [0, 0, 1]])
    assert np.abs(normals_of_depth(depth, camera) - [0, 0, 1]).max() < 1e-6


def test_virtual_kitti_by_variation_and_camera(tmp_path):
    vkitti(tmp_path, frames=(0,))
    for kind in ("rgb", "depth"):
        folder = tmp_path / f"vkitti_2.0.3_{kind}/Scene01"
        (folder / "clone").rename(folder / "fog")
    vkitti(tmp_path, frames=(0,))
    assert len(VirtualKitti2(str(tmp_path))) == 2
    (fog,) = VirtualKitti2(str(tmp_path), variations=("fog", "rain")).records
    assert "Scene01/fog/" in fog.image
    with pytest.raises(DatasetError, match="holds nothing to learn depth from"):
        VirtualKitti2(str(tmp_path), cameras=("Camera_1",))


# masks and mattes


def test_dis5k_pairs_its_pictures_with_their_masks(tmp_path):
    mask = (RANDOM.uniform(0, 1, (H, W)) > 0.5).astype(np.uint8) * 255
    for stem in ("1#Accessories#1#Bag#2339", "2#Aircraft#1#Kite#12"):
        save(tmp_path / f"DIS-VD/im/{stem}.jpg", picture())
        save(tmp_path / f"DIS-VD/gt/{stem}.png", mask)
    dataset = Dis5k(str(tmp_path), split="DIS-VD")
    assert len(dataset) == 2
    assert dataset.task == "mask"
    assert np.array_equal(dataset[0].target[0].numpy(), mask // 255)
    with pytest.raises(DatasetError, match="There is no folder"):
        Dis5k(str(tmp_path))


@pytest.mark.parametrize(
    ("split", "images"),
    [("train", "train/blurred_image"), ("P3M-500-NP", "validation/P3M-500-NP/original_image")],
)
def test_p3m_pairs_its_portraits_with_their_alpha(tmp_path, split, images):
    alpha = RANDOM.integers(0, 256, (H, W)).astype(np.uint8)
    save(tmp_path / images / "p_0001.jpg", picture())
    save((tmp_path / images).parent / "mask/p_0001.png", alpha)
    sample = P3m10k(str(tmp_path), split=split)[0]
    assert np.allclose(sample.target[0].numpy(), alpha / 255)
    assert sample.valid.all()


# lists


def test_a_list_of_pairs_is_read_with_its_datasets_unit(tmp_path):
    depth = RANDOM.integers(0, 70000, (H, W)).clip(0, 65535).astype(np.uint16)
    save(tmp_path / "ai_003_010/rgb_cam_00_fr0000.png", picture())
    save(tmp_path / "ai_003_010/depth_plane_cam_00_fr0000.png", depth)
    (tmp_path / "val.txt").write_text("ai_003_010/rgb_cam_00_fr0000.png ai_003_010/depth_plane_cam_00_fr0000.png\n")
    sample = DepthList(str(tmp_path), "depth", str(tmp_path / "val.txt"), "hypersim")[0]
    assert np.allclose(sample.target[0].numpy(), depth / 1000)
    assert np.array_equal(sample.valid[0].numpy(), (depth > 0) & (depth < 65000))


def test_evaluation_lists_leave_out_lines_without_truth_and_what_is_not_evaluated(tmp_path):
    save(tmp_path / "a.png", picture(375, 1242))
    save(tmp_path / "d.png", np.full((375, 1242), 2560, np.uint16))
    (tmp_path / "kitti.txt").write_text("a.png d.png 721.5377\na.png None 718.856\n")
    dataset = DepthList(str(tmp_path), "depth", str(tmp_path / "kitti.txt"), "kitti")
    sample = dataset[0]
    assert len(dataset) == 1
    assert sample.target.unique().tolist() == [10.0]
    rows, columns = sample.valid[0].any(1).nonzero().flatten(), sample.valid[0].any(0).nonzero().flatten()
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (117, 321, 43, 1172)  # Eigen's, in 352 x 1216


def test_nyus_lists_count_the_published_window_only(tmp_path):
    save(tmp_path / "a.png", picture(480, 640))
    save(tmp_path / "d.png", np.full((480, 640), 2000, np.uint16))
    (tmp_path / "nyu.txt").write_text("a.png d.png d.png\n")
    valid = DepthList(str(tmp_path), "depth", str(tmp_path / "nyu.txt"), "nyu_v2")[0].valid
    assert valid[0, 45:471, 41:601].all()
    assert valid.sum() == (471 - 45) * (601 - 41)


def test_diodes_masks_and_eth3ds_bare_numbers_are_read(tmp_path, monkeypatch):
    mask = RANDOM.uniform(0, 1, (H, W)) > 0.3
    save(tmp_path / "a.png", picture())
    np.save(tmp_path / "a_depth.npy", np.full((H, W, 1), 3.0, np.float32))
    np.save(tmp_path / "a_depth_mask.npy", mask.astype(np.float32))
    (tmp_path / "diode.txt").write_text("a.png a_depth.npy a_depth_mask.npy\n")
    sample = DepthList(str(tmp_path), "depth", str(tmp_path / "diode.txt"), "diode")[0]
    assert np.array_equal(sample.valid[0].numpy(), mask)

    assert SOURCES["eth3d"].raw == (4032, 6048)
    monkeypatch.setitem(SOURCES, "eth3d", replace(SOURCES["eth3d"], raw=(H, W)))
    bare = np.full((H, W), 5, np.float32)
    bare[0] = np.inf
    bare.tofile(tmp_path / "bare")
    save(tmp_path / "b.JPG", picture())
    (tmp_path / "eth3d.txt").write_text("b.JPG bare\n")
    sample = DepthList(str(tmp_path), "depth", str(tmp_path / "eth3d.txt"), "eth3d")[0]
    assert not sample.valid[0, 0].any()
    assert sample.target[0, 1:].unique().tolist() == [5.0]


def test_a_line_without_a_pair_and_an_unknown_source_are_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(DatasetError, match=r"the line 'a\.png'"):
        DepthList(str(tmp_path), "depth", str(tmp_path / "list.txt"), "hypersim")
    with pytest.raises(DatasetError, match="no source 'sintel'"):
        DepthList(str(tmp_path), "depth", str(tmp_path / "list.txt"), "sintel")


KEYS = ("depth", "normal", "matting", "dis", "seg")


def genpercept(root: Path, suffix: str = "png") -> dict[str, np.ndarray]:
    """Two rows in two files, with every kind of truth."""
    arrays = {
        "depth": np.full((H, W), 1500, np.uint16) if suffix == "png" else np.full((H, W, 3), 1.5, np.float32),
        "normal": np.broadcast_to(np.float32([0.6, 0, 0.8]), (H, W, 3)),
        "matting": RANDOM.integers(0, 256, (H, W, 3)).astype(np.uint8)[..., :1].repeat(3, -1),
        "dis": (RANDOM.uniform(0, 1, (H, W)) > 0.5).astype(np.uint8) * 255,
        "seg": picture(),
    }
    for number in range(2):
        row = {"image": f"ai_001/{number}.png"}
        save(root / row["image"], picture())
        for key, array in arrays.items():
            kind = suffix if key in ("depth", "normal") else "png"
            row[f"{key}_conditioning_image"] = path = f"ai_001/{key}_{number}.{kind}"
            if kind == "exr":
                (root / path).write_bytes(exr32(np.ascontiguousarray(array)))
            elif key == "normal":
                save(root / path, np.round((array + 1) / 2 * 65535).astype(np.uint16))
            else:
                save(root / path, array)
        (root / "jsons").mkdir(exist_ok=True)
        (root / f"jsons/part{number}.jsonl").write_text(json.dumps(row) + "\n\n")
    return arrays


@pytest.mark.parametrize("suffix", ["png", "exr"])
def test_genpercepts_lists_hold_every_task(tmp_path, suffix):
    if suffix == "exr":
        pytest.importorskip("OpenEXR")
    arrays = genpercept(tmp_path, suffix)
    extra = {"normal": {"axes": "opengl"}}
    samples = {
        task: JsonLists(str(tmp_path), task, str(tmp_path / "jsons"), **extra.get(task, {}))[0]
        for task in ("depth", "disparity", "normal", "matte", "mask", "segmentation")
    }
    assert np.allclose(samples["depth"].target.numpy(), 1.5)
    assert torch.equal(samples["disparity"].target, samples["depth"].target)
    assert torch.allclose(samples["normal"].target[:, 3, 3], torch.tensor([0.6, 0, 0.8]), atol=1e-4)
    assert np.allclose(samples["matte"].target[0].numpy(), arrays["matting"][..., 0] / 255)
    assert np.array_equal(samples["mask"].target[0].numpy(), arrays["dis"] // 255)
    assert np.allclose(samples["segmentation"].target.movedim(0, -1).numpy(), arrays["seg"] / 255)


def test_genpercepts_lists_name_what_is_missing_and_want_axes_for_normals(tmp_path):
    genpercept(tmp_path)
    (tmp_path / "ai_001/dis_1.png").unlink()
    dataset = JsonLists(str(tmp_path), "mask", str(tmp_path / "jsons"))
    assert len(dataset) == 1
    assert "dis_1.png is missing" in dataset.faults[0]
    with pytest.raises(DatasetError, match="where red, green and blue point"):
        JsonLists(str(tmp_path), "normal", str(tmp_path / "jsons"))
    (tmp_path / "jsons/part0.jsonl").write_text('{"image": "x.png"}\n')
    with pytest.raises(DatasetError, match="part0.jsonl, line 1, names no `image` and `dis_conditioning_image`"):
        JsonLists(str(tmp_path), "mask", str(tmp_path / "jsons"))


def test_three_channels_of_depth_that_differ_are_broken(tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "d.png", picture())
    (tmp_path / "x.jsonl").write_text('{"image": "a.png", "depth_conditioning_image": "d.png"}')
    with pytest.raises(BrokenRecord, match="in colours"):
        JsonLists(str(tmp_path), "depth", str(tmp_path / "x.jsonl"))[0]


# COCO keypoints

NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


def person(number: int, image: int, **changes: object) -> dict[str, object]:
    joints = [(20 + place, 10 + place, 2) for place in range(16)] + [(0, 0, 0)]
    row = {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 600.0, "num_keypoints": 16,
        "bbox": [18.0, 8.0, 20.0, 30.0], "keypoints": [value for joint in joints for value in joint],
    }  # fmt: skip
    return {**row, **changes}


def coco(root: Path, people: list[dict[str, object]]) -> Path:
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": W, "height": H} for number in (1, 2)]
    for image in images:
        save(root / "train2017" / image["file_name"], picture())
    table = {
        "images": images,
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[16, 14]]}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/person_keypoints_train2017.json").write_text(json.dumps(table))
    return root


def opened(root: Path, **settings: object):
    annotations = "annotations/person_keypoints_train2017.json"
    return coco_keypoints(str(root), "keypoints", annotations, "train2017", **settings)


def test_every_labelled_person_of_coco_is_a_record(tmp_path):
    crowd, unlabelled = person(2, 1, iscrowd=1), person(3, 1, num_keypoints=0, keypoints=[0] * 51)
    dataset = opened(coco(tmp_path, [person(1, 1), crowd, unlabelled, person(4, 2)]))
    assert [record.name for record in dataset.records] == ["000000000001/1", "000000000002/4"]
    sample = dataset[0]
    assert sample.image.shape == (3, 256, 192)
    assert sample.target.shape == (17, 256, 192)
    assert sample.target[16].max() == 0  # not labelled
    assert sample.valid.all()


def test_a_persons_heatmaps_peak_where_the_joints_are(tmp_path):
    sample = opened(coco(tmp_path, [person(1, 1)]), size=(128, 96))[0]
    # a box of 20 x 30 in a crop of 3 : 4 is 22.5 x 30, then a quarter more
    scale = 128 / 37.5
    left, top = 28 - 28.125 / 2, 23 - 37.5 / 2
    for place in range(16):
        x, y = (20 + place - left) * scale, (10 + place - top) * scale
        assert sample.meta["keypoints"][place, :2] == pytest.approx((x, y))
        row, column = divmod(int(sample.target[place].argmax()), 96)
        assert abs(column + 0.5 - x) <= 0.5 + 1e-6
        assert abs(row + 0.5 - y) <= 0.5 + 1e-6
    assert sample.meta["area"] == pytest.approx(600 * scale**2)


def test_the_crop_shows_what_the_joints_point_at(tmp_path):
    root = coco(tmp_path, [person(1, 1, bbox=[30.0, 20.0, 30.0, 40.0])])  # reaches beyond the picture
    marked = np.zeros((H, W, 3), np.uint8)
    marked[24:28, 34:38] = 255
    save(root / "train2017/000000000001.jpg", marked)
    sample = opened(root)[0]
    x, y = sample.meta["keypoints"][15, :2]  # (35, 25)
    assert sample.image[:, int(y), int(x)].min() > 0.8
    assert sample.image[:, -1, -1].max() == 0


BAD_PEOPLE = {
    "no picture": ({"image_id": 99}, "has no picture"),
    "three numbers short": ({"keypoints": [1, 1, 2] * 16}, "has 48 numbers for 17 keypoints"),
    "no box": ({"bbox": [5, 5, 0, 9]}, "has the box"),
}


@pytest.mark.parametrize("what", BAD_PEOPLE)
def test_a_person_that_cannot_be_used_is_named(tmp_path, what):
    changes, reason = BAD_PEOPLE[what]
    dataset = opened(coco(tmp_path, [person(1, 1), person(2, 2, **changes)]))
    assert len(dataset) == 1
    assert reason in dataset.faults[0]


def test_people_outside_their_picture_or_box_are_broken(tmp_path):
    outside = person(2, 1, bbox=[500.0, 500.0, 20.0, 30.0])
    elsewhere = person(3, 1, keypoints=[900, 900, 2] * 17)
    dataset = opened(coco(tmp_path, [person(1, 1), outside, elsewhere]))
    with pytest.raises(BrokenRecord, match="outside the picture"):
        dataset[1]
    with pytest.raises(BrokenRecord, match="none of the keypoints"):
        dataset[2]


def test_other_skeletons_come_with_their_names(tmp_path):
    root = coco(tmp_path, [person(1, 1, keypoints=[20, 20, 2, 25, 20, 1])])
    path = root / "annotations/person_keypoints_train2017.json"
    table = json.loads(path.read_text())
    table["categories"] = [{"id": 1, "name": "cat", "keypoints": ["right_paw", "left_paw"]}]
    path.write_text(json.dumps(table))
    sample = opened(root)[0]
    assert sample.target.shape == (2, 256, 192)
    assert sample.meta["mirror"].tolist() == [1, 0]


def test_left_and_right_are_each_others_mirror_image():
    mirror = Skeleton(NAMES).mirror()
    assert mirror.tolist() == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


@settings(deadline=None)
@given(
    st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 90), st.floats(1, 90), st.integers(8, 300), st.integers(8, 300)
)  # fmt: skip
def test_a_window_holds_its_box_and_has_the_crops_aspect(x, y, width, height, rows, columns):
    left, top, across, down = window_around((x, y, width, height), (rows, columns))
    assert across / down == pytest.approx(columns / rows)
    assert left <= x + 1e-6
    assert top <= y + 1e-6
    assert left + across >= x + width - 1e-6
    assert top + down >= y + height - 1e-6


@settings(deadline=None)
@given(st.floats(0, 29.99), st.floats(0, 19.99))
def test_a_heatmap_is_one_at_its_joint_and_nothing_outside_the_picture(x, y):
    maps = gaussian_heatmaps(np.array([[x, y, 2], [x, y, 0], [x + 30, y, 2]]), (20, 30), sigma=2)
    assert 0.9 < maps[0].max() <= 1
    assert maps[1:].max() == 0


def test_every_reader_refuses_a_task_it_has_no_truth_for_and_a_folder_that_is_not_there(tmp_path):
    settings = {
        "coco-keypoints": {"annotations": "x", "images": "y"},
        "depth-list": {"list": "x", "source": "hypersim"},
        "genpercept-list": {"list": "x"},
    }
    for kind, reader in DATASETS.items():
        with pytest.raises(DatasetError):
            reader(root=str(tmp_path), task="smell", **settings.get(kind, {}))
        with pytest.raises((DatasetError, ValueError)):
            reader(root=str(tmp_path / "nowhere"), task="depth", **settings.get(kind, {}))


def test_readers_travel_to_other_processes(tmp_path):
    save(tmp_path / "DIS-TR/im/a.jpg", picture())
    save(tmp_path / "DIS-TR/gt/a.png", np.full((H, W), 255, np.uint8))
    vkitti(tmp_path / "v")
    for dataset in (Dis5k(str(tmp_path)), VirtualKitti2(str(tmp_path / "v")), opened(coco(tmp_path, [person(1, 1)]))):
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(copy[0].target, dataset[0].target)


def test_a_picture_of_another_kind_than_its_name_is_read_all_the_same(tmp_path):
    (tmp_path / "DIS-TR/im").mkdir(parents=True)
    Image.fromarray(picture()).save(tmp_path / "DIS-TR/im/a.jpg", format="PNG")
    save(tmp_path / "DIS-TR/gt/a.png", np.full((H, W), 255, np.uint8))
    assert Dis5k(str(tmp_path))[0].image.shape == (3, H, W)
