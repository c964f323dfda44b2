"""Context: the text that a network is told, as embeddings on disk, or as what makes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbone import Context
from ..errors import UserError
from ..generations import END, START
from ..plain_files import read_npy
from ..recipe import Recipe
from .architecture import UNetArchitecture
from .tensors import CheckpointError, Weights, find_files, keep, network, read_object, read_shapes, shown

CONTEXT_FILES = ("empty_text_embed.safetensors", "empty_text_embed.npy")


PROMPTS_FILE = "text_embeds.safetensors"
"""The embeddings of several prompts, each under the name of its task."""
PUT_TEXT = (
    "put its empty_text_embed.safetensors or .npy ({width} wide, {tokens} tokens), or a text_encoder/ folder, beside it"
)
PUT_PROMPT = (
    "put a text_encoder/ and a tokenizer/ folder beside it, or the prompt's embedding ({width} wide, {tokens} tokens) "
    "as {task} in text_embeds.safetensors"
)
"""What a person can do about a missing text context where a host takes it from files."""


def find_context(
    folders: tuple[Path, ...], architecture: UNetArchitecture, recipe: Recipe | None = None
) -> Context | None:
    """The embedding of the recipe's prompt in one of these folders; of the empty one without a recipe."""
    if recipe is not None and recipe.prompt:
        return _find_prompt(folders, architecture, recipe)
    files = (folder / name for folder in folders for name in CONTEXT_FILES)
    return next((as_context(read_context(file), architecture, file) for file in files if os.path.isfile(file)), None)


def _find_prompt(folders: tuple[Path, ...], architecture: UNetArchitecture, recipe: Recipe) -> Context | None:
    """That of a prompt, which lies under a name of its task in a file of several."""
    for file in (folder / PROMPTS_FILE for folder in folders if os.path.isfile(folder / PROMPTS_FILE)):
        held = read_shapes(file)
        for name in (recipe.id, recipe.row.name, *recipe.row.aliases):
            if name in held:
                return as_context(read_context(file, name), architecture, file)
    return None


def find_text_encoder(folder: Path) -> Path | None:
    """The text encoder's folder in a repository."""
    encoder = folder / "text_encoder"
    return encoder if find_files(encoder) and os.path.isfile(encoder / "config.json") else None


def text_weights(folder: Path) -> Weights:
    """Of a text encoder's folder, by the names of `text_names`. CheckpointError if a file is damaged."""
    return network(find_files(folder), text_names)


def text_names(names: list[str]) -> dict[str, str]:
    """{name: what it is called in the encoder}. Releases of transformers differ in whether text_model. stands before
    every name, and whether the positions' numbers, which every encoder knows, are kept."""
    return {name: name.removeprefix("text_model.") for name in names if not name.endswith(".position_ids")}


def tokenizer_in(opened: Callable[[str], Any], folder: Path) -> Any:
    """What a library opens of a tokenizer's folder. CheckpointError if the folder holds none of CLIP's."""
    try:
        return opened(str(folder))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(folder)} holds no CLIP tokenizer ({type(error).__name__}): get the folder again."
        ) from error


def words_of(tokenizer: Any, prompt: str) -> list[int]:
    """The token ids of a prompt, without start and end. tokenizer: as transformers call theirs."""
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def prompt_tokens(text_encoder: Path, words: list[int], padded: bool = False) -> list[int]:
    """The token ids of a prompt whose words have these, by the tokenizer beside the encoder: from start to end, padded
    to 77 or not."""
    folder = text_encoder.parent / "tokenizer"
    whole = read_object(folder / "tokenizer.json")
    vocabulary = read_object(folder / "vocab.json") or table(table(whole, "model"), "vocab")
    start, end = vocabulary.get("<|startoftext|>", START), vocabulary.get("<|endoftext|>", END)
    # SD1 pads with the end, SD2 with "!"; where both files speak, the map is right
    said = {**read_object(folder / "tokenizer_config.json"), **read_object(folder / "special_tokens_map.json")}
    stated = said.get("pad_token") or "<|endoftext|>"
    pad = vocabulary.get(str(stated.get("content") if isinstance(stated, dict) else stated), end)
    if not all(isinstance(token, int) for token in (start, end, pad)):
        raise CheckpointError(f"{shown(folder)} gives words other numbers than whole ones: get the folder again.")
    return [start, *words, end, *([pad] * (75 - len(words)) if padded else [])]


def table(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The JSON object under a key, empty where there is none."""
    held = holder.get(key)
    return held if isinstance(held, dict) else {}


def read_context(path: Path, key: str = "") -> Tensor:
    """A text embedding (1, L, D) float32 from .safetensors (its only tensor, or `key`) or .npy."""
    tokens = read_tensor(path, key, "text embedding")
    return tokens[None] if tokens.ndim == 2 else tokens


def read_tensor(path: Path, key: str, what: str) -> Tensor:
    """A tensor float32 from .safetensors (its only one, or `key`) or .npy; what: what it is, for people."""
    if not path.is_file():
        raise CheckpointError(f"There is no {what} {path}: check the path.")
    if path.suffix == ".npy":
        try:
            return torch.from_numpy(read_npy(path).astype(np.float32))
        except UserError as error:
            raise CheckpointError(f"{shown(path)} is not a plain .npy array ({error}): get it again.") from None
    held = network((path,), keep).load()
    if (key and key not in held) or (not key and len(held) != 1):
        raise CheckpointError(f"{shown(path)} holds {', '.join(held)}: name one as {path.name}:KEY.")
    return (held[key] if key else next(iter(held.values()))).float()


def as_context(tokens: Tensor, architecture: UNetArchitecture, path: Path) -> Context:
    """Tokens (1, L, D) that this network can read. CheckpointError, naming `path`, if it cannot."""
    wanted = architecture.context_dim
    if tokens.ndim != 3 or tokens.shape[0] != 1 or tokens.shape[2] != wanted:
        raise CheckpointError(
            f"{shown(path)} holds a text context of shape {tuple(tokens.shape)}; this network reads "
            f"(1, tokens, {wanted}): give the embedding of its own text encoder."
        )
    if not tokens.isfinite().all():
        raise CheckpointError(f"{shown(path)} gives no numbers: its text context holds NaN; get the file again.")
    return Context(tokens.float())
