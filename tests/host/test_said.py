"""What nodes have to say is seen on them, in the browser, and kept in the history."""

from __future__ import annotations

from comfyui_server import NodeFailed
from graph import Graph, Node


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
