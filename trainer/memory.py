"""Memory: what the first step took at most, and what to do where it is too little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core.errors import UserError
from .config import Config

GIB = 2**30


def taken(device: torch.device) -> str:
    """What the first step took, for the person who waits; empty where the device does not count it."""
    if device.type != "cuda":
        return ""
    peak, room = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    return f"The first step took {peak / GIB:.1f} GiB of the GPU's {room / GIB:.1f} GiB."


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
