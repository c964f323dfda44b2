"""A workflow in ComfyUI's API format, written node by node."""

from __future__ import annotations

from typing import Any


class Node:
    """A node in a graph; `node[1]` is its second output."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, output: int) -> list[Any]:
        return [self.name, output]


class ApiGraph(dict[str, Any]):
    """A workflow that grows; a node stands for its first output, and what is None is left out."""

    def add(self, class_type: str, **inputs: Any) -> Node:
        name = str(len(self) + 1)
        wired = {
            key: value[0] if isinstance(value, Node) else value for key, value in inputs.items() if value is not None
        }
        self[name] = {"class_type": class_type, "inputs": wired}
        return Node(name)
