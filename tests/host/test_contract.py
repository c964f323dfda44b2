"""What saved workflows hold of the nodes stays: ids, inputs in their order, choices, outputs. They only grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from append_only import lost

CONTRACT = Path(__file__).with_name("contract.json")
"""Written anew by: python tests/host/amend_contract.py"""
FILES = {("DiffusionPerceptionLoadModel", "model"), ("DiffusionPerceptionApplyAdapter", "adapter")}
"""Choices that are the user's files."""


def contract(schemas: dict[str, Any]) -> dict[str, Any]:
    """The contract as a host tells it."""
    ours = {name: schema for name, schema in schemas.items() if name.startswith("DiffusionPerception")}
    return {
        name: {
            "inputs": {
                key: described(name, key, kind, rest[0] if rest else {})
                for group in ("required", "optional")
                for key, (kind, *rest) in schema["input"].get(group, {}).items()
            },
            "outputs": list(map(list, zip(schema["output_name"], schema["output"]))),
        }
        for name, schema in ours.items()
    }


def described(node: str, key: str, kind: str | list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """An input: its types, and what it may be set to. Hosts differ in where they write the choices of one."""
    options = kind if isinstance(kind, list) else settings.get("options")
    if options is None:
        return {"types": str(kind).split(","), **{name: settings[name] for name in ("default",) if name in settings}}
    chosen = {} if (node, key) in FILES else {"options": options, "default": settings.get("default")}
    return {"types": ["COMBO"], **chosen}


def test_nothing_that_a_saved_workflow_holds_is_gone(comfyui):
    kept, found = json.loads(CONTRACT.read_text("utf-8")), contract(comfyui.object_info())
    faults = lost(kept, found, "nodes")
    assert faults == [], "saved workflows hold this: append only"
    for name, node in kept.items():
        there = found[name]
        begun = list(there["inputs"])[: len(node["inputs"])]
        assert begun == list(node["inputs"]), f"{name}: widgets go by their order"
        assert there["outputs"][: len(node["outputs"])] == node["outputs"], f"{name}: outputs go by their order"


def test_the_contract_knows_every_node_and_input_that_there_is(comfyui):
    faults = lost(contract(comfyui.object_info()), json.loads(CONTRACT.read_text("utf-8")), "nodes")
    assert faults == [], "add what is new to the contract: python tests/host/amend_contract.py"


def test_a_change_that_breaks_a_saved_workflow_is_seen():
    kept = {"Node": {"inputs": {"mode": {"types": ["COMBO"], "options": ["a", "b"], "default": "a"}}}}
    assert lost(kept, {"Node": {"inputs": {}}}, "nodes") == ["nodes.Node.inputs.mode is gone"]
    renamed = {"Node": {"inputs": {"mode": {"types": ["COMBO"], "options": ["a", "c"], "default": "a"}}}}
    assert lost(kept, renamed, "nodes") == ["nodes.Node.inputs.mode.options lacks 'b'"]
    other = {"Node": {"inputs": {"mode": {"types": ["COMBO"], "options": ["b", "a"], "default": "b"}}}}
    assert lost(kept, other, "nodes") == ["nodes.Node.inputs.mode.default is 'b', and was 'a'"]


def test_words_to_search_by_and_folded_inputs_are_there_where_the_host_knows_them(comfyui):
    schemas = {name: it for name, it in comfyui.object_info().items() if name.startswith("DiffusionPerception")}
    if "search_aliases" in schemas["DiffusionPerceptionPerceive"]:
        assert all(schema["search_aliases"] for schema in schemas.values())
        assert {"depth map", "normal map", "marigold"} <= {*schemas["DiffusionPerceptionPerceive"]["search_aliases"]}
        overrides = schemas["DiffusionPerceptionLoadModel"]["input"]["required"]["overrides"][1]
        assert overrides["advanced"]
    assert len(schemas) >= 13
