"""Guides: what docs/*.md ask a reader to copy: configs and commands, as they stand there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from diffusion_perception.trainer.config import Config, build, merged
from diffusion_perception.trainer.presets import PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

DOCS = Path(__file__).absolute().parents[1] / "docs"
TRAINING = ("train-in-an-evening", "adapter-on-your-sd15")
"""Pages whose configs are for `train`."""
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def _fences(page: str, language: str) -> list[str]:
    """The fenced blocks of docs/<page>.md in a language, in order."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    return [body for _, spoken, body in FENCE.findall(text) if spoken == language]


def configs(page: str) -> dict[str, str]:
    """{file's name: its text}: every config of a page says in its first line what it is called."""
    found = {}
    for text in _fences(page, "toml"):
        name = re.match(r"# (\S+\.toml)", text)
        if name:
            found[name[1]] = text
    return found


def commands(page: str) -> list[str]:
    """What a reader types into a shell, one a line."""
    return [line for text in _fences(page, "sh") for line in text.splitlines() if line and not line.startswith("#")]


def config_of(text: str) -> Config:
    """What a config says, over its preset."""
    table = tomllib.loads(text)
    preset = table.get("preset", "")
    return build(Config, merged(PRESETS[preset].settings, table) if preset else table, "")
