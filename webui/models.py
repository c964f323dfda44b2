"""What a person may choose of the checkpoints in the model folders, and the perceivers that were loaded last."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..core.checkpoints.assemble import Host, assemble
from ..core.checkpoints.checkpoint import Checkpoint, open_all
from ..core.checkpoints.library import Library, contents
from ..core.checkpoints.tensors import CheckpointError
from ..core.errors import UserError
from ..core.pipeline import Perceiver

log = logging.getLogger(__name__)
SHOWN = {"starter": "demo"}
"""By file: what it is called in lists, so that nobody takes it for what the method can do."""
KEPT = 2
"""Perceivers that stay in the computer's memory after they were used; the host moves them off its card as it needs."""


class Choice(NamedTuple):
    """One recipe of one checkpoint."""

    task: str
    file: str
    """As the library lists it."""
    recipe: str
    """Its id."""

    @property
    def name(self) -> str:
        """What a list shows: the file, and the recipe where that says more than the task."""
        stem = self.file.removesuffix(".safetensors")
        told = SHOWN.get(stem, stem)
        return told if self.recipe == self.task else f"{told} {self.recipe}"

    @property
    def is_demo(self) -> bool:
        return self.name in SHOWN.values()


def choices(library: Library) -> list[Choice]:
    """All that can be opened, in the library's order. What cannot is told in the log, a sentence each."""
    return [choice for file in library.choices() if file != library.nothing for choice in choices_in(library, file)]


def choices_in(library: Library, file: str) -> list[Choice]:
    """The recipes of one checkpoint, the first of each id."""
    try:
        held = open_all(library.resolve(file))
    except UserError as error:
        log.warning("%s is not offered: %s", file, error)
        return []
    return list(dict.fromkeys(Choice(found.recipe.row.name, file, found.recipe.id) for found in held))


def opened(library: Library, choice: Choice) -> Checkpoint:
    """CheckpointError if the file no longer holds it."""
    path = library.resolve(choice.file)
    for found in open_all(path):
        if found.recipe.id == choice.recipe:
            return found
    raise CheckpointError(f"{choice.file} no longer holds {choice.recipe}: reload the page to see what it holds.")


class Models:
    """Perceivers by choice, loaded once for as long as their files stay the same and they were used lately."""

    def __init__(self, library: Library, host: Callable[[], Host]) -> None:
        self.library, self.host = library, host
        self.held: OrderedDict[tuple, Perceiver] = OrderedDict()

    def perceiver(self, choice: Choice) -> Perceiver:
        """UserError, in one sentence, if it cannot be loaded."""
        key = (choice, contents(self.library.resolve(choice.file)))
        if key not in self.held:
            self.held[key] = assemble(opened(self.library, choice), self.host())
        self.held.move_to_end(key)
        while len(self.held) > KEPT:
            self.held.popitem(last=False)
        return self.held[key]


def folders(models: str, shipped: Path) -> list[Path]:
    """Where a WebUI's users keep checkpoints, and what comes with the pack. models: the WebUI's folder of models."""
    own = Path(models) / "perception"
    # so that people find it; where models may not be written to, it works without
    with suppress(OSError):
        own.mkdir(parents=True, exist_ok=True)
    return [own, shipped]
