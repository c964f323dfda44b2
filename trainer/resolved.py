"""Resolved: a config in full, with what holds where it says nothing as comments, as `--print-config` shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.generations import CUSTOM
from ..core.recipe import Recipe
from ..core.tasks import TASKS
from .config import Config, to_toml, toml_value
from .data.augment import Augmentation
from .data.feeds import recipe_for
from .data.targets import TargetOptions, options_for
from .data.tasks import data_of


def resolved(config: Config) -> str:
    """TOML that reads as the same config."""
    sections = {
        "augment": _unsaid(config.augment, vars(Augmentation()), "size"),
        **_per_task("target", config, target_of),
        **_per_task("recipe", config, _recipe_of),
        "turns": _unsaid(config.turns, dict.fromkeys(config.tasks, 1)),
        "objective.pixel_losses": _unsaid(
            config.objective.pixel_losses, {task: _losses_of(task, config) for task in config.tasks}
        ),
        "objective.task_weights": _unsaid(config.objective.task_weights, dict.fromkeys(config.tasks, 1.0)),
    }
    return "".join(
        _with_comments(to_toml(config).splitlines(), {name: rows for name, rows in sections.items() if rows})
    )


def _unsaid(said: Mapping[str, Any], usual: Mapping[str, Any], *but: str) -> list[str]:
    """A comment for each key that is not said. TOML has no word for nothing."""
    rest = {name: value for name, value in usual.items() if name not in said and name not in but}
    return [f"# {name} = {'(none)' if value is None else toml_value(value)}" for name, value in rest.items()]


def _per_task(section: str, config: Config, usual: Any) -> dict[str, list[str]]:
    """{table: its comments}: what all tasks share in the common one, the rest in each task's own."""
    tables = {task: usual(task, config) for task in config.tasks or ("depth",)}
    first = next(iter(tables.values()))
    shared = {name: first[name] for name in first if all(table.get(name) == first[name] for table in tables.values())}
    said = getattr(config, section)
    found = {section: _unsaid(said, shared)}
    for task, table in tables.items():
        own = {name: value for name, value in table.items() if name not in shared and name not in said}
        found[f"{section}.{task}"] = _unsaid(said.get(task, {}), own)
    return found


def _recipe_of(task: str, config: Config) -> dict[str, Any]:
    """The fields of its recipe, but for those that its datasets and the base say."""
    return {name: value for name, value in vars(recipe(task, config)).items() if name not in ("task", "base")}


def target_of(task: str, config: Config) -> dict[str, Any]:
    """The options of its targets."""
    options = {**vars(TargetOptions()), **vars(options_for(recipe(task, config)))}
    return {**options, "span": options["span"] or data_of(task).target.span}


def _losses_of(task: str, config: Config) -> list[str]:
    """Between pictures."""
    return list(recipe(task, config).target_codec().losses or TASKS[task].losses)


def recipe(task: str, config: Config) -> Recipe:
    """What the config makes of it; the usual one where nothing says that the task is learnt."""
    learnt = config.learn == "perception" and task in config.tasks
    return recipe_for(task, config, CUSTOM) if learnt else Recipe(task, base=CUSTOM)


def _with_comments(lines: list[str], sections: dict[str, list[str]]) -> Iterator[str]:
    """Each section's comments at its end; a section of comments alone at the end of all."""
    rest, name = dict(sections), ""
    for line in [*lines, ""]:
        if not line:
            yield from (f"{comment}\n" for comment in rest.pop(name, ()))
        name = line.strip("[]") if line.startswith("[") else name
        yield f"{line}\n"
    for name, comments in rest.items():
        yield from (f"{line}\n" for line in ("", f"# [{name}]", *comments))
