"""Loop: the training itself, as the algorithm reads."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from . import memory, state
from .config import Config
from .data import batches
from .data.batches import Batch, Batches, Tally
from .journal import Journal, reduced
from .learner import Evaluator, Learner
from .optimiser import Average, set_rates, share_of_peak
from .stop import Stopped, Wish


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
            _validate(run, 0)
        if _gives_up(run, run.first_step):
            return _give_up(run, run.first_step)
        for step in progress(run):
            take_step(run, list(itertools.islice(stream, run.config.accumulation)), step)
            after(run, step + 1)
            if _is_to_stop(run) and step + 1 < run.config.steps:
                _leave(run, step + 1)
            if _gives_up(run, step + 1):
                return _give_up(run, step + 1)
        finish(run)


def take_step(run: Run, taken: list[Batch], step: int) -> None:
    """One optimiser step, number `step` from 0, on all its micro-batches."""
    set_rates(run.optimiser, share_of_peak(step, run.config))
    taken = [_prepared(run, batch) for batch in taken]
    for batch, coefficients, last in zip(taken, _coefficients_of(run, taken), _last_of(taken)):
        with _gathered(run, last):
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


def _prepared(run: Run, batch: Batch) -> Batch:
    """On the device, in the precision that the run computes its losses in."""
    run.tally.add(batch.readings)
    return batch.to(run.accelerator.device, run.learner.dtype)


def _last_of(taken: Sequence[Batch]) -> Iterator[bool]:
    """Whether each is the last of its step."""
    return (i == len(taken) - 1 for i in range(len(taken)))


def _gathered(run: Run, last: bool) -> AbstractContextManager[Any]:
    """Processes add up their gradients once a step, with the last micro-batch."""
    return nullcontext() if last else run.accelerator.no_sync(run.model)


def _coefficients_of(run: Run, taken: Sequence[Batch]) -> list[Tensor]:
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


def after(run: Run, done: int) -> None:
    """What happens between steps: log, validate, save. `done` steps lie behind."""
    config = run.config
    last, saves = done == config.steps, done % config.save_every == 0
    if config.estimate and done == run.first_step + 1 and run.accelerator.is_main_process:
        _tell(memory.taken(run.accelerator.device))
    # what is saved has been looked at: a state of NaN would be of no use
    if done % config.log_every == 0 or saves or last:
        run.journal.write(run.accelerator, done, run.optimiser.param_groups[0]["lr"], run.tally.skipped)
    if config.validate_every and done % config.validate_every == 0 and not last:
        _validate(run, done)
    if saves or last:
        _save_run(run, done)


def _tell(sentence: str) -> None:
    """Beside the bar, if there is anything to say."""
    if sentence:
        tqdm.write(sentence, sys.stderr)


def _validate(run: Run, done: int) -> None:
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
            _tell(f"Step {done}, held out: {figures}{kept}.")
    run.accelerator.wait_for_everyone()
    run.model.train()


def _save_run(run: Run, done: int) -> None:
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


def _is_to_stop(run: Run) -> bool:
    """Whether any process was asked to end the run; all of them say the same after the same step."""
    if run.accelerator.num_processes == 1:
        return run.wish.number != 0
    # looked at a step late, so that no device waits for it
    before, told = run.heard, torch.tensor(run.wish.number, device=run.accelerator.device)
    run.heard = reduced(run.accelerator, told)
    return before is not None and before.item() > 0


def _leave(run: Run, done: int) -> NoReturn:
    """Save everything after `done` steps, and end. Stopped says how to go on."""
    config = run.config
    _save_all(run, done)
    again = "the same command" if config.resume else "the same command with resume = true"
    raise Stopped(
        f"stopped at step {done} of {config.steps}; {run.out} holds its state and its weights so far: {again} goes on "
        "from there.",
        run.wish.number or signal.SIGTERM,
    )


def _gives_up(run: Run, done: int) -> bool:
    """Whether the held-out pictures have not been measured better for so long that the run ends after `done` steps; all
    processes say the same."""
    if not run.config.patience or not run.config.validate_every or done % run.config.validate_every:
        return False
    idle = int(run.progress.get("idle", 0)) if run.accelerator.is_main_process else 0
    if run.accelerator.num_processes > 1:
        idle = int(reduced(run.accelerator, torch.tensor(idle, device=run.accelerator.device)).item())
    return idle >= run.config.patience


def _give_up(run: Run, done: int) -> None:
    """Save everything after `done` steps, say why no more are taken, and end."""
    _save_all(run, done)
    if run.accelerator.is_main_process:
        _tell(
            f"The run ends at step {done} of {run.config.steps}: {run.progress['idle']} validations in a row were no "
            f"better than that of step {run.progress.get('best_step', 0)}, whose weights are best. A larger patience "
            "goes on from here."
        )
    run.tally.close()


def _save_all(run: Run, done: int) -> None:
    """The log, the state and the weights of a run that ends after `done` steps, and before its last."""
    if run.journal.losses:
        run.journal.write(run.accelerator, done, run.optimiser.param_groups[0]["lr"], run.tally.skipped)
    if run.journal.saved != done:
        _save_run(run, done)
    _write_last(run, done)


def finish(run: Run) -> None:
    """The last validation, the file that the run was for, and what of its data could not be read."""
    _validate(run, run.config.steps)
    _write_last(run, run.config.steps)
    run.tally.close()


def _write_last(run: Run, done: int) -> None:
    """The weights after `done` steps, and the end of the log."""
    if run.accelerator.is_main_process:
        with run.average.in_place(run.learner.learning()):
            path = run.evaluator.write("last", {"step": done})
        _tell(f"The weights after {done} steps are {path}.")
        run.journal.close()
    run.accelerator.wait_for_everyone()
