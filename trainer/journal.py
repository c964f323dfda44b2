"""Journal: what a run says of itself while it learns, in log.jsonl and to the trackers that its config names."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError
from ..core.whole_file import UnwritableError


def reduced(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Their sum over all processes."""
    summed = accelerator.reduce(values, "sum")
    assert isinstance(summed, Tensor)
    return summed


class Diverged(UserError):
    """A loss that is no number any more."""


class Journal:
    """The log of a run: log.jsonl, a line an event, and its numbers to trackers."""

    def __init__(self, out: Path, main: bool, trackers: Sequence[GeneralTracker] = ()) -> None:
        """trackers: started ones, on the main process."""
        self.file = (out / "log.jsonl").open("a", encoding="utf-8") if main else None
        self.trackers = trackers
        self.losses: dict[str, list[Tensor]] = {}
        self.since = time.monotonic()
        self.bar: tqdm[int] | None = None
        self.saved = 0
        """The step of the last state of this run; 0 if there is none."""

    def note(self, task: str, terms: Tensor) -> None:
        """A micro-batch's part of the loss, not yet read from the device."""
        self.losses.setdefault(task, []).append(terms.sum())

    def write(self, accelerator: Accelerator, done: int, rate: float, broken: int) -> None:
        """The mean loss of each task since the last line. Diverged if one is no number any more."""
        tasks = sorted(self.losses)
        sums = torch.stack([torch.stack(self.losses[task]).sum().float() for task in tasks])
        sums = reduced(accelerator, sums).tolist()
        means = {task: total / len(self.losses[task]) for task, total in zip(tasks, sums)}
        self.losses.clear()
        lost = [task for task, value in means.items() if not math.isfinite(value)]
        if lost:
            raise Diverged(
                f"The loss of {lost[0]} is {means[lost[0]]} at step {done}: lower optimiser.lr, set "
                f'optimiser.max_norm = 1, or leave half precision (precision = "no"); {self.left()}.'
            )
        seconds = time.monotonic() - self.since
        self.since = time.monotonic()
        self.event({"step": done, "loss": means, "lr": rate, "seconds": round(seconds, 3), "broken": broken})
        if self.bar is not None:
            self.bar.set_postfix({task: f"{value:.3g}" for task, value in means.items()})
        self.track({**{f"loss/{task}": value for task, value in means.items()}, "lr": rate}, done)

    def left(self) -> str:
        """What there is to go on from."""
        return f"the state of step {self.saved} was kept" if self.saved else "no state had been saved yet"

    def validation(self, done: int, found: dict[str, float]) -> None:
        self.event({"step": done, "validation": found})
        self.track({f"validation/{name}": value for name, value in found.items()}, done)

    def event(self, row: dict[str, Any]) -> None:
        if self.file is None:
            return
        try:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        except OSError as error:
            raise UnwritableError(
                f"{self.file.name} could not be written ({error.strerror}); {self.left()}."
            ) from error

    def track(self, numbers: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(numbers, step=step)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()
        if self.file is not None:
            self.file.close()
