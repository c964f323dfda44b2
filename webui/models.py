"""What a person may choose of the checkpoints in the model folders, and the perceivers that were loaded last."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..core.checkpoints.adapter_file import PLAIN, read_adapter
from ..core.checkpoints.assemble import Host, assemble
from ..core.checkpoints.bases import recipe_of
from ..core.checkpoints.checkpoint import Checkpoint, open_all
from ..core.checkpoints.library import Library, Stamps, contents
from ..core.checkpoints.tensors import CheckpointError
from ..core.errors import UserError
from ..core.pipeline import Perceiver
from ..core.recipe import Recipe
from .resident import Resident, adapted

log = logging.getLogger(__name__)
PLACE = "models/perception"
PACK_WEIGHTS = Path(__file__).parent.parent / "weights"
SHOWN = {"starter": "demo"}
"""By file: what it is called in lists, so that nobody takes it for what the method can do."""
NO_MODEL = "The WebUI has loaded no model for the adapter to run on: choose an SD 1.x or 2.x checkpoint in its page."
KEPT = 2
"""Perceivers that stay in the computer's memory after they were used; the host moves them off its card as it needs."""


class Choice(NamedTuple):
    """One recipe of one checkpoint, or of one adapter."""

    task: str
    file: str
    """As the library lists it."""
    recipe: str
    """Its id."""
    adapter: bool = False
    """Whether it runs on the model that the host has loaded."""

    @property
    def name(self) -> str:
        """What a list shows: the file, and the recipe where that says more than the task."""
        stem = self.file.removesuffix(".safetensors")
        told = SHOWN.get(stem, stem)
        return told if self.recipe == self.task else f"{told} {self.recipe}"

    @property
    def is_demo(self) -> bool:
        return self.name in SHOWN.values()


def choices(library: Library, adapters: bool = True) -> list[Choice]:
    """All that can be opened, in the library's order, adapters last or left out. What cannot is told in the log, a
    sentence each."""
    kinds = (False, True) if adapters else (False,)
    return [
        choice
        for adapter in kinds
        for file in library.choices(adapter)
        if file != library.nothing
        for choice in _choices_in(library, file, adapter)
    ]


def _choices_in(library: Library, file: str, adapter: bool = False) -> list[Choice]:
    """The recipes of one checkpoint or adapter, the first of each id."""
    try:
        path = library.resolve(file, adapter)
    except UserError as error:  # it may be taken away at any time
        log.warning(NOT_OFFERED, file, error)
        return []
    return [Choice(task, file, recipe, adapter) for task, recipe in _recipes_in(path, contents(path), adapter)]


def labelled(choices: list[Choice]) -> dict[str, Choice]:
    """{what a page shows: what it is}"""
    return {f"{choice.task}: {choice.name}": choice for choice in choices}


NOT_OFFERED = "%s is not offered: %s"


@lru_cache(maxsize=1024)
def _recipes_in(path: Path, contents: Stamps, adapter: bool) -> tuple[tuple[str, str], ...]:
    """(task, id) of what can be opened in a file or folder; kept, and what cannot is told once, while it stays the
    same: hosts ask with every picture."""
    try:
        recipes = _of_adapter(path) if adapter else [found.recipe for found in open_all(path)]
    except UserError as error:
        log.warning(NOT_OFFERED, path.name, error)
        return ()
    return tuple(dict.fromkeys((recipe.row.name, recipe.id) for recipe in recipes))


def _of_adapter(path: Path) -> tuple[Recipe, ...]:
    """What an adapter says that it perceives, else its family. CheckpointError if neither is known."""
    adapter = read_adapter(path)
    return adapter.recipes or (recipe_of(adapter, PLAIN),)


def opened(library: Library, choice: Choice) -> Checkpoint:
    """CheckpointError if the file no longer holds it."""
    path = library.resolve(choice.file)
    for found in open_all(path):
        if found.recipe.id == choice.recipe:
            return found
    raise CheckpointError(f"{choice.file} no longer holds {choice.recipe}: reload the page to see what it holds.")


class Models:
    """Perceivers by choice, loaded once for as long as their files stay the same and they were used lately."""

    def __init__(self, library: Library, host: Callable[[], Host], resident: Callable[[Any], Resident]) -> None:
        """resident: the model that the host has loaded, or one that it names."""
        self.library, self.host, self.resident = library, host, resident
        self.held: OrderedDict[tuple, Perceiver] = OrderedDict()

    def perceiver(self, choice: Choice, model: Any = None) -> Perceiver:
        """UserError, in one sentence, if it cannot be loaded. model: the host's, on which adapters run."""
        path = self.library.resolve(choice.file, choice.adapter)
        if choice.adapter:
            # not kept: it would keep a model that the host has put away
            return adapted(self.resident(model), path, choice.recipe, self.host())
        key = (choice, contents(path))
        if key not in self.held:
            self.held[key] = assemble(opened(self.library, choice), self.host())
        self.held.move_to_end(key)
        while len(self.held) > KEPT:
            self.held.popitem(last=False)
        return self.held[key]


def folders(models: str, others: list[Path]) -> list[Path]:
    """Where a WebUI's users keep checkpoints, and what comes with the pack. models: the WebUI's folder of models.
    others: those that they name."""
    own = Path(models) / "perception"
    # so that people find it; where models may not be written to, it works without
    with suppress(OSError):
        own.mkdir(parents=True, exist_ok=True)
    return [own, *others, PACK_WEIGHTS]
