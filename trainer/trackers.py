"""Trackers: where else a run's numbers go, by accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .config import Config, ConfigError, check_known, toml_value

if TYPE_CHECKING:  # what only looks at a config does not wait for it
    from accelerate.tracking import GeneralTracker

PROJECT = "diffusion-perception"
"""What its runs are kept under where others are too."""


def tensorboard(out: Path) -> GeneralTracker:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", out)


def wandb(out: Path) -> GeneralTracker:
    from accelerate.tracking import WandBTracker

    return WandBTracker(PROJECT, name=out.name, dir=str(out))


def mlflow(out: Path) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker

    return MLflowTracker(PROJECT, run_name=out.name)


class Tracker(NamedTuple):
    """A row."""

    open: Callable[[Path], GeneralTracker]
    """For the run in a folder."""
    takes_config: bool = True
    """Whether it shows the run's config beside its numbers."""


TRACKERS: Mapping[str, Tracker] = {
    # its own way of keeping a config makes one more run of it; the config lies beside
    "tensorboard": Tracker(tensorboard, takes_config=False),
    "wandb": Tracker(wandb),
    "mlflow": Tracker(mlflow),
}
USUAL = "tensorboard"
"""Taken where it is installed, whether or not anybody asked."""


def check_trackers(names: tuple[str, ...]) -> None:
    """ConfigError for trackers that do not exist, or are not installed."""
    for name in names:
        check_known("tracker", name, TRACKERS)
        if name != USUAL and not _is_installed(name):
            raise ConfigError(f"trackers: {name} is not installed: run `pip install {name}`, or leave it out.")


def _is_installed(name: str) -> bool:
    return find_spec(name) is not None


def start_trackers(config: Config) -> list[GeneralTracker]:
    """Those that the config names, ready to be told numbers. ConfigError for one that cannot be reached."""
    return [_started(name, config) for name in filter(_is_installed, config.trackers)]


def _started(name: str, config: Config) -> GeneralTracker:
    row = TRACKERS[name]
    tracker = row.open(Path(config.out))
    try:
        tracker.start()
        if row.takes_config:
            tracker.store_init_configuration(dict(flat(asdict(config))))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"trackers: {name} could not be started ({reason}): mend it, or leave it out.") from error
    return tracker


def flat(table: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that trackers can show: numbers, and the rest as TOML has it."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value if isinstance(value, bool | int | float) else toml_value(value)
