"""Graphs in ComfyUI's API format, written as the sentences that they are."""

from __future__ import annotations

from typing import Any

from api_graph import ApiGraph, Node


class Graph(ApiGraph):
    """With the nodes that most tests begin with."""

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
