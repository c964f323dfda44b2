"""The section Diffusion Perception of a WebUI's settings: which file answers for a task, and one more folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules import shared

if TYPE_CHECKING:
    from .models import Choice

SECTION = ("perception", "Diffusion Perception")
FOLDER = "perception_folder"
FIRST = "the first"
"""Of a task's files: what answers for it where nothing else is chosen."""


def offer_settings() -> None:
    """Add them; what a user has chosen stays."""
    import gradio as gr

    from .extras import offered

    told = "One more folder of checkpoints and adapters, such as a ComfyUI's models/perception"
    shared.opts.add_option(FOLDER, shared.OptionInfo("", told, section=SECTION))
    labels: dict[str, list[str]] = {}
    for label, choice in offered().items():
        labels.setdefault(choice.task, []).append(label)
    for task, held in labels.items():
        info = shared.OptionInfo(
            FIRST, f"What answers for {task}", gr.Dropdown, {"choices": [FIRST, *held]}, section=SECTION
        )
        shared.opts.add_option(key_of(task), info)


def key_of(task: str) -> str:
    """What the setting of a task is called in the WebUI's config."""
    return f"perception_{task}"


def chosen(task: str, offered: dict[str, Choice]) -> Choice | None:
    """What answers for a task: as chosen, else the first that is no demo, else that; None where there is none."""
    label = shared.opts.data.get(key_of(task))
    mine = [choice for choice in offered.values() if choice.task == task]
    if label in offered and offered[label] in mine:
        return offered[label]
    return next(iter(sorted(mine, key=lambda choice: choice.is_demo)), None)


def more_folders() -> list[Path]:
    """The user's own, which may have been moved away."""
    named: Any = shared.opts.data.get(FOLDER)
    return [Path(named)] if isinstance(named, str) and named and Path(named).is_dir() else []
