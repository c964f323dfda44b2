"""Graphs in ComfyUI's API format, written as the sentences that they are."""

from __future__ import annotations

from typing import Any


class Node:
    """A node in a graph; `node[1]` is its second output."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, output: int) -> list[Any]:
        return [self.name, output]


class Graph(dict[str, Any]):
    """A workflow that grows node by node; a node stands for its first output."""

    def add(self, class_type: str, **inputs: Any) -> Node:
        name = str(len(self) + 1)
        wired = {
            key: value[0] if isinstance(value, Node) else value for key, value in inputs.items() if value is not None
        }
        self[name] = {"class_type": class_type, "inputs": wired}
        return Node(name)

    def load_model(self, model: str, task: str = "as trained", overrides: str = "", family: str = "auto") -> Node:
        return self.add("DiffusionPerceptionLoadModel", model=model, family=family, task=task, overrides=overrides)

    def perceive(
        self, perception: Node, image: Any, resolution: int = -1, batch_size: int = 1, vae: Any = None
    ) -> Node:
        return self.add(
            "DiffusionPerceptionPerceive",
            perception=perception, image=image, resolution=resolution, batch_size=batch_size, vae=vae,
        )  # fmt: skip

    def save_map(self, map: Any, prefix: str, format: str = "npy") -> Node:
        return self.add(
            "DiffusionPerceptionSaveMap", map=map, filename_prefix=prefix, format=format, convention="values 0..1"
        )

    def load_image(self, name: str) -> Node:
        return self.add("LoadImage", image=name)


def perceive_file(
    model: str, image: str, prefix: str, task: str = "as trained", overrides: str = "", resolution: int = -1
) -> tuple[Graph, Node]:
    """LoadModel -> Perceive -> SaveMap of one picture; gives the graph and its SaveMap."""
    graph = Graph()
    perception = graph.load_model(model, task, overrides)
    seen = graph.perceive(perception, graph.load_image(image), resolution)
    return graph, graph.save_map(seen, prefix)
