"""Tiny random networks of Stable Diffusion's kind, and checkpoints of them on disk as their publishers lay them out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints import own_file
from diffusion_perception.core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from diffusion_perception.core.checkpoints.ldm_names import rename, unet_to_ldm, vae_to_ldm
from diffusion_perception.core.heads.dpt import DPT
from diffusion_perception.core.pipeline import Perceiver
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone

WIDTH = 64
"""Of the text that the networks read."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICTURED = [name for name, task in TASKS.items() if task.per == "image"]
"""Tasks whose maps are pictures, which a VAE can decode."""


@cache
def unet(in_channels: int = 4, seed: int = 0, generation: int = 2, context: int = WIDTH) -> UNet2DConditionModel:
    """Four levels and half the depth of a real one, in a shape that ComfyUI can run too; generation: 1 or 2."""
    torch.manual_seed(seed)
    network = UNet2DConditionModel(
        in_channels=in_channels,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        attention_head_dim=2 if generation == 1 else [1, 2, 2, 2],  # pyright: ignore[reportArgumentType]
        cross_attention_dim=context,
        use_linear_projection=generation == 2,
    )
    return network.eval().requires_grad_(False)


@cache
def vae(seed: int = 1) -> AutoencoderKL:
    """Four levels; its latents are scaled to the size of real ones, so that predictions depend on the image."""
    torch.manual_seed(seed)
    network = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        latent_channels=4,
    )
    network.requires_grad_(False).quant_conv.weight.mul_(10)
    return network.eval()


def context(seed: int = 2, tokens: int = 2, width: int = WIDTH) -> Tensor:
    """(1, tokens, width)."""
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, 3, H, W) of 8-bit levels in [0, 1]: a slope with noise on it."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    slope = torch.linspace(0, 1, height)[:, None] * torch.linspace(0.2, 1, width)
    return ((slope * 0.6 + noise * 0.4) * 255).round() / 255


