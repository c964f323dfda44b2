"""Rendered scenes: plans without any asset, camera maths, meshes, the folder format, one real picture if it can be."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.srgb import to_srgb
from diffusion_perception.scenes import (
    assets,
    bodies,
    cameras,
    command,
    furniture,
    meshes,
    renderers,
    rooms,
    textures,
    verify,
    views,
)
from diffusion_perception.scenes.assets import Item
from diffusion_perception.scenes.furniture import CLASSES
from diffusion_perception.scenes.plan import Plan, parse_size, split_of
from diffusion_perception.scenes.shelf import Shelf

SAMPLE = Path(__file__).parent / "data" / "scenes"
SCENES = Path(command.__file__).parent


def item(name: str, category: str, size: tuple[float, float, float], elevation: float = 0.0, top: float = 0.7) -> Item:
    width, height, depth = size
    return Item(
        f"made/{name}", name, category, "nobody", "CC0", f"{name}.obj", width, height, depth, elevation, top, None
    )


CATALOGUE = [
    item("Sofa", "Living room", (2.0, 0.8, 0.9), top=0.45),
    item("Coffee table", "Living room", (1.2, 0.45, 0.7), top=0.45),
    item("Round table", "Living room", (1.1, 0.75, 1.1), top=0.75),
    item("Chair", "Living room", (0.5, 0.9, 0.5)),
    item("Bookcase", "Living room", (0.9, 1.8, 0.35), top=1.8),
    item("Wardrobe", "Bedroom", (1.2, 2.0, 0.6), top=2.0),
    item("Bed", "Bedroom", (1.6, 0.9, 2.1), top=0.5),
    item("Desk", "Office", (1.4, 0.75, 0.7), top=0.75),
    item("Fridge", "Kitchen", (0.6, 1.3, 0.6), top=1.3),
    item("Drawers cabinet", "Kitchen", (0.6, 0.9, 0.6), top=0.9),
    item("Coffee mug", "Kitchen", (0.08, 0.1, 0.12)),
    item("Vase", "Miscellaneous", (0.2, 0.3, 0.2)),
    item("Toilets unit", "Bathroom", (0.4, 0.8, 0.6)),
    item("Female", "Characters", (0.5, 1.66, 0.4)),
    item("Sitting male", "Characters", (0.7, 1.3, 0.9)),
    item("Dog", "Characters", (0.35, 0.7, 0.8)),
    item("Door", "Doors and windows", (0.9, 2.1, 0.15)),
    item("Double window 4 panes", "Doors and windows", (1.1, 1.6, 0.3), elevation=0.5),
    item("Wall flat TV", "Living room", (1.0, 0.6, 0.1), elevation=1.0),
    item("Bench", "Exterior", (1.4, 0.8, 0.5)),
    item("Pine", "Exterior", (3.7, 5.4, 3.7)),
]
PIECES = furniture.sort(CATALOGUE)
ITEMS = {each.id: each for each in CATALOGUE}


def plan(number: int, seed: int = 0, count: int = 2, bodies: int = 0) -> rooms.Room:
    return rooms.plan_room(number, seed, PIECES, count, range(bodies))


def footprint(placement: rooms.Placement) -> np.ndarray:
    """The upright box round a placed model, worked out from its four corners."""
    made = ITEMS[placement.model]
    corners = np.array([[x, z] for x in (-1, 1) for z in (-1, 1)]) * [made.width / 2, made.depth / 2]
    cos, sin = np.cos(placement.yaw), np.sin(placement.yaw)
    turned = np.stack([corners[:, 0] * cos + corners[:, 1] * sin, corners[:, 1] * cos - corners[:, 0] * sin], axis=1)
    x, y, z = placement.position
    low, high = turned.min(0), turned.max(0)
    return np.array([[low[0] + x, y, low[1] + z], [high[0] + x, y + made.height, high[1] + z]])


def test_every_thing_in_the_catalogue_is_sorted_by_its_name():
    known = {each.item.name: (each.label, each.role) for each in PIECES}
    assert known["Sofa"] == ("sofa", "wall")
    assert known["Coffee table"] == ("table", "low table")
    assert known["Round table"] == ("table", "table")
    assert known["Desk"] == ("table", "desk")
    assert known["Bed"] == ("bed", "wall")
    assert known["Fridge"] == ("appliance", "wall")
    assert known["Coffee mug"] == ("object", "small")
    assert known["Female"] == ("person", "stand")
    assert known["Sitting male"] == ("person", "sit")
    assert known["Dog"] == ("animal", "free")
    assert known["Double window 4 panes"] == ("window", "window")
    assert known["Wall flat TV"] == ("screen", "mounted")


def test_every_class_that_a_row_names_exists():
    assert {row.label for row in furniture.SORTS} <= set(CLASSES)
    assert len(set(CLASSES)) == len(CLASSES) < 256


def test_the_same_seed_plans_the_same_room_whatever_else_is_planned():
    once = plan(7, seed=3)
    plan(8, seed=3)
    assert plan(7, seed=3) == once
    assert plan(7, seed=4) != once
    assert plan(8, seed=3) != once


def test_asking_for_more_views_changes_neither_the_room_nor_its_first_views():
    few, many = plan(5, count=1), plan(5, count=3)
    assert few.placements == many.placements
    assert few.cameras == many.cameras[:1]


@pytest.mark.parametrize("number", range(12))
def test_furniture_stays_in_its_room_and_clear_of_other_furniture(number):
    room = plan(number)
    role = {each.item.id: each.role for each in PIECES}
    solid = [p for p in room.placements if role[p.model] in ("wall", "desk", "table", "low table", "stand", "outdoor")]
    boxes = [footprint(p) for p in solid]
    for box in boxes:
        assert (box[0] > -0.02).all()
        assert (box[1] < np.array(room.size) + 0.02).all()
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert not ((one[0] < other[1] - 1e-6) & (one[1] > other[0] + 1e-6)).all()


@pytest.mark.parametrize("number", range(12))
def test_small_things_stand_on_something(number):
    room = plan(number)
    for placement in room.placements:
        if placement.model in ("made/Coffee mug", "made/Vase") and placement.position[1] > 0:
            x, y, z = placement.position
            under = [footprint(p) for p in room.placements if p is not placement]
            tops = [ITEMS[p.model].top + p.position[1] for p in room.placements if p is not placement]
            assert any(
                box[0][0] <= x <= box[1][0] and box[0][2] <= z <= box[1][2] and abs(top + 0.002 - y) < 1e-6
                for box, top in zip(under, tops)
            )


@pytest.mark.parametrize("number", range(12))
def test_a_camera_stands_in_the_room_outside_all_things_and_looks_about_level(number):
    room = plan(number, count=4)
    for camera in room.cameras:
        pose = camera.matrix()
        position, forward = pose[:3, 3], pose[:3, 2]
        assert (position > 0.05).all()
        assert (position < np.array(room.size) - 0.05).all()
        assert abs(np.degrees(np.arcsin(forward[1]))) < 40
        assert 30 < camera.fov_deg < 90
        for placement in room.placements:
            box = footprint(placement)
            assert not ((position > box[0]) & (position < box[1])).all()


def test_where_bodies_have_joints_nobody_else_is_in_the_room():
    kinds = set()
    for number in range(40):
        people = [p.model for p in plan(number, count=0, bodies=5).placements if p.label == "person"]
        parametric = {model.startswith("body/") for model in people}
        assert len(parametric) <= 1
        kinds |= parametric
    assert kinds == {True, False}


def test_wall_panels_face_the_room_and_leave_holes_for_windows():
    room = next(plan(n) for n in range(20) if any(p.label == "window" for p in plan(n).placements))
    middle = np.array(room.size) / 2
    for panel in room.panels:
        if panel.label in ("wall", "floor", "ceiling"):
            corner, u, v = (np.array(value) for value in (panel.corner, panel.edge_u, panel.edge_v))
            assert np.dot(np.cross(u, v), middle - corner) > 0
    width, height, depth = room.size
    area = sum(np.linalg.norm(np.cross(panel.edge_u, panel.edge_v)) for panel in room.panels if panel.label == "wall")
    holes = sum(ITEMS[p.model].width * ITEMS[p.model].height for p in room.placements if p.label == "window")
    assert area == pytest.approx(2 * height * (width + depth) - holes)


@given(st.integers(0, 100_000))
def test_a_room_belongs_to_one_split_by_its_number(number):
    assert split_of(number) in views.SPLITS


def test_splits_share_rooms_eighteen_to_one_to_one():
    found = [split_of(number) for number in range(200)]
    assert [found.count(split) for split in views.SPLITS] == [180, 10, 10]


vectors = st.tuples(*[st.floats(-5, 5) for _ in range(3)]).map(np.array)


@given(vectors, st.floats(0, 6.28), st.floats(-0.9, 0.9), st.floats(-10, 10), st.floats(20, 100))
def test_a_camera_looks_at_its_target_with_a_proper_rotation(position, around, up, roll, fov):
    aim = np.array([np.sin(around), up, np.cos(around)])
    camera = cameras.look_at(position, position + 3 * aim, roll, fov)
    turn = camera.matrix()[:3, :3]
    assert turn.T @ turn == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)
    pixel, z = cameras.project((position + 3 * aim)[None], camera, 64, 48)
    assert pixel[0] == pytest.approx([32, 24], abs=1e-6)
    assert z[0] == pytest.approx(3 * np.linalg.norm(aim))


@given(st.floats(20, 100), st.floats(0.2, 50), st.floats(-8, 8))
@settings(max_examples=30)
def test_projecting_a_back_projected_pixel_gives_its_centre(fov, depth, roll):
    camera = cameras.look_at(np.array([1.0, 2.0, 3.0]), np.array([4.0, 1.0, 2.0]), roll, fov)
    local = cameras.back_project(np.full((6, 8), depth), camera).reshape(-1, 3)
    pose = camera.matrix()
    pixels, z = cameras.project(local @ pose[:3, :3].T + pose[:3, 3], camera, 8, 6)
    rows, columns = np.mgrid[0:6, 0:8]
    assert pixels == pytest.approx(np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2), abs=1e-6)
    assert z == pytest.approx(depth)


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(30, 90))
@settings(max_examples=30)
def test_normals_from_the_depth_of_a_plane_are_those_of_the_plane(lean_x, lean_y, fov):
    camera = cameras.Camera(tuple(map(tuple, np.eye(4))), fov)
    normal = np.array([lean_x, lean_y, -1.0]) / np.linalg.norm([lean_x, lean_y, -1.0])
    _, rays = cameras.pixel_rays(camera, 24, 16)
    depth = (normal @ [0, 0, 4.0]) / (rays @ normal)
    if (depth > 0).all():
        found = cameras.normals_from_depth(depth, camera)[1:-1, 1:-1]
        # from right, down, forward to right, up, back
        assert found == pytest.approx(np.broadcast_to(normal * [1, -1, -1], found.shape), abs=1e-6)


def test_boxes_are_hit_where_a_plain_loop_says():
    rng = np.random.default_rng(0)
    low = rng.uniform(-3, 2, (5, 3))
    boxes = np.stack([low, low + rng.uniform(0.2, 1.5, (5, 3))], axis=1)
    origin = np.array([0.0, 0.0, -6.0])
    directions = np.column_stack([rng.uniform(-0.5, 0.5, (200, 2)), np.ones(200)])
    distance, which = cameras.hit_boxes(origin, directions, boxes)
    steps = np.arange(0, 12, 0.002)
    for direction, found, box in zip(directions[:60], distance, which):
        points = origin + steps[:, None] * direction
        inside = ((points[:, None] >= boxes[:, 0]) & (points[:, None] <= boxes[:, 1])).all(-1)
        if inside.any():
            first = int(inside.any(1).argmax())
            assert found == pytest.approx(steps[first], abs=0.01)
            assert inside[first, box]
        else:
            assert np.isinf(found)


@pytest.mark.parametrize("kind", textures.PAINTERS)
def test_a_texture_is_seeded_and_stays_off_black_and_white(kind):
    picture = textures.paint(kind, 5)
    assert picture.shape == (textures.SIZE, textures.SIZE, 3)
    assert picture.dtype == np.uint8
    textures.paint.cache_clear()
    assert (textures.paint(kind, 5) == picture).all()
    assert (textures.paint(kind, 6) != picture).any()
    assert picture.min() >= 20
    assert picture.max() <= 245


def write_model(folder: Path, faces: str, materials: str = "newmtl red\nKd 1 0 0\n") -> Path:
    (folder / "m.mtl").write_text(materials)
    corners = "v 0 0 0\nv 2 0 0\nv 2 4 0\nv 0 4 0\nvn 0 0 1\nvt 0 0\nvt 1 0\nvt 1 1\n"
    (folder / "m.obj").write_text(f"mtllib m.mtl\n{corners}usemtl red\n{faces}")
    return folder / "m.obj"


@pytest.mark.parametrize(
    "faces", ["f 1 2 3 4\n", "f 1//1 2//1 3//1 4//1\n", "f -4 -3 -2 -1\n", "f 1/1/1 2/2/1 3/3/1\nf 1 3 4\n"]
)
def test_a_polygon_becomes_triangles_whichever_way_it_is_written(tmp_path, faces):
    (part,) = meshes.read_obj(write_model(tmp_path, faces))
    corners = part.positions[part.faces.astype(int)]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    assert area == pytest.approx(8)
    assert part.normals == pytest.approx(np.broadcast_to([0, 0, 1.0], part.normals.shape))
    assert part.material.colour == (1, 0, 0)


def test_a_face_written_once_for_either_side_is_kept_once(tmp_path):
    (part,) = meshes.read_obj(write_model(tmp_path, "f 1 2 3\nf 3 2 1\nf 1 3 4\n"))
    assert len(part.faces) == 2


def test_a_winding_against_its_normals_is_turned(tmp_path):
    (part,) = meshes.read_obj(write_model(tmp_path, "f 3//1 2//1 1//1\n"))
    a, b, c = part.positions[part.faces[0].astype(int)]
    assert np.cross(b - a, c - a)[2] > 0
    assert part.normals[:, 2] == pytest.approx(1)


def test_a_model_is_scaled_to_its_size_with_its_foot_on_the_origin(tmp_path):
    turned = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0)
    deep = write_model(tmp_path, "f 1 2 3 4\n")
    deep.write_text(deep.read_text().replace("v 2 4 0", "v 2 4 1"))
    (part,) = meshes.load_model(deep, turned, (0.5, 1.8, 0.3))
    low, high = part.positions.min(0), part.positions.max(0)
    assert high - low == pytest.approx([0.5, 1.8, 0.3], abs=1e-6)
    assert low[1] == pytest.approx(0)
    assert low[[0, 2]] + high[[0, 2]] == pytest.approx([0, 0], abs=1e-6)
    assert np.linalg.norm(part.normals, axis=1) == pytest.approx(1)


def test_a_model_that_names_an_absent_texture_is_not_whole(tmp_path):
    whole = write_model(tmp_path, "f 1 2 3\n")
    assert assets.is_whole(whole)
    assert not assets.is_whole(write_model(tmp_path, "f 1 2 3\n", "newmtl red\nmap_Kd gone.jpg\n"))
    (tmp_path / "m.mtl").unlink()
    assert not assets.is_whole(whole)


def deb(folder: Path, name: str) -> Path:
    """A package as small as can be: an `ar` archive with one file in data.tar.xz."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as data:
        entry = tarfile.TarInfo("./usr/share/a.txt")
        entry.size = 2
        data.addfile(entry, io.BytesIO(b"hi"))
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", inner.getvalue())]
    path = folder / name
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for member, content in members:
            file.write(f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def test_a_package_is_unpacked_without_any_tool(tmp_path):
    assets._unpack_deb(deb(tmp_path, "x.deb"), tmp_path / "out")
    assert (tmp_path / "out/usr/share/a.txt").read_text() == "hi"


def test_an_absent_package_or_a_wrong_one_is_named_with_a_way_out(tmp_path):
    with pytest.raises(assets.MissingAssetError, match="sweethome3d-furniture.*SHA-256.*is not there"):
        assets.fetch(tmp_path / "cache", tmp_path)
    deb(tmp_path, "sweethome3d-furniture_1.8-1_all.deb")
    with pytest.raises(assets.MissingAssetError, match="has another checksum"):
        assets.fetch(tmp_path / "cache", tmp_path)


def test_credits_name_each_maker_under_the_licence_once():
    text = assets.credits([*CATALOGUE, *CATALOGUE], bodies=True)
    assert text.count("nobody") == 1
    assert "## CC0" in text
    assert "anny" in text
    assert "anny" not in assets.credits(CATALOGUE)
    assert "pmndrs" in assets.credits([], skies=True)
    assert "pmndrs" not in assets.credits([])


def slanted_view(size: int = 48) -> views.View:
    """A floor under a level camera, its truth worked out by hand."""
    camera = cameras.look_at(np.array([0.0, 1.5, 0.0]), np.array([0.0, 0.2, -2.0]), 0.0, 60.0)
    origin, rays = cameras.pixel_rays(camera, size, size)
    z = np.where(rays[..., 1] < 0, -origin[1] / np.minimum(rays[..., 1], -1e-9), 0)
    z = np.where(z < 60, z, 0)
    seen = z > 0
    up = np.array([0.0, 1.0, 0.0]) @ (camera.matrix()[:3, :3] * [1, -1, -1])
    albedo = np.full((size, size, 3), 0.4, np.float32) * seen[..., None]
    shading = np.full((size, size, 3), 1.2, np.float32) * seen[..., None]
    labels = np.where(seen, CLASSES.index("floor"), CLASSES.index("sky")).astype(np.uint8)
    instance = np.zeros((size, size), np.uint16)
    labels[30:36, 20:24], instance[30:36, 20:24] = CLASSES.index("person"), 300
    return views.View(
        image=np.round(to_srgb(albedo * shading) * 255).astype(np.uint8),
        depth=z.astype(np.float32),
        normal=(up * seen[..., None]).astype(np.float32),
        albedo=albedo,
        shading=shading,
        segmentation=labels,
        instance=instance,
        camera=camera,
        subjects=(300,),
        matte=seen.astype(np.float32) / 2,
    )


def save(folder: Path, view: views.View, depth_format: str = "png") -> None:
    views.write_text(folder / "dataset.toml", views.dataset_toml("made", depth_format))
    views.write_view(folder, "00001_00", view, depth_format)


@pytest.mark.parametrize("depth_format", ["png", "npy"])
def test_what_is_written_is_read_back(tmp_path, depth_format):
    view = slanted_view()
    save(tmp_path, view, depth_format)
    maps = verify.read_maps(tmp_path, "00001_00")
    assert maps["depth"] == pytest.approx(view.depth, abs=0 if depth_format == "npy" else 0.00051)
    assert maps["normal"] == pytest.approx(view.normal, abs=2e-5)
    assert maps["shading"] == pytest.approx(view.shading, abs=1e-4)
    assert maps["albedo"] / 255 == pytest.approx(to_srgb(view.albedo), abs=0.003)
    assert (maps["image"] == view.image).all()
    assert (maps["segmentation"] == view.segmentation).all()
    assert (maps["instance"] == view.instance).all()
    assert ((maps["mask"] == 255) == (view.instance == 300)).all()
    assert maps["camera"] == view.camera


def test_a_depth_beyond_sixteen_bits_is_unknown_rather_than_wrong(tmp_path):
    view = slanted_view()
    view.depth[0, 0], view.depth[0, 1] = 65.535, 70.0
    save(tmp_path, view)
    assert verify.read_maps(tmp_path, "00001_00")["depth"][0, :2] == pytest.approx([65.535, 0])


def test_the_camera_file_holds_intrinsics_that_give_the_same_rays(tmp_path):
    view = slanted_view()
    save(tmp_path, view)
    found = json.loads((tmp_path / "camera/00001_00.json").read_text())
    pixel = np.array([10.5, 20.5, 1.0])
    ray = np.linalg.inv(found["K"]) @ pixel
    _, rays = cameras.pixel_rays(view.camera, 48, 48)
    assert np.array(found["camera_to_world"])[:3, :3] @ ray == pytest.approx(rays[20, 10])


def test_people_without_known_joints_are_listed_without_any(tmp_path):
    view = slanted_view()
    save(tmp_path, view)
    found = json.loads((tmp_path / "keypoints/00001_00.json").read_text())
    (person,) = found["annotations"]
    assert person["num_keypoints"] == 0
    assert person["bbox"] == [20, 30, 4, 6]
    assert person["area"] == 24
    assert len(person["keypoints"]) == 51
    joints = np.zeros((17, 3))
    joints[5] = 21.5, 31.0, 2
    view.keypoints = {300: joints}
    (known,) = views.coco(view, "x")["annotations"]
    assert known["num_keypoints"] == 1
    assert known["keypoints"][15:18] == [21.5, 31.0, 2]
    assert len(found["categories"][0]["keypoints"]) == 17


def test_a_view_that_was_not_finished_is_made_again(tmp_path):
    job = make_plan(tmp_path, count=1, views=3)
    save(job.folder(1), slanted_view())
    assert job.missing(1) == [1, 2]
    (job.folder(1) / "camera/00001_00.json").unlink()
    assert job.missing(1) == [0, 1, 2]


def test_a_failed_write_leaves_no_file(tmp_path):
    def fail(file: io.BytesIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        views._save(tmp_path / "a.png", fail)
    assert list(tmp_path.iterdir()) == []


def arguments(out: Path, *extra: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["--out", str(out), *extra])


def make_plan(out: Path, **changes: object) -> Plan:
    return dataclasses.replace(command.plans_of(vars(arguments(out)))[0], **changes)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--size", "big"), "--size is 'big'"),
        (("--size", "4x4"), "from 16 to 4096"),
        (("--rooms", "0"), "--rooms is 0 and --shots is 0"),
        (("--shots", "-1"), "--shots is -1"),
        (("--seed", "-1"), "--seed is -1"),
        (("--first-room", "-1"), "--first-room is -1"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_fetched(tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        command.run(vars(arguments(tmp_path, *extra)))
    assert list(tmp_path.iterdir()) == []


def test_views_are_rendered_in_the_same_batches_whatever_is_missing():
    assert parse_size("320x240") == (320, 240)
    batches = renderers.batches(12, (256, 256), 4)
    assert [k for batch in batches for k in batch] == list(range(12))
    assert renderers.batches(2, (4096, 4096), 64) == [range(0, 1), range(1, 2)]


def test_verify_passes_the_truth_and_faults_what_is_bent(tmp_path):
    view = slanted_view()
    save(tmp_path / "good", view)
    report = verify.verify(tmp_path / "good")
    assert report.faults() == []
    assert report.normal_deg < 0.5
    assert report.floor_mm < 0.5
    _, rays = cameras.pixel_rays(view.camera, 48, 48)
    along = dataclasses.replace(view, depth=view.depth * np.linalg.norm(rays, axis=-1).astype(np.float32))
    save(tmp_path / "along", along)
    assert any("floor" in fault for fault in verify.verify(tmp_path / "along").faults())
    save(tmp_path / "axes", dataclasses.replace(view, normal=view.normal * [1, -1, 1]))
    assert any("normals" in fault for fault in verify.verify(tmp_path / "axes").faults())
    save(tmp_path / "light", dataclasses.replace(view, shading=view.shading * 2))
    assert any("albedo" in fault for fault in verify.verify(tmp_path / "light").faults())


def test_verify_names_an_empty_folder_and_a_broken_file(tmp_path):
    with pytest.raises(ValueError, match="holds no rendered views"):
        verify.verify(tmp_path)
    save(tmp_path, slanted_view())
    (tmp_path / "normal/00001_00.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"normal/00001_00.png is missing or is not a picture"):
        verify.verify(tmp_path)


def test_the_committed_sample_is_exact_small_and_credited():
    report = verify.verify(SAMPLE)
    assert report.views == 12
    assert report.faults() == []
    assert report.joints >= 5
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 1_000_000
    assert "CC-BY" in (SAMPLE / "CREDITS.md").read_text()


def test_the_committed_sample_splits_by_room():
    found = {split: {p.stem[:5] for p in (SAMPLE / split / "images").glob("*.png")} for split in views.SPLITS}
    assert all(found.values())
    assert not found["train"] & found["val"] | found["train"] & found["test"] | found["val"] & found["test"]
    for split, numbers in found.items():
        assert {split_of(int(number)) for number in numbers} == {split}
    sheet = verify.contact_sheet(SAMPLE / "val", ["00018_00", "00018_01"])
    assert sheet.shape == (6 * 80, 2 * 80, 3)


def test_joints_in_the_committed_sample_lie_on_their_people():
    near = []
    for path in SAMPLE.rglob("keypoints/*.json"):
        instance = cv2.imread(str(path.parents[1] / "instance" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        for person in json.loads(path.read_text())["annotations"]:
            mine = cv2.dilate((instance == person["id"]).astype(np.uint8), np.ones((5, 5)))
            for x, y, visibility in np.reshape(person["keypoints"], (17, 3)):
                if visibility == 2:
                    near.append(mine[int(y), int(x)])
    assert len(near) > 50
    assert np.mean(near) > 0.95


def test_normals_in_the_committed_sample_are_unit_vectors_towards_the_camera():
    for path in SAMPLE.rglob("camera/*.json"):
        maps = verify.read_maps(path.parents[1], path.stem)
        known = maps["depth"] > 0
        length = np.linalg.norm(maps["normal"], axis=-1)
        assert length[known] == pytest.approx(1, abs=1e-4)
        ray = cameras.back_project(np.ones_like(maps["depth"]), maps["camera"]) * [1, -1, -1]
        assert ((maps["normal"] * ray).sum(-1)[known] < 1e-3).all()


def test_no_file_imports_the_script_that_blender_runs():
    for path in SCENES.glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names]
        names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not any("blender_script" in name for name in names)
        assert path.name == "blender_script.py" or "bpy" not in names


@pytest.mark.slow
def test_mitsuba_renders_a_bare_room_exactly_and_twice_the_same(tmp_path):
    pytest.importorskip("mitsuba")
    pytest.importorskip("mitsuba_oidn")
    from diffusion_perception.scenes import mitsuba_render

    mi = mitsuba_render.load_mitsuba()
    mi.Bitmap(np.ones((8, 16, 3), np.float32)).write(str(tmp_path / "sky.exr"))
    # the catalogue's models have no files: a room of walls, floor, ceiling, lamps and pictures is left
    room = dataclasses.replace(rooms.plan_room(2, 0, [], 2), environment="sky")
    shelf = Shelf(tmp_path, {}, [], {"sky": "sky.exr"})
    loaded = mitsuba_render.load_room(room, shelf)
    found = mitsuba_render.render_views(loaded, list(room.cameras), (48, 40), 2, 1)
    again = mitsuba_render.render_views(loaded, list(room.cameras), (48, 40), 2, 1)
    for view, same in zip(found, again):
        assert (view.image == same.image).all()
        origin, rays = cameras.pixel_rays(view.camera, 48, 40)
        points = origin + rays * view.depth[..., None]
        floor = view.segmentation == CLASSES.index("floor")
        assert np.abs(points[floor][:, 1]) == pytest.approx(0, abs=1e-4)
        up = np.array([0.0, 1.0, 0.0]) @ (view.camera.matrix()[:3, :3] * [1, -1, -1])
        assert view.normal[floor] == pytest.approx(np.broadcast_to(up, view.normal[floor].shape), abs=1e-4)
        wall = view.segmentation == CLASSES.index("wall")
        gap = np.minimum(np.abs(points), np.abs(points - np.array(room.size)))
        assert gap[wall][:, [0, 2]].min(axis=1) == pytest.approx(0, abs=1e-4)
    save(tmp_path / "made", found[0])
    assert verify.verify(tmp_path / "made").normal_deg < 0.5


def test_a_limb_turns_on_the_right_as_its_mirror_image_on_the_left():
    spans = ((-40.0, 5.0, 40.0), (-20.0, 3.0, 25.0), (-30.0, -10.0, 50.0))
    left = bodies._turn(spans, np.random.default_rng(4), 1.0, 1)
    right = bodies._turn(spans, np.random.default_rng(4), 1.0, -1)
    mirror = np.diag([-1.0, 1.0, 1.0])
    assert right == pytest.approx(mirror @ left @ mirror)
    assert left.T @ left == pytest.approx(np.eye(3), abs=1e-12)
    # a turn about x, which points to the left, swings a hanging limb (down is -z there) to the back (+y)
    down = bodies._turn(((30.0, 30.0, 30.0001), (0, 0, 1e-9), (0, 0, 1e-9)), np.random.default_rng(0), 1.0, 1)
    assert (down @ [0, 0, -1])[1] > 0.4


def test_normals_of_a_closed_mesh_point_outwards():
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    faces = np.array([
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ])  # fmt: skip
    found = bodies.vertex_normals(corners, faces)
    assert ((found * corners).sum(1) > 1).all()
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)


def tarball(folder: Path) -> assets.Tarball:
    """A release on npm with two pictures and something else."""
    with tarfile.open(folder / "sky-1.tgz", "w:gz") as archive:
        for name, text in (
            ("package/hdri/a.exr.js", "export default 'data:application/exr;base64,aGk='\n"),
            ("package/hdri/b.exr.js", "export default 'data:application/exr;base64,aG8='\n"),
            ("package/hdri/a.exr.d.ts", "declare"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    digest = hashlib.sha256((folder / "sky-1.tgz").read_bytes()).hexdigest()
    return assets.Tarball("sky@1", "sky-1.tgz", digest, assets.SKIES.pictures, "x-", "CC0")


def test_pictures_are_taken_out_of_the_modules_of_a_tarball(tmp_path):
    made = tarball(tmp_path)
    folder = assets.fetch_tarball(made, tmp_path / "cache", tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"x-a.exr": b"hi", "x-b.exr": b"ho"}
    (tmp_path / "sky-1.tgz").unlink()
    assert assets.fetch_tarball(made, tmp_path / "cache", tmp_path) == folder  # from now on it is there


def test_an_absent_tarball_or_a_wrong_one_is_named_with_a_way_out(tmp_path, monkeypatch):
    made = tarball(tmp_path)
    with pytest.raises(assets.MissingAssetError, match=r"sky-1.tgz is not the file that is known.*sky@1"):
        assets.fetch_tarball(dataclasses.replace(made, sha256="0"), tmp_path / "cache", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(assets.MissingAssetError, match=r"no npm: run `npm pack sky@1`.*--assets"):
        assets.fetch_tarball(made, tmp_path / "cache", tmp_path / "elsewhere")
    assert not list((tmp_path / "cache").glob("sky-1"))
