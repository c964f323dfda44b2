"""Extract: a fine-tuned UNet minus the base that it started from -> an adapter of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..backbone import Shapes
from .adapters import Delta, LowRank, Part, collapsed, first
from .tensors import CheckpointError, stored


class Source(NamedTuple):
    """One of the two networks."""

    get: Callable[[str], Tensor]
    """Hands out a tensor by its diffusers name."""
    shapes: Shapes


class Extracted(NamedTuple):
    """What became of one layer."""

    layer: str
    part: Part
    energy: float
    """The share of the difference's squared values that the part holds; 1 for what is kept whole."""


def extract(tuned: Source, base: Source, rank: int | None, dtype: torch.dtype = torch.float16) -> Iterator[Extracted]:
    """Layer by layer, what the fine-tune changed; layers that it left alone are passed over.

    rank: of the low-rank parts, None to keep every difference whole. Norms, biases, conv_in, and matrices that are no
    larger whole, are kept whole in any case. CheckpointError if the two are not of one architecture.
    """
    for found in extract_ranks(tuned, base, (rank,), dtype):
        yield found[rank]


def extract_ranks(
    tuned: Source, base: Source, ranks: Sequence[int | None], dtype: torch.dtype = torch.float16
) -> Iterator[dict[int | None, Extracted]]:
    """The same for several ranks, {rank: part} layer by layer, at the cost of one."""
    for layer in common_layers(tuned.shapes, base.shapes):
        weight = weight_difference(tuned, base, f"{layer}.weight")
        bias = weight_difference(tuned, base, f"{layer}.bias")
        if weight is None and bias is None:
            continue
        bias = None if bias is None else stored(f"{layer}.bias", bias, dtype)
        found = {}
        if weight is not None and weight.ndim > 1 and layer != "conv_in":
            thin = [rank for rank in ranks if rank is not None and _is_smaller(weight, rank)]
            for rank, (down, up, energy) in _truncations(weight, thin).items():
                found[rank] = Extracted(
                    layer, LowRank(stored(layer, down, dtype), stored(layer, up, dtype), bias=bias), energy
                )
        if len(found) < len(ranks):
            kept = None if weight is None else stored(layer, matrix(weight), dtype)
            whole = Extracted(layer, Delta(kept, bias), 1.0)
            found = {rank: found.get(rank, whole) for rank in ranks}
        yield found


def common_layers(tuned: Shapes, base: Shapes) -> list[str]:
    """The layers of both networks. CheckpointError where one could not have come from the other."""
    wrong = [name for name in tuned if name not in base or not _grew_from(name, tuned[name], base[name])]
    # a UNet that was trained for a head has lost its way out
    wrong += [name for name in base if name not in tuned and not name.startswith(("conv_out", "conv_norm_out"))]
    if wrong:
        raise CheckpointError(
            f"The fine-tuned UNet did not start from this base: {len(wrong)} of {len(tuned)} weights have no match of "
            f"their shape ({first(sorted(wrong))}); name the base that it was trained on."
        )
    return sorted({name.rpartition(".")[0] for name in tuned if name.endswith(".weight")})


def _grew_from(name: str, tuned: tuple[int, ...], base: tuple[int, ...]) -> bool:
    if name == "conv_in.weight":
        return tuned[0] == base[0] and tuned[1] >= base[1] and tuned[2:] == base[2:]
    return collapsed(tuned) == collapsed(base)


def weight_difference(tuned: Source, base: Source, name: str) -> Tensor | None:
    """tuned - base in single precision, further input channels as they are; None if it is no more than rounding."""
    if name not in tuned.shapes:
        return None
    new, old = tuned.get(name), base.get(name)
    step = max(torch.finfo(new.dtype).eps, torch.finfo(old.dtype).eps) / 2 if new.dtype != old.dtype else 0.0
    new, old = new.float(), old.float()
    if new.ndim == 4 and new.shape[1] > old.shape[1]:
        old = torch.cat([old, old.new_zeros(old.shape[0], new.shape[1] - old.shape[1], *old.shape[2:])], 1)
    old = old.reshape(new.shape)
    change = new - old
    if not change.isfinite().all():
        raise CheckpointError(f"{name} gives no numbers: one of the two files holds NaN there; get it again.")
    # to have been stored in another precision is no training; 2**-25 is half of what half precision can tell from zero
    unchanged = change.abs() <= (old.abs() * step + 2**-25 if step else 0.0)
    return None if bool(unchanged.all()) else change


def matrix(weight: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix; anything else as it is."""
    return weight.reshape(collapsed(tuple(weight.shape)))


def _is_smaller(weight: Tensor, rank: int) -> bool:
    rows, columns = weight.shape[0], weight.shape[1:].numel()
    return rank * (rows + columns) < rows * columns


def _truncations(weight: Tensor, ranks: Sequence[int]) -> dict[int, tuple[Tensor, Tensor, float]]:
    """{rank: truncate(weight, rank)}, each a part of the highest."""
    if not ranks:
        return {}
    down, up, energy = truncate(weight, max(ranks))
    # both factors carry the root of each singular value, the largest last
    squares = up.double().square().sum(0).square()
    shares = {rank: (squares[-rank:].sum() / squares.sum()).item() * energy for rank in ranks}
    return {rank: (down[-rank:], up[:, -rank:], shares[rank]) for rank in ranks}


def truncate(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best approximation of that rank: down (rank, in[, k, k]), up (out, rank), and the share of energy kept.

    By the eigenvectors of the smaller Gram matrix (Eckart & Young 1936), in double precision: exact where it matters,
    the same on every run, and on convolutions many times faster than a singular value decomposition.
    """
    flat = weight.double().flatten(1)
    tall = flat.shape[0] > flat.shape[1]
    wide = flat.T if tall else flat
    # ascending eigenvalues, the squares of the singular values
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    kept = vectors[:, -rank:]
    # both factors carry half of each singular value: neither underflows in half precision
    roots = squares[-rank:].clamp(min=squares[-1] * 1e-24) ** 0.25
    left, right = kept * roots, (kept / roots).T @ wide
    up, down = (right.T, left.T) if tall else (left, right)
    energy = (squares[-rank:].sum() / squares.sum()).item()
    return down.reshape(collapsed((rank, *weight.shape[1:]))).float(), up.float(), min(energy, 1.0)
