"""Checkpoints of tiny random networks where a host's tests want them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter, LowRank
from diffusion_perception.core.checkpoints.architecture import VAEArchitecture
from diffusion_perception.core.checkpoints.fingerprint import fingerprint
from diffusion_perception.core.checkpoints.ldm_names import rename, unet_to_ldm, vae_to_ldm
from diffusion_perception.core.checkpoints.tensors import network, pick_unet
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


NARROW: dict[str, Any] = {
    "block_out_channels": (320, 320),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
"""A UNet small enough for a test that ComfyUI itself takes for Stable Diffusion: it asks for 320 channels only."""
LAYOUT = ((True, False), 1)
"""Of that UNet: which levels attend, and residual blocks a level."""
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
SD1: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2: dict[str, Any] = {"cross_attention_dim": 1024, "attention_head_dim": 5, "use_linear_projection": True}

FOUR_LEVELS: dict[str, Any] = {"block_out_channels": (320,) * 4, "layers_per_block": 1}
"""The same with as many levels as a real one; attention on all but the deepest."""


def write_narrow_sd2(path: Path) -> Path:
    """The narrow UNet as ComfyUI's UNETLoader takes it for SD 2.x."""
    torch.manual_seed(4)
    network = UNet2DConditionModel(**NARROW, **SD2, up_block_types=UP)
    return save_half(path, under("model.diffusion_model.", network.state_dict(), unet_to_ldm(*LAYOUT)))


def write_narrow_lotus(path: Path) -> Path:
    """The same as Lotus-D in one file of diffusers' names: with a class vector, without VAE and text."""
    torch.manual_seed(8)
    vector: dict[str, Any] = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
    return save_half(path, UNet2DConditionModel(**NARROW, **SD2, **vector, up_block_types=UP).state_dict())


@cache
def narrow_sd1() -> UNet2DConditionModel:
    torch.manual_seed(5)
    return UNet2DConditionModel(**NARROW, **SD1, up_block_types=UP).eval().requires_grad_(False)


def write_narrow_sd1_unet(path: Path, in_channels: int = 4) -> Path:
    """The UNet of narrow_sd1() alone, as ComfyUI's loaders take it for SD 1.x; with 9 channels, for inpainting."""
    tensors = narrow_sd1().state_dict()
    further = torch.zeros(320, in_channels - 4, 3, 3)
    tensors["conv_in.weight"] = torch.cat([tensors["conv_in.weight"], further], 1)
    return save_half(path, under("model.diffusion_model.", tensors, unet_to_ldm(*LAYOUT)))


def write_narrow_sd1(path: Path) -> Path:
    """A checkpoint that ComfyUI's CheckpointLoaderSimple takes for SD 1.x: the narrow UNet; VAE and CLIP of real size,
    as the host knows no other."""
    return save_half(
        path,
        {
            **under("model.diffusion_model.", narrow_sd1().state_dict(), unet_to_ldm(*LAYOUT)),
            **random_vae("first_stage_model."),
            **under("cond_stage_model.transformer.", random_clip(), {}),
        },
    )


def random_vae(prefix: str = "") -> dict[str, Tensor]:
    """A VAE of the real size, under the names that Stable Diffusion's files have for it."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    weights = random_weights(vae, 6)
    architecture = VAEArchitecture.from_weights(tiny.shapes(weights))
    autoencoder = under(prefix, weights, vae_to_ldm(len(architecture.widths), architecture.layers))
    return {name: tiny.as_convolution(name, tensor) for name, tensor in autoencoder.items()}


def random_clip() -> dict[str, Tensor]:
    """The text encoder of SD 1.x, whose size is fixed in the host."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        network = CLIPTextModel(config)
    tensors = random_weights(network, 7)
    # releases of transformers differ in whether this stands before every name
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}


def write_narrow_controlnet(path: Path) -> Path:
    """A ControlNet for the narrow SD 1.x UNet, in the layout of those that people have; its effect is not zero."""
    torch.manual_seed(8)
    network = ControlNetModel(**NARROW, **SD1)
    for name, parameter in network.named_parameters():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")):
            # untrained ControlNets say nothing: their ways out are zero
            nn.init.normal_(parameter, std=0.05)
    return save_half(path, under("control_model.", network.state_dict(), {**unet_to_ldm(*LAYOUT), **CONTROL}))


CONTROL = {
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    **{f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(6)},
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
    **{f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(4)},
    "controlnet_mid_block": "middle_block_out.0",
}
"""Diffusers' prefix -> that of ControlNet's own code, for what it has besides half a UNet."""


def under(prefix: str, tensors: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    """The tensors by other names, all of them with a prefix."""
    names = rename(tensors, prefixes)
    return {prefix + names.get(name, name): tensor for name, tensor in tensors.items()}


def write_adapter_for(unet_file: Path, path: Path, seed: int = 0) -> None:
    """A random rank-4 adapter on the attention of an SD 2.x UNet, its context baked in."""
    weights = network((unet_file,), pick_unet)
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for name, shape in weights.shapes.items():
        if name.endswith((".to_q.weight", ".to_v.weight")):
            down = torch.randn(4, shape[1], generator=generator) * 0.05
            parts[name.removesuffix(".weight")] = LowRank(down, torch.randn(shape[0], 4, generator=generator) * 0.05)
    tensors = weights.load()
    path.parent.mkdir(parents=True, exist_ok=True)
    adapter = Adapter(
        path,
        parts,
        base="sd21",
        fingerprint=fingerprint(tensors.__getitem__),
        recipes=(Recipe("depth", resolution=64),),
    )
    write_adapter(path, adapter, contexts={"depth": tiny.context(width=1024)})


def save_half(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)
    return path


def random_weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Half-precision weights that keep a signal's size, for a network that was made without memory."""
    generator = torch.Generator().manual_seed(seed)

    def of(name: str, shape: torch.Size) -> Tensor:
        if len(shape) == 1:
            return torch.full(shape, float("norm" in name and name.endswith("weight")), dtype=torch.float16)
        return (torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5).half()

    return {name: of(name, tensor.shape) for name, tensor in network.state_dict().items()}
