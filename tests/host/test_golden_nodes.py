"""The papers' own code and the nodes in a real ComfyUI answer the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from graph import perceive_file

FOLDERS = ("genpercept_onestep", "genpercept_dpt_head", "deterministic_multistep")
TASKS = {"dis": "mask", "matting": "matte", "seg": "segmentation"}


def overrides(case: dict) -> str:
    """What a golden case changes in the recipe, as a person writes it into the widget."""
    assignments = {}
    if "betas" in case:
        start, end = case["betas"]
        assignments = {"paradigm": "deterministic", "steps": case["steps"], "beta_start": start, "beta_end": end}
    if "fix_timesteps" in case:
        assignments["timestep"] = case["fix_timesteps"]
    return " ".join(f"{field}={value}" for field, value in assignments.items())


def install(comfyui, golden: Path, folder: str) -> None:
    """Put a golden folder where LoadModel and LoadImage look."""
    link = comfyui.models / "perception" / folder
    if not link.exists():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(golden / folder, target_is_directory=True)
    for picture in (golden / folder).glob("*.png"):
        comfyui.add_input(picture, f"{folder}_{picture.name}")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_golden_case_comes_out_of_the_nodes(comfyui, golden, folder):
    install(comfyui, golden, folder)
    expected = np.load(golden / folder / "expected.npz")
    worst = {}
    for case in json.loads((golden / folder / "cases.json").read_text()):
        graph, saved = perceive_file(
            folder,
            f"{folder}_{case['image']}.png",
            f"golden/{folder}/{case['name']}",
            TASKS.get(case["mode"], case["mode"]),
            overrides(case),
            case["processing_res"],
        )
        (file,) = comfyui.submit(graph).files(saved.name)
        worst[case["name"]] = np.abs(np.load(file) - expected[case["name"]]).max()
    assert max(worst.values()) <= 5e-4, worst
