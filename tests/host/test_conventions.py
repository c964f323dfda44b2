"""What values mean, proven in a real ComfyUI on two shapes of known geometry: a sphere before a wall, and a stair.

Every expected picture is written down here from where the surfaces lie and face, never from the code under test.
"""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from graph import Graph, Node
from PIL import Image
from recording_server import RecordingServer
from shapes import STEP_Z, points, sphere, stair

SIZE = 80
CLOSE = 2e-6
SPHERE, STAIR = sphere(SIZE), stair(SIZE)
X, Y = points(SIZE)

STRANGER = '''
"""Another pack: numbers from a file of the input folder, in single precision, as what its name says."""

import json
import sys

import folder_paths
import numpy as np
import torch


def numbers(file):
    return torch.from_numpy(np.load(folder_paths.get_annotated_filepath(file)))[None]


class Numbers:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"file": ("STRING", {})}})
    FUNCTION = "give"
    CATEGORY = "test"

    def give(self, file):
        return (numbers(file),)


class NumbersImage(Numbers):
    RETURN_TYPES = ("IMAGE",)


class NumbersMask(Numbers):
    RETURN_TYPES = ("MASK",)


class NumbersMap(Numbers):
    RETURN_TYPES = ("PERCEPTION_MAP",)
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"file": ("STRING", {}), "task": ("STRING", {}), "convention": ("STRING", {})}}
    )

    def give(self, file, task, convention):
        there = next(module for name, module in sys.modules.items() if name.endswith(".core.perception_map"))
        meaning = json.loads(convention)
        if "axes" in meaning:
            meaning["axes"] = tuple(meaning["axes"])
        return (there.PerceptionMap(task, numbers(file), there.Convention(**meaning)),)


NODE_CLASS_MAPPINGS = {each.__name__: each for each in (NumbersImage, NumbersMask, NumbersMap)}
'''


class Bench:
    """A ComfyUI into which pictures and maps are put as exact numbers."""

    def __init__(self, server: RecordingServer) -> None:
        self.server = server

    def write(self, values: np.ndarray) -> str:
        """A file of the input folder, named by what it holds: the host caches by name."""
        file = io.BytesIO()
        np.save(file, values.astype(np.float32))
        name = f"{hashlib.sha256(file.getvalue()).hexdigest()}.npy"
        (self.server.input / name).write_bytes(file.getvalue())
        return name

    def image(self, graph: Graph, values: np.ndarray) -> Node:
        """(H, W) or (H, W, 3) as an IMAGE."""
        return graph.add("NumbersImage", file=self.write(np.dstack([values] * 3) if values.ndim == 2 else values))

    def mask(self, graph: Graph, values: np.ndarray) -> Node:
        return graph.add("NumbersMask", file=self.write(values))

    def map(self, graph: Graph, task: str, values: np.ndarray, **convention: object) -> Node:
        file = self.write(values[..., None] if values.ndim == 2 else values)
        return graph.add("NumbersMap", file=file, task=task, convention=json.dumps(convention))

    def see(self, graph: Graph, *outputs: object) -> list[np.ndarray]:
        """The numbers of IMAGE outputs, or of masks."""
        saved = [graph.save_map(output, "conventions") for output in outputs]
        result = self.server.submit(graph)
        return [np.load(result.files(node.name)[0]) for node in saved]


@pytest.fixture(scope="module")
def bench(host, tmp_path_factory):
    base = tmp_path_factory.mktemp("conventions") / "comfyui"
    (base / "custom_nodes" / "numbers").mkdir(parents=True)
    (base / "custom_nodes" / "numbers" / "__init__.py").write_text(STRANGER)
    with RecordingServer(host, base) as server:
        yield Bench(server)


# Normals

SIGNS = {
    "controlnet_bae": (-1, 1, 1),
    "opengl": (1, 1, 1),
    "directx": (1, -1, 1),
    "opencv": (1, -1, -1),
}
"""Along right, up, back: whether red, green, blue grow with them. By the published definitions of these names."""


def colours(normal: np.ndarray, axes: str) -> np.ndarray:
    return (normal * SIGNS[axes] + 1) / 2


