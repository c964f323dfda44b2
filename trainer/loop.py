"""Loop: the training itself, as the algorithm reads."""

from __future__ import annotations

import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from ..core.errors import UserError
from ..core.whole_file import UnwritableError
from . import state
from .config import Config
from .data import batches
from .data.batches import Batch, Batches, Tally
from .objective import Counted
from .optimiser import Average, set_rates, share_of_peak
from .stop import Stopped, Wish


class Learner(Protocol):
    """The networks of a run; called with a batch they give what its losses sum up to, one entry each: (N,)."""

    @property
    def dtype(self) -> torch.dtype:
        """In which losses are computed."""
        ...

    def weights(self, batch: Batch) -> Counted:
        """What those entries are to be divided by."""
        ...

    def rehearse(self, batch: Batch) -> Tensor:
        """A pass through everything that a step runs, but for losses."""
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


@dataclass
class Run:
    """Everything that a run holds, set up by train.py."""

    config: Config
    accelerator: Accelerator
    learner: Learner
    model: nn.Module
    """The learner, wrapped for several processes and mixed precision: what is called in training."""
    optimiser: Optimizer
    average: Average
    data: Batches
    evaluator: Evaluator
    journal: Journal
    first_step: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    """The best validation."""
    listed: dict[str, Tensor] = field(default_factory=dict)
    """The records that it learns from, as batches.listed() has them."""

    def __post_init__(self) -> None:
        self.tally = Tally(self.data.feeds)
        self.wish = Wish()
        self.heard: Tensor | None = None
        """What processes told each other of it after the step before."""

    @property
    def out(self) -> Path:
        return Path(self.config.out)


def fit(run: Run) -> None:
    """Train from `first_step` to the last step."""
    first = run.first_step * run.config.accumulation
    with run.wish.listening(), closing(batches.load(run.data, first, run.config.workers)) as stream:
        run.model.train()
        if run.config.validate_first and first == 0:
            validate(run, 0)
        if gives_up(run, run.first_step):
            return give_up(run, run.first_step)
        for step in progress(run):
            take_step(run, list(itertools.islice(stream, run.config.accumulation)), step)
            after(run, step + 1)
            if is_to_stop(run) and step + 1 < run.config.steps:
                leave(run, step + 1)
            if gives_up(run, step + 1):
                return give_up(run, step + 1)
        finish(run)


def take_step(run: Run, taken: list[Batch], step: int) -> None:
    """One optimiser step, number `step` from 0, on all its micro-batches."""
    set_rates(run.optimiser, share_of_peak(step, run.config))
    taken = [prepared(run, batch) for batch in taken]
    for batch, coefficients, last in zip(taken, coefficients_of(run, taken), last_of(taken)):
        with gathered(run, last):
            terms = run.model(batch) * coefficients
            # processes' gradients are averaged, and are wanted summed
            run.accelerator.backward(terms.sum() * run.accelerator.num_processes)
        run.journal.note(batch.task, terms.detach())
    learning = run.learner.learning()
    if run.config.optimiser.max_norm:
        run.accelerator.clip_grad_norm_(learning.values(), run.config.optimiser.max_norm)
    run.optimiser.step()
    run.optimiser.zero_grad()
    run.average.update(learning, step)


def progress(run: Run) -> Iterator[int]:
    """The numbers of the optimiser steps, with a bar for the person who waits."""
    steps = range(run.first_step, run.config.steps)
    quiet = not run.accelerator.is_main_process
    bar = tqdm(steps, initial=run.first_step, total=run.config.steps, desc="train", unit="step", disable=quiet)
    run.journal.bar = bar
    yield from bar


def prepared(run: Run, batch: Batch) -> Batch:
    """On the device, in the precision that the run computes its losses in."""
    run.tally.add(batch.readings)
    return batch.to(run.accelerator.device, run.learner.dtype)


def last_of(taken: Sequence[Batch]) -> Iterator[bool]:
    """Whether each is the last of its step."""
    return (i == len(taken) - 1 for i in range(len(taken)))


def gathered(run: Run, last: bool) -> AbstractContextManager[Any]:
    """Processes add up their gradients once a step, with the last micro-batch."""
    return nullcontext() if last else run.accelerator.no_sync(run.model)


def coefficients_of(run: Run, taken: Sequence[Batch]) -> list[Tensor]:
    """What each entry of each micro-batch's totals is multiplied by, so that the step's gradient is that of one batch.

    An entry is divided by what all micro-batches of its task, on all processes, count together; a task has the share of
    the step's loss that it has of its micro-batches.
    """
    counted = [run.learner.weights(batch) for batch in taken]
    tasks = [batch.task for batch in taken]
    of_task = {task: [part.weight for part, its in zip(counted, tasks) if its == task] for task in tasks}
    # one reduction a step; every process has the same tasks in the same order
    summed = reduced(run.accelerator, torch.cat([torch.stack(parts).sum(0) for parts in of_task.values()]))
    whole = dict(zip(of_task, summed.split([len(parts[0]) for parts in of_task.values()])))
    factors, kinds = run.config.objective.task_weights, run.data.kinds
    shares = {task: factors.get(kinds.get(task, task), 1.0) * tasks.count(task) / len(tasks) for task in whole}
    return [
        (part.factor / whole[task].clamp(min=1) * shares[task]).to(run.learner.dtype)
        for part, task in zip(counted, tasks)
    ]


