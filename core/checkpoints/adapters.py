"""Adapters: low-rank and difference weights; attachment.py runs them beside a UNet's own, merge() adds them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Shapes
from ..generations import GENERATIONS, INPAINTING, title_by_width, title_of
from ..recipe import Recipe
from .fingerprint import Fingerprint, matches
from .layers import layer_kind
from .tensors import CheckpointError, shown


@dataclass(frozen=True)
class LowRank:
    """What is added to a Linear or a convolution as two thin matrices: scale * up @ down."""

    down: Tensor
    """(rank, in), or (rank, in, k, k) of a convolution wider than one pixel"""
    up: Tensor
    """(out, rank)"""
    scale: float = 1.0
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def difference(self) -> Tensor:
        """What it adds to the weight, in single precision."""
        return (self.up.float() @ self.down.float().flatten(1) * self.scale).reshape(self.shape)

    def to(self, like: Tensor) -> LowRank:
        """On the device and in the precision of `like`, the scale multiplied in."""
        return LowRank(self.down.to(like), (self.up * self.scale).to(like), bias=moved(self.bias, like))

    def beside(self, layer: nn.Module, x: Tensor) -> Tensor:
        """What it adds to the layer's output for the input x."""
        kind = layer_kind(layer)
        thin = kind.run(layer, x, self.down, None)
        if kind.channels_first:
            return F.conv2d(thin, self.up[:, :, None, None], self.bias)
        return F.linear(thin, self.up, self.bias)


@dataclass(frozen=True)
class Delta:
    """What is added to the weight and the bias of a layer of any kind, whole."""

    weight: Tensor | None = None
    """As the layer's, except that 1x1 convolutions are matrices and conv_in may have further input channels."""
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.weight is None else tuple(self.weight.shape)

    def difference(self) -> Tensor | None:
        return None if self.weight is None else self.weight.float()

    def to(self, like: Tensor) -> Delta:
        return Delta(moved(self.weight, like), moved(self.bias, like))

    def beside(self, layer: nn.Module, x: Tensor) -> Tensor:
        kind = layer_kind(layer)
        if self.weight is not None:
            # every kind of layer is linear in (weight, bias) together
            return kind.run(layer, x, self.weight, self.bias)
        assert self.bias is not None
        return self.bias.view(-1, *[1] * (x.ndim - 2)) if kind.channels_first else self.bias


Part = LowRank | Delta


