"""Text: the empty prompt's embedding by the text encoder inside a single-file checkpoint; no tokenizer is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.checkpoints.tensors import CheckpointError, network, shown
from ..core.generations import CUSTOM, END, GENERATIONS, START

LONGEST = 77


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's approximation of GELU, x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True)
class Encoder:
    """How a generation keeps its text encoder in a checkpoint file."""

    prefix: str
    generation: str
    """Whose it is where the UNet is of none."""
    activation: Callable[[Tensor], Tensor]
    head_dim: int
    left_out: int
    """Blocks at the end that Stable Diffusion does not run."""
    block: str
    """Where block {} is kept."""
    names: Mapping[str, str]
    """{ours: theirs}, of what is outside blocks and of the layers inside them."""


ENCODERS = (
    Encoder(
        "cond_stage_model.transformer.",
        generation="sd15",
        activation=quick_gelu,
        head_dim=64,
        left_out=0,
        block="encoder.layers.{}.",
        names={
            "tokens": "embeddings.token_embedding.weight",
            "positions": "embeddings.position_embedding.weight",
            "last_norm": "final_layer_norm",
            "norm1": "layer_norm1",
            "out": "self_attn.out_proj",
            "norm2": "layer_norm2",
            "wide": "mlp.fc1",
            "narrow": "mlp.fc2",
        },
    ),
    Encoder(
        "cond_stage_model.model.",
        generation="sd21",
        activation=F.gelu,
        head_dim=64,
        left_out=1,
        block="transformer.resblocks.{}.",
        names={
            "tokens": "token_embedding.weight",
            "positions": "positional_embedding",
            "last_norm": "ln_final",
            "norm1": "ln_1",
            "out": "attn.out_proj",
            "norm2": "ln_2",
            "wide": "mlp.c_fc",
            "narrow": "mlp.c_proj",
        },
    ),
)
"""SD1.x keeps transformers' CLIP ViT-L, SD2.x OpenCLIP's ViT-H, of which it reads the last block but one."""


def encode_empty(path: Path, tokens: int, base: str = CUSTOM) -> Tensor | None:
    """(1, tokens, D) float32 of the empty prompt, padded as its generation does it; None if there is no text encoder.

    base: the generation of the UNet that reads it, as Recipe.base. CLIP is causal: its first tokens do not depend on
    how many follow.
    """
    for encoder in ENCODERS:
        weights = network((path,), lambda names, encoder=encoder: named(encoder, names)).load()
        if encoder.names["tokens"] in weights:
            padding = GENERATIONS.get(base, GENERATIONS[encoder.generation]).padding
            ids = [START, END, *[padding] * LONGEST][:tokens]
            return run(encoder, {name: tensor.float() for name, tensor in weights.items()}, ids, path)
    return None


def named(encoder: Encoder, names: list[str]) -> dict[str, str]:
    """{name in the file: name in the encoder}; old files lack transformers' text_model."""
    inside = {name: name[len(encoder.prefix) :] for name in names if name.startswith(encoder.prefix)}
    return {name: inner.removeprefix("text_model.") for name, inner in inside.items()}


@torch.no_grad()
def run(encoder: Encoder, weights: Mapping[str, Tensor], ids: list[int], path: Path) -> Tensor:
    """The transformer, block by block, of these tokens. CheckpointError, naming the file, if a part is missing."""
    try:
        x = weights[encoder.names["tokens"]][torch.tensor(ids)] + weights[encoder.names["positions"]][: len(ids)]
        for index in range(blocks(encoder, weights) - encoder.left_out):
            x = block(encoder, Part(weights, encoder.block.format(index)), x)
        return Part(weights, "").norm(encoder.names["last_norm"], x)[None]
    except (KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"The text encoder in {shown(path)} is damaged ({error}): name the empty prompt as base.context."
        ) from None


def blocks(encoder: Encoder, weights: Mapping[str, Tensor]) -> int:
    pattern = re.compile(re.escape(encoder.block).replace(r"\{\}", r"(\d+)"))
    return 1 + max((int(match[1]) for name in weights if (match := pattern.match(name))), default=-1)


@dataclass(frozen=True)
class Part:
    """The layers under a prefix."""

    weights: Mapping[str, Tensor]
    prefix: str

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{self.prefix}{name}.weight"], self.weights[f"{self.prefix}{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.weights[f"{self.prefix}{name}.{kind}"] for kind in ("weight", "bias"))
        return F.layer_norm(x, weight.shape, weight, bias)

    def queries_keys_values(self, x: Tensor) -> Tensor:
        """(L, 3 D): OpenCLIP keeps the three in one matrix, transformers apart."""
        together = self.weights.get(f"{self.prefix}attn.in_proj_weight")
        if together is not None:
            return F.linear(x, together, self.weights[f"{self.prefix}attn.in_proj_bias"])
        return torch.cat([self.linear(f"self_attn.{kind}_proj", x) for kind in "qkv"], -1)


def block(encoder: Encoder, part: Part, x: Tensor) -> Tensor:
    """One residual block (L, D) -> (L, D): causal attention, then a perceptron of two layers."""
    names = encoder.names
    heads = x.shape[1] // encoder.head_dim
    queries, keys, values = (
        chunk.unflatten(-1, (heads, -1)).transpose(0, 1)
        for chunk in part.queries_keys_values(part.norm(names["norm1"], x)).chunk(3, -1)
    )
    attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    x = x + part.linear(names["out"], attended.transpose(0, 1).flatten(1))
    hidden = encoder.activation(part.linear(names["wide"], part.norm(names["norm2"], x)))
    return x + part.linear(names["narrow"], hidden)
