"""Nodes for compositing in a real ComfyUI: pictures whose truth is known by a formula go in by file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from comfyui_server import NodeFailed
from graph import Graph, Node
from networks import write_own_file
from PIL import Image

HEIGHT, WIDTH, FOV = 64, 256, 60.0
NEAR, FAR = 2.0, 6.0
FOCAL = WIDTH / 2 / np.tan(np.radians(FOV / 2))


@pytest.fixture(scope="module")
def wall(comfyui) -> str:
    """A disparity in 256 levels, 255 and near at the right: a slanted wall, for 1/z is linear across it."""
    levels = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
    # in colours: newer hosts' LoadImage takes 255 of a grey PNG for 255/256
    Image.fromarray(levels).convert("RGB").save(comfyui.input / "wall.png")
    return "wall.png"


def wall_depth() -> np.ndarray:
    """(W,)"""
    return 1 / (1 / FAR + np.arange(WIDTH) / 255 * (1 / NEAR - 1 / FAR))


def wall_normal() -> np.ndarray:
    """Along right, up, back. 1/z = a + b u for the column u = (x/z) f + c, so that 1 = (a + b c) z + b f x."""
    b = (1 / NEAR - 1 / FAR) / 255
    a = 1 / FAR - b / 2  # pixels' centres lie at halves
    away = np.array([b * FOCAL, 0, a + b * WIDTH / 2])
    return np.array([-away[0], 0, away[2]]) / np.linalg.norm(away)


def read(comfyui, graph: Graph, map: Node | list) -> np.ndarray:
    """The raw values of the first picture of a map or image."""
    saved = graph.save_map(map, "compositing/values")
    return np.load(comfyui.submit(graph).files(saved.name)[0])


def depth_to_normal(graph: Graph, map: Node | list, **more) -> Node:
    usual = {"convention": "near is white", "field_of_view": FOV, "near": NEAR, "far": FAR, "smoothing": 0}
    return graph.add("DiffusionPerceptionDepthToNormal", map=map, axes="controlnet_bae", **usual | more)


def test_a_wall_s_normal_is_found_from_its_disparity(comfyui, wall):
    graph = Graph()
    made = depth_to_normal(graph, graph.load_image(wall))
    values = read(comfyui, graph, made)
    assert values.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(values - wall_normal()).max() < 2e-3
    assert "taken to reach from 2 to 6" in comfyui.said[made.name]
    assert "field of view 60" in comfyui.said[made.name]
    graph = Graph()
    picture = read(comfyui, graph, depth_to_normal(graph, graph.load_image(wall), smoothing=3)[1])
    assert np.abs(picture - (wall_normal() * [-1, 1, 1] + 1) / 2).max() < 2e-3  # red is left


@pytest.fixture(scope="module")
def model(comfyui) -> str:
    return write_own_file(comfyui.models / "perception" / "compositing.safetensors", "depth", "normal", "albedo").name


def read_exr(file):
    """({channel: (H, W)}, header)"""
    openexr = pytest.importorskip("OpenEXR")
    with openexr.File(str(file), separate_channels=True) as opened:
        return {name: channel.pixels for name, channel in opened.channels().items()}, dict(opened.header())


LAYERS = {"precision": "half", "colours": "linear light", "alpha": "multiplied", "first_frame": 1}


def save_layers(graph: Graph, **inputs) -> Node:
    return graph.add("DiffusionPerceptionSaveLayers", **LAYERS | {"filename_prefix": "compositing/layers"} | inputs)


def test_a_picture_and_its_maps_lie_in_one_file_a_frame_that_never_covers_another(comfyui, wall, model):
    graph = Graph()
    image = graph.load_image(wall)
    batch = graph.add("ImageBatch", image1=image, image2=image)
    tasks = {"depth": "", "normal": "axes=right,up,back", "albedo": ""}
    maps = [graph.perceive(graph.load_model(model, task, said), batch) for task, said in tasks.items()]
    mask = graph.add("SolidMask", value=0.5, width=WIDTH, height=HEIGHT)
    named = {f"map_{number}": map for number, map in zip((1, 3, 8), maps)}
    saved = save_layers(graph, image=batch, matte=mask, first_frame=1001, **named)
    raw = [graph.save_map(map, f"compositing/raw {place}") for place, map in enumerate(maps)]
    result = comfyui.submit(graph)
    files = result.files(saved.name)
    assert [file.name.partition("_.")[2] for file in files] == ["1001.exr", "1002.exr"]
    channels, header = read_exr(files[1])
    names = "R G B A Z N.X N.Y N.Z albedo.R albedo.G albedo.B"
    assert sorted(channels) == sorted(names.split())
    level = np.arange(WIDTH) / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    assert np.abs(channels["R"] - light * 0.5).max() < 3e-4
    assert np.array_equal(channels["Z"], np.load(result.files(raw[0].name)[1]))
    normals = np.load(result.files(raw[1].name)[1]) * 2 - 1
    found = np.stack([channels[f"N.{axis}"] for axis in "XYZ"], -1).astype(np.float32)
    flat = np.abs(normals).max(-1, keepdims=True) <= 0.01
    towards = np.where(flat, [0, 0, 1], normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9))
    assert np.abs(found - towards).max() < 2e-3
    assert json.loads(header["prompt"])[saved.name]["class_type"] == "DiffusionPerceptionSaveLayers"
    assert "RGB, A, Z, N.XYZ, albedo.RGB" in comfyui.said[saved.name]
    again = Graph()
    other = save_layers(again, image=again.load_image(wall), first_frame=1001)
    (later,) = comfyui.submit(again).files(other.name)
    assert later.name != files[0].name
    assert later.name.endswith("_.1001.exr")
    assert files[0].is_file()


def test_layers_without_anything_are_refused_in_a_sentence(comfyui):
    graph = Graph()
    save_layers(graph)
    with pytest.raises(NodeFailed, match="nothing to save: connect an image or a map"):
        comfyui.submit(graph)


@pytest.mark.parametrize("format", ["exr16 zip", "exr32 zip", "exr32"])
def test_a_map_is_saved_in_half_or_single_precision_with_its_workflow(comfyui, wall, format):
    kind = np.float16 if "16" in format else np.float32
    graph = Graph()
    saved = graph.save_map(graph.load_image(wall), "compositing/precision", format)
    (file,) = comfyui.submit(graph).files(saved.name)
    channels, header = read_exr(file)
    assert channels["G"].dtype == kind
    assert np.abs(channels["G"] - np.arange(WIDTH) / 255).max() < (5e-4 if kind == np.float16 else 1e-7)
    assert json.loads(header["prompt"])[saved.name] == graph[saved.name]


LAMP = {
    "light": "directional", "azimuth": -60.0, "elevation": 0.0, "colour": "#ffffff", "intensity": 0.8, "ambient": 0.25,
    "wrap": 0.0, "x": 0.25, "y": 0.5, "distance": 1.0, "field_of_view": FOV, "near": NEAR, "far": FAR,
}  # fmt: skip


def relight(graph: Graph, image, map, **more) -> Node:
    return graph.add("DiffusionPerceptionRelight", image=image, map=map, convention="opengl", **LAMP | more)


def to_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


GREY = ((128 / 255 + 0.055) / 1.055) ** 2.4
"""Of the light that a pixel of 128 stands for."""


def test_a_wall_is_lit_by_the_cosine_of_its_normal(comfyui, wall):
    graph = Graph()
    grey = graph.add("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0x808080)
    normals = depth_to_normal(graph, graph.load_image(wall))
    lit = relight(graph, grey, normals)
    cosine = wall_normal() @ [-np.sin(np.radians(60)), 0, np.cos(np.radians(60))]
    assert cosine > 0.01
    assert np.abs(read(comfyui, graph, lit) - to_srgb(GREY * (0.25 + 0.8 * cosine))).max() < 1e-3
    assert np.abs(read(comfyui, graph, lit[1]) - 0.8 * cosine).max() < 1e-3


def test_a_wall_is_lit_by_a_lamp_before_it_as_near_as_it_is(comfyui, wall):
    graph = Graph()
    grey = graph.add("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0x808080)
    disparity = graph.load_image(wall)
    lit = relight(graph, grey, depth_to_normal(graph, disparity), light="point", depth=disparity, albedo=grey)
    shading = read(comfyui, graph, lit[1])
    across, down = np.meshgrid((np.arange(WIDTH) + 0.5 - WIDTH / 2), -(np.arange(HEIGHT) + 0.5 - HEIGHT / 2))
    points = np.stack([across / FOCAL, down / FOCAL, -np.ones_like(across)], -1) * wall_depth()[:, None]
    way = np.array([-0.25 * WIDTH / FOCAL, 0, -1.0]) - points
    distance = np.linalg.norm(way, axis=-1)
    expected = 0.8 * np.maximum(way @ wall_normal() / distance, 0) / distance**2
    assert np.abs(shading - expected[..., None]).max() < 1e-3 * expected.max()
    assert "taken to reach from 2 to 6" in comfyui.said[lit.name]


def test_a_lamp_without_a_depth_is_told_what_it_needs(comfyui, wall):
    graph = Graph()
    image = graph.load_image(wall)
    lit = relight(graph, image, image, light="point")
    graph.add("PreviewImage", images=lit)
    with pytest.raises(NodeFailed, match="connect a depth, or choose directional"):
        comfyui.submit(graph)


def test_fog_hides_a_wall_by_its_distance_in_linear_light(comfyui, wall):
    graph = Graph()
    grey = graph.add("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0x808080)
    made = graph.add(
        "DiffusionPerceptionFog",
        image=grey, map=graph.load_image(wall), convention="near is white", law="exponential", density=0.25, start=1.0,
        colour="#ffffff", near=NEAR, far=FAR,
    )  # fmt: skip
    hidden = 1 - np.exp(-0.25 * (wall_depth() - 1))
    light = GREY * (1 - hidden) + hidden
    assert np.abs(read(comfyui, graph, made) - to_srgb(light)[:, None]).max() < 1e-4
    assert np.abs(read(comfyui, graph, made[1]).reshape(HEIGHT, WIDTH) - hidden).max() < 1e-4


def test_what_lies_before_and_behind_the_focus_is_blurred(comfyui, wall):
    graph = Graph()
    made = graph.add(
        "DiffusionPerceptionFocusMask",
        map=graph.load_image(wall), convention="near is white", focus=3.0, sharp=0.2, strength=0.7, near=NEAR, far=FAR,
    )  # fmt: skip
    expected = 0.7 * np.maximum(np.abs(wall_depth() - 3) - 0.2, 0) / wall_depth()
    assert np.abs(read(comfyui, graph, made).reshape(HEIGHT, WIDTH) - expected).max() < 1e-4


def test_a_mask_grows_and_becomes_soft(comfyui):
    def refined(**widgets) -> np.ndarray:
        graph = Graph()
        inner = graph.add("SolidMask", value=1.0, width=16, height=16)
        outer = graph.add("SolidMask", value=0.0, width=48, height=48)
        square = graph.add("MaskComposite", destination=outer, source=inner, x=16, y=16, operation="add")
        usual = {"grow": 0, "fit_radius": 8, "fit_detail": 0.01, "feather": 0.0}
        return read(comfyui, graph, graph.add("DiffusionPerceptionRefineMask", map=square, **usual | widgets))

    square, larger, smaller, soft = (
        refined(**w).reshape(48, 48) for w in ({}, {"grow": 3}, {"grow": -3}, {"feather": 3.0})
    )
    assert [mask.sum() for mask in (square, smaller)] == [256, 100]
    assert larger[24].sum() == larger[:, 24].sum() == 22
    assert larger[13, 13] == 0  # round
    assert 0.2 < soft[24, 15] < 0.5 < soft[24, 16] < 0.8


def test_normals_are_turned_and_combined(comfyui, wall):
    graph = Graph()
    base = depth_to_normal(graph, graph.load_image(wall))
    right, _, back = wall_normal()
    yaw = -np.degrees(np.arctan2(right, back))
    facing = graph.add(
        "DiffusionPerceptionRotateNormals",
        map=base, convention="opengl", yaw=yaw, pitch=0.0, roll=0.0, axes="opengl",
    )  # fmt: skip
    assert np.abs(read(comfyui, graph, facing) - [0, 0, 1]).max() < 2e-3
    both = graph.add(
        "DiffusionPerceptionCombineNormals",
        map=base, detail=facing, convention="opengl", strength=1.0, axes="opengl",
    )  # fmt: skip
    assert np.abs(read(comfyui, graph, both) - wall_normal()).max() < 3e-3
    assert np.abs(read(comfyui, graph, both[1]) - (wall_normal() + 1) / 2).max() < 3e-3


def test_a_wall_becomes_a_surface_that_the_host_s_3d_view_takes(comfyui, wall):
    trimesh = pytest.importorskip("trimesh")
    graph = Graph()
    image = graph.load_image(wall)
    made = graph.add(
        "DiffusionPerceptionDepthToMesh",
        map=image, convention="near is white", field_of_view=FOV, near=NEAR, far=FAR, kind="surface", detail=64,
        jump=0.5, filename_prefix="compositing/mesh", image=image,
    )  # fmt: skip
    shown = graph.add("Preview3D", model_file=made)
    result = comfyui.submit(graph)
    (file,) = result.files(made.name)
    assert result.outputs[shown.name]["result"][0] == file.relative_to(comfyui.output).as_posix()
    (mesh,) = trimesh.load(file).geometry.values()
    assert np.abs(mesh.face_normals - wall_normal()).max() < 2e-3
    assert mesh.bounds[:, 2] == pytest.approx([-FAR, -NEAR], rel=1e-5)
    assert mesh.visual.material.baseColorTexture.size == (WIDTH, HEIGHT)
    assert "taken to reach from 2 to 6" in comfyui.said[made.name]


def test_a_mask_is_seen_beside_its_numbers(comfyui):
    graph = Graph()
    mask = graph.add("SolidMask", value=0.25, width=80, height=64)
    made = graph.add(
        "DiffusionPerceptionPreviewMap", map=mask, convention="values 0..1", colormap="gray", low=0.0, high=0.5
    )
    shown = read(comfyui, graph, made)
    assert shown.shape[0] == 64
    assert shown.shape[1] > 80 + 20
    assert np.abs(shown[:, :80] - 0.5).max() < 1e-6
    assert "from 0 to 0.5" in comfyui.said[made.name]


def test_maps_and_pictures_stand_side_by_side(comfyui, wall, model):
    graph = Graph()
    image = graph.load_image(wall)
    depth = graph.perceive(graph.load_model(model, "depth"), image)
    made = graph.add(
        "DiffusionPerceptionCompareMaps", names="wall", columns=2, map_1=image, map_4=depth, map_7=depth[2]
    )
    shown = read(comfyui, graph, made)
    assert shown.shape[0] > 2 * HEIGHT
    assert np.abs(shown[-HEIGHT:, :WIDTH] - read(comfyui, graph, depth[2]).reshape(HEIGHT, WIDTH, 1)).max() < 1e-6
    ready = read(comfyui, graph, depth[1])
    top = shown.shape[0] // 2 - HEIGHT
    assert np.abs(shown[top : top + HEIGHT, -WIDTH:] - ready).max() < 1e-6
    empty = Graph()
    empty.add("DiffusionPerceptionCompareMaps", names="", columns=0)
    with pytest.raises(NodeFailed, match="nothing to compare"):
        comfyui.submit(empty)


@pytest.mark.parametrize("node", ["SaveLayers", "CompareMaps"])
def test_a_wire_that_brings_nothing_is_told_so(comfyui, wall, model, node):
    graph = Graph()
    widgets = {
        "SaveLayers": {**LAYERS, "filename_prefix": "compositing/none"},
        "CompareMaps": {"names": "", "columns": 0},
    }
    both = graph.add(
        "DiffusionPerceptionPerceiveTasks",
        perception=graph.load_model(model, "depth"), image=graph.load_image(wall), resolution=-1, batch_size=1,
    )  # fmt: skip
    graph.add(f"DiffusionPerception{node}", map_1=both[0], map_2=both[1], **widgets[node])
    with pytest.raises(NodeFailed, match="No map came"):
        comfyui.submit(graph)


def test_the_depths_of_a_flickering_video_become_steady(comfyui, model):
    """Of one picture that comes brighter and darker; the last is another, which begins a new scene."""
    ramp = np.linspace(0.2, 0.8, 96 * 64).reshape(64, 96)
    scales = (1.0, 0.7, 1.2)
    frames = [ramp * scale for scale in scales] + [np.linspace(0, 1, 64)[:, None] * np.sin(np.arange(96))]
    graph = Graph()
    batch = None
    for number, frame in enumerate(frames):
        file = comfyui.input / f"flicker {number}.png"
        Image.fromarray((np.clip(frame, 0, 1) * 255).round().astype(np.uint8)).convert("RGB").save(file)
        picture = graph.load_image(file.name)
        batch = picture if batch is None else graph.add("ImageBatch", image1=batch, image2=picture)
    steady = graph.add("DiffusionPerceptionSteadyDepth", map=batch, convention="near is white", strength=1.0, cut=0.3)
    shown = graph.add("PreviewImage", images=steady[1])
    result = comfyui.submit(graph)
    seen = [np.asarray(Image.open(file).convert("L"), np.float64) / 255 for file in result.files(shown.name)]
    assert len(seen) == len(frames)
    for other in seen[1:3]:
        assert np.abs(other - seen[0]).max() < 0.02
    assert "new scenes begin at frame 4" in comfyui.said[steady.name]
