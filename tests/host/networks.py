"""Checkpoints of tiny random networks, written to disk as their publishers would."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldDepthPipeline, MarigoldNormalsPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from diffusion_perception.core.architecture import UNetArchitecture, VAEArchitecture
from diffusion_perception.core.checkpoint import write_checkpoint
from diffusion_perception.core.keys import rename, unet_to_ldm
from diffusion_perception.core.recipe import Recipe

WIDTH = 64
"""Of the tiny networks' text."""


def unet(in_channels: int = 4, seed: int = 0, context_dim: int = WIDTH) -> UNet2DConditionModel:
    """Four levels, as Stable Diffusion has; half a million weights."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        in_channels=in_channels,
        block_out_channels=(32, 64, 64, 64),
        attention_head_dim=[1, 2, 2, 2],
        cross_attention_dim=context_dim,
        use_linear_projection=True,
        norm_num_groups=32,
    ).eval()


def vae(seed: int = 1) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    ).eval()


def context(seed: int = 2, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(1, 2, width, generator=torch.Generator().manual_seed(seed))


def write_own_file(path: Path, *tasks: str, with_vae: bool = True) -> Path:
    """The project's single file: one UNet, several tasks told apart by their contexts."""
    network, autoencoder = unet(), vae()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    vae_shapes = {name: tuple(tensor.shape) for name, tensor in autoencoder.state_dict().items()}
    architecture = UNetArchitecture.from_weights(shapes).with_config(network.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(
        path,
        [Recipe(task, base="custom", resolution=64) for task in tasks],
        (architecture, network.state_dict()),
        vae=(VAEArchitecture.from_weights(vae_shapes), autoencoder.state_dict()) if with_vae else None,
        contexts={task: context(seed) for seed, task in enumerate(tasks)},
    )
    return path


def write_marigold(folder: Path, kind: str, **scheduler: object) -> MarigoldDepthPipeline | MarigoldNormalsPipeline:
    """A Marigold repository in diffusers layout with its empty prompt beside it; gives the pipeline that it is."""
    make = {"depth": MarigoldDepthPipeline, "normals": MarigoldNormalsPipeline}[kind]
    pipeline = make(
        unet=unet(in_channels=8, seed=3),
        vae=vae(),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
            clip_sample=False, set_alpha_to_one=False, steps_offset=1, **scheduler,
        ),
        text_encoder=None,
        tokenizer=None,
        prediction_type=kind,
        default_denoising_steps=4,
        default_processing_resolution=64,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    save_file({"empty_text_embed": context()}, folder / "empty_text_embed.safetensors")
    pipeline.empty_text_embedding = context()
    pipeline.set_progress_bar_config(disable=True)
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
