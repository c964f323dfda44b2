"""ComfyUI's side: the extension and its list of nodes, which only `comfy_entrypoint` in the root imports."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class PerceptionExtension(ComfyExtension):
    """All nodes of the pack, in the order of a graph."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from . import (
            adapt,
            compare,
            composite,
            example,
            haze,
            load,
            normals,
            perceive,
            pose,
            refine,
            relight,
            render,
            save,
            steady,
        )

        modules = (
            example, load, adapt, perceive, pose, render, steady, normals, relight, haze, refine, composite, compare,
            save,
        )  # fmt: skip
        return [node for module in modules for node in module.NODES]
