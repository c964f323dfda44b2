"""Which checkpoint, or which adapter on which base, and what a person changes of how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.checkpoints.adapters import Adapter
from ..core.checkpoints.bases import open_adapted
from ..core.checkpoints.checkpoint import Checkpoint, open_all, open_checkpoint
from ..core.checkpoints.networks import Networks, open_networks
from ..core.errors import UserError


@dataclass(frozen=True)
class ModelChoice:
    """A model, or an adapter and its base: one of the two."""

    model: Path | None = None
    """A folder in diffusers layout, a published repository's, or a single file."""
    adapter: Path | None = None
    """A LoRA file or folder of any spelling."""
    base: Path | None = None
    """What the adapter sits on: Stable Diffusion, as a folder or a file."""
    family: str = "auto"
    """A row of core.checkpoints.families.FAMILIES where the files cannot tell it."""
    task: str = ""
    """A row of core.tasks.TASKS, or the id of a recipe in the file; "" as trained."""
    overrides: Sequence[str] = ()
    """FIELD=VALUE, of the recipe."""
    context: str = ""
    """FILE or FILE:KEY of a text embedding in place of the one that came with it."""
    negative_context: str = ""
    """The same of what guidance leads away from."""

    def check(self) -> None:
        """UserError unless it names a model alone, or an adapter with its base."""
        if (self.adapter is None) != (self.base is None):
            raise UserError("--adapter and --base go together: the one sits on the other.")
        if (self.model is None) == (self.adapter is None):
            raise UserError("Name a model, or an adapter and the base it sits on.")

    def open_every(self) -> list[Checkpoint]:
        """The model's: all recipes of the project's own file, which share a network; else the one that is asked for."""
        assert self.model is not None
        found = open_all(self.model, self.family, self.task)
        if len({checkpoint.path for checkpoint in found}) == 1:
            return found
        return [open_checkpoint(self.model, self.family, self.task)]

    def open_networks(self) -> Networks:
        """What the adapter sits on, or will."""
        assert self.base is not None
        return open_networks(self.base)

    def open(self) -> tuple[Checkpoint, Adapter | None]:
        """What it is, with the recipe as overridden; no weights are read. UserError for what a person can mend."""
        self.check()
        if self.adapter is not None:
            checkpoint, adapter = open_adapted(self.open_networks(), self.adapter, self.family, self.task)
        else:
            assert self.model is not None
            checkpoint, adapter = open_checkpoint(self.model, self.family, self.task), None
        return checkpoint.overridden(self.overrides), adapter
