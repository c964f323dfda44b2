"""First config: a file to begin a run with, its lines explained, a preset's settings in it as comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.whole_file import write_whole
from .config import ConfigError, check_known, leaves, toml_value
from .presets import PRESETS
from .recipes.preset import over

WIDTH = 44
"""Columns before a line's explanation."""
HEAD = """\
# A config to begin with. Fill in what is in CAPITALS; take the # from a line to say otherwise. Then
#   diffusion-perception train {path} --print-config      shows everything, and what is still missing
#   diffusion-perception train {path}                     trains
"""
ALWAYS: dict[str, Any] = {
    "out": "run",
    "validation_share": 0.1,
    "validate_every": 500,
    "save_every": 500,
    "title": "",
    "licence": "",
}
USUAL: dict[str, Any] = {
    "tasks": ["depth"],
    "size": [512, 512],
    "steps": 4000,
    "batch_size": 2,
    "accumulation": 4,
    "precision": "bf16",
    "objective": {"loss": "pixel", "timesteps": "fixed"},
    "network": {"checkpointing": True, "frozen_precision": "bf16"},
    "augment": {"flip": 0.5},
    "optimiser": {"lr": 3e-5, "max_norm": 1.0, "schedule": "cosine", "warmup": 100, "final_ratio": 0.05},
}
"""Without a preset: the whole UNet of Stable Diffusion on a card of 16 GB."""
SAID = ("preset", "out", "validation_share", "base.path")
"""Keys that are no comments, whoever says their values."""


def write_first(path: Path, preset: str) -> str:
    """Write it; a sentence of what was written. ConfigError if something is there already."""
    if path.exists():
        raise ConfigError(f"{path} is there already: choose another name, or move it away.")
    text = first_config(path.name, preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return f"{path} is written: fill in what is in CAPITALS."


def first_config(name: str, preset: str) -> str:
    """Its text. ConfigError for a preset that does not exist."""
    if preset:
        check_known("preset", preset, PRESETS)
    below = PRESETS[preset].settings if preset else USUAL
    named = {"preset": preset} if preset else {}
    tasks = {} if "tasks" in below else {"tasks": ["depth"]}
    start = {} if below.get("learn") == "vae" else {"base": {"path": "STABLE-DIFFUSION"}}
    known = (*SAID, *tasks) if preset else ()
    rows = [*section(over(named, tasks, ALWAYS, start, below), "", known), *datasets(preset)]
    return HEAD.format(path=name) + "\n" + "\n".join(rows) + "\n"


def section(table: Mapping[str, Any], where: str, said: tuple[str, ...]) -> Iterator[str]:
    """Its lines, tables last; those of keys that are not `said` are comments, unless nothing is."""
    explained = {key: text for key, text, _ in leaves()}
    for key, value in table.items():
        if not isinstance(value, Mapping):
            dotted = f"{where}{key}"
            yield line(key, value, explained.get(dotted, ""), not said or dotted in said)
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from ("", f"[{where}{key}]", *section(value, f"{where}{key}.", said))


def line(key: str, value: Any, text: str = "", said: bool = True) -> str:
    """`key = value  # what it is`, or that as a comment."""
    assignment = f"{'' if said else '# '}{key} = {toml_value(value)}"
    return f"{assignment:<{WIDTH}}  # {text}" if text else assignment


def datasets(preset: str) -> Iterator[str]:
    """A [[data]] table for each dataset of a preset, or one for a folder of one's own."""
    for row in (PRESETS[preset].data if preset else ()) or ({},):
        root = f"{row['reader'].upper()}-FOLDER" if "reader" in row else "FOLDER"
        yield from ("", "[[data]]", line("root", root, "folder of the dataset"))
        yield from (line(key, value) for key, value in row.items() if not isinstance(value, Mapping))
        if "settings" in row:
            yield from ("[data.settings]", *(line(key, value) for key, value in row["settings"].items()))