def reduced(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Their sum over all processes."""
    summed = accelerator.reduce(values, "sum")
    assert isinstance(summed, Tensor)
    return summed


def after(run: Run, done: int) -> None:
    """What happens between steps: log, validate, save. `done` steps lie behind."""
    config = run.config
    last, saves = done == config.steps, done % config.save_every == 0
    # what is saved has been looked at: a state of NaN would be of no use
    if done % config.log_every == 0 or saves or last:
        run.journal.write(run.accelerator, done, run.optimiser.param_groups[0]["lr"], run.tally.skipped)
    if config.validate_every and done % config.validate_every == 0 and not last:
        validate(run, done)
    if saves or last:
        save(run, done)


def validate(run: Run, done: int) -> None:
    """Measure on held-out pictures, and keep the weights if they were never better."""
    run.model.eval()
    main = run.accelerator.is_main_process
    with run.average.in_place(run.learner.learning()), torch.no_grad():
        found = run.wish.unless_asked(lambda: run.evaluator.measure(done, main), {})
        if found and main:
            run.journal.validation(done, found)
            kept = ""
            better = found["score"] < run.progress.get("best", float("inf"))
            run.progress["idle"] = 0 if better else run.progress.get("idle", 0) + 1
            if better:
                run.progress |= {"best": found["score"], "best_step": done}
                kept = f"; the best so far, kept as {run.evaluator.write('best', {'step': done, **found})}"
            figures = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name != "score")
            tqdm.write(f"Step {done}, held out: {figures}{kept}.", sys.stderr)
    run.accelerator.wait_for_everyone()
    run.model.train()


def save(run: Run, done: int) -> None:
    """The state, from which the run can go on."""
    if run.accelerator.is_main_process:
        scaler = run.accelerator.scaler
        state.save(
            run.out / state.FILE,
            run.config,
            done,
            run.learner.learning(),
            run.optimiser,
            run.average,
            scaler.state_dict() if scaler is not None else {},
            run.progress,
            run.listed,
        )
        state.keep_copies(run.out / state.FILE, done, run.config.keep_states)
    run.journal.saved = done
    run.accelerator.wait_for_everyone()


def is_to_stop(run: Run) -> bool:
    """Whether any process was asked to end the run; all of them say the same after the same step."""
    if run.accelerator.num_processes == 1:
        return run.wish.number != 0
    # looked at a step late, so that no device waits for it
    before, told = run.heard, torch.tensor(run.wish.number, device=run.accelerator.device)
    run.heard = reduced(run.accelerator, told)
    return before is not None and before.item() > 0


def leave(run: Run, done: int) -> NoReturn:
    """Save everything after `done` steps, and end. Stopped says how to go on."""
    config = run.config
    if run.journal.losses:
        run.journal.write(run.accelerator, done, run.optimiser.param_groups[0]["lr"], run.tally.skipped)
    if run.journal.saved != done:
        save(run, done)
    write_last(run, done)
    again = "the same command" if config.resume else "the same command with resume = true"
    raise Stopped(
        f"stopped at step {done} of {config.steps}; {run.out} holds its state and its weights so far: {again} goes on "
        "from there.",
        run.wish.number or signal.SIGTERM,
    )


def gives_up(run: Run, done: int) -> bool:
    """Whether the held-out pictures have not been measured better for so long that the run ends after `done` steps; all
    processes say the same."""
    if not run.config.patience or not run.config.validate_every or done % run.config.validate_every:
        return False
    idle = int(run.progress.get("idle", 0)) if run.accelerator.is_main_process else 0
    if run.accelerator.num_processes > 1:
        idle = int(reduced(run.accelerator, torch.tensor(idle, device=run.accelerator.device)).item())
    return idle >= run.config.patience


def give_up(run: Run, done: int) -> None:
    """Save everything after `done` steps, say why no more are taken, and end."""
    if run.journal.losses:
        run.journal.write(run.accelerator, done, run.optimiser.param_groups[0]["lr"], run.tally.skipped)
    if run.journal.saved != done:
        save(run, done)
    if run.accelerator.is_main_process:
        tqdm.write(
            f"The run ends at step {done} of {run.config.steps}: {run.progress['idle']} validations in a row were no "
            f"better than that of step {run.progress.get('best_step', 0)}, whose weights are best. A larger patience "
            "goes on from here.",
            sys.stderr,
        )
    write_last(run, done)
    run.tally.close()


def finish(run: Run) -> None:
    """The last validation, the file that the run was for, and what of its data could not be read."""
    validate(run, run.config.steps)
    write_last(run, run.config.steps)
    run.tally.close()


def write_last(run: Run, done: int) -> None:
    """The weights after `done` steps, and the end of the log."""
    if run.accelerator.is_main_process:
        with run.average.in_place(run.learner.learning()):
            path = run.evaluator.write("last", {"step": done})
        tqdm.write(f"The weights after {done} steps are {path}.", sys.stderr)
        run.journal.close()
    run.accelerator.wait_for_everyone()


class Diverged(UserError):
    """A loss that is no number any more."""


class Journal:
    """The log of a run: log.jsonl, a line an event, and TensorBoard's files where that is installed."""

    def __init__(self, out: Path, main: bool) -> None:
        self.file = (out / "log.jsonl").open("a", encoding="utf-8") if main else None
        self.board = board(out) if main else None
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
        for task, value in means.items():
            self.scalar(f"loss/{task}", value, done)
        self.scalar("lr", rate, done)

    def left(self) -> str:
        """What there is to go on from."""
        return f"the state of step {self.saved} was kept" if self.saved else "no state had been saved yet"

    def validation(self, done: int, found: dict[str, float]) -> None:
        self.event({"step": done, "validation": found})
        for name, value in found.items():
            self.scalar(f"validation/{name}", value, done)

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

    def scalar(self, name: str, value: float, step: int) -> None:
        if self.board is not None:
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.file is not None:
            self.file.close()


def board(out: Path) -> Any:
    """TensorBoard's writer, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
