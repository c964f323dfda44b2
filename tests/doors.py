"""The doors by which old files come in: where code moves, this file alone follows. The command line stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from diffusion_perception.trainer.cli import main


def command(*words: str | Path) -> None:
    """Run a command of the project in this process. AssertionError if it refuses."""
    assert main([str(word) for word in words]) == 0, words


def predicted(words: list[str], picture: Path, out: Path) -> np.ndarray:
    """What `predict` writes of a picture: raw values, or the keypoints of people."""
    command("predict", picture, "--out", out, "--device", "cpu", *words)
    raw = out / f"{picture.stem}.npy"
    return np.load(raw) if raw.exists() else keypoints(out / f"{picture.stem}.json")


def keypoints(file: Path) -> np.ndarray:
    """(N, 3 a keypoint): x and y in pixels, and 1, of people whose keypoints have names of their own."""
    return np.array(json.loads(file.read_text("utf-8"))["bodies"])
