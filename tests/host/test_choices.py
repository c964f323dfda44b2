"""A choice that a saved workflow holds and this version lists no more gets our sentence, on every host."""

from __future__ import annotations

import pytest
from comfyui_server import NodeFailed
from graph import Graph, Node
from networks import write_own_file


@pytest.fixture(scope="module")
def combos(comfyui) -> list[tuple[str, str]]:
    """(node, input) of every choice of the pack."""
    write_own_file(comfyui.models / "perception" / "chosen.safetensors", "depth")
    schemas = {name: schema for name, schema in comfyui.object_info().items() if name.startswith("DiffusionPerception")}
    return [
        (name, key)
        for name, schema in schemas.items()
        for group in ("required", "optional")
        for key, (kind, *_) in schema["input"].get(group, {}).items()
        if kind == "COMBO" or isinstance(kind, list)
    ]


def whole(comfyui, name: str, graph: Graph) -> Node:
    """The node with all that it needs, every widget at its default."""
    schema = comfyui.object_info(name)[name]["input"]
    inputs = {}
    for key, (kind, *rest) in schema["required"].items():
        settings = rest[0] if rest else {}
        options = kind if isinstance(kind, list) else settings.get("options")
        if options or "default" in settings:
            inputs[key] = settings.get("default", options[0] if options else None)
        elif "IMAGE" in kind:
            inputs[key] = graph.add("EmptyImage", width=32, height=32, batch_size=1, color=0)
        elif kind == "LATENT":
            inputs[key] = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        else:
            inputs[key] = graph.load_model("chosen.safetensors")[int(kind == "VAE")]
    return graph.add(name, **inputs)


SHOWN = {"DiffusionPerceptionSaveMap"}
"""Output nodes themselves; others need one behind them."""
UNREACHED = {"DiffusionPerceptionApplyAdapter": "its MODEL needs a checkpoint of real size; tests of adapters try it"}


def test_a_stale_choice_gets_one_sentence_that_names_it(comfyui, combos):
    assert len(combos) > 15
    unsaid = {}
    for name, key in combos:
        if name in UNREACHED:
            continue
        graph = Graph()
        node = whole(comfyui, name, graph)
        graph[node.name]["inputs"][key] = "gone"
        if name not in SHOWN:
            graph.add("PreviewAny", source=node)
        try:
            comfyui.submit(graph)
            told = "nothing was said"
        except NodeFailed as refusal:
            told = str(refusal)
        if "gone" not in told or "\n" in told:
            unsaid[f"{name} {key}"] = told
    assert unsaid == {}
