"""Shortcuts: the same function of a network by less arithmetic, for the duration of one call and on a CPU alone.

A VAE is 95 % convolutions. Of their 2.5 TFLOP in a decoder at 512x512 a quarter goes into pictures that were just
doubled, which a transposed convolution makes from 4 products in place of 9 (`doubling`), and wide 3x3 ones take 16
products where 36 are written (`winograd`). A UNet's cross-attention reads two tokens only (`cross_attention`). No
weight is written; nothing is kept from one call to the next. Predictions of one pass take them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from . import cross_attention, doubling, winograd


class Way(NamedTuple):
    """A method of a layer, and what stands in its place."""

    layer: nn.Module
    method: str
    function: Callable[..., Any]


@contextmanager
def taken(ways: Iterable[Way]) -> Iterator[None]:
    """While this lasts the layers take these ways; hooks on them fire as ever."""
    before = [(way, vars(way.layer).get(way.method)) for way in ways]
    try:
        for way, _ in before:
            setattr(way.layer, way.method, way.function)
        yield
    finally:
        for way, own in before:
            # the class's own method is seen again once nothing hides it
            delattr(way.layer, way.method) if own is None else setattr(way.layer, way.method, own)


def of_vae(network: nn.Module, upsamplers: Iterable[nn.Module]) -> list[Way]:
    """The ways of a VAE.

    upsamplers: modules that double a picture by nearest neighbours and lead it through their 3x3 convolution `conv`.
    """
    doublers = [layer for layer in upsamplers if _is_3x3(getattr(layer, "conv", None))]
    doubled: list[Any] = [layer.conv for layer in doublers]
    wide = [layer for layer in network.modules() if _is_3x3(layer) and winograd.pays(layer) and layer not in doubled]
    return [
        *(Way(layer, "forward", partial(doubling.not_yet_doubled, layer)) for layer in doublers),
        *(Way(layer, "_conv_forward", doubling.convolve_doubled) for layer in doubled),
        *(Way(layer, "_conv_forward", winograd.winograd_convolution) for layer in wide),
    ]


def of_unet(network: nn.Module) -> list[Way]:
    """The ways of a UNet, whose cross-attentions both hosts call `attn2`."""
    crossing = [layer for name, layer in network.named_modules() if name.endswith(".attn2")]
    return [Way(layer, "forward", partial(cross_attention.folded, layer)) for layer in crossing]


suiting: ContextVar[bool] = ContextVar("suiting", default=False)
"""Whether what is predicted bears that sums are rounded otherwise."""


@contextmanager
def where_they_suit(suit: bool) -> Iterator[None]:
    """While this lasts networks may take shortcuts, or not: several steps make much of a last digit."""
    before = suiting.set(suit)
    try:
        yield
    finally:
        suiting.reset(before)


def serve(network: nn.Module, given: Tensor) -> bool:
    """Whether shortcuts suit, and are known to be any: on a CPU, in single precision, where nothing is learnt.

    Compiled code would be compiled anew for them, and backward would have to know them.
    """
    if not suiting.get():
        return False
    plain = given.device.type == "cpu" and given.dtype == torch.float32
    return plain and not torch.is_grad_enabled() and not any(hasattr(part, "_orig_mod") for part in network.modules())


def _is_3x3(layer: object) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution that leaves the size as it is."""
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.padding_mode != "zeros":
        return False
    return (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
