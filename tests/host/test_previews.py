"""What perceives shows its pictures on itself: Load, Perceive and Run are a whole graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_server import NodeFailed
from graph import Graph, Node
from networks import write_own_file
from PIL import Image
from tiny import save_picture

PREFIX = "DiffusionPerception"


@pytest.fixture(scope="module")
def model(comfyui) -> str:
    tasks = ("depth", "normal", "mask", "segmentation", "albedo", "shading")
    return write_own_file(comfyui.models / "perception" / "previewed.safetensors", *tasks).name


@pytest.fixture(scope="module")
def photo(comfyui) -> str:
    return picture(comfyui, "previewed.png", 53, 75)


def picture(comfyui, name: str, height: int, width: int) -> str:
    save_picture(comfyui.input / name, height, width)
    return name


def levels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


def previews(result: Any, node: Node) -> list[Path]:
    """The files that a node shows; all in the temporary folder."""
    shown = result.outputs[node.name]["images"]
    assert {image["type"] for image in shown} <= {"temp"}
    return result.files(node.name)


@pytest.mark.parametrize("task", ["depth", "normal", "mask", "segmentation"])
def test_three_nodes_show_the_picture_that_flows_on(comfyui, model, photo, task):
    graph = Graph()
    seen = graph.perceive(graph.load_model(model, task), graph.load_image(photo))
    assert len(graph) == 3
    alone = comfyui.submit(graph)
    (shown,) = previews(alone, seen)
    kept = graph.add("SaveImage", images=seen[1], filename_prefix=f"previewed/{task}")
    (file,) = comfyui.submit(graph).files(kept.name)
    assert np.array_equal(levels(shown), levels(file))


def test_a_preview_brings_its_workflow_along(comfyui, model, photo):
    graph = Graph()
    seen = graph.perceive(graph.load_model(model, "depth"), graph.load_image(photo))
    (shown,) = previews(comfyui.submit(graph), seen)
    with Image.open(shown) as picture:
        held = json.loads(picture.info["prompt"])
        assert str(comfyui.base) not in "".join(map(str, picture.info.values()))  # nor where the models lie
    assert {name: node["inputs"] for name, node in held.items()} == {n: node["inputs"] for n, node in graph.items()}


def test_a_large_picture_is_shown_smaller_and_flows_on_whole(comfyui, model):
    name = picture(comfyui, "previewed large.png", 40, 1300)
    graph = Graph()
    seen = graph.perceive(graph.load_model(model, "normal"), graph.load_image(name), 64)
    kept = graph.add("SaveImage", images=seen[1], filename_prefix="previewed/large")
    result = comfyui.submit(graph)
    (shown,), (file,) = previews(result, seen), result.files(kept.name)
    with Image.open(file) as whole:
        assert whole.size == (1300, 40)
        smaller = np.asarray(whole.resize((1024, 32), Image.Resampling.BILINEAR), np.int16)
    assert np.abs(levels(shown) - smaller).max() <= 2


def test_of_a_long_batch_the_first_pictures_are_shown(comfyui, model):
    graph = Graph()
    frames = graph.add("EmptyImage", width=520, height=32, batch_size=19, color=0x808080)
    seen = graph.perceive(graph.load_model(model, "depth"), frames, 64, batch_size=19)
    kept = graph.save_map(seen, "previewed/long").name
    result = comfyui.submit(graph)
    shown = previews(result, seen)
    assert len(shown) == 16
    assert {levels(file).shape for file in shown} == {(32, 512, 3)}  # they share the node
    assert len(result.files(kept)) == 19


def test_an_unchanged_graph_is_answered_from_the_cache_and_shows_its_picture_again(comfyui, model, photo):
    graph = Graph()
    seen = graph.perceive(graph.load_model(model, "mask"), graph.load_image(photo))
    first = comfyui.submit(graph)
    again = comfyui.submit(graph)
    assert again.executed == []
    assert again.outputs == first.outputs
    assert previews(again, seen)[0].is_file()
    told = [data["output"]["images"] for kind, data in again.events if kind == "executed" and data["node"] == seen.name]
    assert told == [first.outputs[seen.name]["images"]]


def test_a_list_of_images_shows_a_picture_of_each(comfyui, model):
    graph = Graph()
    frames = graph.add("EmptyImage", width=32, height=32, batch_size=3, color=0x808080)
    listed = graph.add("RebatchImages", images=frames, batch_size=1)
    seen = graph.perceive(graph.load_model(model, "depth"), listed)
    assert len(previews(comfyui.submit(graph), seen)) == 3


def tasks_of(graph: Graph, model: str, image: Node, *tasks: str) -> Node:
    names = ("perception", "perception_2", "perception_3", "perception_4")
    loaded = {name: graph.load_model(model, task) for name, task in zip(names, tasks)}
    return graph.add(f"{PREFIX}PerceiveTasks", **loaded, image=image, resolution=-1, batch_size=1)


def test_two_tasks_are_four_nodes_and_give_the_pictures_of_two_perceives(comfyui, model, photo):
    graph = Graph()
    both = tasks_of(graph, model, graph.load_image(photo), "depth", "normal")
    assert len(graph) == 4
    shown = [levels(file) for file in previews(comfyui.submit(graph), both)]
    kept = [graph.add("SaveImage", images=both[4 + i], filename_prefix="previewed/both").name for i in (0, 1)]
    alone = [graph.perceive(graph.load_model(model, task), graph.load_image(photo)) for task in ("depth", "normal")]
    result = comfyui.submit(graph)
    for i in (0, 1):
        (file,), (single,) = result.files(kept[i]), previews(result, alone[i])
        assert np.array_equal(shown[i], levels(file))
        assert np.abs(shown[i] - levels(single)).max() <= 1


def test_a_picture_of_a_task_that_is_not_connected_says_what_to_connect_and_the_rest_is_done(comfyui, model, photo):
    graph = Graph()
    one = tasks_of(graph, model, graph.load_image(photo), "depth")
    right = graph.add("PreviewImage", images=one[4])
    wrong = graph.add("PreviewImage", images=one[5])
    run = comfyui.start(graph)
    result = comfyui.wait(run)
    assert len(result.files(right.name)) == 1
    assert wrong.name not in result.outputs
    (told,) = [data for kind, data in result.events if kind == "execution_error"]
    assert told["node_id"] == wrong.name
    assert told["exception_message"].endswith("Perceive Tasks has no such picture: connect perception_2.")


def test_a_map_that_cannot_be_shown_is_given_all_the_same(comfyui, photo):
    file = write_own_file(comfyui.models / "perception" / "no palette.safetensors", "segmentation")
    graph = Graph()
    loaded = graph.load_model(file.name, overrides="palette=nobody's")
    alone = graph.add(
        f"{PREFIX}PerceiveTasks", perception=loaded, image=graph.load_image(photo), resolution=-1, batch_size=1
    )
    kept = graph.save_map(alone, "previewed/unknown").name
    result = comfyui.submit(graph)
    assert len(result.files(kept)) == 1
    assert previews(result, alone) == []
    assert "There is no palette" in result.outputs[alone.name]["text"][0]
    graph.perceive(loaded, graph.load_image(photo))
    with pytest.raises(NodeFailed, match="There is no palette"):
        comfyui.submit(graph)


def test_a_latent_is_shown_too(comfyui, model, photo):
    graph = Graph()
    loaded = graph.load_model(model, "depth")
    latent = graph.add("VAEEncode", pixels=graph.load_image(photo), vae=loaded[1])
    seen = graph.add(f"{PREFIX}PerceiveLatent", perception=loaded, latent=latent, batch_size=1)
    (shown,) = previews(comfyui.submit(graph), seen)
    assert levels(shown).shape == (48, 72, 3)


def test_what_perceives_ends_a_graph_and_what_renders_does_not(comfyui):
    ends = {
        name.removeprefix(PREFIX): row["output_node"] for name, row in comfyui.object_info().items() if PREFIX in name
    }
    shows = {name for name, is_end in ends.items() if is_end}
    assert shows >= {"Perceive", "PerceiveLatent", "PerceiveTasks", "PerceiveIntrinsics", "PerceivePose", "SaveMap"}
    assert not shows & {"DepthToImage", "NormalToImage", "SegmentationToImage", "MaskFromMap", "MatteCutout", "Relight"}
