"""Near shots of single things: plans without assets, models that splits do not share, a real picture if it can be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from diffusion_perception.scenes import cameras, plan, rooms, shots, verify, views
from diffusion_perception.scenes.assets import Item
from diffusion_perception.scenes.furniture import CLASSES, Piece, sort
from diffusion_perception.scenes.shelf import Shelf, splits_of

NUMBERS = range(24)
NEAREST, FARTHEST = (2 * np.degrees(np.arctan(18 / mm)) for mm in (24, 85))


def item(name: str, category: str, width: float, height: float, depth: float) -> Item:
    return Item(f"made/{name}", name, category, "nobody", "CC0", "", width, height, depth, 0.0, height, None)


SIZES = {
    ("Female", "Characters"): (0.5, 1.66, 0.4),
    ("Male", "Characters"): (0.6, 1.85, 0.4),
    ("Lying down boy", "Characters"): (0.5, 0.5, 1.6),
    ("Dog", "Characters"): (0.35, 0.7, 0.8),
    ("Cat", "Characters"): (0.2, 0.45, 0.35),
    ("Horse", "Characters"): (0.6, 2.0, 2.6),
    ("Coffee mug", "Kitchen"): (0.08, 0.1, 0.12),
    ("Vase", "Miscellaneous"): (0.2, 0.3, 0.2),
    ("Chair", "Living room"): (0.5, 0.9, 0.5),
    ("Ficus", "Living room"): (0.4, 0.8, 0.4),
    ("Pine", "Exterior"): (3.7, 5.4, 3.7),
    ("Bench", "Exterior"): (1.4, 0.8, 0.5),
    ("Van", "Vehicles"): (2.4, 2.5, 5.9),
    ("Bicycle", "Vehicles"): (0.5, 0.8, 1.5),
}
PIECES = sort([item(f"{name} {n}", where, *size) for (name, where), size in SIZES.items() for n in range(2)])
BODIES = [Piece(item("x", "Bodies", 0.9, 1.5 + 0.1 * n, 0.6), "person", "stand", (0.05 * n, 0.1)) for n in range(3)]
BODIES = [
    dataclasses.replace(piece, item=dataclasses.replace(piece.item, id=f"body/{n:04d}"))
    for n, piece in enumerate(BODIES)
]
KNOWN = {piece.item.id: piece for piece in (*PIECES, *BODIES)}


def shot(number: int, seed: int = 0, views: int = 2, aspect: float = 1.0) -> rooms.Room:
    return shots.plan_shot(number, seed, [*PIECES, *BODIES], views, aspect)


def corners(placement: rooms.Placement) -> np.ndarray:
    """The eight corners of a placed model, turned about the vertical by hand."""
    made = KNOWN[placement.model].item
    found = []
    for x in (-made.width / 2, made.width / 2):
        for y in (0.0, made.height):
            for z in (-made.depth / 2, made.depth / 2):
                cos, sin = np.cos(placement.yaw), np.sin(placement.yaw)
                found.append([x * cos + z * sin, y, z * cos - x * sin])
    return np.array(found) + placement.position


def subjects(planned: rooms.Room) -> list[rooms.Placement]:
    return [each for each in planned.placements if each.instance in planned.subjects]


def test_every_kind_of_shot_is_made_of_some_pieces_and_takes_its_turn():
    assert {shot(number, views=0).kind for number in range(400)} == set(shots.KINDS)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_shot_is_of_one_to_three_different_things(number):
    planned = shot(number)
    assert 1 <= len(planned.subjects) <= 3
    assert len({each.model for each in subjects(planned)}) == len(planned.subjects)
    sizes = [np.ptp(corners(dataclasses.replace(each, yaw=0.0)), axis=0).max() for each in subjects(planned)]
    assert max(sizes) < shots.KINDS[planned.kind].unlike ** 2 * min(sizes)


@pytest.mark.parametrize("number", NUMBERS)
def test_nothing_goes_through_the_ground_or_through_another_thing(number):
    planned = shot(number)
    tops = [panel.corner[1] for panel in planned.panels if panel.label == "table"]
    boxes = []
    for placement in planned.placements:
        on_table = tops and placement.instance in planned.subjects
        assert placement.position[1] == pytest.approx(max(tops) + 0.002 if on_table else 0.0)
        points = corners(placement)
        boxes.append((points.min(0), points.max(0)))
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:i]:
            assert not ((low < other_high) & (high > other_low)).all()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("aspect", [1.0, 1.5, 0.6])
def test_the_subjects_are_in_the_picture_and_fill_much_of_it(number, aspect):
    planned = shot(number, aspect=aspect)
    cut = shots.KINDS[planned.kind].cut
    width, height = round(400 * aspect), 400
    for camera in planned.cameras:
        pixels = []
        for placement in subjects(planned):
            points, z = cameras.project(corners(placement), camera, width, height)
            if cut == (0.0, 0.0):
                assert (z > 0).all()
                pixels.append(points)
            else:
                # of people who are cut off, where the head is
                x, ahead = KNOWN[placement.model].head
                cos, sin = np.cos(placement.yaw), np.sin(placement.yaw)
                level = 0.93 * KNOWN[placement.model].item.height
                head = np.array([x * cos + ahead * sin, level, ahead * cos - x * sin]) + placement.position
                point, z = cameras.project(head[None], camera, width, height)
                assert z > 0
                pixels.append(point)
        found = np.concatenate(pixels)
        assert (found >= 0).all()
        assert (found <= [width, height]).all()
        if cut == (0.0, 0.0):
            assert (np.ptp(found, axis=0) / [width, height]).max() > 0.35


@pytest.mark.parametrize("number", NUMBERS)
def test_a_camera_has_a_lens_of_24_to_85_mm_and_stands_clear_of_ground_and_things(number):
    planned = shot(number)
    for camera in planned.cameras:
        assert FARTHEST - 1e-6 <= camera.fov_deg <= NEAREST + 1e-6
        position = camera.matrix()[:3, 3]
        assert position[1] >= 0.05
        for placement in planned.placements:
            points = corners(placement)
            assert not ((position > points.min(0)) & (position < points.max(0))).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_scenery_is_behind_the_subjects_and_lamps_are_in_no_picture(number):
    planned = shot(number)
    mine = np.concatenate([corners(each) for each in subjects(planned)])
    for camera in planned.cameras:
        for placement in planned.placements:
            if placement.instance not in planned.subjects:
                behind = cameras.project(corners(placement), camera, 100, 100)[1].min()
                assert behind > cameras.project(mine, camera, 100, 100)[1].max()
        for lamp in (panel for panel in planned.panels if panel.label == "lamp"):
            edges = np.array([lamp.edge_u, lamp.edge_v])
            grid = np.array([[s, t] for s in np.linspace(0, 1, 9) for t in np.linspace(0, 1, 9)])
            points, z = cameras.project(lamp.corner + grid @ edges, camera, 100, 100)
            assert not ((z > 0) & (points > 0).all(1) & (points < 100).all(1)).any()
            # its front, that alone shines, looks at the subjects
            assert np.cross(*edges) @ (mine.mean(0) - lamp.corner) > 0


def test_a_table_is_closed_on_all_sides_and_reaches_beyond_what_stands_on_it():
    planned = next(each for each in map(shot, range(50)) if each.kind == "product")
    faces = [panel for panel in planned.panels if panel.label == "table"]
    points = np.array([np.add(face.corner, [[0.0] * 3, face.edge_u, face.edge_v]) for face in faces]).reshape(-1, 3)
    low, high = points.min(0), points.max(0)
    for face in faces:
        out = np.cross(face.edge_u, face.edge_v)
        assert out @ (np.add(face.corner, np.add(face.edge_u, face.edge_v) * 0.5) - (low + high) / 2) > 0
    area = sum(np.linalg.norm(np.cross(face.edge_u, face.edge_v)) for face in faces)
    x, y, z = high - low
    assert area == pytest.approx(2 * (x * y + y * z + z * x))
    for each in subjects(planned):
        assert (corners(each)[:, [0, 2]] > low[[0, 2]]).all()
        assert (corners(each)[:, [0, 2]] < high[[0, 2]]).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_only_subjects_are_in_the_mask_and_no_number_stands_for_two_things(number):
    planned = shot(number)
    numbers = [each.instance for each in planned.placements]
    assert len(set(numbers)) == len(numbers)
    assert not set(planned.subjects) & {panel.instance for panel in planned.panels}


def test_the_same_seed_plans_the_same_shot_whatever_else_is_planned():
    once = shot(7, seed=3)
    shot(8, seed=3)
    assert shot(7, seed=3) == once
    assert shot(7, seed=4) != once
    assert shot(8, seed=3) != once


def test_where_bodies_have_joints_nobody_else_is_in_the_picture():
    found = set()
    for number in range(60):
        people = {each.model.startswith("body/") for each in shot(number, views=0).placements if each.label == "person"}
        assert len(people) <= 1
        found |= people
    assert found == {True, False}


def test_without_anything_to_show_a_sentence_says_so():
    with pytest.raises(ValueError, match="none is among 1 models"):
        shots.plan_shot(0, 0, sort([item("Fridge", "Kitchen", 0.6, 1.3, 0.6)]), 1)


@pytest.fixture
def stocked(monkeypatch) -> list[Piece]:
    """A shelf with seven of each model, and twelve bodies."""
    several = [item(f"{name} {n}", where, *size) for (name, where), size in SIZES.items() for n in range(7)]
    pieces = sort([*several, *(item(f"Wardrobe {n}", "Bedroom", 1.2, 2.0, 0.6) for n in range(7))])
    bodies = [
        dataclasses.replace(BODIES[0], item=dataclasses.replace(BODIES[0].item, id=f"body/{n:04d}")) for n in range(12)
    ]
    shown = Shelf(Path(), {piece.item.id: piece.item for piece in pieces}, pieces, {})
    monkeypatch.setattr(plan, "open_shelf", lambda: shown)
    monkeypatch.setattr(plan, "body_pieces", lambda cache, count: bodies[:count])
    return [*pieces, *bodies]


def models(kind: str, split: str, numbers: range) -> set[str]:
    job = plan.Plan(kind, 1, Path(), 1, (64, 64), 0, 0, split, "mitsuba", 1, 12, "png", 1, None)
    return {placement.model for number in numbers for placement in job.make(number).placements}


def test_splits_have_no_model_in_common(stocked):
    found = {split: models("shots", split, range(40)) for split in views.SPLITS}
    splits = splits_of(stocked)
    for split, names in found.items():
        assert {splits[name] for name in names} == {split}
        assert any(name.startswith("body/") for name in names)
    assert len(found["train"]) > len(found["val"])


def test_rooms_to_learn_from_show_nothing_that_shots_of_val_and_test_are_of(stocked):
    held = {name for name, split in splits_of(stocked).items() if split != "train"}
    possible = {piece.item.id for piece in stocked if shots.is_subject(piece)}
    assert held & possible
    learnt, reported = models("rooms", "train", range(12)), models("rooms", "test", range(6))
    assert not held & possible & learnt
    # what no shot is of stays, and rooms of test show everything
    assert held & (learnt | reported) - possible
    assert held & possible & reported


def test_views_of_rooms_and_shots_go_by_different_names():
    jobs = [
        plan.Plan(kind, 1, Path("x"), 1, (64, 64), 0, 0, "auto", "mitsuba", 1, 0, "png", 1, None) for kind in plan.KINDS
    ]
    assert [job.stem(18, 3) for job in jobs] == ["00018_03", "shot00018_03"]
    assert {job.folder(18) for job in jobs} == {Path("x/val")}


@pytest.mark.slow
def test_mitsuba_renders_a_shot_whose_mask_is_what_it_is_of(tmp_path):
    pytest.importorskip("mitsuba")
    pytest.importorskip("mitsuba_oidn")
    from diffusion_perception.scenes import mitsuba_render

    mi = mitsuba_render.load_mitsuba()
    mi.Bitmap(np.ones((8, 16, 3), np.float32)).write(str(tmp_path / "sky.exr"))
    (tmp_path / "box.mtl").write_text("newmtl red\nKd 0.8 0.2 0.2\n")
    points = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    faces = "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"
    (tmp_path / "box.obj").write_text(f"mtllib box.mtl\n{points}usemtl red\n{faces}")
    mugs = [dataclasses.replace(item(f"Mug {n}", "Kitchen", 0.1, 0.12, 0.1), path="box.obj") for n in range(3)]
    planned = next(p for p in (shots.plan_shot(n, 0, sort(mugs), 1) for n in range(9)) if len(p.subjects) == 2)
    planned = dataclasses.replace(planned, environment="sky")
    loaded = mitsuba_render.load_room(planned, Shelf(tmp_path, {mug.id: mug for mug in mugs}, [], {"sky": "sky.exr"}))
    (view,) = mitsuba_render.render_views(loaded, list(planned.cameras), (48, 48), 2, 1)
    views.write_text(tmp_path / "out" / "dataset.toml", views.dataset_toml("made", "png", ("subject",)))
    views.write_view(tmp_path / "out", "shot00000_00", view)
    maps = verify.read_maps(tmp_path / "out", "shot00000_00")
    assert (maps["mask"] > 0).any()
    assert ((maps["mask"] > 0) == (maps["segmentation"] == CLASSES.index("object"))).all()
    # boxes are what they are: where a pixel's ray meets one of them by plain geometry, the mask is set
    origin, rays = cameras.pixel_rays(view.camera, 48, 48)
    hit = np.zeros((48, 48), bool)
    for placement in planned.placements:
        turn = mitsuba_render.turn(-placement.yaw)
        start, ways = turn @ (origin - placement.position), rays.reshape(-1, 3) @ turn.T
        box = np.array([[[-0.05, 0.0, -0.05], [0.05, 0.12, 0.05]]])
        hit |= np.isfinite(cameras.hit_boxes(start, ways, box)[0]).reshape(48, 48)
    assert (hit == (maps["mask"] > 0)).mean() > 0.995
    assert view.matte is not None
    assert np.abs(view.matte - hit).mean() < 0.05
    assert ((view.matte > 0) & (view.matte < 1)).any()
