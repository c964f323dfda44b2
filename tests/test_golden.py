"""`predict` answers what the authors' own code answered, on the vectors that it left."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from diffusion_perception.trainer.cli import main

FOLDERS = ("genpercept_onestep", "genpercept_dpt_head", "deterministic_multistep")


def overrides(case: dict) -> list[str]:
    """What a case changes in the recipe, as a person writes it."""
    if "betas" in case:
        start, end = case["betas"]
        return ["paradigm=deterministic", f"steps={case['steps']}", f"beta_start={start}", f"beta_end={end}"]
    return [f"timestep={case['fix_timesteps']}"] if "fix_timesteps" in case else []


def runs(folder: Path) -> dict[tuple[str, int, tuple[str, ...]], list[dict]]:
    """The cases of a folder, those together that one command can answer."""
    grouped = defaultdict(list)
    for case in json.loads((folder / "cases.json").read_text()):
        grouped[case["mode"], case["processing_res"], tuple(overrides(case))].append(case)
    return grouped


@pytest.mark.parametrize("name", FOLDERS)
def test_every_case_comes_out_of_the_command_line(golden, tmp_path, name):
    folder = golden / name
    expected = np.load(folder / "expected.npz")
    worst = {}
    for number, ((mode, resolution, changes), cases) in enumerate(runs(folder).items()):
        out = tmp_path / str(number)
        images = [str(folder / f"{case['image']}.png") for case in cases]
        settings = [word for change in changes for word in ("--set", change)]
        arguments = ["--model", str(folder), "--task", mode, "--resolution", str(resolution), "--out", str(out)]
        assert main(["predict", *arguments, *settings, *images]) == 0
        for case in cases:
            seen = np.load(out / f"{case['image']}.npy")
            assert seen.dtype == np.float32
            assert seen.shape == expected[case["name"]].shape
            worst[case["name"]] = float(np.abs(seen - expected[case["name"]]).max())
    assert set(worst) == set(expected.files)
    assert max(worst.values()) <= 1e-4, worst
