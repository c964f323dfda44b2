"""SDPose in a real ComfyUI: Perceive Pose answers what the authors' code does, from a folder and from a single file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_sdpose
from comfyui_server import NodeFailed
from graph import Graph
from PIL import Image

POINTS = {"sdpose_body": 17, "sdpose_wholebody": 133}


def perceive_pose(graph: Graph, model: str, image: str, edge: int, mask: str = "", **more):
    """Everything as a person finds it, the padding too, which this family takes none of."""
    widgets = {"box_format": "x, y, width, height", "padding": 1.25, "flip_test": False, "batch_size": 8, **more}
    return graph.add(
        "DiffusionPerceptionPerceivePose",
        perception=graph.load_model(model, overrides=f"resolution={edge}"), image=graph.load_image(image),
        mask=graph.add("LoadImageMask", image=mask, channel="red") if mask else None, **widgets,
    )  # fmt: skip


def poses_and_heatmaps(comfyui, graph: Graph, seen) -> tuple[list[dict], np.ndarray]:
    """What Render Skeleton tells, points of which the model is hardly sure included, and (N, K, h, w) as saved."""
    widgets = {"threshold": 0.0, "same_person": 1.0, "joint_radius": 0.0}
    pose = graph.add("DiffusionPerceptionPoseFromMap", map=seen, **widgets)
    saved = graph.save_map(seen, f"sdpose/{len(graph)}")
    graph.add("PreviewImage", images=pose[1])
    result = comfyui.submit(graph)
    (told,) = result.outputs[pose.name]["openpose_json"]
    return json.loads(told), np.moveaxis(np.stack([np.load(file) for file in result.files(saved.name)]), -1, 1)


def masked(comfyui, name: str, size: tuple[int, int], box: list[int]) -> str:
    """A mask (H, W) of one box by its two corners."""
    left, top, right, bottom = box
    pixels = np.zeros(size, np.uint8)
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(comfyui.input / name)
    return name


@pytest.mark.parametrize("folder", POINTS)
def test_every_golden_case_comes_out_of_the_nodes(comfyui, golden, folder):
    points, source = POINTS[folder], golden / folder
    (comfyui.models / "perception").mkdir(exist_ok=True)
    (comfyui.models / "perception" / folder).symlink_to(source, target_is_directory=True)
    expected = np.load(source / "expected.npz")
    for case in json.loads((source / "cases.json").read_text())["cases"]:
        picture, box = f"{folder}_{case['image']}.png", case["box"]
        comfyui.add_input(source / f"{case['image']}.png", picture)
        with Image.open(source / f"{case['image']}.png") as held:
            size = held.size[::-1]
        mask = masked(comfyui, f"{folder}_{case['name']}.png", size, box) if box else ""
        graph = Graph()
        seen = perceive_pose(graph, folder, picture, case["input_size"][1], mask, flip_test=case["flip_test"])
        (frame,), (heatmaps,) = poses_and_heatmaps(comfyui, graph, seen)
        kept = heatmaps[:: 8 if "heatmaps_of" in case else 1]
        assert np.abs(kept - expected[f"{case['name']}/heatmaps"]).max() <= 5e-4
        (person,) = tiny_sdpose.openpose(frame, points)
        steady = case["steady_keypoints"]
        assert person[steady, 2] == pytest.approx(1)
        assert np.abs(person[:, :2] - expected[f"{case['name']}/keypoints"])[steady].max() <= 0.05


@pytest.fixture(scope="module")
def models(comfyui) -> Path:
    """A folder, and ComfyUI's own single file in one with its prompt."""
    folder = comfyui.models / "perception"
    tiny_sdpose.write_folder(folder / "SDPose-Body", 17)
    tiny_sdpose.write_single(folder / "SDPose-Wholebody" / "sdpose_wholebody_fp16.safetensors", 133)
    tiny.save_picture(comfyui.input / "sdpose.png", 131, 97)
    return folder


BOXES = [[20, 10, 70, 90], [33, 60, 97, 113]]
"""Two corners each."""
FILES = {17: "SDPose-Body", 133: "SDPose-Wholebody/sdpose_wholebody_fp16.safetensors"}


@pytest.mark.parametrize("points", FILES)
def test_a_folder_and_a_single_file_answer_what_a_second_computation_does(comfyui, models, points):
    graph = Graph()
    mask = masked(comfyui, "second.png", (131, 97), BOXES[0])
    seen = perceive_pose(graph, FILES[points], "sdpose.png", 128, mask)
    (frame,), (found,) = poses_and_heatmaps(comfyui, graph, seen)
    levels = tiny.expected_levels(tiny.picture(131, 97))
    expected = tiny_sdpose.heatmaps(levels, tuple(BOXES[0]), (96, 128), points)
    assert np.abs(found - expected).max() <= 5e-4
    placed, steady = tiny_sdpose.keypoints(expected, tuple(BOXES[0]))
    (person,) = tiny_sdpose.openpose(frame, points)
    assert steady.sum() >= 5
    assert np.abs(person[:, :2] - placed)[steady].max() <= 0.05
    lengths = {name: len(numbers) // 3 for name, numbers in frame["people"][0].items()}
    feet = {"foot_keypoints_2d": 6} if points == 133 else {}
    hands = {"hand_left_keypoints_2d": 21, "hand_right_keypoints_2d": 21}
    assert lengths == {"pose_keypoints_2d": 18, "face_keypoints_2d": 70, **hands, **feet}
    assert (frame["canvas_width"], frame["canvas_height"]) == (97, 131)


def boxes_inside(model: str, boxes: list) -> dict:
    """What PerceivePose makes of boxes, which none of ComfyUI's own nodes give."""
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.pose import PerceivePose

    perception = LoadModel.execute(model, "auto", "as trained", "resolution=128").result[0]
    noise = torch.rand(1, 3, 131, 97, generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(0, 1, 131)[:, None] * torch.linspace(0.2, 1, 97)
    image = (((slope * 0.6 + noise * 0.4) * 255).round() / 255).movedim(1, -1)
    seen, skeletons = PerceivePose.execute(perception, image, "x1, y1, x2, y2", 1.25, False, 8, boxes=boxes).result
    return {"values": seen.values, "windows": seen.crops.windows, "skeletons": skeletons}


def test_a_batch_of_people_in_boxes_is_seen_one_by_one(inside_host):
    folder = inside_host.base / "models" / "perception"
    tiny_sdpose.write_folder(folder / "SDPose-Boxed", 17)
    seen = inside_host(boxes_inside, model="SDPose-Boxed", boxes=[BOXES])
    levels = tiny.expected_levels(tiny.picture(131, 97))
    expected = np.stack([tiny_sdpose.heatmaps(levels, tuple(box), (96, 128), 17) for box in BOXES])
    assert np.abs(np.moveaxis(seen["values"], -1, 1) - expected).max() <= 5e-4
    assert seen["windows"].tolist() == [[x, y, right - x, bottom - y] for x, y, right, bottom in BOXES]
    assert seen["skeletons"].shape == (1, 131, 97, 3)


def test_without_its_head_the_model_is_refused_in_one_sentence(comfyui, models):
    tiny_sdpose.write_folder(models / "SDPose-headless", 17)
    (models / "SDPose-headless" / "decoder" / "decoder.safetensors").unlink()
    graph = Graph()
    graph.add("PreviewImage", images=perceive_pose(graph, "SDPose-headless", "sdpose.png", 64)[1])
    with pytest.raises(NodeFailed, match="cannot be used as SDPose: its head is missing: put decoder/ beside it"):
        comfyui.submit(graph)