def render_normal(graph: Graph, map: Node, given: str, axes: str, renormalise: bool = True) -> Node:
    return graph.add("DiffusionPerceptionNormalToImage", map=map, convention=given, axes=axes, renormalise=renormalise)


@pytest.mark.parametrize("given", SIGNS)
def test_a_normal_picture_turns_from_any_axes_into_any_others(bench, given):
    graph = Graph()
    image = bench.image(graph, colours(SPHERE.normal, given))
    pictures = bench.see(graph, *(render_normal(graph, image, given, axes) for axes in SIGNS))
    for axes, seen in zip(SIGNS, pictures):
        assert np.abs(seen - colours(SPHERE.normal, axes)).max() <= CLOSE, axes


MAPS = {
    "unit vectors right, up, back": (SPHERE.normal, {"axes": ("right", "up", "back"), "unit": True, "low": -1}),
    "colours of left, up, back": ((SPHERE.normal * [-1, 1, 1] + 1) / 2, {"axes": ("left", "up", "back")}),
    "unit vectors right, down, forward": (
        SPHERE.normal * [1, -1, -1],
        {"axes": ("right", "down", "forward"), "unit": True, "low": -1},
    ),
    "unit vectors back, right, up": (
        SPHERE.normal[..., [2, 0, 1]],
        {"axes": ("back", "right", "up"), "unit": True, "low": -1},
    ),
}


@pytest.mark.parametrize("values", MAPS)
def test_a_map_is_shown_along_any_axes_whatever_its_own(bench, values):
    numbers, convention = MAPS[values]
    graph = Graph()
    map = bench.map(graph, "normal", numbers, **convention)
    # a map says itself what it holds: what an image would hold does not matter
    wanted = [(axes, given) for axes in SIGNS for given in ("opengl", "opencv")]
    pictures = bench.see(graph, *(render_normal(graph, map, given, axes) for axes, given in wanted))
    for (axes, given), seen in zip(wanted, pictures):
        assert np.abs(seen - colours(SPHERE.normal, axes)).max() <= CLOSE, (axes, given)


SIDES = {"left": X < -0.2, "right": X > 0.2, "top": Y > 0.2, "bottom": Y < -0.2}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
BRIGHT = {
    "controlnet_bae": ("left", "top"),
    "opengl": ("right", "top"),
    "directx": ("right", "bottom"),
    "opencv": ("right", "bottom"),
}
"""The sides of the sphere where red and green are bright."""


def test_red_and_green_are_bright_on_the_sides_of_the_sphere_that_the_axes_name(bench):
    graph = Graph()
    map = bench.map(graph, "normal", SPHERE.normal, axes=("right", "up", "back"), unit=True, low=-1)
    pictures = bench.see(graph, *(render_normal(graph, map, "opengl", axes) for axes in BRIGHT))
    for (axes, sides), seen in zip(BRIGHT.items(), pictures):
        for channel, side in enumerate(sides):
            assert (seen[SPHERE.mask & SIDES[side]][:, channel] > 0.6).all(), (axes, side)
            assert (seen[SPHERE.mask & SIDES[OPPOSITE[side]]][:, channel] < 0.4).all(), (axes, side)
        # the wall faces the camera
        assert np.abs(seen[~SPHERE.mask] - [0.5, 0.5, 0.0 if axes == "opencv" else 1.0]).max() <= CLOSE, axes


@pytest.mark.parametrize("axes", SIGNS)
def test_there_and_back_a_picture_of_eight_bits_is_the_same_to_the_last_level(bench, axes):
    levels = np.round(colours(SPHERE.normal, axes) * 255)
    graph = Graph()
    image = bench.image(graph, levels / 255)
    there = {through: render_normal(graph, image, axes, through, renormalise=False) for through in SIGNS}
    back = [render_normal(graph, node, through, axes, renormalise=False) for through, node in there.items()]
    for seen in bench.see(graph, *back):
        assert np.abs(seen - levels / 255).max() <= CLOSE
        assert np.array_equal(np.round(seen * 255), levels)


# Depth


