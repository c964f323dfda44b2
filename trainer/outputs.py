"""Outputs: no command writes over what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core.checkpoints.context import CONTEXT_FILES
from ..core.checkpoints.library import files_in
from ..core.checkpoints.tensors import STEMS
from ..core.errors import UserError
from .model_choice import ModelChoice

READ = (
    *(*STEMS, "pytorch_lora_weights", "adapter_model", "config", "model_index", "scheduler_config", "adapter_config"),
    *("tokenizer", "vocab", "merges", "special_tokens_map", "diffusion_perception", "text_embeds"),
)
"""How the files begin that are read of a model's folder; others in it may be results of before."""


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """UserError where an output is one of the inputs, by whatever name; called before anything is loaded."""
    read = {place: path for path in inputs for place in places(path)}
    for output in outputs:
        for place in places(output):
            if place in read:
                raise UserError(f"{output} would be written over {read[place]}, which is read: choose another --out.")


def places(path: Path) -> list[tuple[int, int]]:
    """What files of any name have in common that are one; nothing where there is none."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [(status.st_dev, status.st_ino)]


def files_of(choice: ModelChoice) -> Iterator[Path]:
    """What a command reads of the model that it is asked for."""
    for path in (choice.model, choice.adapter, choice.base):
        if path is not None:
            yield from (file for file in files_in(path) if _is_read(file, path))
    yield from map(file_of, filter(None, (choice.context, choice.negative_context)))


def file_of(text: str) -> Path:
    """Of FILE or FILE:KEY."""
    return Path(text if Path(text).exists() else text.rpartition(":")[0] or text)


def _is_read(file: Path, chosen: Path) -> bool:
    """Of a folder what models consist of, or the only weights in it."""
    return (
        file == chosen
        or file.name in CONTEXT_FILES
        or (file.suffix in (".safetensors", ".bin", ".json", ".txt") and file.name.startswith(READ))
        or (file.parent == chosen and list(chosen.glob("*.safetensors")) == [file])
    )


def folds_case(folder: Path) -> bool:
    """Whether X.png and x.png are one file in a folder, or where it is to be made."""
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path.cwd()).absolute()
    for place in (there, *there.parents):
        other = place.with_name(place.name.swapcase())
        if place.name != other.name:
            return other.exists() and os.path.samefile(place, other)
    return False
