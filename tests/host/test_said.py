"""What nodes have to say is seen on them, in the browser, and kept in the history."""

from __future__ import annotations

import re

import pytest
from comfyui_server import NodeFailed
from graph import Graph, Node
from networks import write_own_file


def picture(graph: Graph, color: int = 0x808080) -> Node:
    return graph.add("EmptyImage", width=32, height=32, batch_size=1, color=color)


def depth_image(graph: Graph, map: Node, **widgets) -> Node:
    """Depth to Image, as a graph of its first version held it unless said."""
    old = {"convention": "near is white", "mode": "controlnet", "scope": "per image", "low_percentile": 2.0}
    old |= {"high_percentile": 98.0, "invert": False, "colormap": "none"}
    return graph.add("DiffusionPerceptionDepthToImage", map=map, **old | widgets)


def said(comfyui, graph: Graph, node: Node) -> str:
    """The line on a node after its graph ran, whether it was refused or not."""
    comfyui.said.clear()
    run = comfyui.start(graph)
    try:
        comfyui.wait(run)
    except NodeFailed:
        comfyui.events(run, complete=True)
    return comfyui.said.get(node.name, "")


def test_a_conversion_is_said_on_the_node_and_kept_in_the_history(comfyui):
    graph = Graph()
    shown = depth_image(graph, picture(graph))
    graph.add("PreviewImage", images=shown)
    line = said(comfyui, graph, shown)
    assert "near is white" in line
    again = depth_image(graph, picture(graph), invert=True)
    graph.add("PreviewImage", images=again)
    assert comfyui.submit(graph).outputs[again.name]["text"] == [comfyui.said[again.name]]


def test_a_refusal_is_said_on_the_node(comfyui):
    graph = Graph()
    refused = depth_image(graph, picture(graph), mode="gone")
    graph.add("PreviewImage", images=refused)
    assert said(comfyui, graph, refused).startswith("There is no mode 'gone': choose one of controlnet")


def test_every_stretch_can_be_had_in_either_direction_and_old_graphs_keep_theirs(comfyui):
    graph = Graph()
    far = graph.add("EmptyImage", width=32, height=32, batch_size=1, color=0xFFFFFF)
    ramp = graph.add("ImagePadForOutpaint", image=far, left=8, top=0, right=0, bottom=0, feathering=0)
    stretch = {"map": ramp, "mode": "percentile"}
    for convention, own in (("near is white", "white"), ("near is black", "black")):
        asked = ({}, {"direction": "near is white"}, {"direction": "near is black"})
        made = [depth_image(graph, **stretch, convention=convention, **widget) for widget in asked]
        for node in made:
            graph.add("PreviewImage", images=node)
        comfyui.submit(graph)
        assert [comfyui.said[node.name].rpartition("near is ")[2] for node in made] == [own, "white", "black"]


def test_a_node_that_a_list_executes_several_times_shows_all_that_it_said(comfyui):
    graph = Graph()
    darker = [graph.add("EmptyImage", width=8, height=8, batch_size=1, color=color) for color in (0, 0x80, 0x404040)]
    two = graph.add("ImageBatch", image1=darker[0], image2=darker[2])
    listed = graph.add("RebatchImages", images=graph.add("ImageBatch", image1=two, image2=darker[1]), batch_size=1)
    shown = depth_image(graph, graph.add("ImagePadForOutpaint", **ONE_WHITE, image=listed))
    graph.add("PreviewImage", images=shown)
    result = comfyui.submit(graph)
    lines = comfyui.said[shown.name].splitlines()
    kept = result.outputs[shown.name]["text"]
    assert len(lines) == 4
    assert [*dict.fromkeys(line for text in kept for line in text.splitlines())] == lines
    assert [text.count("near is white") for text in kept] == [1, 1, 1]
    assert lines[3].startswith("The image is in colours")


ONE_WHITE = {"left": 1, "top": 0, "right": 0, "bottom": 0, "feathering": 0}

SEVERAL = {
    "depth among them": (("normal", "depth", "mask"), "depth"),
    "no depth": (("mask", "normal"), "mask"),
}


@pytest.mark.parametrize(("tasks", "taken"), SEVERAL.values(), ids=SEVERAL)
def test_a_file_of_several_tasks_runs_as_it_is_and_the_node_says_what_was_taken(comfyui, tasks, taken):
    file = write_own_file(comfyui.models / "perception" / f"{taken} of several.safetensors", *tasks)
    graph = Graph()
    loaded = graph.load_model(file.name)
    graph.save_map(graph.perceive(loaded, picture(graph)), "said/several")
    line = said(comfyui, graph, loaded)
    others = ", ".join(task for task in tasks if task != taken)
    assert line == f"Takes {taken}. Choose in task for {others}: {file.name} holds them too."
    asked = Graph()
    one = asked.load_model(file.name, tasks[1])
    asked.save_map(asked.perceive(one, picture(asked)), "said/one")
    assert said(comfyui, asked, one) == ""


