"""Estimate: the memory of a training step, told before the first one and without taking it.

Its time is not foretold: what a processor reaches differs too much among networks, and the bar measures it at once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..core.errors import UserError
from .config import Config
from .data.batches import Batch

log = logging.getLogger(__name__)

GIB = 2**30
MOMENTS = {"adam": 8, "adamw": 8, "adamw8bit": 2}
"""Bytes that an optimiser keeps for each weight."""


@dataclass(frozen=True)
class Estimate:
    """What one optimiser step takes on one process."""

    weights: int
    """Bytes of networks."""
    optimiser: int
    """Bytes of moments and moving averages."""
    activations: int
    """Bytes of what lives during a step besides: activations and gradients, at their peak."""

    @property
    def memory(self) -> int:
        return self.weights + self.optimiser + self.activations

    def sentence(self) -> str:
        """For the person who waits."""
        held = {"weights": self.weights, "optimiser": self.optimiser, "activations and gradients": self.activations}
        parts = ", ".join(f"{name} {size_text(size)}" for name, size in held.items())
        return f"About {size_text(self.memory)} ({parts}); the bar tells the time, measured from the first step on."


def size_text(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


class Living(TorchDispatchMode):
    """Adds up the memory that tensors hold while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # a view holds nothing of its own
        for tensor in [] if getattr(function, "is_view", False) else tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key, storage.nbytes())

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class Rehearsing(Protocol):
    """Networks that can be run without their losses."""

    def rehearse(self, batch: Batch) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def estimate(
    config: Config, learner: Rehearsing, batch: Batch, autocast: Callable[[], Any], device: torch.device
) -> Estimate:
    """From one forward and backward pass on tensors that have a shape and no contents."""
    learning = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    living = Living()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        shapes = Batch(
            batch.task,
            fake.from_tensor(batch.image.to(device)),
            fake.from_tensor(batch.target.to(device)),
            fake.from_tensor(batch.valid.to(device)),
            batch.seeds,
        )
        with living:
            with autocast():
                total = learner.rehearse(shapes)
            torch.autograd.grad(total, learning, allow_unused=True)
    moving = sum(parameter.numel() for parameter in learning)
    averages = 4 * moving if config.optimiser.ema else 0
    return Estimate(
        weights=sum(parameter.numel() * parameter.element_size() for parameter in learner.parameters()),
        optimiser=MOMENTS[config.optimiser.name] * moving + averages,
        activations=living.peak,
    )


UNFORESEEABLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    NotImplementedError,
)
"""What PyTorch raises of operators that cannot run on tensors without contents."""


# Out of memory


class OutOfMemory(UserError):
    """A step that does not fit, and what would make it fit, in one sentence."""


FULL = ("out of memory", "can't allocate memory", "not enough memory")
"""What devices say of it."""


@contextmanager
def said_plainly(config: Config) -> Iterator[None]:
    """OutOfMemory in place of what a device raises while this lasts."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in FULL):
            raise
        raise OutOfMemory(f"Out of memory: {advice(config)}.") from error


def advice(config: Config) -> str:
    """What this run could do with less of, the cheapest first."""
    network, full = config.network, config.network.unet == "full"
    ways = (
        (config.batch_size > 1, "lower batch_size and raise accumulation by as much"),
        (not network.checkpointing, "set network.checkpointing = true"),
        (config.precision in ("no", "fp64"), 'set precision = "bf16"'),
        (network.frozen_precision == "fp32" and config.precision == "bf16", 'set network.frozen_precision = "bf16"'),
        (full and config.optimiser.name != "adamw8bit", 'set optimiser.name = "adamw8bit"'),
        (full and config.learn == "perception", 'train LoRA (network.unet = "lora")'),
        (True, f"lower size below {config.size[0]}x{config.size[1]}"),
    )
    return ", or ".join(way for fits, way in ways if fits)