def save_picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """The same as a file."""
    pixels = (picture(height, width, seed)[0].movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(path)
    return path


def perceiver(recipe: Recipe, in_channels: int = 4, tokens: Tensor | None = None, **parts: Any) -> Perceiver:
    """Tiny networks under a recipe."""
    text = Context(context() if tokens is None else tokens)
    return Perceiver(recipe, DiffusersBackbone(unet(in_channels)), text, DiffusersAutoencoder(vae()), **parts)


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def unet_architecture(network: UNet2DConditionModel) -> UNetArchitecture:
    return UNetArchitecture.from_weights(shapes(network.state_dict())).with_config(network.config)


def vae_architecture(network: AutoencoderKL) -> VAEArchitecture:
    return VAEArchitecture.from_weights(shapes(network.state_dict())).with_config(network.config)


HEAD_SHAPES = {
    "neck.convs.0.weight": (32, 32, 3, 3),
    "neck.convs.1.weight": (32, 64, 3, 3),
    "neck.convs.2.weight": (32, 64, 3, 3),
    "neck.convs.3.weight": (32, 64, 3, 3),
    "head.head.2.weight": (16, 16, 3, 3),
    "head.head.4.weight": (1, 16, 1, 1),
}
"""Of a DPT head for unet(): as much as its builder reads."""


@cache
def dpt_head(seed: int = 3, positive: bool = False) -> DPT:
    torch.manual_seed(seed)
    return DPT(HEAD_SHAPES, nn, positive).eval().requires_grad_(False)


# On disk


def write(folder: Path, network: nn.Module, name: str = WEIGHTS, dtype: torch.dtype = torch.float32) -> Path:
    """A network's own folder: weights, and its config if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(dtype) for key, tensor in network.state_dict().items()}
    save_file(tensors, folder / name)
    config = getattr(network, "config", None)
    if config is not None:
        write_json(folder / "config.json", dict(config))
    return folder


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_context(folder: Path, tokens: Tensor | None = None) -> Path:
    """The empty prompt beside a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "empty_text_embed.safetensors"
    save_file({"empty_text_embed": context() if tokens is None else tokens}, path)
    return path


def write_genpercept(folder: Path, unets: Iterable[str], with_vae: bool = True, with_context: bool = True) -> Path:
    """A repository of GenPercept's; the first UNet is unet(seed=0), the second unet(seed=1) ..."""
    for seed, name in enumerate(unets):
        write(folder / name, unet(seed=seed))
    write_json(folder / "model_index.json", {"_class_name": "GenPerceptPipeline", "_diffusers_version": "0.24.0"})
    if with_vae:
        write(folder / "vae", vae())
    if with_context:
        write_context(folder)
    return folder


def write_head(folder: Path, name: str = "dpt_head_identity") -> Path:
    """A head as it lies beside the UNet that was trained for it, which has no way out of its own."""
    write(folder / name, dpt_head(positive=name == "dpt_head"), "model.safetensors")
    return folder


def write_headless(folder: Path, seed: int = 0) -> Path:
    """A UNet without its output layers."""
    write(folder, unet(seed=seed))
    kept = {key: tensor for key, tensor in unet(seed=seed).state_dict().items() if "conv_out" not in key}
    save_file({key: tensor for key, tensor in kept.items() if "conv_norm_out" not in key}, folder / WEIGHTS)
    return folder


def marigold(kind: str = "depth", config: Mapping[str, Any] | None = None, **scheduler: Any) -> Any:
    """Marigold's own pipeline of diffusers on tiny networks; kind: depth or normals."""
    from diffusers import DDIMScheduler, MarigoldDepthPipeline, MarigoldNormalsPipeline

    make = {"depth": MarigoldDepthPipeline, "normals": MarigoldNormalsPipeline}[kind]
    published = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    pipeline = make(
        unet=unet(8, seed=4),
        vae=vae(),
        scheduler=DDIMScheduler(**{**published, **scheduler}),
        text_encoder=None,
        tokenizer=None,
        prediction_type=kind,
        **{"default_denoising_steps": 4, "default_processing_resolution": 64, **(config or {})},
    )  # pyright: ignore[reportArgumentType]
    pipeline.empty_text_embedding = context()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_marigold(folder: Path, pipeline: Any) -> Path:
    """The pipeline in diffusers layout, with its empty prompt beside it."""
    pipeline.save_pretrained(folder)
    write_context(folder, pipeline.empty_text_embedding)
    return folder


def write_intrinsics(folder: Path, targets: Mapping[str, Any], latents: int) -> Path:
    """Marigold's layout around a network that predicts several latents; targets: as model_index.json tells them."""
    write_marigold(folder, marigold())
    torch.manual_seed(12)
    shape = {**UNet2DConditionModel.load_config(folder / "unet"), "in_channels": 4 + 4 * latents}
    UNet2DConditionModel.from_config({**shape, "out_channels": 4 * latents}).save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    kept = {key: value for key, value in index.items() if not key.startswith(("scale", "shift", "prediction"))}
    stated = {"_class_name": "MarigoldIntrinsicsPipeline", "target_properties": targets}
    write_json(folder / "model_index.json", {**kept, **stated})
    return folder


def write_own(path: Path, recipes: list[Recipe], in_channels: int = 4, **parts: Any) -> Path:
    """The project's own file; parts as own_file.write_own() takes them, a VAE and a context a recipe if left out."""
    network, autoencoder = unet(in_channels), vae()
    defaults: dict[str, Any] = {
        "unet": (unet_architecture(network), network.state_dict()),
        "vae": (vae_architecture(autoencoder), autoencoder.state_dict()),
        "contexts": {recipe.id: context(seed) for seed, recipe in enumerate(recipes)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    own_file.write_own(path, recipes, **{**defaults, **parts})
    return path


def ldm(network: UNet2DConditionModel) -> dict[str, Tensor]:
    """A UNet's tensors under the names of Stable Diffusion's own code."""
    architecture = unet_architecture(network)
    tensors = network.state_dict()
    names = rename(tensors, unet_to_ldm(architecture.attention, architecture.layers))
    return {f"model.diffusion_model.{theirs}": tensors[ours] for ours, theirs in names.items()}


def ldm_vae(network: AutoencoderKL) -> dict[str, Tensor]:
    """A VAE's, likewise; its attention is 1x1 convolutions there."""
    architecture = vae_architecture(network)
    tensors = network.state_dict()
    names = rename(tensors, vae_to_ldm(len(architecture.widths), architecture.layers))
    renamed = {theirs: tensors[ours] for ours, theirs in names.items()}
    return {f"first_stage_model.{name}": as_convolution(name, tensor) for name, tensor in renamed.items()}


def as_convolution(name: str, tensor: Tensor) -> Tensor:
    return tensor[..., None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor


def write_ldm(path: Path, dtype: torch.dtype = torch.float16) -> Path:
    """A whole checkpoint in one file, with a tensor of its text encoder and one of the schedule."""
    others = {"cond_stage_model.model.ln_final.weight": torch.ones(8), "betas": torch.zeros(1000)}
    tensors = {**ldm(unet()), **ldm_vae(vae()), **others}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, path)
    return path


def write_stable_diffusion(path: Path) -> Path:
    """The same with a whole text encoder, under CLIP's names: what a run can start from."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(5)
    config = CLIPTextConfig(hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=1)
    text = CLIPTextModel(config).state_dict()
    named = {f"cond_stage_model.transformer.{name.removeprefix('text_model.')}": text[name] for name in text}
    tensors = {**ldm(unet(generation=1)), **ldm_vae(vae()), **named}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def expected_levels(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of picture()."""
    return (image[0].movedim(0, -1) * 255).round().byte().numpy()
