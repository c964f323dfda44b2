"""A VAE's tensors as others have them: rounded, or changed by a little training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def disturbed(tensors: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Noise of that share of each tensor's norm on all of them."""
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    return {name: tensor + share * noise[name] * tensor.norm() / noise[name].norm() for name, tensor in tensors.items()}
