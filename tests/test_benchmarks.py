"""Benchmark sets: records made in the exact layout of each archive come back as what they mean."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_perception.core.display.colour import PALETTES
from diffusion_perception.core.display.map_files import exr32
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.srgb import to_srgb
from diffusion_perception.trainer.config import Config, Source
from diffusion_perception.trainer.data.archives import ARCHIVES, lacking, missing_archive
from diffusion_perception.trainer.data.arrays import BrokenRecord
from diffusion_perception.trainer.data.augment import Augmentation
from diffusion_perception.trainer.data.feeds import feed
from diffusion_perception.trainer.data.published import DATASETS, SOURCES, open_dataset
from diffusion_perception.trainer.data.targets import renumbering
from diffusion_perception.trainer.data.truth import DatasetError
from diffusion_perception.trainer.evaluation.sets import set_named
from diffusion_perception.trainer.scoring import Ruler

RANDOM = np.random.default_rng(5)
H, W = 24, 32


def save(path: Path, array: np.ndarray) -> np.ndarray:
    """Whatever the name asks for; RGB order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".exr":
        path.write_bytes(exr32(torch.from_numpy(array)))
    else:
        flipped = array[..., ::-1] if array.ndim == 3 else array
        assert cv2.imwrite(str(path), np.ascontiguousarray(flipped), [cv2.IMWRITE_JPEG_QUALITY, 100])
    return array


def picture(height: int = H, width: int = W) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)


# The depth archives of Marigold's evaluation


def test_nyus_archive_is_read_without_a_list(tmp_path):
    depth = np.full((480, 640), 2500, np.uint16)
    depth[100, 100], depth[100, 101] = 0, 10_001
    for number in ("0002", "0001"):
        save(tmp_path / f"test/kitchen_0004/rgb_{number}.png", picture(480, 640))
        save(tmp_path / f"test/kitchen_0004/depth_{number}.png", depth)
        save(tmp_path / f"test/kitchen_0004/filled_{number}.png", depth)
    save(tmp_path / "train/office_0003/rgb_0003.png", picture(480, 640))
    records = open_dataset("nyuv2", "depth", root=str(tmp_path))
    assert [pair.image for pair in records.records] == [f"test/kitchen_0004/rgb_000{i}.png" for i in (1, 2)]
    sample = records[0]
    assert sample.target[0, 200, 200] == pytest.approx(2.5)
    assert sample.valid[0, 45:471, 41:601].sum() == 426 * 560 - 2 == sample.valid.sum()


