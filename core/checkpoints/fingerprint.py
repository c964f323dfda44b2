"""Fingerprint: a few hundred values of a network's weights that tell one Stable Diffusion checkpoint from another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

TENSORS = (
    "conv_in.weight",
    "time_embedding.linear_1.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "down_blocks.2.resnets.0.conv1.weight",
    "mid_block.attentions.0.proj_in.weight",
    "mid_block.resnets.1.conv2.weight",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k.weight",
    "up_blocks.3.resnets.0.conv1.weight",
)
VALUES = 40
"""Of each tensor, evenly spaced from its first to its last."""
TOLERANCE = 5e-3
"""Relative to the values' norm: half precision costs 3e-4 and bfloat16 2e-3; fine-tunes differ by more."""
NEGLIGIBLE = 1e-2
"""Of the norm that the values of the middle tensor have: what is smaller is measured by this, for rounding and training
leave of a tensor that is nearly zero what they like."""

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Fingerprint = Mapping[str, list[float]]
"""{tensor: some of its values, as half precision has them}"""


def fingerprint(get: Callable[[str], Tensor], names: Iterable[str] = TENSORS) -> Fingerprint:
    """The fingerprint of the network, a UNet if no other names are given, whose weights `get` hands out by their
    diffusers names, unpatched.

    A tensor for which `get` raises KeyError is left out, and so is one that was rounded or packed into 8 bits or fewer,
    whose values are no longer the checkpoint's.
    """
    found = {}
    for name in names:
        try:
            tensor = get(name)
        except KeyError:
            continue
        if _is_plain(tensor):
            found[name] = sample(tensor)
    return found


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds ordinary floating-point numbers; hosts keep quantised ones in classes of their own."""
    return type(tensor.data) is Tensor and tensor.dtype in PLAIN


def sample(tensor: Tensor) -> list[float]:
    flat = tensor.detach().reshape(-1)
    at = torch.linspace(0, flat.numel() - 1, VALUES).long()
    # five digits hold a half-precision number
    return [float(f"{value:.5g}") for value in flat[at.to(flat.device)].half().tolist()]


def is_fingerprint(value: Any) -> bool:
    """Whether what a file says is one."""
    return isinstance(value, dict) and all(
        isinstance(numbers, list) and all(isinstance(number, int | float) for number in numbers)
        for numbers in value.values()
    )


def matches(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether both are of the same weights, whatever precision each was stored in. False if they share no tensor."""
    apart = _differences(one, other)
    return len(apart) > 0 and bool((apart <= TOLERANCE).all())


def distance(one: Fingerprint, other: Fingerprint) -> float | None:
    """How far apart two networks are, relative to their size; None if they share no tensor.

    The root mean square over tensors: 0 for the same weights, r for weights disturbed by noise of r times their size,
    about the square root of 2 for those of two trainings that have nothing in common.
    """
    apart = _differences(one, other)
    return float(apart.square().mean().sqrt()) if len(apart) else None


def _differences(one: Fingerprint, other: Fingerprint) -> Tensor:
    """|a - b| / max(|a|, |b|) of each tensor that both have, (N,), of norms of its values."""
    shared = [name for name in one if name in other and len(one[name]) == len(other[name])]
    if not shared:
        return torch.zeros(0)
    pairs = [(torch.tensor(one[name]).double(), torch.tensor(other[name]).double()) for name in shared]
    sizes = torch.stack([torch.maximum(a.norm(), b.norm()) for a, b in pairs])
    smallest = max(NEGLIGIBLE * float(sizes.median()), 1e-12)
    return torch.stack([(a - b).norm() for a, b in pairs]) / sizes.clamp(min=smallest)
