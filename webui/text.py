"""What is told to a checkpoint that comes with a text encoder: by transformers, which every WebUI has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoints.context import PUT_PROMPT, PUT_TEXT, text_weights
from ..core.checkpoints.ldm_networks import filled
from ..core.checkpoints.tensors import CheckpointError, read_object, shown


class Texts:
    """The part of core's Host that is about text, the same in all WebUIs."""

    advice, prompt_advice = PUT_TEXT, PUT_PROMPT

    def words(self, text_encoder: Path, prompt: str) -> list[int]:
        return words(text_encoder.parent / "tokenizer", prompt)

    def encode_prompt(self, text_encoder: Path, tokens: list[int]) -> Tensor:
        return _encode_prompt(text_encoder, tokens)

    def empty_prompt(self, base: str, tokens: int) -> Tensor | None:
        """The host has it of the model that is loaded alone."""


def words(tokenizer: Path, prompt: str) -> list[int]:
    """The token ids of a prompt, without start and end. CheckpointError if the folder holds no CLIP tokenizer."""
    from transformers import CLIPTokenizer

    try:
        clip = CLIPTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(tokenizer)} holds no CLIP tokenizer ({type(error).__name__}): get the folder again."
        ) from error
    return clip(prompt, add_special_tokens=False)["input_ids"]


def _encode_prompt(folder: Path, tokens: list[int]) -> Tensor:
    """(1, L, D) float32 of L token ids, by transformers' CLIP. CheckpointError for weights that are not its own."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = text_weights(folder)
    try:
        encoder: Any = CLIPTextModel(CLIPTextConfig(**read_object(folder / "config.json"))).text_model
    except (TypeError, ValueError) as error:
        told = shown(folder / "config.json")
        raise CheckpointError(f"{told} describes no text encoder ({error}): get the file again.") from error
    filled(encoder, weights.load(torch.float32), weights)
    return encoder(torch.tensor([tokens]))[0].float()
