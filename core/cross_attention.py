"""Cross-attention to a context of a few tokens, with the tokens worked into the projections beside them.

Softmax(x Q K^T) V O: where K and V are two tokens, Q K^T and V O are a few columns and rows for each head, and Q and O,
a matrix of all channels each, need not be applied to every pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def folded(layer: Any, x: Tensor, *others: Any, **more: Any) -> Tensor:
    """In place of the forward of a cross-attention (to_q, to_k, to_v, to_out, heads); as written where that is less.

    x (B, N, C); the context (B, L, D) comes second, or by either of the names that hosts give it.
    """
    context = others[0] if others else more.get("context", more.get("encoder_hidden_states"))
    out = layer.to_out[0]
    if context is None or not all(map(_lies_plain, (layer.to_q, out))) or not _is_less(layer, x, context):
        return type(layer).forward(layer, x, *others, **more)
    # (B, L, heads, channels of one) with (heads, channels of one, C) -> (B, C, heads, L)
    key, value = (split(projected, layer.heads) for projected in (layer.to_k(context), layer.to_v(context)))
    query = layer.to_q.weight.unflatten(0, (layer.heads, -1))
    asked = torch.einsum("blhd,hdc->bchl", key * key.shape[-1] ** -0.5, query)
    answer = torch.einsum("blhd,chd->bhlc", value, out.weight.unflatten(1, (layer.heads, -1)))
    scores = (x @ asked.flatten(2)).unflatten(2, asked.shape[2:]).softmax(-1)
    return torch.baddbmm(out.bias, scores.flatten(2), answer.flatten(1, 2))


def _is_less(layer: Any, x: Tensor, context: Tensor) -> bool:
    """Whether a pixel's channels outnumber the tokens of all heads by enough."""
    return 4 * layer.heads * context.shape[1] <= x.shape[-1]


def split(projected: Tensor, heads: int) -> Tensor:
    return projected.unflatten(2, (heads, -1))


def _lies_plain(layer: nn.Module) -> bool:
    """Whether a layer's weight is all that it does: nothing runs beside it, and no host patches it on the way."""
    beside = [getattr(layer, name, ()) for name in ("_forward_hooks", "_forward_pre_hooks", "weight_function")]
    weight: Any = getattr(layer, "weight", None)
    return isinstance(layer, nn.Linear) and not any(beside) and weight is not None and weight.dtype == torch.float32
