"""Attachment: an adapter beside the weights of a resident model for the duration of one call."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..backbone import Backbone, Context, Features
from .adapters import Adapter, Part, check_adapter, first
from .layers import layer_kind, shapes_of


@contextmanager
def attach(layers: Mapping[str, nn.Module], adapter: Adapter) -> Iterator[None]:
    """While this lasts the layers (by their diffusers names) answer as if the adapter were merged into them.

    No weight is read or written: what the adapter adds is computed from each layer's input, in its precision and on its
    device. Keep it attached until backward is done where activations are recomputed. RuntimeError, at the end, if a
    layer was never reached.
    """
    reached: set[str] = set()
    handles: list[RemovableHandle] = []
    try:
        for name, part in adapter.parts.items():
            handles += hook(layers[name], name, part, reached)
        with eager():
            yield
    finally:
        for handle in handles:
            handle.remove()
    silent = sorted(adapter.parts.keys() - reached)
    if silent:
        raise RuntimeError(
            f"{adapter.name} took no effect on {len(silent)} of its {len(adapter.parts)} layers ({first(silent)}): "
            "the model calls them in a way that hooks do not see, such as compiled code; load it without that."
        )


def hook(layer: nn.Module, name: str, part: Part, reached: set[str]) -> list[RemovableHandle]:
    """Put one part beside one layer."""
    whole: list[Tensor] = []

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole.append(inputs[0])
        return (inputs[0][:, : _input_channels(layer)], *inputs[1:])

    def after(layer: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any], output: Tensor) -> Tensor:
        _check_plain(name, inputs, options)
        reached.add(name)
        x = whole.pop() if whole else inputs[0]
        # moved anew each time: a call comes here once, and keeping all of them would double the adapter's memory
        added = part.to(x).beside(layer, x).to(output.dtype)
        return output + added if added.ndim < output.ndim else added.add_(output)

    handles = [layer.register_forward_hook(after, with_kwargs=True)]
    if name == "conv_in" and part.shape and part.shape[1] > _input_channels(layer):
        # the layer itself cannot take the further channels: they go round it
        handles.append(layer.register_forward_pre_hook(before))
    return handles


def _check_plain(name: str, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
    """RuntimeError for calls that hand a layer more than its input: what is asked of it then may not be linear."""
    if options or len(inputs) != 1:
        asked = ", ".join(options) or f"{len(inputs)} inputs"
        raise RuntimeError(
            f"The adapter cannot run beside {name}: the network calls that layer with {asked}, so that its input or "
            "output is not what the adapter was trained on; update this pack, or run the adapter in an older host."
        )


def _input_channels(layer: nn.Module) -> int:
    """What a convolution takes."""
    return layer_kind(layer).shape(layer)[1]


def eager() -> AbstractContextManager[object]:
    """While this lasts, compiled networks run uncompiled: compiled code does not see hooks that came later."""
    # where the compiler was never imported nothing is compiled, and importing it takes a second
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def uncompiled(network: nn.Module) -> nn.Module:
    """The network inside what torch.compile returned: what to call, an adapter attached, where `eager` cannot help."""
    return getattr(network, "_orig_mod", network)


class Adapted:
    """A backbone with an adapter beside its weights, for the duration of each call."""

    def __init__(self, net: Backbone, adapter: Adapter) -> None:
        check_adapter(adapter, shapes_of(net.modules()))
        self.net, self.adapter = net, adapter
        self.in_channels = adapter.in_channels or net.in_channels

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        with attach(self.net.modules(), self.adapter):
            return self.net(latent, timestep, context)

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        with attach(self.net.modules(), self.adapter):
            return self.net.features(latent, timestep, context)

    def modules(self) -> dict[str, nn.Module]:
        return self.net.modules()
