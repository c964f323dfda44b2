"""The guides in docs/ can be followed: their configs and commands run as they stand there, with fewer steps."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import guides
import numpy as np
import pytest
import tiny
from PIL import Image
from script import ROOT, load_script

from diffusion_perception.core.geometry import intrinsics_from_fov
from diffusion_perception.trainer.checks import check_complete, check_said
from diffusion_perception.trainer.cli import main

CONFIGS = [(page, name) for page in guides.TRAINING for name in guides.configs(page)]
FEWER = shlex.split("--steps 2 --size 64,64 --batch-size 1 --validate-every 1 --workers 0 --samples 1 --warmup 1")
OF_A_SHELL = ("git", "cd", "python3", "source", "pip", "sha256sum")
"""Commands that are about the reader's machine."""
PICTURES = 4


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """The dataset that the guides make, smaller."""
    folder = tmp_path_factory.mktemp("guides") / "shapes"
    script = load_script("docs/shapes.py")
    script.write(folder / "train", range(PICTURES))
    script.write(folder / "test", range(10_000, 10_001))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, shapes, own_precision) -> Path:
    """Where a reader stands: the repository, with what the guides say that he has."""
    for name in ("weights", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "shapes").symlink_to(shapes)
    for page, name in CONFIGS:
        (tmp_path / name).write_text(guides.configs(page)[name], "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(page: str) -> list[list[str]]:
    """The words of the commands that this project answers."""
    words = [shlex.split(line) for line in guides.commands(page)]
    return [line for line in words if line[0] not in OF_A_SHELL]


def follow(page: str) -> list[list[str]]:
    """Every command of a page, in its order; each must succeed. The script that makes pictures has run before."""
    lines = typed(page)
    for program, *words in lines:
        if program == "python":
            assert words == ["docs/shapes.py", "shapes", "--pictures", "120"]
            continue
        assert program == "diffusion-perception"
        trains = words[0] == "train" and not {"--print-config", "--write-config"} & set(words)
        assert main([*words, *FEWER] if trains else words) == 0, words
    return lines


def told(path: str, capsys) -> dict:
    capsys.readouterr()
    assert main(["info", path]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_a_folder_of_pictures_to_a_file_that_predicts(place, capsys):
    lines = follow("train-in-an-evening")
    assert {words[1] for words in lines if words[0] != "python"} == {"train", "export", "info", "predict"}
    run = place / "my-normals"
    assert {"best.safetensors", "last.safetensors", "log.jsonl", "samples"} <= {path.name for path in run.iterdir()}
    (row,) = told("my-normals.safetensors", capsys)["checkpoints"]
    assert (row["recipe"]["task"], row["licence"]) == ("normal", "CC0-1.0")
    assert row["recipe"]["data"] == "120 rendered pictures of solids"
    assert row["recipe"]["resolution"] == 128
    normals = np.load(place / "maps" / "10000.npy")
    assert normals.shape == (160, 160, 3)
    assert np.isfinite(normals).all()


def test_the_rehearsal_changes_nothing_and_says_where_the_base_stands(place, capsys):
    (rehearsal,) = (words for words in typed("train-in-an-evening") if "rehearsal" in words)
    assert main([*rehearsal[1:], "--size", "64,64", "--workers", "0", "--batch-size", "1"]) == 0
    assert "Step 1, held out: normal/loss" in capsys.readouterr().err
    for file, model in (("trained", "rehearsal/last.safetensors"), ("base", "weights/starter.safetensors")):
        line = f"predict --model {model} --task normal --resolution 128 --out {file} shapes/test/images/10000.png"
        assert main(line.split()) == 0
    difference = np.load(place / "trained" / "10000.npy") - np.load(place / "base" / "10000.npy")
    assert np.abs(difference).max() < 2e-3  # the starter is stored in fp16 and so is what is written


def test_from_a_folder_of_pictures_to_an_adapter(place, capsys):
    tiny.write_stable_diffusion(place / "sd15.safetensors")
    follow("adapter-on-your-sd15")
    adapter = told("my-normals-sd15.safetensors", capsys)
    assert adapter["licence"] == "CreativeML Open RAIL-M"
    assert np.load(place / "maps" / "10000.npy").shape == (160, 160, 3)


def test_the_config_for_a_gpu_trains_a_whole_stable_diffusion(place, capsys):
    tiny.write_stable_diffusion(place / "v2-1_512-ema-pruned.safetensors")
    # in whole precision, for there are processors that take minutes to emulate another
    assert main(["train", "evening-sd21.toml", "--precision", "no", "--frozen-precision", "fp32", *FEWER]) == 0
    (row,) = told("my-sd21-normals/best.safetensors", capsys)["checkpoints"]
    assert row["licence"] == "CreativeML Open RAIL++-M"


@pytest.mark.parametrize(("page", "name"), CONFIGS)
def test_a_config_of_the_guides_is_whole_and_nothing_in_it_is_idle(page, name):
    config = guides.config_of(guides.configs(page)[name])
    check_complete(config)
    check_said(config)


def test_the_folder_looks_as_the_guide_draws_it(shapes):
    drawn = (guides.DOCS / "train-in-an-evening.md").read_text("utf-8").partition("```\nshapes/")[2].partition("```")[0]
    for name in ("dataset.toml", "images/0000.png", "depth/0000.png", "normal/0000.png", "mask/0000.png"):
        assert name in drawn
        assert (shapes / "train" / name).is_file()


def test_the_shapes_have_the_normals_of_their_depth(shapes):
    intrinsics = intrinsics_from_fov(45.0, 160, 160)
    for number in range(PICTURES):
        depth, normal, mask = (
            np.asarray(Image.open(shapes / "train" / kind / f"{number:04}.png")).astype(np.float64)
            for kind in ("depth", "normal", "mask")
        )
        stored = normal / 255 * 2 - 1
        stored /= np.linalg.norm(stored, axis=-1, keepdims=True)
        K = np.asarray(intrinsics[0], np.float64)
        rows, columns = np.mgrid[:160, :160] + 0.5
        rays = np.stack([(columns - K[0, 2]) / K[0, 0], -(rows - K[1, 2]) / K[1, 1], -np.ones_like(depth)], -1)
        points = rays * depth[..., None]
        # neighbours two to the right and two up, from the middle between them
        across, up = points[1:-1, 2:] - points[1:-1, :-2], points[:-2, 1:-1] - points[2:, 1:-1]
        derived = np.cross(across, up)
        derived /= np.linalg.norm(derived, axis=-1, keepdims=True)
        angle = np.degrees(np.arccos((derived * stored[1:-1, 1:-1]).sum(-1).clip(-1, 1)))
        assert np.median(angle) < 1
        assert (angle < 5).mean() > 0.85  # edges have none
        assert 0.02 < (mask == 255).mean() < 0.9
