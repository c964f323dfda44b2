"""Light halves of random weights, and TAESD's files as they lie on disks."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_perception.core.tiny_vae import Role, untrained


def random_light(
    role: Role = "decoder", channels: int = 1, width: int = 16, blocks: tuple[int, ...] = (1, 1, 1), seed: int = 0
) -> nn.Module:
    """A network whose every weight does something."""
    torch.manual_seed(seed)
    network = untrained(role, channels, width, blocks).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.add_(torch.randn_like(weight) * 0.05)
    return network


def tiny_autoencoder(seed: int = 0) -> AutoencoderTiny:
    """TAESD by diffusers."""
    torch.manual_seed(seed)
    return AutoencoderTiny().eval().requires_grad_(False)


def published(autoencoder: AutoencoderTiny, role: Role) -> dict[str, Tensor]:
    """The tensors of a half as its authors publish them: modules are counted with the clamp that begins the decoder."""
    moved = 1 if role == "decoder" else 0
    inner = {
        name.removeprefix(f"{role}.layers."): tensor
        for name, tensor in autoencoder.state_dict().items()
        if name.startswith(role)
    }
    return {f"{int(name.split('.')[0]) + moved}.{name.partition('.')[2]}": tensor for name, tensor in inner.items()}


def write_taesd(path: Path, role: Role, seed: int = 0) -> Path:
    """As ComfyUI keeps it, or as its authors did."""
    tensors = published(tiny_autoencoder(seed), role)
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
