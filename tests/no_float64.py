"""A device without float64, as Apple's graphics chips are, on a machine that has none: its tensors live on the CPU.

Python is told that they lie on "mps"; PyTorch's own code, which would look for that library, that they lie on "meta",
where it computes nothing itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("mps")
STAND_IN = torch.device("meta")
REFUSED = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
WIDE = (torch.float64, torch.complex128)


class OnDevice(Tensor):
    """A tensor that lies on the device; `held` is what it holds, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if held.dtype in WIDE:
            raise TypeError(REFUSED)
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=STAND_IN, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_meta(self) -> bool:
        return False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """On the CPU; what comes of tensors of the device lies there too, unless the call names another place."""
    if func is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return type(args[0]) is type(args[1])
    place = kwargs.get("device")
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = place == STAND_IN if place is not None else any(isinstance(value, OnDevice) for value in given)
    if there and place is None:
        check_together(func, given)
    if place is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    made = func(*tree_map(held, args), **tree_map(held, kwargs))
    if func._schema.name.endswith("_") and isinstance(args[0], OnDevice):
        return args[0]  # what was changed in place stays the tensor that it was
    return tree_map(lambda value: OnDevice(value) if isinstance(value, Tensor) and there else value, made)


def check_together(func: Any, given: list[Tensor]) -> None:
    """RuntimeError where a tensor of the CPU meets one of the device; single numbers and indices may."""
    may_differ = ("copy_", "index", "index_put_", "_to_copy")
    strangers = [value for value in given if not isinstance(value, OnDevice) and value.ndim > 0]
    if strangers and func._schema.name.split("::")[-1] not in may_differ:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found mps and cpu")


class Dispatch(TorchDispatchMode):
    """Every operation, those that make tensors of nothing included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Spelling(TorchFunctionMode):
    """Whoever says "mps" to PyTorch says the stand-in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func is torch.tensor:  # is made whole before any operation
            named = dict(kwargs or {})
            place = stand_in(named.pop("device", None))
            return torch.tensor(*args, **named).to(place)
        if func is F.scaled_dot_product_attention and isinstance(args[0], OnDevice):
            # whole, for its sums are of another order where PyTorch takes it apart
            return OnDevice(func(*tree_map(held, args), **tree_map(held, kwargs or {})))
        return func(*tree_map(stand_in, args), **tree_map(stand_in, kwargs or {}))


def stand_in(value: Any) -> Any:
    named = isinstance(value, (str, torch.device)) and str(value) in ("mps", "mps:0")
    return STAND_IN if named else value


class WithoutFloat64:
    """While it is entered there is a device "mps" that refuses float64; `.cpu()` leads off it."""

    def __enter__(self) -> torch.device:
        self.modes = (Spelling(), Dispatch())
        for mode in self.modes:
            mode.__enter__()
        return DEVICE

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)
