"""A reader of datasets is a class and one row: a config names it, and the run learns from it and measures on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import runs
import torch

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import to_toml
from diffusion_perception.trainer.data.published import DATASETS
from diffusion_perception.trainer.data.records import Records, Sample, refuse_task
from diffusion_perception.trainer.data.truth import Level, Truth


class Archive(Records[int]):
    """Pictures and masks in one NPZ file: images (N, H, W, 3) and masks (N, H, W), bytes."""

    def __init__(self, root: str, task: str, first: int = 0) -> None:
        if task != "mask":
            raise refuse_task("An archive", task, ("mask",))
        self.root = root
        with np.load(Path(root) / "all.npz") as held:
            super().__init__("archive", task, Level().convention(), range(first, len(held["images"])))

    def read(self, record: int) -> Sample:
        with np.load(Path(self.root) / "all.npz") as held:
            image = torch.from_numpy(held["images"][record]).movedim(-1, 0) / 255
            values = torch.from_numpy(held["masks"][record])[None] / 255
        return self.sample(str(record), image, Truth(values, torch.ones_like(values, dtype=torch.bool)))


@pytest.fixture
def place(monkeypatch, tmp_path) -> Path:
    monkeypatch.setitem(DATASETS, "archive", Archive)
    random = np.random.default_rng(3)
    balls = [runs.ball(random, runs.SIZE) for _ in range(6)]
    (tmp_path / "balls").mkdir()
    kinds = {"images": "images", "masks": "mask"}
    np.savez(
        tmp_path / "balls" / "all.npz", **{name: np.stack([b[kind] for b in balls]) for name, kind in kinds.items()}
    )
    runs.write_vae(tmp_path / "vae")
    return tmp_path


def train(place: Path, task: str) -> int:
    """By the command line; measured on the last two."""
    data = {"root": str(place / "balls"), "reader": "archive"}
    config = runs.config(place, tasks=[task], data=[data], validation=[{**data, "settings": {"first": 4}}])
    (place / "run.toml").write_text(to_toml(config))
    return main(["train", str(place / "run.toml")])


def test_a_run_learns_from_a_new_reader_and_measures_on_it(place):
    assert train(place, "mask") == 0
    assert open_checkpoint(place / "run" / "last.safetensors").recipe.data == "archive"
    lines = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mask" in line.get("loss", {})] == [1, 2]
    (measured,) = [line["validation"] for line in lines if "validation" in line]
    assert 0 < measured["mask/mae"] < 1


def test_what_a_new_reader_has_no_truth_for_is_said_in_its_words(place, capfd):
    assert train(place, "depth") == 2
    assert "An archive has no truth for the task 'depth': it knows mask." in capfd.readouterr().err