def test_kittis_archive_is_cropped_and_pictures_without_truth_are_no_part_of_it(tmp_path):
    drive = "2011_09_26_drive_0002_sync"
    for number in ("0000000069", "0000000054"):
        save(tmp_path / f"2011_09_26/{drive}/image_02/data/{number}.png", picture(375, 1242))
    depth = np.zeros((375, 1242), np.uint16)
    depth[300, 600] = 256 * 20
    save(tmp_path / f"{drive}/proj_depth/groundtruth/image_02/0000000069.png", depth)
    records = open_dataset("kitti", "depth", root=str(tmp_path))
    assert len(records) == 1
    assert records.faults == ()
    sample = records[0]
    assert sample.image.shape == (3, 352, 1216)
    assert sample.valid.nonzero().tolist() == [[0, 300 - (375 - 352), 600 - (1242 - 1216) // 2]]
    assert sample.target[sample.valid].tolist() == [20.0]
    assert records.protocol.depth_range == (1e-5, 80.0)


def test_scannets_and_diodes_and_eth3ds_archives_are_read(tmp_path, monkeypatch):
    save(tmp_path / "s/scene0406_02/color/000300.jpg", picture())
    save(tmp_path / "s/scene0406_02/depth/000300.png", np.full((H, W), 1500, np.uint16))
    assert open_dataset("scannet", "depth", root=str(tmp_path / "s"))[0].target.mean() == pytest.approx(1.5)

    stem = "indoors/scene_00021/scan_00189/00021_00189_indoors_200_010"
    mask = RANDOM.uniform(0, 1, (H, W)) > 0.4
    save(tmp_path / f"d/{stem}.png", picture())
    save(tmp_path / f"d/{stem}_depth.npy", np.full((H, W, 1), 3, np.float32))
    save(tmp_path / f"d/{stem}_depth_mask.npy", mask.astype(np.float32))
    sample = open_dataset("diode", "depth", root=str(tmp_path / "d"))[0]
    assert np.array_equal(sample.valid[0].numpy(), mask)

    monkeypatch.setitem(SOURCES, "eth3d", replace(SOURCES["eth3d"], raw=(H, W)))
    save(tmp_path / "e/rgb/office/images/dslr_images/DSC_0219.JPG", picture())
    bare = tmp_path / "e/depth/office_dslr_depth/office/ground_truth_depth/dslr_images/DSC_0219.JPG"
    bare.parent.mkdir(parents=True)
    np.full((H, W), 7, "<f4").tofile(bare)
    assert open_dataset("eth3d", "depth", root=str(tmp_path / "e"))[0].target.unique().tolist() == [7.0]


# Normals: two sets that lie along other axes


def test_dsines_and_marigolds_normals_of_one_scene_are_the_same_vectors(tmp_path):
    vectors = RANDOM.normal(size=(H, W, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    unknown = RANDOM.uniform(0, 1, (H, W)) < 0.2
    save(tmp_path / "dsine/nyuv2/test/000000_img.png", picture())
    leftwards = vectors * [-1, 1, 1]  # DSINE's x points to the left
    coded = ((leftwards + 1) / 2 * 255).round().astype(np.uint8)
    coded[unknown] = 0
    save(tmp_path / "dsine/nyuv2/test/000000_normal.png", coded)
    save(tmp_path / "marigold/nyuv2/test/000000_img.png", picture())
    save(tmp_path / "marigold/nyuv2/test/000000_normal.npy", np.where(unknown[..., None], 0, vectors))
    samples = [
        open_dataset("dsine", "normal", root=str(tmp_path / "dsine/nyuv2")),
        open_dataset("marigold-normals", "normal", root=str(tmp_path / "marigold/nyuv2")),
    ]
    recipe = Recipe("normal", axes=("right", "up", "back"), codec="unit-vector")
    taught = [feed(Config(), recipe, Source(str(tmp_path)), each, Augmentation()) for each in samples]
    found = [each.supervision.normalise(records[0]) for each, records in zip(taught, samples)]
    for values, known in found:
        assert np.array_equal(known[0].numpy(), ~unknown)
        assert np.allclose(values.movedim(0, -1).numpy()[~unknown], vectors[~unknown], atol=0.01)
    assert [each.protocol.resolution for each in samples] == [0, 640]


def coded(vectors, signs, order):
    """Bytes of vectors (H, W, 3) along right, up, back, laid along other axes: `signs` first, then that order."""
    return ((vectors * signs + 1) / 2 * 255).round().astype(np.uint8)[..., order]


def facing_vectors():
    """Of unit length, along right, up, back; all look at the camera."""
    vectors = RANDOM.normal(size=(H, W, 3)).astype(np.float32)
    vectors[..., 2] = abs(vectors[..., 2])
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def right_up_back(records):
    """What is learnt from the first record, and where it is known."""
    recipe = Recipe("normal", axes=("right", "up", "back"), codec="unit-vector")
    taught = feed(Config(), recipe, Source("."), records, Augmentation())
    values, known = taught.supervision.normalise(records[0])
    return values.movedim(0, -1).numpy(), known[0].numpy()


def test_framenets_normals_of_scannet_count_where_its_mask_says_so(tmp_path):
    vectors, counts = facing_vectors(), RANDOM.uniform(0, 1, (H, W)) < 0.7
    for frame in range(5):
        stem = f"scannet-frames/scene0016_02/frame-{frame * 10:06d}"
        save(tmp_path / f"{stem}-color.png", picture())
        # a camera that looks along +z, y downwards: up and back are its negatives
        save(tmp_path / f"{stem}-normal.png", coded(vectors, [1, -1, -1], [0, 1, 2]))
        save(tmp_path / f"{stem}-orient-mask.png", counts.astype(np.uint8) * 255)
    records = open_dataset("framenet", "normal", root=str(tmp_path))
    values, known = right_up_back(records)
    assert np.array_equal(known, counts)
    assert np.allclose(values[counts], vectors[counts], atol=0.01)
    assert [row.image[-16:] for row in open_dataset("framenet", "normal", root=str(tmp_path), every=2).records] == [
        f"{number:06d}-color.png" for number in (0, 20, 40)
    ]


def write_nyu(root, vectors, depths):
    """As MATLAB writes 7.3 files: columns before rows."""
    pictures = np.stack([picture() for _ in range(3)])
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = pictures.transpose(0, 3, 2, 1)
        file["rawDepths"] = np.stack([depths] * 3).transpose(0, 2, 1)
    save(root / "nyu_normals_gt/test/00002.png", coded(vectors, [1, -1, -1], [2, 1, 0]))
    return pictures


def test_ladickys_normals_of_nyu_are_valid_where_a_depth_was_measured(tmp_path):
    vectors, depths = facing_vectors(), np.where(RANDOM.uniform(0, 1, (H, W)) < 0.7, 2.5, 0).astype(np.float32)
    pictures = write_nyu(tmp_path, vectors, depths)
    records = open_dataset("nyu-normals", "normal", root=str(tmp_path))
    assert np.array_equal((records[0].image.movedim(0, -1).numpy() * 255).round(), pictures[1])
    values, known = right_up_back(records)
    assert np.array_equal(known, depths > 0)
    assert np.allclose(values[known], vectors[known], atol=0.01)


def test_a_normal_map_without_its_picture_is_named(tmp_path):
    write_nyu(tmp_path, facing_vectors(), np.ones((H, W), np.float32))
    (tmp_path / "nyu_normals_gt/test/00002.png").rename(tmp_path / "nyu_normals_gt/test/00009.png")
    with pytest.raises(BrokenRecord, match=r"00009\.png: nyu_depth_v2_labeled\.mat has no picture 9, it ends with 3"):
        _ = open_dataset("nyu-normals", "normal", root=str(tmp_path))[0]
    (tmp_path / "nyu_depth_v2_labeled.mat").unlink()
    with pytest.raises(DatasetError, match=r"nyu_depth_v2_labeled\.mat"):
        open_dataset("nyu-normals", "normal", root=str(tmp_path))


def test_marigolds_diode_has_other_names_and_a_larger_processing_resolution(tmp_path):
    stem = "diode/val/outdoor/scene_00024/scan_00201/00024_00201_outdoor_070_030"
    save(tmp_path / f"{stem}.png", picture())
    save(tmp_path / f"{stem}_normal.npy", np.tile(np.float32([0, 0, 1]), (H, W, 1)))
    records = open_dataset("marigold-normals", "normal", root=str(tmp_path / "diode/val"))
    assert len(records) == 1
    assert records.protocol.resolution == 768


def test_interiorverses_normals_lie_as_marigold_learns_them(tmp_path):
    pytest.importorskip("OpenEXR")
    vectors, unknown = facing_vectors(), RANDOM.uniform(0, 1, (H, W)) < 0.2
    save(tmp_path / "scenes_85/L3D124/000_im.exr", RANDOM.uniform(0, 1, (H, W, 3)).astype(np.float32))
    save(tmp_path / "scenes_85/L3D124/000_normal.exr", np.where(unknown[..., None], 0, vectors * 0.9))
    values, known = right_up_back(open_dataset("interiorverse", "normal", root=str(tmp_path)))
    assert np.array_equal(known, ~unknown)
    assert np.allclose(values[known], vectors[known], atol=1e-6)


def test_what_marigolds_scripts_made_is_read_by_its_lists(tmp_path):
    vectors = facing_vectors()
    for number in range(2):
        stem = f"train/ai_001_001/{{}}_cam_00_fr{number:04d}"
        save(tmp_path / f"{stem.format('rgb')}.png", picture())
        save(tmp_path / f"{stem.format('normal_cam')}.npy", vectors)
    path = tmp_path / "list.txt"
    path.write_text("train/ai_001_001/rgb_cam_00_fr0001.png train/ai_001_001/normal_cam_cam_00_fr0001.npy\n")
    records = open_dataset("marigold-normals", "normal", root=str(tmp_path), list=str(path))
    assert len(records) == 1
    assert np.allclose(right_up_back(records)[0], vectors, atol=1e-6)
    path.write_text("train/ai_001_001/rgb_cam_00_fr0001.png\n")
    with pytest.raises(DatasetError, match=r"the line 'train/ai_001_001/rgb_cam_00_fr0001\.png': expected a"):
        open_dataset("marigold-normals", "normal", root=str(tmp_path), list=str(path))


def test_sintels_middle_is_learnt_and_its_sky_faces_the_camera(tmp_path):
    vectors = RANDOM.normal(size=(436, 1024, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[:90] = 0
    colours = RANDOM.integers(0, 256, (436, 1024, 3)).astype(np.uint8)
    for frame in (1, 2):
        save(tmp_path / f"alley_2/frame_{frame:04d}_img.png", colours)
        save(tmp_path / f"alley_2/frame_{frame:04d}_normal.npy", vectors)
    (tmp_path / "some.txt").write_text("alley_2/frame_0002_img.png alley_2/frame_0002_normal.npy\n")
    assert len(open_dataset("sintel-normals", "normal", root=str(tmp_path))) == 2
    records = open_dataset("sintel-normals", "normal", root=str(tmp_path), list=str(tmp_path / "some.txt"))
    sample = records[0]
    assert records.records[0].image == "alley_2/frame_0002_img.png"
    assert sample.image.shape == (3, 436, 582)
    assert np.array_equal((sample.image.movedim(0, -1).numpy() * 255).round(), colours[:, 221:803])
    values, known = right_up_back(records)
    assert known.all()
    assert np.allclose(values[90:], vectors[90:, 221:803], atol=1e-6)
    assert (values[:90] == [0, 0, 1]).all()


# Mattes, classes, materials


def test_aim500_pairs_its_pictures_with_their_alpha(tmp_path):
    save(tmp_path / "original/o_0a1b.jpg", picture())
    alpha = save(tmp_path / "mask/o_0a1b.png", RANDOM.integers(0, 256, (H, W)).astype(np.uint8))
    sample = open_dataset("aim500", "matte", root=str(tmp_path))[0]
    assert np.allclose(sample.target[0].numpy(), alpha / 255)


def test_ade20ks_classes_begin_at_one_and_33_of_them_are_nyus(tmp_path):
    save(tmp_path / "images/validation/ADE_val_00000001.jpg", picture())
    numbers = RANDOM.integers(0, 151, (H, W)).astype(np.uint8)
    save(tmp_path / "annotations/validation/ADE_val_00000001.png", numbers)
    records = open_dataset("ade20k", "segmentation", root=str(tmp_path))
    sample = records[0]
    known = numbers > 0
    assert np.array_equal(sample.valid[0].numpy(), known)
    assert np.array_equal(sample.target[0].numpy()[known], numbers[known] - 1)
    found = renumbering("ADE20K", PALETTES["ade20k"], PALETTES["nyu40"])
    assert len({number for number in found if number >= 0}) == 33
    rooms = dict(zip(PALETTES["ade20k"].classes, found))
    assert PALETTES["nyu40"].classes[rooms["windowpane"]] == "window"
    assert PALETTES["nyu40"].classes[rooms["bed"]] == "bed"
    assert rooms["sky"] == -1


def test_interiorverses_light_is_linear_and_its_material_holds_two_maps(tmp_path):
    pytest.importorskip("OpenEXR")
    scene = tmp_path / "scenes_85/L3D124"
    image = save(scene / "000_im.exr", RANDOM.uniform(0, 1, (H, W, 3)).astype(np.float32))
    albedo = save(scene / "000_albedo.exr", RANDOM.uniform(0.1, 1, (H, W, 3)).astype(np.float32))
    material = save(scene / "000_material.exr", RANDOM.uniform(0, 1, (H, W, 3)).astype(np.float32))
    mask = RANDOM.uniform(0, 1, (H, W)) > 0.3
    save(scene / "000_mask.exr", np.repeat(mask[..., None], 3, -1).astype(np.float32))
    save(tmp_path / "scenes_85/OTHER/000_im.exr", image)
    for kind in ("albedo", "material", "mask"):
        save(tmp_path / f"scenes_85/OTHER/000_{kind}.exr", np.ones((H, W, 3), np.float32))
    (tmp_path / "test.txt").write_text("L3D124\n")
    settings = {"root": str(tmp_path), "scenes": str(tmp_path / "test.txt")}
    records = open_dataset("interiorverse", "albedo", **settings)
    assert len(records) == 1
    sample = records[0]
    assert np.allclose(sample.image.movedim(0, -1).numpy(), to_srgb(image), atol=1e-6)
    assert np.allclose(sample.target.movedim(0, -1).numpy(), albedo, atol=1e-6)
    assert np.array_equal(sample.valid[0].numpy(), mask)
    for task, channel in (("roughness", 0), ("metallic", 1)):
        found = open_dataset("interiorverse", task, **settings)[0].target[0].numpy()
        assert np.allclose(found, material[..., channel], atol=1e-6)


# Judgements


def test_iiws_judgements_count_where_people_were_sure_of_opaque_points(tmp_path):
    image = np.zeros((H, W, 3), np.uint8)
    image[:, W // 2 :] = 200
    save(tmp_path / "data/117.png", image)
    points = [
        {"id": 1, "x": 0.2, "y": 0.5, "opaque": True},
        {"id": 2, "x": 0.8, "y": 0.5, "opaque": True},
        {"id": 3, "x": 0.9, "y": 0.1, "opaque": False},
    ]
    rows = [
        {"point1": 1, "point2": 2, "darker": "1", "darker_score": 1.5},
        {"point1": 2, "point2": 1, "darker": "E", "darker_score": 0.5},
        {"point1": 1, "point2": 3, "darker": "2", "darker_score": 9.0},
        {"point1": 1, "point2": 2, "darker": "2", "darker_score": None},
        {"point1": 1, "point2": 2, "darker": "?", "darker_score": 9.0},
    ]
    told = {"intrinsic_points": points, "intrinsic_comparisons": rows}
    (tmp_path / "data/117.json").write_text(json.dumps(told))
    records = open_dataset("iiw", "albedo", root=str(tmp_path))
    sample = records[0]
    assert sample.target.shape == (6, 2, 1)
    albedo = feed(Config(), Recipe("albedo"), Source(str(tmp_path)), records, Augmentation())
    (row,) = records.comparisons
    ruler = Ruler(row.metrics, row.prepare)
    parts = ruler.measure(sample.image[None], sample, albedo)
    assert parts is not None
    # the picture itself finds the first right and the second wrong
    assert ruler.rows[0].value(parts["whdr"]) == pytest.approx(0.5 / 2.0)
    (tmp_path / "data/117.json").write_text(json.dumps({**told, "intrinsic_comparisons": rows[2:]}))
    with pytest.raises(BrokenRecord, match="no judgement that counts"):
        records[0]


# DMP's


@pytest.fixture
def dmp(tmp_path) -> Path:
    lmdb = pytest.importorskip("lmdb")
    save(tmp_path / "00000.png", picture())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "00000.png", "text": "a bedroom"}\n')

    def png(array: np.ndarray) -> bytes:
        held = io.BytesIO()
        Image.fromarray(array).save(held, "PNG")
        return held.getvalue()

    metres = io.BytesIO()
    np.savez(metres, x=np.full((H, W), 2.5, np.float16))
    for folder, rows in {
        "normals": {"00000": png(np.full((H, W, 3), (128, 128, 255), np.uint8))},
        "depths": {"00000": metres.getvalue()},
        "intrinsics": {"00000-r": png(np.full((H, W, 3), 255, np.uint8)), "00000-s": png(np.zeros((H, W), np.uint8))},
    }.items():
        with lmdb.open(str(tmp_path / folder), map_size=2**20) as store, store.begin(write=True) as writing:
            for key, value in rows.items():
                writing.put(key.encode(), value)
    return tmp_path


def test_dmps_targets_lie_in_an_lmdb_by_the_pictures_names(dmp):
    def read(task: str, **settings: object) -> torch.Tensor:
        return open_dataset("dmp", task, root=str(dmp), **settings)[0].target

    axes = {"axes": ("right", "up", "back")}
    assert read("normal", targets="normals", **axes).mean((1, 2)).tolist() == pytest.approx([0, 0, 1], abs=0.01)
    assert read("depth", targets="depths").unique().tolist() == [2.5]
    assert read("albedo", targets="intrinsics").unique().tolist() == [1.0]
    assert read("shading", targets="intrinsics").unique().tolist() == [0.0]


def test_dmps_missing_targets_are_named(dmp):
    with pytest.raises(DatasetError, match="There is no LMDB .*targets"):
        open_dataset("dmp", "depth", root=str(dmp))
    (dmp / "metadata.jsonl").write_text('{"file_name": "00000.png"}\n{"text": "no name"}\n')
    with pytest.raises(DatasetError, match="line 2, names no `file_name`"):
        open_dataset("dmp", "depth", root=str(dmp), targets="depths")
    (dmp / "metadata.jsonl").write_text('{"file_name": "00001.png"}\n')
    save(dmp / "00001.png", picture())
    with pytest.raises(BrokenRecord, match="has nothing under 00001"):
        open_dataset("dmp", "depth", root=str(dmp), targets="depths")[0]


# What is missing


def test_every_published_set_that_is_not_there_says_which_file_and_from_where():
    for reader, archive in ARCHIVES.items():
        assert reader in DATASETS
        with pytest.raises(DatasetError) as error:
            set_named(f"{reader}:nowhere").open("depth")
        assert archive.file in str(error.value)
        assert re.search(r"https?://", str(error.value))


def test_a_set_that_is_not_whole_says_how_much_of_it_is_there():
    assert lacking("nyuv2", {}, 654) == ""
    assert lacking("nyuv2", {}, 600).startswith("600 of 654 published pictures are there. Get nyu_labeled_extracted")
    assert lacking("dis5k", {"split": "DIS-VD"}, 469).startswith("469 of 470")
    assert lacking("ade20k", {}, 1999).startswith("1999 of 2000")
    assert lacking("nyuv2", {"list": "some.txt"}, 600) == ""
    assert lacking("folder", {}, 3) == missing_archive("folder", {}) == ""
