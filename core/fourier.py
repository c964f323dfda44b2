"""FourierBlock: detail by amplitude and phase between a UNet's mid block and its up blocks, as DepthMaster has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Layers

GROUPS = 8
"""Of its normalisation; weights do not show them."""


class FourierBlock(nn.Module):
    """DepthMaster's Fourier enhancement (Song et al. 2025, arXiv 2501.02576); its layers are named as published.

    Features (B, C, h, w) in and out, of no fixed range. With x = norm(in), f = silu(conv_f1(x)) and f's spectrum S:
    frequency branch y = conv_f3(f + inverse spectrum of silu(conv_f2(|S|)) exp(i silu(conv_f4(arg S)))),
    spatial branch   s = x + conv_s2(silu(conv_s1(x))),
    and out = fuse(s, y). Transforms are orthonormal, over height and width.
    """

    def __init__(self, width: int, layers: Layers = nn) -> None:
        """width: C, a multiple of 8."""
        super().__init__()
        self.norm = layers.GroupNorm(GROUPS, width)
        self.conv_f1, self.conv_f2, self.conv_f4, self.conv_s1, self.conv_s2 = (
            layers.Conv2d(width, width, 3, padding=1) for _ in range(5)
        )
        self.conv_f3 = layers.Conv2d(width, width, 1)
        self.fuse = layers.Conv2d(2 * width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.norm(features)
        spatial = self.conv_s2(F.silu(self.conv_s1(x))) + x
        return self.fuse(torch.cat([spatial, self.frequencies(F.silu(self.conv_f1(x)))], 1))

    def frequencies(self, x: Tensor) -> Tensor:
        """The frequency branch. Transforms of half precision exist for some sizes on some devices only."""
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        amplitude = F.silu(self.conv_f2(spectrum.abs().to(x.dtype)))
        phase = F.silu(self.conv_f4(_phase_of(spectrum, x.shape[-1]).to(x.dtype)))
        spectrum = torch.polar(amplitude.float(), phase.float())
        # half a spectrum does not say whether the width was odd
        return self.conv_f3(torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho").to(x.dtype) + x)


def _phase_of(spectrum: Tensor, width: int) -> Tensor:
    """The phase in (-pi, pi] of what rfft2 gives for real maps of this width, float32.

    Bins that are their own mirror image are real. Where they are negative the phase is pi, but rounding, which differs
    between devices and sizes, may leave an imaginary part of -0.0 or less and so give -pi, far away for the network.
    """
    phase = spectrum.angle()
    phase[..., :: _half_of(spectrum.shape[-2]), :: _half_of(width)].abs_()
    return phase


def _half_of(length: int) -> int:
    """The step from one real bin to the next along an axis: zero and, for even lengths, the middle."""
    return length if length % 2 else length // 2
