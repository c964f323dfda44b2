"""Text: the empty prompt's embedding by the text encoder inside a single-file checkpoint; no tokenizer is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoints.tensors import CheckpointError, network, shown
from ..core.generations import CUSTOM, END, GENERATIONS, START

LONGEST = 77
HEAD_DIM = 64
"""Of every text encoder of Stable Diffusion."""


@dataclass(frozen=True)
class Encoder:
    """How a generation keeps its text encoder in a checkpoint file."""

    prefix: str
    generation: str
    """Whose it is where the UNet is of none."""
    activation: str
    """As transformers calls it."""
    left_out: int
    """Blocks at the end that Stable Diffusion does not run."""
    names: Mapping[str, str]
    """{a part of a name there: that of transformers' CLIP}."""


ENCODERS = (
    Encoder(
        "cond_stage_model.transformer.",
        generation="sd15",
        activation="quick_gelu",
        left_out=0,
        names={"text_model.": ""},  # which old files lack
    ),
    Encoder(
        "cond_stage_model.model.",
        generation="sd21",
        activation="gelu",
        left_out=1,
        names={
            "token_embedding": "embeddings.token_embedding",
            "positional_embedding": "embeddings.position_embedding.weight",
            "transformer.resblocks": "encoder.layers",
            "ln_final": "final_layer_norm",
            "ln_1": "layer_norm1",
            "ln_2": "layer_norm2",
            "attn.": "self_attn.",
            "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2",
        },
    ),
)
"""SD1.x keeps transformers' CLIP ViT-L, SD2.x OpenCLIP's ViT-H, of which it reads the last block but one."""
TOKENS = "embeddings.token_embedding.weight"
TOGETHER = re.compile(r"(.*self_attn\.)in_proj_(weight|bias)")
"""OpenCLIP keeps queries, keys and values in one matrix, transformers apart."""
BLOCK = re.compile(r"encoder\.layers\.(\d+)\.")


def encode_empty(path: Path, tokens: int, base: str = CUSTOM) -> Tensor | None:
    """(1, tokens, D) float32 of the empty prompt, padded as its generation does it; None if there is no text encoder.

    base: the generation of the UNet that reads it, as Recipe.base. CLIP is causal: its first tokens do not depend on
    how many follow. CheckpointError, naming the file, if a part of the encoder is missing.
    """
    for encoder in ENCODERS:
        weights = network((path,), lambda names, encoder=encoder: named(encoder, names)).load()
        if TOKENS in weights:
            padding = GENERATIONS.get(base, GENERATIONS[encoder.generation]).padding
            ids = [START, END, *[padding] * LONGEST][:tokens]
            return encode(encoder, dict(_parted({name: tensor.float() for name, tensor in weights.items()})), ids, path)
    return None


def named(encoder: Encoder, names: list[str]) -> dict[str, str]:
    """{name in the file: name in transformers' CLIP}."""
    inside = {name: name[len(encoder.prefix) :] for name in names if name.startswith(encoder.prefix)}
    return {name: renamed(inner, encoder.names) for name, inner in inside.items()}


def renamed(name: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name


def _parted(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Queries, keys and values apart."""
    for name, tensor in weights.items():
        if match := TOGETHER.fullmatch(name):
            for kind, part in zip("qkv", tensor.chunk(3)):
                yield f"{match[1]}{kind}_proj.{match[2]}", part
        else:
            yield name, tensor


@torch.no_grad()
def encode(encoder: Encoder, weights: Mapping[str, Tensor], ids: list[int], path: Path) -> Tensor:
    """The last hidden states of these tokens."""
    try:
        model = _built(encoder, weights)
    except (KeyError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()))
        raise CheckpointError(
            f"The text encoder in {shown(path)} is damaged ({reason}): name the empty prompt as base.context."
        ) from None
    return model(torch.tensor([ids])).last_hidden_state


def _built(encoder: Encoder, weights: Mapping[str, Tensor]) -> Any:
    """transformers' CLIP of the weights' shape. KeyError, RuntimeError for those that are missing or do not fit."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, width = weights[TOKENS].shape
    depth = 1 + max((int(match[1]) for name in weights if (match := BLOCK.match(name))), default=-1)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(weights.get("encoder.layers.0.mlp.fc1.weight", ())) or width,
        num_hidden_layers=max(0, depth - encoder.left_out),
        num_attention_heads=max(1, width // HEAD_DIM),
        max_position_embeddings=len(weights["embeddings.position_embedding.weight"]),
        hidden_act=encoder.activation,
    )
    model = CLIPTextModel(config).eval()
    # older versions of transformers have one more module around it
    wanted = [name for name in model.state_dict() if not name.endswith("position_ids")]
    model.load_state_dict({name: weights[name.removeprefix("text_model.")] for name in wanted})
    return model
