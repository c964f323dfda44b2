"""`predict` answers what the authors' own code answered, family by family, on the vectors that it left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffusion_perception.trainer.cli import main

FOLDERS = (
    "marigold_depth_v1_1",
    "marigold_depth_lcm",
    "marigold_normals_v1_1",
    "marigold_iid_appearance",
    "marigold_iid_lighting",
    "e2e_ft",
    "lotus_d",
    "lotus_g",
    "depthmaster",
    "rgb2x",
)
STACKED = {"roughness": 0, "metallic": 1}
"""{task: channel of the appearance model's material}"""


def changes(case: dict) -> list[str]:
    """What a case changes in the recipe, as a person writes it."""
    both = {"nearest": "nearest-exact"}.get(case.get("resample_method", ""), "")  # which E2E-FT's authors mean by it
    fields = {
        "steps": case.get("steps"),
        "ensemble_size": case.get("ensemble_size"),
        "codec": "half-sphere" if case.get("use_full_z_range") is False else None,
        "filter": case.get("resample_method_input", both) or None,
        "back_filter": case.get("resample_method_output", both) or None,
    }
    return [f"{field}={value}" for field, value in fields.items() if value is not None]


def answers(folder: Path, case: dict, out: Path, task: str) -> np.ndarray:
    """What the command line makes of one case."""
    given = folder / "latents.safetensors"
    words = ["predict", "--model", folder, "--task", task, "--resolution", case["processing_res"], "--out", out]
    for change in changes(case):
        words += ["--set", change]
    for flag, key in (("--noise", "latents"), ("--step-noise", "step_noise")):
        words += [flag, f"{given}:{case[key]}"] if key in case else []
    if "text_embeds" in case:
        words += ["--context", f"{folder / 'text_embeds.safetensors'}:{case['text_embeds']}"]
    assert main([str(word) for word in (*words, folder / f"{case['image']}.png")]) == 0
    return np.load(out / f"{case['image']}.npy")


def wanted(case: dict) -> dict[str, tuple[str, int | None]]:
    """{task: (name in expected.npz, channel of it)}"""
    if "targets" not in case:
        return {case["mode"]: (case["name"], None)}
    found: dict[str, tuple[str, int | None]] = {name: (f"{case['name']}/{name}", None) for name in case["targets"]}
    if "material" in case["targets"]:
        found |= {task: (f"{case['name']}/material", channel) for task, channel in STACKED.items()}
    return found


def tolerance(case: dict) -> float:
    """As the vectors' README says."""
    return 1e-4 if case.get("steps", 1) == 1 else max(1e-3, 3 * case["moves_by"])


@pytest.mark.parametrize("name", FOLDERS)
def test_every_case_comes_out_of_the_command_line(golden, tmp_path, name):
    folder = golden / name
    expected = np.load(folder / "expected.npz")
    worst, allowed = {}, {}
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        for task, (key, channel) in wanted(case).items():
            seen = answers(folder, case, tmp_path / case["name"] / task, task)
            truth = expected[key] if channel is None else expected[key][..., channel]
            assert seen.shape == truth.shape
            # near 0 the power 1/2.2 turns 1e-6 into 2e-3: there the vectors ask to compare before it
            light = name == "rgb2x" and task in ("albedo", "irradiance")
            seen, truth = (seen**2.2, truth**2.2) if light else (seen, truth)
            worst[case["name"], task] = float(np.abs(seen - truth).max())
            allowed[case["name"], task] = tolerance(case)
    assert all(worst[key] <= allowed[key] for key in worst), {k: v for k, v in worst.items() if v > allowed[k]}
