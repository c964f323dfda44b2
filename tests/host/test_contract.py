"""What saved workflows hold of the nodes stays: ids, inputs in their order, choices, outputs. They only grow."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import pytest
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
            "optional": list(schema["input"].get("optional", {})),
            "outputs": list(map(list, zip(schema["output_name"], schema["output"]))),
        }
        for name, schema in ours.items()
    }


def described(node: str, key: str, kind: str | list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """An input: its types, and what it may be set to. Hosts differ in where they write the choices of one."""
    options = kind if isinstance(kind, list) else settings.get("options")
    if options is None:
        held = {name: settings[name] for name in ("default", "min", "max") if name in settings}
        return {"types": str(kind).split(","), **held}
    chosen = {} if (node, key) in FILES else {"options": options, "default": settings.get("default")}
    return {"types": ["COMBO"], **chosen}


NARROWER = {"min": operator.gt, "max": operator.lt}
"""When a value says less than it did; others when they are not the same."""


def misplaced(kept: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What makes the nodes read a saved workflow otherwise, although all that it names is there."""
    faults = []
    for name in kept.keys() & found.keys():
        before, after = kept[name], found[name]
        if [*after["inputs"]][: len(before["inputs"])] != [*before["inputs"]]:
            faults.append(f"{name}: widgets go by their order")
        if after["outputs"][: len(before["outputs"])] != before["outputs"]:
            faults.append(f"{name}: outputs go by their order")
        for new in after["inputs"].keys() - before["inputs"].keys() - set(after["optional"]):
            faults.append(f"{name}.{new} is new, and workflows that lack it are refused: make it optional")
    return faults


def broken(kept: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Why workflows that were saved with these nodes may not run any more, or run otherwise."""
    return lost(kept, found, "nodes", NARROWER) + misplaced(kept, found)


def test_nothing_that_a_saved_workflow_holds_is_gone(comfyui):
    faults = broken(json.loads(CONTRACT.read_text("utf-8")), contract(comfyui.object_info()))
    assert faults == [], "saved workflows hold this: append only"


def test_the_contract_knows_every_node_and_input_that_there_is(comfyui):
    faults = lost(contract(comfyui.object_info()), json.loads(CONTRACT.read_text("utf-8")), "nodes", NARROWER)
    assert faults == [], "add what is new to the contract: python tests/host/amend_contract.py"


MODE: dict[str, Any] = {"types": ["COMBO"], "options": ["a", "b"], "default": "a"}
SIZE: dict[str, Any] = {"types": ["INT"], "default": 1, "min": 0, "max": 9}
NODE: dict[str, Any] = {"inputs": {"mode": MODE, "size": SIZE}, "optional": ["size"], "outputs": [["map", "IMAGE"]]}
BREAKING = {
    "an input gone": ({"inputs": {"mode": MODE}, "optional": []}, "inputs.size is gone"),
    "a choice renamed": ({"inputs": {"mode": MODE | {"options": ["a", "c"]}, "size": SIZE}}, "options lacks 'b'"),
    "another default": ({"inputs": {"mode": MODE | {"default": "b"}, "size": SIZE}}, "default is 'b', and was 'a'"),
    "another type": ({"inputs": {"mode": MODE, "size": SIZE | {"types": ["FLOAT"]}}}, "types lacks 'INT'"),
    "a higher least value": ({"inputs": {"mode": MODE, "size": SIZE | {"min": 1}}}, "min is 1, and was 0"),
    "a lower largest value": ({"inputs": {"mode": MODE, "size": SIZE | {"max": 8}}}, "max is 8, and was 9"),
    "another order of inputs": ({"inputs": {"size": SIZE, "mode": MODE}}, "widgets go by their order"),
    "an input between": ({"inputs": {"mode": MODE, "new": MODE, "size": SIZE}}, "widgets go by their order"),
    "an input that must be given now": ({"optional": []}, "optional lacks 'size'"),
    "a new one that must be given": ({"inputs": {**NODE["inputs"], "new": MODE}}, "new is new"),
    "an output before": ({"outputs": [["mask", "MASK"], ["map", "IMAGE"]]}, "outputs go by their order"),
    "another output": ({"outputs": [["map", "MASK"]]}, "outputs lacks ['map', 'IMAGE']"),
}


@pytest.mark.parametrize(("change", "fault"), BREAKING.values(), ids=BREAKING)
def test_a_change_that_breaks_a_saved_workflow_is_seen(change, fault):
    assert any(fault in words for words in broken({"Node": NODE}, {"Node": NODE | change}))


def test_what_only_grows_breaks_no_saved_workflow():
    inputs = {
        "mode": MODE | {"options": ["new", "a", "b"], "types": ["COMBO", "STRING"]},
        "size": SIZE | {"min": -1, "max": 10},
        "new": MODE,
    }
    outputs = [*NODE["outputs"], ["mask", "MASK"]]
    grown = {"inputs": inputs, "optional": ["size", "new"], "outputs": outputs}
    assert broken({"Node": NODE}, {"Node": grown, "Another": NODE}) == []
    assert broken({"Node": NODE}, {}) == ["nodes.Node is gone"]


SEARCHED = {
    "Perceive": "depth map, depth estimation, normal map, surface normals, mask, matting, background removal, albedo, "
    "shading, segmentation, marigold, genpercept, lotus, preprocessor",
    "LoadModel": "marigold, genpercept, lotus, dmp, depth estimation",
    "ApplyAdapter": "dmp",
    "PerceivePose": "pose, openpose, keypoints, preprocessor",
    "MatteCutout": "cut-out, cutout, remove background, matting",
    "SaveMap": "exr",
    "Relight": "relight, lighting",
    "Fog": "fog",
    "FocusMask": "depth of field, bokeh",
    "RefineMask": "feather, grow mask",
    "CombineNormals": "combine normal maps",
    "DepthToMesh": "mesh, point cloud, glb",
    "PreviewMap": "legend, colorbar",
    "CompareMaps": "side by side, compare",
    "SaveLayers": "exr, nuke, blender, compositing",
    "DepthToNormal": "normal map, normal from depth",
}
"""What people type, and the node that does it."""


OURS = "DiffusionPerception"


def test_what_people_search_leads_to_the_node_that_does_it_where_the_host_knows_such_words(comfyui):
    found = {name: schema["search_aliases"] for name, schema in comfyui.object_info().items() if has_words(schema)}
    ours = {name.removeprefix(OURS): set(words) for name, words in found.items() if name.startswith(OURS)}
    assert len(ours) >= 13 or not found
    for name, words in SEARCHED.items() if found else ():
        assert set(words.split(", ")) <= ours[name], name


def has_words(schema: dict[str, Any]) -> bool:
    return bool(schema.get("search_aliases"))


def test_inputs_that_are_folded_away_need_no_choice_where_the_host_folds_any(comfyui):
    folded = {
        f"{name}.{key}": rest[0]
        for name, schema in comfyui.object_info().items()
        if schema["python_module"] != "nodes"  # older hosts fold inputs of these few, which are written in another way
        for group in ("required", "optional")
        for key, (_, *rest) in schema["input"].get(group, {}).items()
        if rest and rest[0].get("advanced")
    }
    ours = {where: settings for where, settings in folded.items() if where.startswith(OURS)}
    assert f"{OURS}LoadModel.overrides" in ours or not folded
    assert [where for where, settings in ours.items() if "default" not in settings] == []
