"""Check: what a dataset holds and what is wrong with it is said before it is trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import runs
from PIL import Image

from diffusion_perception.trainer.cli import main

COUNT = 5


@pytest.fixture
def balls(tmp_path) -> Path:
    return runs.write_balls(tmp_path / "balls", COUNT, holes=True)


def told(root: Path, out: Path, *words: str) -> tuple[int, dict]:
    """Its exit code, and what it wrote, by task."""
    code = main(["check", str(root), "--out", str(out), *words])
    return code, {row["task"]: row for row in json.loads((out / "check.json").read_text("utf-8"))["tasks"]}


def test_a_whole_dataset_is_counted_task_by_task(balls, tmp_path, capfd):
    code, found = told(balls, tmp_path / "out")
    assert code == 0
    assert set(found) >= {"depth", "normal", "mask", "segmentation", "albedo"}
    known = [np.asarray(Image.open(path)) > 0 for path in sorted((balls / "valid").glob("*.png"))]
    assert found["depth"]["not valid"] == pytest.approx(
        [min(shares := [1 - each.mean() for each in known]), np.median(shares), max(shares)], abs=1e-6
    )
    depths = [np.load(balls / f"depth/{i:03}.npy")[each] for i, each in enumerate(known)]
    low, _, high = found["depth"]["lowest, middle, highest value"]
    assert (low[0], high[2]) == pytest.approx((min(map(np.min, depths)), max(map(np.max, depths))), rel=1e-5)
    assert found["depth"]["sizes"] == {f"{runs.SIZE}x{runs.SIZE}": COUNT}
    inside = [np.asarray(Image.open(balls / f"segmentation/{i:03}.png"))[each] for i, each in enumerate(known)]
    assert found["segmentation"]["classes"]["ball"] == pytest.approx(np.concatenate(inside).mean())
    assert f"depth: {COUNT} pictures read, 0 of {COUNT} broken" in capfd.readouterr().out


def test_a_contact_sheet_shows_pictures_beside_their_truth(tmp_path):
    balls = runs.write_balls(tmp_path / "whole", COUNT)
    told(balls, tmp_path / "out", "--task", "mask")
    sheet = np.asarray(Image.open(tmp_path / "out/mask.png"))
    assert sheet.shape == (2 * 144, 4 * 2 * 192, 3)  # five pictures, four a row
    truth = sheet[:144, 192 : 192 + 144]
    shown = np.asarray(Image.open(balls / "mask/000.png").resize((144, 144), Image.Resampling.NEAREST)) > 127
    assert ((truth[..., 0] > 127) == shown).mean() > 0.98
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "mask.png"]


def test_what_is_broken_is_named_and_the_exit_code_says_so(balls, tmp_path):
    (balls / "images/001.png").write_bytes(b"nothing")
    np.save(balls / "depth/002.npy", np.full((runs.SIZE, runs.SIZE), np.nan, np.float32))
    code, found = told(balls, tmp_path / "out", "--task", "depth")
    assert code == 1
    assert (found["depth"]["listed"], found["depth"]["read"]) == (COUNT, COUNT - 2)
    assert ["001" in found["depth"]["broken"][0], "002" in found["depth"]["broken"][1]] == [True, True]


def test_a_task_that_is_broken_as_a_whole_does_not_hide_the_others(balls, tmp_path, capfd):
    for path in (balls / "depth").iterdir():
        path.write_bytes(b"")
    code, found = told(balls, tmp_path / "out")
    assert code == 1
    assert "depth" not in found
    assert found["mask"]["read"] == COUNT
    assert f"balls: {COUNT} of {COUNT} records are broken" in capfd.readouterr().err


def test_a_few_pictures_stand_for_a_large_set(balls, tmp_path):
    _, found = told(balls, tmp_path / "out", "--task", "depth", "--images", "2")
    assert found["depth"]["read"] == 2


def test_a_set_without_the_task_is_refused_in_one_line(balls, tmp_path, capfd):
    shutil.rmtree(balls / "normal")
    assert main(["check", str(balls), "--task", "normal"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
