"""Channels first or last: the same numbers in another order, as fast as PyTorch can."""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 2
"""Threads: that many are slower together than one, which alone has a fast way for matrices."""


def transpose(given: Tensor, made: Tensor) -> None:
    """A matrix (M, N) into the memory of another (N, M)."""
    if torch.get_num_threads() <= FEW:
        made.copy_(given.t())
    else:
        # of three dimensions it is not a matrix any more, and shared among threads
        made[None, :, None].copy_(given.t()[None, :, None])


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W), the same in channels-last memory."""
    made = torch.empty_like(x, memory_format=torch.channels_last)
    for one, result in zip(x.flatten(2), made.permute(0, 2, 3, 1).flatten(1, 2)):
        transpose(one, result)
    return made


def channels_first(x: Tensor) -> Tensor:
    """The other way round."""
    made = torch.empty_like(x, memory_format=torch.contiguous_format)
    for one, result in zip(x.permute(0, 2, 3, 1).flatten(1, 2), made.flatten(2)):
        transpose(one, result)
    return made