def moved(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(like)


@dataclass(frozen=True)
class Adapter:
    """What turns a Stable Diffusion UNet into a predictor, and what its file says about it."""

    path: Path
    parts: Mapping[str, Part]
    """{layer by its diffusers name: what is added to it}"""
    spelling: str = ""
    """How its file named the weights, as core.checkpoints.adapter_names calls it; own for the project's."""
    base: str = ""
    """The generation it was trained on, as Recipe.base; "" if nothing tells."""
    fingerprint: Fingerprint = field(default_factory=dict)
    """Of the checkpoint that it was trained on; empty if nothing tells."""
    recipes: tuple[Recipe, ...] = ()
    licence: str = ""
    data: str = ""
    text_encoder: int = 0
    """How many further tensors of its file adapt the text encoder; they are not in `parts`."""
    strength_unsaid: bool = False
    """Whether nothing tells how strong it was trained to be; it then runs at the strength of its matrices."""

    @property
    def name(self) -> str:
        """As a person tells it from others."""
        return shown(self.path)

    @property
    def rank(self) -> int:
        """The highest of its low-rank parts, 0 if there are none."""
        return max((part.up.shape[1] for part in self.parts.values() if isinstance(part, LowRank)), default=0)

    @property
    def alpha(self) -> float | None:
        """As its trainer was told, for people; None if the layers' differ, or there are no low-rank ones."""
        alphas = {round(part.scale * part.up.shape[1], 6) for part in self.parts.values() if isinstance(part, LowRank)}
        return alphas.pop() if len(alphas) == 1 else None

    @property
    def context_dim(self) -> int | None:
        """The text width of the network that it fits, None if nothing tells."""
        shapes = (part.shape for name, part in self.parts.items() if name.endswith(("attn2.to_k", "attn2.to_v")))
        own = GENERATIONS.get(self.base)
        return next((shape[1] for shape in shapes if shape), own.context_dim if own else None)

    @property
    def in_channels(self) -> int | None:
        """What conv_in takes, None if the adapter leaves it as it is."""
        shape = self.parts["conv_in"].shape if "conv_in" in self.parts else None
        return shape[1] if shape else None

    def notes(self, base: Fingerprint) -> list[str]:
        """What a person should know before they run it on the checkpoint with this fingerprint."""
        found, title = [], title_of(self.base)
        if self.fingerprint and not self.fingerprint.keys() & base.keys():
            found.append(
                f"{self.name} was trained on one {title} checkpoint; whether it is this one cannot be told, for the "
                "weights are kept in 8 bits or fewer."
            )
        elif self.fingerprint and not matches(self.fingerprint, base):
            found.append(
                f"{self.name} was trained on another {title} checkpoint than this one: it runs, perhaps less well."
            )
        if self.strength_unsaid:
            found.append(
                f"{self.name} comes without the adapter_config.json that says how strong it is (its lora_alpha): it is "
                "run as if that were its rank; put the file beside it."
            )
        if self.text_encoder:
            found.append(
                f"{self.name} also adapts the text encoder ({self.text_encoder} tensors), which is not done here: "
                "the text context must come from that encoder."
            )
        return found


def check_adapter(adapter: Adapter, shapes: Shapes) -> None:
    """CheckpointError, in one sentence, if the adapter is not for a network with these weights."""
    channels = shapes.get("conv_in.weight", (0, 0))[1]
    if channels == INPAINTING:
        raise CheckpointError(
            f"The loaded model is an inpainting model ({channels} input channels): load an ordinary checkpoint."
        )
    width = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None)
    if width and adapter.context_dim and width != adapter.context_dim:
        wanted, found = (title_by_width(size) or "another network" for size in (adapter.context_dim, width))
        raise CheckpointError(
            f"{adapter.name} is for {wanted} ({adapter.context_dim}-wide text), the loaded model is {found} "
            f"({width}-wide text): load the model that it was made for, or get the adapter for this one."
        )
    misfits = [name for name, part in adapter.parts.items() if not _fits_layer(name, part, shapes)]
    if misfits:
        raise CheckpointError(
            f"{adapter.name} was made for another network: the loaded model lacks {len(misfits)} of its "
            f"{len(adapter.parts)} layers or has them in another shape ({first(misfits)})."
        )


def first(names: list[str]) -> str:
    """The first of many, for a sentence."""
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _fits_layer(name: str, part: Part, shapes: Shapes) -> bool:
    there = shapes.get(f"{name}.weight")
    if there is None or (part.bias is not None and tuple(part.bias.shape) != shapes.get(f"{name}.bias")):
        return False
    if part.shape is None:
        return True
    if name == "conv_in" and len(part.shape) == 4:
        return part.shape[0] == there[0] and part.shape[1] >= there[1] and part.shape[2:] == there[2:]
    return collapsed(part.shape) == collapsed(there)


def collapsed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1x1 convolution is a matrix."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def merge(adapter: Adapter, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights (by their diffusers names) with the adapter added in; those it leaves alone are the same tensors."""
    check_adapter(adapter, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    merged = dict(weights)
    for name, part in adapter.parts.items():
        difference = part.difference()
        if difference is not None:
            merged[f"{name}.weight"] = _plus(weights[f"{name}.weight"], difference)
        if part.bias is not None:
            merged[f"{name}.bias"] = _plus(weights[f"{name}.bias"], part.bias)
    return merged


def _plus(weight: Tensor, difference: Tensor) -> Tensor:
    """The sum in the weight's precision; input channels that only the difference has are appended."""
    total = difference.to(weight.device, torch.float32, copy=True)
    if total.ndim == 4 and weight.shape[1] < total.shape[1]:
        total[:, : weight.shape[1]] += weight
    else:
        total = total.reshape(weight.shape) + weight
    return total.to(weight.dtype)
