"""Recipes beside networks in diffusers layout, whose own configs have no place for them.

<folder>/diffusion_perception.json: {"diffusion_perception.recipe": [recipe, ...]}; each one's text context lies in
text_embeds.safetensors under its id, and what its guidance leads away from under that with .negative.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..backbone import Context
from ..errors import UserError
from ..recipe import KEY, Recipe, from_header, to_header
from ..whole_file import write_whole
from .architecture import UNetArchitecture
from .context import PROMPTS_FILE, as_context, read_context
from .tensors import CheckpointError, read_object, read_shapes, save_tensors, shown

FILE = "diffusion_perception.json"


def recipes_beside(folder: Path) -> tuple[Recipe, ...]:
    """Those of a repository's folder; none where there is no such file. CheckpointError if it is damaged."""
    found = read_object(folder / FILE)
    try:
        return (
            from_header({key: json.dumps(value) for key, value in found.items()}, shown(folder / FILE)) if found else ()
        )
    except UserError as error:
        raise CheckpointError(str(error)) from None


def context_named(folder: Path, name: str, architecture: UNetArchitecture) -> Context | None:
    """What lies there under a recipe's id, or under that with .negative."""
    file = folder / PROMPTS_FILE
    if not file.is_file() or name not in read_shapes(file):
        return None
    return as_context(read_context(file, name), architecture, file)


def write_recipes(folder: Path, recipes: Sequence[Recipe], contexts: Mapping[str, Tensor]) -> None:
    """contexts: {recipe id, or that with .negative: (1, L, D)}."""
    rows = json.loads(to_header(recipes)[KEY])
    write_whole(folder / FILE, (json.dumps({KEY: rows}, indent=1) + "\n").encode())
    if contexts:
        save_tensors(
            folder / PROMPTS_FILE, {name: tensor.clone() for name, tensor in contexts.items()}, {"format": "pt"}
        )
