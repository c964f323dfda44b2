"""ComfyUI's side: the extension and its list of nodes. `comfy_entrypoint` in the pack's root is the only one who imports it."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class PerceptionExtension(ComfyExtension):
    """All nodes of the pack, in the order of a graph."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from . import composite, load, perceive, render, save

        return [*load.NODES, *perceive.NODES, *render.NODES, *composite.NODES, *save.NODES]