def test_a_photo_that_is_called_a_depth_or_a_matte_is_doubted_on_the_node(comfyui):
    def node(color: int, kind: str) -> str:
        graph = Graph()
        image = picture(graph, color)
        takes = {
            "depth": lambda: depth_image(graph, image, colormap="viridis"),
            "matte": lambda: graph.add(
                "DiffusionPerceptionMatteCutout", image=image, map=image, mode="soft", estimate_foreground=False
            ),
        }
        shown = takes[kind]()
        graph.add("PreviewImage", images=shown)
        return said(comfyui, graph, shown)

    for kind in ("depth", "matte"):
        assert f"a {kind} is gray: connect a photo to Perceive" in node(0x2080E0, kind).replace("disparity", "depth")
        assert "Perceive" not in node(0x808080, kind)


@pytest.fixture(scope="module")
def model(comfyui) -> str:
    return write_own_file(comfyui.models / "perception" / "said.safetensors", "depth", "normal").name


def both(graph: Graph, model: str, *tasks: str) -> Node:
    """Perceive Tasks of a gray picture."""
    names = ("perception", "perception_2")
    perceptions = {name: graph.load_model(model, task) for name, task in zip(names, tasks)}
    return graph.add(
        "DiffusionPerceptionPerceiveTasks", **perceptions, image=picture(graph), resolution=-1, batch_size=1
    )


def test_a_map_that_goes_to_the_wrong_node_is_told_the_right_one(comfyui, model):
    graph = Graph()
    wrong = depth_image(graph, both(graph, model, "normal"))
    graph.add("PreviewImage", images=wrong)
    assert said(comfyui, graph, wrong) == (
        "A map of normal came where one of depth or disparity is expected: choose such a task in Load Perception "
        "Model, or connect it to Render Normal."
    )
    graph = Graph()
    pose = graph.add(
        "DiffusionPerceptionPoseFromMap",
        map=both(graph, model, "depth"), threshold=0.3, same_person=0.9, joint_radius=0.0,
    )  # fmt: skip
    graph.add("PreviewImage", images=pose[1])
    assert said(comfyui, graph, pose).endswith("in Load Perception Model, or connect it to Render Depth.")


def test_a_second_map_without_a_second_perception_is_told_what_to_connect(comfyui, model):
    graph = Graph()
    nothing = depth_image(graph, both(graph, model, "depth")[1])
    graph.add("PreviewImage", images=nothing)
    line = said(comfyui, graph, nothing)
    assert line.startswith("No map came")
    assert "map_2 where perception_2 is connected" in line


def test_what_was_saved_and_where_is_said_on_the_node(comfyui, model):
    for count, files in ((1, 1), (3, 3)):
        graph = Graph()
        gray = graph.add("EmptyImage", width=32, height=32, batch_size=count, color=0)
        saved = graph.save_map(gray, f"said/of {count}", "exr32")
        comfyui.said.clear()
        result = comfyui.submit(graph)
        places = [f"{file.relative_to(comfyui.base)}" for file in result.files(saved.name)]
        assert all((comfyui.base / place).is_file() for place in places)
        line = places[0] if files == 1 else f"{places[0]} to {places[-1].removeprefix('output/')}, 3 files"
        assert comfyui.said[saved.name] == line


def test_an_inspector_shows_a_map_in_one_line(comfyui, model):
    graph = Graph()
    maps = both(graph, model, "depth", "normal")
    shown = [graph.add("PreviewAny", source=maps[i]) for i in (0, 1)]
    outputs = comfyui.submit(graph).outputs
    depth, normal = (outputs[node.name]["text"][0] for node in shown)
    assert re.fullmatch(r"depth of 1 x 32 x 32, [-+.e\d]+ to [-+.e\d]+, near is low", depth)
    assert re.fullmatch(r"normal of 1 x 32 x 32, [-+.e\d]+ to [-+.e\d]+", normal)


def refuse_sdxl() -> dict[str, str]:
    """What is said of a loaded UNet with SDXL's further embedding."""
    from types import SimpleNamespace

    from torch import nn

    from diffusion_perception.nodes import host

    class Loaded:
        def modules(self):
            return {"add_embedding.linear_1": nn.Linear(4, 4)}

    try:
        host.resident_base(Loaded(), SimpleNamespace(first_stage_model=nn.Conv2d(3, 4, 1)))
    except host.CheckpointError as refusal:
        return {"said": str(refusal)}
    return {"said": ""}


def test_a_model_of_another_kind_is_refused_in_a_whole_sentence(inside_host):
    assert inside_host(refuse_sdxl)["said"] == (
        "The loaded model cannot be used: it holds an SDXL UNet; this version runs SD 1.x and SD 2.x UNets."
    )
