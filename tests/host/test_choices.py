"""A choice that a saved workflow holds and this version lists no more gets our sentence, on every host."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_server import NodeFailed
from graph import Graph, Node
from networks import write_adapter_for, write_narrow_sd2, write_own_file

STALE = {"a word that is gone": "gone", "null": None, "no word": "", "the number of another widget": 7}
FILES = {"model": "00_chosen.safetensors", "adapter": "00_chosen_adapter.safetensors"}
"""What to choose where the choices are files: others may be other tests' faults. Sentences name the first few only."""

HELD = {**FILES, "task": "depth"}
"""What the sentence names where not every choice would do: what there is, and what the file was trained for."""


@pytest.fixture(scope="module")
def combos(comfyui) -> dict[tuple[str, str], list[str]]:
    """What may be chosen in every (node, input) of the pack."""
    write_own_file(comfyui.models / "perception" / FILES["model"], "depth")
    unet = write_narrow_sd2(comfyui.models / "diffusion_models" / "chosen.safetensors")
    write_adapter_for(unet, comfyui.models / "perception" / FILES["adapter"])
    schemas = {name: schema for name, schema in comfyui.object_info().items() if name.startswith("DiffusionPerception")}
    return {
        (name, key): options
        for name, schema in schemas.items()
        for group in ("required", "optional")
        for key, (kind, *rest) in schema["input"].get(group, {}).items()
        if (options := options_of(kind, *rest)) is not None
    }


def options_of(kind: str | list[str], settings: dict[str, Any] | None = None) -> list[str] | None:
    """What may be chosen in an input, None for inputs of other kinds. Hosts differ in where they write it."""
    return kind if isinstance(kind, list) else (settings or {}).get("options")


SOURCES = {
    "MODEL": lambda graph: graph.add("UNETLoader", unet_name="chosen.safetensors", weight_dtype="default"),
    "VAE": lambda graph: graph.load_model(FILES["model"])[1],
    "PERCEPTION": lambda graph: graph.load_model(FILES["model"]),
    "LATENT": lambda graph: graph.add("EmptyLatentImage", width=64, height=64, batch_size=1),
    "IMAGE": lambda graph: graph.add("EmptyImage", width=32, height=32, batch_size=1, color=0),
}


def default(key: str, kind: str | list[str], settings: dict[str, Any], graph: Graph) -> Any:
    """What a new node has in an input, or a node that gives what the input takes."""
    if (options := options_of(kind, settings)) is not None:
        return FILES.get(key, settings.get("default", options[0]))
    if "default" in settings:
        return settings["default"]
    return next(make for taken, make in SOURCES.items() if taken in str(kind).split(","))(graph)


def whole(comfyui, name: str, graph: Graph) -> Node:
    """The node with all that it needs, every widget at its default."""
    required = comfyui.object_info(name)[name]["input"]["required"].items()
    inputs = {key: default(key, kind, rest[0] if rest else {}, graph) for key, (kind, *rest) in required}
    return graph.add(name, **inputs)


SHOWN = {"DiffusionPerceptionSaveMap"}
"""Output nodes themselves; others need one behind them."""


def told(comfyui, name: str, key: str, value: Any) -> str:
    """What a person is told who runs the node with this choice."""
    graph = Graph()
    node = whole(comfyui, name, graph)
    graph[node.name]["inputs"][key] = value
    if name not in SHOWN:
        graph.add("PreviewAny", source=node)
    try:
        comfyui.submit(graph)
    except NodeFailed as refusal:
        return str(refusal)
    return "nothing was said"


@pytest.mark.parametrize("value", STALE.values(), ids=STALE)
def test_a_stale_choice_gets_one_sentence_that_names_it_and_what_there_is(comfyui, combos, value):
    assert len(combos) > 25
    unsaid = {}
    for (name, key), options in combos.items():
        words = told(comfyui, name, key, value)
        expected = (str(value) or "''", *([HELD[key]] if key in HELD else options))
        if "\n" in words or not all(word in words for word in expected):
            unsaid[f"{name} {key}"] = words
    assert unsaid == {}
