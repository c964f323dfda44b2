"""Poses in a real ComfyUI: what is read from heatmaps is what the trainer's side reads, and bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from comfyui_server import NodeFailed
from graph import Graph
from networks import write_own_file
from PIL import Image

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.crops import Box
from diffusion_perception.core.display.openpose import pose_keypoint
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.pose import Person, people_of, predict_people
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.skeletons import SKELETONS
from diffusion_perception.trainer.host import load_perceiver

BOXES = [Box(70, 5, 40, 80), Box(10, 20, 30, 60)]
"""In the order in which a mask shows them, from above."""
KINDS = {"coco-17": "vitpose_classic", "wholebody-133": "vitpose_simple"}


def write_keypoints(path, keypoints: str, head: str):
    """A checkpoint whose untrained head gives heatmaps with something to find."""
    recipe = Recipe("keypoints", base="custom", resolution=64, keypoints=keypoints, head=head)
    torch.manual_seed(5)
    network = untrained_head(head, (32, 64, 64, 64), 32, recipe.channels)
    with torch.no_grad():
        network.final_layer.weight.mul_(4)
    return tiny.write_own(path, [recipe], heads={head: network.state_dict()})


@pytest.fixture(scope="module", params=KINDS)
def model(comfyui, request):
    return write_keypoints(
        comfyui.models / "perception" / f"{request.param}.safetensors", request.param, KINDS[request.param]
    )


@pytest.fixture(scope="module")
def photo(comfyui):
    """A picture, and a mask of two people in it."""
    tiny.save_picture(comfyui.input / "people.png", 100, 120)
    mask = np.zeros((100, 120), np.uint8)
    for box in BOXES:
        x, y, width, height = (int(number) for number in box[:4])
        mask[y : y + height, x : x + width] = 255
    Image.fromarray(mask).save(comfyui.input / "mask.png")
    return "people.png"


def perceive_pose(graph: Graph, model: str, photo: str, masked: bool = True, **more):
    mask = graph.add("LoadImageMask", image="mask.png", channel="red") if masked else None
    widgets = {"box_format": "x, y, width, height", "padding": 1.25, "flip_test": False, "batch_size": 8, **more}
    return graph.add(
        "DiffusionPerceptionPerceivePose",
        perception=graph.load_model(model), image=graph.load_image(photo), mask=mask, **widgets,
    )  # fmt: skip


def test_the_skeletons_are_shown_on_the_node(comfyui, model, photo):
    graph = Graph()
    seen = perceive_pose(graph, model.name, photo)
    kept = graph.add("SaveImage", images=seen[1], filename_prefix="skeletons").name
    result = comfyui.submit(graph)
    (shown,), (file,) = result.files(seen.name), result.files(kept)
    assert shown.parent.name == "temp"
    with Image.open(shown) as one, Image.open(file) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def pose_from_map(graph: Graph, map, threshold: float = 0.3):
    return graph.add("DiffusionPerceptionPoseFromMap", map=map, threshold=threshold, same_person=1.0, joint_radius=0.0)


@pytest.mark.parametrize("flip_test", [False, True])
def test_people_in_a_mask_have_the_poses_that_the_trainers_side_reads(comfyui, model, photo, flip_test):
    graph = Graph()
    seen = perceive_pose(graph, model.name, photo, flip_test=flip_test, batch_size=1)
    pose = pose_from_map(graph, seen, 0.0)
    saved = graph.save_map(seen, "heatmaps")
    picture = graph.add("SaveImage", images=pose[1], filename_prefix="skeletons")
    result = comfyui.submit(graph)

    perceiver = load_perceiver(open_checkpoint(model))
    with torch.no_grad():
        expected = predict_people(perceiver, tiny.picture(100, 120), [BOXES], flip_test=flip_test)
    heatmaps = np.stack([np.load(file) for file in result.files(saved.name)])
    assert heatmaps.shape == tuple(expected.values.shape) == (2, 16, 12, perceiver.recipe.channels)
    # a crop is rounded to 8-bit levels, and a level on the edge may fall to either side
    assert np.abs(heatmaps - expected.values.numpy()).max() <= 1e-3 * expected.values.max()
    (told,) = result.outputs[pose.name]["openpose_json"]
    (frame,) = json.loads(told)
    exact = replace(expected, values=torch.from_numpy(heatmaps))
    skeleton = perceiver.recipe.skeleton
    assert [frame] == json.loads(json.dumps(pose_keypoint(people_of(exact, 1.0), skeleton, (100, 120), 0.0)))
    with Image.open(result.files(picture.name)[0]) as drawn:
        assert drawn.size == (120, 100)
        assert np.asarray(drawn.convert("RGB")).any()


def test_a_whole_image_is_perceived_like_every_other_map(comfyui, model, photo):
    graph = Graph()
    seen = graph.perceive(graph.load_model(model.name), graph.load_image(photo))
    pose = pose_from_map(graph, seen)
    saved = graph.save_map(seen, "whole")
    picture = graph.add("SaveImage", images=seen[1], filename_prefix="ready")
    graph.add("PreviewImage", images=pose[1])
    result = comfyui.submit(graph)
    (heatmaps,) = (np.load(file) for file in result.files(saved.name))
    assert heatmaps.shape[:2] == (100, 120)
    (frame,) = json.loads(result.outputs[pose.name]["openpose_json"][0])
    assert len(frame["people"]) == 1
    with Image.open(result.files(picture.name)[0]) as drawn:
        assert drawn.size == (120, 100)


def test_nobody_in_the_mask_is_an_empty_pose_and_a_black_picture(comfyui, model, photo):
    Image.fromarray(np.zeros((100, 120), np.uint8)).save(comfyui.input / "nobody.png")
    graph = Graph()
    mask = graph.add("LoadImageMask", image="nobody.png", channel="red")
    seen = graph.add(
        "DiffusionPerceptionPerceivePose", perception=graph.load_model(model.name), image=graph.load_image(photo),
        mask=mask, box_format="x, y, width, height", padding=1.25, flip_test=False, batch_size=8,
    )  # fmt: skip
    pose = pose_from_map(graph, seen)
    picture = graph.add("SaveImage", images=pose[1], filename_prefix="nobody")
    result = comfyui.submit(graph)
    (frame,) = json.loads(result.outputs[pose.name]["openpose_json"][0])
    assert frame == {"people": [], "canvas_height": 100, "canvas_width": 120}
    with Image.open(result.files(picture.name)[0]) as drawn:
        assert not np.asarray(drawn.convert("RGB")).any()


def test_a_model_of_depth_is_refused_in_one_sentence(comfyui, photo):
    depth = write_own_file(comfyui.models / "perception" / "depth for pose.safetensors", "depth").name
    graph = Graph()
    graph.add("PreviewImage", images=perceive_pose(graph, depth, photo)[1])
    with pytest.raises(NodeFailed, match="depth predicts depth, no keypoints: load a model of keypoints") as told:
        comfyui.submit(graph)
    assert "\n" not in str(told.value)
    graph = Graph()
    seen = graph.perceive(graph.load_model(depth), graph.load_image(photo))
    graph.add("PreviewImage", images=pose_from_map(graph, seen)[1])
    with pytest.raises(NodeFailed, match="A map of depth came where one of keypoints is expected"):
        comfyui.submit(graph)


def test_the_nodes_say_what_they_take_and_give(comfyui):
    told = comfyui.object_info()
    perceive, pose = (told[f"DiffusionPerception{name}"] for name in ("PerceivePose", "PoseFromMap"))
    assert perceive["input"]["optional"]["boxes"][0] == "BOUNDING_BOX,BBOX"
    assert perceive["output"] == ["PERCEPTION_MAP", "IMAGE"]
    assert pose["output"] == ["POSE_KEYPOINT", "IMAGE"]
    for node in (perceive, pose):
        for group in ("required", "optional"):
            assert all(settings.get("tooltip") for _, settings in node["input"].get(group, {}).values())


def boxes_inside(model: str, lists: dict) -> dict:
    """What PerceivePose makes of boxes, which none of ComfyUI's own nodes give; or what it says of them."""
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.pose import PerceivePose

    perception = LoadModel.execute(model, "auto", "as trained", "").result[0]
    image = torch.rand(1, 100, 120, 3, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, boxes in lists.items():
        mask = torch.ones(1, 100, 120) if name == "both" else None
        try:
            seen, skeletons = PerceivePose.execute(
                perception, image, "x1, y1, x2, y2", 1.25, False, 16, boxes=boxes, mask=mask
            ).result
        except ValueError as error:
            found[name] = str(error)
            continue
        found |= {f"{name} values": seen.values, f"{name} windows": seen.crops.windows, f"{name} picture": skeletons}
    return found


def test_boxes_of_a_detector_are_seen_and_wrong_ones_refused(inside_host):
    folder = inside_host.base / "models" / "perception"
    path = write_keypoints(folder / "boxed.safetensors", "coco-17", KINDS["coco-17"])
    lists = {
        "forty": [[i % 8 * 12, i // 8 * 15, i % 8 * 12 + 20, i // 8 * 15 + 30] for i in range(40)],
        "named": [{"x": 0, "y": 0, "width": 20, "height": 30}],
        "none": [],
        "outside": [[500, 5, 520, 35]],
        "flat": [[10, 10, 10, 20]],
        "both": [[0, 0, 20, 30]],
    }
    seen = inside_host(boxes_inside, model=path.name, lists=lists)
    assert seen["forty values"].shape == (40, 16, 12, 17)
    assert np.isfinite(seen["forty values"]).all()
    assert seen["forty picture"].shape == (1, 100, 120, 3)
    assert np.array_equal(seen["named windows"][0], seen["forty windows"][0])
    assert np.abs(seen["named values"][0] - seen["forty values"][0]).max() <= 1e-3  # another batch
    assert seen["none values"].shape == (0, 16, 12, 17)
    assert not seen["none picture"].any()
    assert "x=500 y=5 width=20 height=30 lies outside the picture of 120x100 pixels" in seen["outside"]
    assert "has no extent" in seen["flat"]
    assert seen["both"] == "Boxes and a mask both say where people are: connect one of them."


def boxes_around_faces(poses):
    """What the host's own node makes of them, if it has one; scale 1 is the box of the points themselves."""
    try:
        from comfy_extras.nodes_sdpose import SDPoseFaceBBoxes
    except ImportError:
        return {"missing": "nodes_sdpose"}
    return {"boxes": SDPoseFaceBBoxes.execute(poses, 1.0, False).result[0]}


def test_the_host_finds_the_face_of_a_pose_and_none_where_there_is_none(inside_host):
    skeleton = SKELETONS["wholebody-133"]
    points = np.random.default_rng(0).uniform(60, 200, (133, 2))
    first = skeleton.names.index("face_0")
    eyes = [skeleton.names.index("left_eye"), skeleton.names.index("right_eye")]
    points[first : first + 68] = np.random.default_rng(1).uniform((210, 90), (290, 190), (68, 2))
    points[eyes] = (230, 120), (270, 120)
    scores = np.full(133, 0.9)
    scores[first : first + 9] = 0.1  # half the jaw is hidden
    seen = Person(points, scores, 0.9, 1e4)
    faceless = Person(points, np.where(np.isin(np.arange(133), range(first, first + 68)), 0.0, 0.9), 0.9, 1e4)
    poses = pose_keypoint([[seen, faceless], []], skeleton, (300, 400))
    found = inside_host(boxes_around_faces, poses=poses)
    if "missing" in found:
        pytest.skip("this ComfyUI has no nodes_sdpose, which would read the poses")
    ((box,), nobody) = found["boxes"]
    assert nobody == []
    left, top = points[first : first + 68].min(0)
    right, bottom = points[first : first + 68].max(0)
    assert np.abs(np.array([box["x"], box["y"]]) - (left, top)).max() <= 1
    assert np.abs(np.array([box["x"] + box["width"], box["y"] + box["height"]]) - (right, bottom)).max() <= 1
