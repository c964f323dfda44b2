"""Learner: what the training loop asks of the networks of a run, and of who measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .data.batches import Batch


class Counted(NamedTuple):
    """What the entries of a learner's sums are to be divided by and multiplied with, one entry each."""

    weight: Tensor
    """(N,) int64, what was counted."""
    factor: Tensor
    """(N,) float64, or what the device has."""


class Learner(Protocol):
    """The networks of a run; called with a batch they give what its losses sum up to, one entry each: (N,)."""

    @property
    def dtype(self) -> torch.dtype:
        """In which losses are computed."""
        ...

    def weights(self, batch: Batch) -> Counted:
        """What those entries are to be divided by."""
        ...

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that move, by name."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


Passes = Callable[[], AbstractContextManager[Any]]
"""In which precision networks run. Pictures are read, and what was predicted is measured, outside of it."""


class Evaluator(Protocol):
    """Who measures a run on held-out pictures, and writes its files."""

    def measure(self, done: int, main: bool) -> dict[str, float]:
        """Metrics after `done` steps, with a `score` of which less is better; empty if there is nothing to measure."""
        ...

    def write(self, name: str, notes: Mapping[str, object]) -> Path:
        """The weights as they are, in the run's folder; where they lie."""
        ...
