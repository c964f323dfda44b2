"""Small training runs: data with exact truth, tiny networks on disk, and configs that train in seconds on a CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.config import Config, build, merged

SIZE = 32
TASKS = ("depth", "disparity", "normal", "mask", "matte", "segmentation", "albedo", "shading")


def write_balls(root: Path, count: int, seed: int = 0, size: int = SIZE, holes: bool = False) -> Path:
    """Balls before a wall, with the truth of every task; holes: of each picture another share is not valid."""
    random = np.random.default_rng(seed)
    for index in range(count):
        kinds = ball(random, size)
        if holes:
            known = np.arange(size) < size * (index + 1) // (count + 1)
            kinds["valid"] = np.repeat(known[None], size, 0).astype(np.uint8) * 255
        for kind, values in kinds.items():
            (root / kind).mkdir(parents=True, exist_ok=True)
            save(root / kind / f"{index:03}", values)
    (root / "dataset.toml").write_text(
        'name = "balls"\n[normal]\naxes = ["right", "up", "back"]\n[segmentation]\nclasses = ["wall", "ball"]\n'
        'palette = ["202060", "F0C030"]\nignore = []\n[shading]\ncolour = "linear"\n'
    )
    return root


def ball(random: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """One picture: (H, W) or (H, W, 3), bytes or floats."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    centre, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.2, 0.35)
    across, down = (x - centre[0]) / radius, (y - centre[1]) / radius
    inside = across**2 + down**2 < 1
    height = np.sqrt(np.maximum(1 - across**2 - down**2, 0))
    normal = np.where(inside[..., None], np.stack([across, -down, height], -1), [0.0, 0.0, 1.0])
    depth = np.where(inside, 3 - 1.5 * height, 4 + y)
    albedo = np.where(inside[..., None], [0.9, 0.6, 0.2], [0.3, 0.4, 0.7])
    shading = np.repeat((0.3 + 0.7 * normal[..., 2:]) * (0.6 + 0.4 * y[..., None]), 3, -1)
    soft = np.clip((1.1 - np.sqrt(across**2 + down**2)) * 5, 0, 1)
    return {
        "images": (np.sqrt(albedo * shading) * 255).astype(np.uint8),
        "depth": depth.astype(np.float32),
        "disparity": (1 / depth).astype(np.float32),
        "normal": normal.astype(np.float32),
        "mask": inside.astype(np.uint8) * 255,
        "matte": (soft * 255).astype(np.uint8),
        "segmentation": inside.astype(np.uint8),
        "albedo": (np.sqrt(albedo) * 255).astype(np.uint8),
        "shading": shading.astype(np.float32),
    }


def save(path: Path, values: np.ndarray) -> None:
    if values.dtype == np.uint8:
        Image.fromarray(values).save(path.with_suffix(".png"))
    else:
        np.save(path.with_suffix(".npy"), values)


@cache
def vae() -> AutoencoderKL:
    """Four levels in a fraction of a millisecond: latents that keep an eighth of the picture, and so can be decoded."""
    torch.manual_seed(11)
    network = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        network.quant_conv.weight.mul_(10)
    return network.requires_grad_(False).eval()


def write_vae(folder: Path) -> Path:
    return tiny.write(folder, vae())


def context(tokens: int = 77) -> Tensor:
    return tiny.context(tokens=tokens)


def config(root: Path, **settings: Any) -> Config:
    """A run on the balls in root/train and root/val with an untrained tiny network; settings as in TOML, nested."""
    below = {
        "out": str(root / "run"),
        "tasks": ["depth"],
        "size": [SIZE, SIZE],
        "steps": 2,
        "batch_size": 2,
        "workers": 0,
        "device": "cpu",
        "validate_every": 0,
        "samples": 0,
        "log_every": 1,
        "augment": {"flip": 0.5},
        "base": {"architecture": "tiny", "vae": str(root / "vae")},
        "optimiser": {"lr": 1e-3},
        "data": [{"root": str(root / "train")}],
    }
    return build(Config, merged(below, settings), "")


def recipe(task: str, **fields: Any) -> Recipe:
    return Recipe(task, base="custom", **fields)


def train(run: Run) -> tuple[float, float]:
    """The held-out error before and after a run."""
    before = run.judge.measure(0, True)
    fit(run)
    return before[LOSS_OF[run.config.learn]], run.judge.measure(run.config.steps, True)[LOSS_OF[run.config.learn]]


LOSS_OF = {"perception": "loss", "vae": "l1"}