def nearness(depth: np.ndarray) -> np.ndarray:
    """One over the depth, 1 at the nearest and 0 at the farthest."""
    return (1 / depth - 1 / depth.max()) / (1 / depth.min() - 1 / depth.max())


def farness(depth: np.ndarray) -> np.ndarray:
    """The depth, 0 at the nearest and 1 at the farthest."""
    return (depth - depth.min()) / (depth.max() - depth.min())


METRES = {"near": "low", "metric": True, "high": None}
GIVEN = {
    "map in metres": (lambda z: z, ("depth", METRES), nearness),
    "affine depth map": (farness, ("depth", {"near": "low"}), lambda z: 1 - farness(z)),
    "disparity map": (nearness, ("disparity", {"near": "high"}), nearness),
    "metres": (lambda z: z, None, nearness),
    "near is black": (farness, None, lambda z: 1 - farness(z)),
    "near is white": (nearness, None, nearness),
}
"""How depth may come: its numbers; task and convention of a map, None for an IMAGE; how it must look."""


def given_depth(bench: Bench, graph: Graph, given: str, depth: np.ndarray) -> Node:
    values, meaning, _ = GIVEN[given]
    if meaning is None:
        return bench.image(graph, values(depth))
    return bench.map(graph, meaning[0], values(depth), **meaning[1])


def render_depth(graph: Graph, map: Node, given: str, **choices: object) -> Node:
    settings = {
        "convention": given if given in ("metres", "near is black") else "near is white", "mode": "controlnet",
        "scope": "per image", "low_percentile": 2.0, "high_percentile": 98.0, "invert": False, "colormap": "none",
        **choices,
    }  # fmt: skip
    return graph.add("DiffusionPerceptionDepthToImage", map=map, **settings)


@pytest.mark.parametrize("given", GIVEN)
def test_near_is_white_however_depth_comes(bench, given):
    graph = Graph()
    made = [render_depth(graph, given_depth(bench, graph, given, shape.depth), given) for shape in (SPHERE, STAIR)]
    for shape, seen in zip((SPHERE, STAIR), bench.see(graph, *made)):
        assert seen.shape == (SIZE, SIZE, 3)
        assert np.abs(seen - GIVEN[given][2](shape.depth)[..., None]).max() <= CLOSE
        assert (seen[shape.depth == shape.depth.max()] <= CLOSE).all()
        assert (seen[shape.depth == shape.depth.min()] >= 1 - CLOSE).all()


@pytest.mark.parametrize(("direction", "sign"), [("near is white", 1), ("near is black", -1)])
@pytest.mark.parametrize("given", GIVEN)
def test_the_steps_of_a_stair_grow_whiter_or_blacker_one_by_one_as_they_come_nearer(bench, given, direction, sign):
    graph = Graph()
    map = given_depth(bench, graph, given, STAIR.depth)
    modes = ("controlnet", "min-max", "percentile")
    for seen in bench.see(graph, *(render_depth(graph, map, given, mode=mode, direction=direction) for mode in modes)):
        steps = seen.reshape(len(STEP_Z), -1)
        assert (np.ptp(steps, axis=1) == 0).all()
        assert (np.diff(steps[:, 0]) * sign > 0.05).all()


# Masks


def mask_from_map(graph: Graph, map: Node, **choices: object) -> Node:
    settings = {
        "convention": "white is selected", "mode": "soft", "threshold": 0.5, "classes": "", "range_from": 0.0,
        "range_to": 0.5, "invert": False, **choices,
    }  # fmt: skip
    return graph.add("DiffusionPerceptionMaskFromMap", map=map, **settings)


def cut_out(bench: Bench, graph: Graph, map: Node, **choices: object) -> Node:
    return graph.add(
        "DiffusionPerceptionMatteCutout", image=bench.image(graph, PICTURE), map=map, mode="soft",
        estimate_foreground=True, **choices,
    )  # fmt: skip


PICTURE = np.stack([X * 0.3 + 0.5, Y * 0.3 + 0.5, X * Y * 0.3 + 0.5], -1)
BEHIND = np.full((SIZE, SIZE, 3), 0.125)
SUBJECT = SPHERE.mask.astype(float)
WANTED = np.where(SPHERE.mask[..., None], PICTURE, BEHIND)
"""The subject stays, what is not the subject is the new background."""


