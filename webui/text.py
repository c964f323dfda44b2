"""What is told to a checkpoint that comes with a text encoder: by transformers, which every WebUI has."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoints.context import PUT_PROMPT, PUT_TEXT, text_weights, tokenizer_in, words_of
from ..core.checkpoints.ldm_networks import filled
from ..core.checkpoints.tensors import CheckpointError, read_object, shown


class Texts:
    """The part of core's Host that is about text, the same in all WebUIs."""

    advice, prompt_advice = PUT_TEXT, PUT_PROMPT

    def words(self, text_encoder: Path, prompt: str) -> list[int]:
        from transformers import CLIPTokenizer

        opened = partial(CLIPTokenizer.from_pretrained, local_files_only=True)
        return words_of(tokenizer_in(opened, text_encoder.parent / "tokenizer"), prompt)

    def encode_prompt(self, text_encoder: Path, tokens: list[int]) -> Tensor:
        return _encode_prompt(text_encoder, tokens)

    def empty_prompt(self, base: str, tokens: int) -> Tensor | None:
        """The host has it of the model that is loaded alone."""


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
