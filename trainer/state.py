"""State: everything that a killed run needs to go on as if it had not been, in one file that is whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.checkpoints.tensors import UNREADABLE
from ..core.whole_file import UnwritableError, whole_file
from .config import Config, ConfigError, from_toml, to_toml
from .optimiser import MOMENTS, Average, fill

FILE = "state.pt"
KEPT = "states"
"""The folder of those that are kept beside it."""
FREE = (
    *("out", "device", "workers", "resume", "estimate", "save_every", "validate_every", "validation_images", "samples"),
    *("validate_first", "patience", "keep_states"),
    *("log_every", "trackers", "licence", "title", "save_precision"),
)
"""Keys that may change between the parts of a run, for they do not change what it learns; `steps` joins them where the
learning rate does not depend on it."""


def save(
    path: Path,
    config: Config,
    step: int,
    learning: dict[str, nn.Parameter],
    optimiser: Optimizer,
    average: Average,
    scaler: dict[str, Any],
    progress: dict[str, Any],
    data: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state after `step` optimiser steps; data order, timesteps and noise follow from step and seed."""
    content = {
        "config": told(config),
        "step": step,
        "weights": {name: weight.detach().cpu() for name, weight in learning.items()},
        "optimiser": optimiser.state_dict(),
        "average": average.weights,
        "scaler": scaler,
        "progress": progress,
        "random": {"torch": torch.get_rng_state()},
        "data": dict(data or {}),
    }
    write_whole(path, content)


def keep_copies(path: Path, step: int, count: int) -> None:
    """states/<step>.pt of this state beside it, and of the last `count` no more."""
    folder = path.parent / KEPT
    if not count:
        return
    folder.mkdir(exist_ok=True)
    copy = folder / f"{step:07}{path.suffix}"
    copy.unlink(missing_ok=True)
    try:
        os.link(path, copy)  # no second file on the disk: the next state is another one
    except OSError:
        shutil.copy2(path, copy)
    for old in sorted(folder.glob(f"*{path.suffix}"))[:-count]:
        old.unlink()


def check_room(out: Path, learning: Mapping[str, nn.Parameter], config: Config) -> None:
    """UserError where not even one state would fit on the disk."""
    needed = sum(weight.numel() for weight in learning.values()) * (4 + MOMENTS[config.optimiser.name])
    there = shutil.disk_usage(out)
    if there.total and there.free < needed:
        raise UnwritableError(
            f"{out} has {there.free / 2**20:.0f} MiB of room and a state of this run takes {needed / 2**20:.0f} MiB, "
            "its weights on top: make room, or choose another `out`."
        )


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """A kill leaves the old file or the new one. UnwritableError if there is no room or no right."""
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def restore(
    path: Path, config: Config, learning: dict[str, nn.Parameter], optimiser: Optimizer, average: Average
) -> dict[str, Any]:
    """Fill weights, optimiser and average from a state; returns the rest of it. ConfigError if it is another run's."""
    content = read_state(path)
    kept = _completed(content["config"])
    if kept != told(config):
        line = difference(kept, told(config))
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({line}): choose another `out`, or set resume = false to "
            f"start anew.{_longer(config) if line.startswith('steps =') else ''}"
        )
    if content["step"] > config.steps:
        raise ConfigError(
            f"{path.parent} is at step {content['step']} already, and steps = {config.steps}: raise steps, choose "
            "another `out`, or set resume = false to start anew."
        )
    if content["weights"].keys() != learning.keys():
        raise _damaged(path, "it holds other weights than the run's")
    try:
        fill(learning, content["weights"])
        optimiser.load_state_dict(content["optimiser"])
        for name, weight in content["average"].items():
            average.weights[name].copy_(weight)
        torch.set_rng_state(content["random"]["torch"])
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return content


def is_of(config: Config) -> bool:
    """Whether `out` holds a state of this very run."""
    return goes_on(config) and _completed(read_state(Path(config.out) / FILE)["config"]) == told(config)


def goes_on(config: Config) -> bool:
    """Whether there is a state to go on from."""
    return config.resume and (Path(config.out) / FILE).is_file()


def _longer(config: Config) -> str:
    """How a run is set up that may be made longer."""
    return (
        f" Its {config.optimiser.schedule} rate ends with its last step: a run that is to be made longer has "
        'optimiser.schedule = "constant", or optimiser.decay_steps set from the start.'
    )


KEYS = {
    "config": str,
    "step": int,
    "weights": dict,
    "optimiser": dict,
    "average": dict,
    "scaler": dict,
    "progress": dict,
    "random": dict,
}
"""What `save` writes, and of which type."""


def read_state(path: Path) -> dict[str, Any]:
    """What `save` wrote. ConfigError if it is damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in KEYS.items()):
        raise _damaged(path, "it is no state of a run")
    if not all(isinstance(records, Tensor) for records in content.setdefault("data", {}).values()):
        raise _damaged(path, "it is no state of a run")
    return content


def _damaged(path: Path, reason: object) -> ConfigError:
    first = next(iter(str(reason).splitlines()), "")
    return ConfigError(f"{path} is damaged ({first}): remove it, or set resume = false, to start anew.")


def told(config: Config) -> str:
    """What of a config decides what is learnt."""
    defaults, optimiser = Config(), config.optimiser
    ends_anywhere = optimiser.schedule == "constant" or optimiser.decay_steps > 0
    free = (*FREE, "steps") if ends_anywhere else FREE
    return to_toml(replace(config, **{name: getattr(defaults, name) for name in free}))


def _completed(kept: str) -> str:
    """What a state says of its run's config, with the keys that have come since; as it is where it cannot be read."""
    try:
        return to_toml(from_toml(kept))
    except ValueError:
        return kept


def difference(one: str, other: str) -> str:
    """The first line that differs."""
    rows = set(one.splitlines())
    return next((line for line in other.splitlines() if line not in rows), "a key is missing")
