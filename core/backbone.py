"""The two protocols between the prediction and whoever holds the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import UserError

Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""What the four up blocks give, each after its upsampler, deepest first."""
Layers = ModuleType | Any
"""Where a head's layers come from: torch.nn, or a host's namespace of layers that it can move and cast."""


@dataclass(frozen=True)
class Context:
    """What a backbone is conditioned on besides latent and timestep."""

    tokens: Tensor
    """Text tokens (1 or B, L, D)."""
    vector: Tensor | None = None
    """A vector (1 or B, V) for networks that take one: a task embedding, or a pooled text."""

    def expand(self, batch: int) -> Context:
        """The same context for every item: a context of one is corrupted by hosts if not expanded."""
        vector = None if self.vector is None else self.vector.expand(batch, -1)
        return Context(self.tokens.expand(batch, -1, -1), vector)

    def first(self, count: int) -> Context:
        """The first tokens; 0 is all of them. CLIP is causal: those of a padded prompt equal an unpadded one's."""
        return Context(self.tokens[:, :count], self.vector) if count else self

    def cat(self, other: Context) -> Context:
        """Both batches, one after the other. UserError for contexts of different shapes."""
        if self.tokens.shape[1:] != other.tokens.shape[1:] or (self.vector is None) != (other.vector is None):
            raise UserError(
                f"The context has {self.tokens.shape[1]} tokens of width {self.tokens.shape[2]}, the negative context "
                f"{other.tokens.shape[1]} of width {other.tokens.shape[2]}: give two of one text encoder and length."
            )
        vector = None if self.vector is None or other.vector is None else torch.cat([self.vector, other.vector])
        return Context(torch.cat([self.tokens, other.tokens]), vector)


class Backbone(Protocol):
    """A denoising UNet: latent (B, C, h, w), timestep (B,) and context in, raw prediction (B, 4, h, w) out, float32."""

    in_channels: int

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor: ...

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        """What its up blocks give for the same input."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """The network's Linear, Conv and norm layers by their diffusers names."""
        ...


class Autoencoder(Protocol):
    """The VAE, below any cropping, clamping or tiling of whoever holds it."""

    scaling_factor: float

    def encode(self, image: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [-1, 1] -> scaled posterior mean (B, 4, H // 8, W // 8), float32."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent (B, 4, h, w) -> picture (B, 3, 8h, 8w), unclamped, float32."""
        ...


class Head(Protocol):
    """A decoder on UNet features: the four up-block tensors in, a picture (B, C, H', W') out."""

    def __call__(self, features: Features) -> Tensor: ...


Shapes = Mapping[str, tuple[int, ...]]
"""Diffusers weight name -> shape."""


def count(shapes: Shapes, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1) ... there are in a row."""
    index = 0
    while pattern.format(index) in shapes:
        index += 1
    return index
