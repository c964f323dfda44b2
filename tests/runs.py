"""Small training runs: data with exact truth, tiny networks on disk, and configs that train in seconds on a CPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import tiny
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.config import Config, build, merged

SIZE = 32


def write_balls(
    root: Path, count: int, seed: int = 0, size: int = SIZE, holes: bool = False, camera: bool = False
) -> Path:
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
    lens = "[camera]\nfov_deg = 60.0\n" if camera else ""
    (root / "dataset.toml").write_text(
        f'name = "balls"\n{lens}[normal]\naxes = ["right", "up", "back"]\n[segmentation]\nclasses = ["wall", "ball"]\n'
        'palette = ["202060", "F0C030"]\nignore = []\n[disparity]\nunit = "1/m"\n[shading]\ncolour = "linear"\n'
        '[irradiance]\ncolour = "linear"\n[residual]\ncolour = "linear"\n'
    )
    return root


def write_root(folder: Path, held_out: int = 4, camera: bool = False) -> Path:
    """Balls to learn from and to measure on, and a small autoencoder."""
    write_balls(folder / "train", 8, camera=camera)
    write_balls(folder / "val", held_out, seed=9, camera=camera)
    write_vae(folder / "vae")
    return folder


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
        "irradiance": (shading * 0.8).astype(np.float32),
        "residual": (shading**4).astype(np.float32),
        "roughness": ((0.8 - 0.5 * inside) * 255).astype(np.uint8),
        "metallic": (inside * 200).astype(np.uint8),
        "material": (np.stack([0.8 - 0.5 * inside, 0.8 * inside, 0 * inside], -1) * 255).astype(np.uint8),
    }


def save(path: Path, values: np.ndarray) -> None:
    if values.dtype == np.uint8:
        Image.fromarray(values).save(path.with_suffix(".png"))
    else:
        np.save(path.with_suffix(".npy"), values)


class Posterior(NamedTuple):
    mean: Tensor
    std: Tensor

    def mode(self) -> Tensor:
        return self.mean


class Encoded(NamedTuple):
    latent_dist: Posterior


class PatchVAE(nn.Module):
    """An autoencoder that needs no training: a latent is the mean colour of its 8x8 pixels.

    It stands in for AutoencoderKL, whose untrained decoder would show a loss between pictures next to nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scaling_factor=2.0)
        self.encoder, self.quant_conv = nn.Identity(), nn.Identity()
        self.decoder, self.post_quant_conv = nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            self.decoder.weight.copy_(torch.eye(4)[:3, :, None, None])
            self.post_quant_conv.weight.copy_(torch.eye(4)[:, :, None, None])
            nn.init.zeros_(self.post_quant_conv.bias)  # pyright: ignore[reportArgumentType]

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.weight.device

    def encode(self, picture: Tensor) -> Encoded:
        means = F.avg_pool2d(picture, 8)
        latent = torch.cat([means, means.mean(1, keepdim=True)], 1)
        return Encoded(Posterior(latent, torch.full_like(latent, 1e-3)))

    def decode(self, latent: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        colours = self.decoder(self.post_quant_conv(latent))
        return (F.interpolate(colours, scale_factor=8, mode="bilinear"),)

    def enable_gradient_checkpointing(self) -> None:
        """Nothing to save."""


def write_vae(folder: Path) -> Path:
    """A real one, untrained: four levels in as few weights as there can be."""
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
    return tiny.write(folder, network)


def config(root: Path, **settings: Any) -> Config:
    """A run on the balls in root/train and root/val with an untrained tiny network; settings as in TOML, nested."""
    below = {
        "out": str(root / "run"),
        "tasks": ["depth"],
        "size": [SIZE, SIZE],
        "steps": 2,
        "batch_size": 2,
        "workers": 0,
        "estimate": False,
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
