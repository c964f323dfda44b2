"""Checkpoints of tiny random networks where a host's tests want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from diffusion_perception.core.keys import rename, unet_to_ldm
from diffusion_perception.core.recipe import Recipe


def write_own_file(path: Path, *tasks: str, with_vae: bool = True) -> Path:
    """The project's single file: one UNet, several tasks told apart by their contexts."""
    recipes = [Recipe(task, base="custom", resolution=64) for task in tasks]
    return tiny.write_own(path, recipes, **({} if with_vae else {"vae": None}))


def write_marigold(folder: Path, kind: str, **scheduler: object) -> Any:
    """A Marigold repository in diffusers layout; gives the pipeline that it is."""
    pipeline = tiny.marigold(kind, **scheduler)
    tiny.write_marigold(folder, pipeline)
    return pipeline


def write_narrow_sd2(path: Path) -> Path:
    """A UNet small enough for a test that ComfyUI itself takes for SD 2.x: its detection asks for 320 channels only."""
    torch.manual_seed(4)
    network = UNet2DConditionModel(
        block_out_channels=(320, 320),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=5,
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    tensors = network.state_dict()
    names = rename(tensors, unet_to_ldm((True, False), 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"model.diffusion_model.{ldm}": tensors[name].half() for name, ldm in names.items()}, path)
    return path
