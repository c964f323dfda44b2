"""Light: pictures' codes for it as linear light, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..perception_map import Encoding


def srgb_to_linear(coded: Tensor) -> Tensor:
    """IEC 61966-2-1. Goes on beyond [0, 1]: linearly below, by the same power above."""
    return torch.where(coded <= 0.04045, coded / 12.92, ((coded.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: Tensor) -> Tensor:
    """The inverse of srgb_to_linear."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def colour_of(text: str) -> Tensor:
    """#RRGGBB in sRGB -> (3,) linear light."""
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text.strip()):
        raise UserError(f"There is no colour {text!r}: write it as #RRGGBB, such as #ffd2a0, a warm white.")
    return srgb_to_linear(torch.tensor(list(bytes.fromhex(text.strip().lstrip("#")))) / 255)


class Curve(NamedTuple):
    """One way to code light."""

    to_linear: Callable[[Tensor], Tensor]
    from_linear: Callable[[Tensor], Tensor]


def _untouched(values: Tensor) -> Tensor:
    return values


CURVES: dict[Encoding, Curve] = {
    "": Curve(srgb_to_linear, linear_to_srgb),
    "linear": Curve(_untouched, _untouched),
    "srgb": Curve(srgb_to_linear, linear_to_srgb),
    "gamma-2.2": Curve(lambda coded: coded.clamp(min=0) ** 2.2, lambda light: light.clamp(min=0) ** (1 / 2.2)),
    "square-root": Curve(lambda coded: coded.clamp(min=0) ** 2, lambda light: light.clamp(min=0).sqrt()),
}
"""By the encoding that a map states. What states none is read as sRGB, as pictures are."""