def given_mask(bench: Bench, graph: Graph, kind: str) -> Node:
    if kind in ("mask", "matte"):
        return bench.map(graph, kind, SUBJECT)
    return bench.mask(graph, SUBJECT) if kind == "MASK" else bench.image(graph, SUBJECT)


@pytest.mark.parametrize("kind", ["mask", "matte", "MASK", "IMAGE"])
def test_one_is_the_subject_and_the_subject_is_what_stays(bench, kind):
    graph = Graph()
    map = given_mask(bench, graph, kind)
    made = cut_out(bench, graph, map, background=bench.image(graph, BEHIND)[0])
    selected, others = mask_from_map(graph, map), mask_from_map(graph, map, invert=True)
    rgba, mask, foreground, over, chosen, rest = bench.see(graph, *(made[i] for i in range(4)), selected, others)
    assert np.array_equal(rgba[..., 3], SUBJECT.astype(np.float32))
    assert np.array_equal(mask.squeeze(), SUBJECT)
    assert np.array_equal(chosen.squeeze(), SUBJECT)
    assert np.array_equal(rest.squeeze(), 1 - SUBJECT)
    for colour in (rgba[..., :3], foreground, over):
        assert np.abs(colour - PICTURE)[SPHERE.mask].max() <= CLOSE
    assert np.abs(over - WANTED).max() <= CLOSE


def test_the_hosts_own_nodes_keep_the_subject_too(bench):
    """Join Image with Alpha takes a mask of what is transparent, Image Composite Masked one of what stays."""
    graph = Graph()
    made = cut_out(bench, graph, given_mask(bench, graph, "mask"))
    image = bench.image(graph, PICTURE)
    as_it_is = graph.add("JoinImageWithAlpha", image=image, alpha=made[1])
    inverted = graph.add("JoinImageWithAlpha", image=image, alpha=graph.add("InvertMask", mask=made[1]))
    over = graph.add(
        "ImageCompositeMasked", destination=bench.image(graph, BEHIND), source=image, x=0, y=0, resize_source=False,
        mask=made[1],
    )  # fmt: skip
    gone, kept, composite = bench.see(graph, as_it_is, inverted, over)
    assert np.array_equal(gone[..., 3], 1 - SUBJECT)
    assert np.array_equal(kept[..., 3], SUBJECT)
    assert np.abs(composite - WANTED).max() <= CLOSE


def test_a_saved_cut_out_is_opaque_at_the_subject_and_comes_back_as_its_mask(bench):
    graph = Graph()
    saved = graph.add(
        "SaveImage", images=cut_out(bench, graph, given_mask(bench, graph, "mask")), filename_prefix="cut-out"
    )
    (file,) = bench.server.submit(graph).files(saved.name)
    with Image.open(file) as picture:
        assert picture.mode == "RGBA"
        assert np.array_equal(np.array(picture)[..., 3], SPHERE.mask * 255)
    name = bench.server.add_input(file)
    graph = Graph()
    loaded = graph.add("LoadImage", image=name)
    # LoadImage's mask is 1 where the file is transparent
    (there, back) = bench.see(graph, loaded[1], mask_from_map(graph, graph.add("InvertMask", mask=loaded[1])))
    assert np.array_equal(there.squeeze(), 1 - SUBJECT)
    assert np.array_equal(back.squeeze(), SUBJECT)


@pytest.mark.parametrize(("low", "high"), [(1.9, 2.1), (2.4, 3.1), (3.4, 9.0)])
def test_a_range_of_metres_selects_the_steps_that_lie_in_it(bench, low, high):
    graph = Graph()
    map = given_depth(bench, graph, "map in metres", STAIR.depth)
    image = given_depth(bench, graph, "metres", STAIR.depth)
    chosen = {"range_from": low, "range_to": high}
    masks = [mask_from_map(graph, map, **chosen), mask_from_map(graph, image, convention="metres", **chosen)]
    for seen in bench.see(graph, *masks):
        assert np.array_equal(seen.squeeze(), (STAIR.depth >= low) & (STAIR.depth <= high))
