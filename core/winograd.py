"""Wide 3x3 convolutions by Winograd's F(2x2, 3x3): 16 products for 4 pixels in place of 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1: Y = A^T [(G g G^T) (B^T d B)] A
for tiles d of 4x4 pixels that overlap by 2. In single precision it is as exact as the sum that it replaces; the larger
tiles of that paper are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transposition import transpose

LEAST = 512
"""Channels, in and out, from which the products that are spared outweigh the sums that are added."""
MOST_THREADS = 8
"""PyTorch's own convolutions share their work among many better than sums of tiles do."""
TILES = 256
"""At once: enough for a product of matrices, few enough for a processor's cache."""


def pays(layer: nn.Conv2d) -> bool:
    return min(layer.in_channels, layer.out_channels) >= LEAST and torch.get_num_threads() <= MOST_THREADS


def winograd_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, H, W), (K, C, 3, 3), (K,) -> (B, K, H, W), as a convolution with padding 1 gives it."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        return F.conv2d(x, weight, bias, padding=1)
    rows = 2 * min(max(2 * TILES // width, 1), height // 2)
    bench, kernels = Bench(rows, width, *weight.shape[1::-1]), _transformed(weight)
    result = x.new_empty(len(x), len(weight), height, width)
    for one, made in zip(x, result):
        padded, pixels = _between_rows(one), x.new_empty(height, width, len(weight))
        for top in range(0, height, rows):
            bench.convolve(padded[top : top + rows + 2], kernels, pixels[top : top + rows])
        transpose(pixels.flatten(0, 1), made.flatten(1))
    return result if bias is None else result.add_(bias[:, None, None])


def _between_rows(picture: Tensor) -> Tensor:
    """(C, H, W) -> (H + 2, W, C) between two rows of zeros."""
    channels, height, width = picture.shape
    padded = picture.new_zeros(height + 2, width, channels)
    transpose(picture.flatten(1), padded[1:-1].flatten(0, 1))
    return padded


def _transformed(weight: Tensor) -> Tensor:
    """G g G^T: (K, C, 3, 3) -> (16, C, K)."""
    g = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.einsum("ia,jb,kcab->ijck", g, g, weight).flatten(0, 1).contiguous()


class Bench:
    """Memory for one strip's tiles, used again for the next: fresh memory costs as much as the sums."""

    def __init__(self, rows: int, width: int, channels: int, out_channels: int) -> None:
        """rows, width: pixels of the largest strip."""
        tiles = rows // 2 * (width // 2)
        # between two columns of zeros, which stay
        self.rows = torch.zeros(4, rows // 2, width + 2, channels)
        self.tiles = torch.empty(16 * tiles * channels)
        self.products = torch.empty(16 * tiles * out_channels)
        self.columns = torch.empty(8 * tiles * out_channels)

    def convolve(self, strip: Tensor, kernels: Tensor, result: Tensor) -> None:
        """A strip (2R + 2, 2T, C) -> its inner pixels (2R, 2T, K)."""
        down, across, channels = len(strip) // 2 - 1, strip.shape[1] // 2, kernels.shape[2]
        rows = self.rows[:, :down]
        forward(_tile_pixels(strip, 0), rows[:, :, 1:-1])
        tiles = part(self.tiles, 4, 4, down, across, strip.shape[2])
        forward(_tile_pixels(rows, 2), tiles.movedim(1, 0))
        products = part(self.products, 16, down * across, channels)
        torch.bmm(tiles.view(16, down * across, -1), kernels, out=products)
        columns = part(self.columns, 2, 4, down, across, channels)
        _inverse(products.view(4, 4, down, across, channels), columns)
        # (2 rows, 2 columns of a tile, R, T, K), and columns first, as they are given
        _inverse(columns.movedim(1, 0), result.view(down, 2, across, 2, channels).permute(3, 1, 0, 2, 4))


def part(memory: Tensor, *shape: int) -> Tensor:
    """As much of it as these numbers take."""
    return memory[: prod(shape)].view(shape)


def _tile_pixels(x: Tensor, dim: int) -> list[Tensor]:
    """The four pixels of each tile along a dimension of 2N + 2."""
    every_other = (*[slice(None)] * dim, slice(None, None, 2))
    return [x.narrow(dim, tap, x.shape[dim] - 3)[every_other] for tap in range(4)]


def forward(d: Sequence[Tensor], made: Tensor) -> None:
    """B^T d."""
    torch.sub(d[0], d[2], out=made[0])
    torch.add(d[1], d[2], out=made[1])
    torch.sub(d[2], d[1], out=made[2])
    torch.sub(d[1], d[3], out=made[3])


def _inverse(m: Tensor, made: Tensor) -> None:
    """A^T m."""
    torch.add(m[0], m[1], out=made[0]).add_(m[2])
    torch.sub(m[1], m[2], out=made[1]).sub_(m[3])
