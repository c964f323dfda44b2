"""Layers: the kinds that adapters can run beside, and how each computes on other weights than its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Shapes
from ..errors import UserError


class Kind(NamedTuple):
    """How one kind of layer computes."""

    layer: type[nn.Module]
    run: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
    """(layer, input, weight, bias) -> output: the layer's own settings on other weights"""
    shape: Callable[[Any], tuple[int, ...]]
    """Of the layer's weight, by its settings: a host may hold the weight itself packed or elsewhere."""
    channels_first: bool
    telling: tuple[str, ...] = ()
    """Attributes that tell layers of this kind where they are of another class: a host's quantised ones are."""

    def fits(self, layer: nn.Module) -> bool:
        """Whether a layer is of this kind."""
        told = bool(self.telling) and all(hasattr(layer, name) for name in self.telling)
        return told or isinstance(layer, self.layer)


def _convolve_as(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """With the layer's own stride and padding, whichever kind of padding that is; a matrix is a 1x1 kernel."""
    kernel = weight if weight.ndim == 4 else weight[:, :, None, None]
    return nn.Conv2d._conv_forward(layer, x, kernel, bias)  # pyright: ignore[reportPrivateUsage]


KINDS = (
    Kind(
        nn.Linear,
        lambda layer, x, weight, bias: F.linear(x, weight, bias),
        lambda layer: (layer.out_features, layer.in_features),
        channels_first=False,
        telling=("in_features", "out_features"),
    ),
    Kind(
        nn.Conv2d,
        _convolve_as,
        lambda layer: (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size),
        channels_first=True,
    ),
    Kind(
        nn.GroupNorm,
        lambda layer, x, weight, bias: F.group_norm(x, layer.num_groups, weight, bias, layer.eps),
        lambda layer: (layer.num_channels,),
        channels_first=True,
    ),
    Kind(
        nn.LayerNorm,
        lambda layer, x, weight, bias: F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps),
        lambda layer: tuple(layer.normalized_shape),
        channels_first=False,
    ),
)


def layer_kind(layer: nn.Module) -> Kind:
    """UserError for a layer that nothing can run beside."""
    for kind in KINDS:
        if kind.fits(layer):
            return kind
    raise UserError(f"Adapters run beside Linear, Conv2d and norm layers, not beside a {type(layer).__name__}.")


def shapes_of(layers: Mapping[str, nn.Module]) -> Shapes:
    """{weight name: shape} of the layers that adapters can run beside, without touching a weight."""
    shapes = {}
    for name, layer in layers.items():
        if any(kind.fits(layer) for kind in KINDS):
            shape = layer_kind(layer).shape(layer)
            shapes[f"{name}.weight"] = shape
            if getattr(layer, "bias", None) is not None:
                shapes[f"{name}.bias"] = shape[:1]
    return shapes
