"""Typed geometry: what ComfyUI's own MoGe and Depth Anything 3 nodes give, read as maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..perception_map import Convention, PerceptionMap

Packet = Mapping[str, Any]
"""A dictionary of tensors (B, H, W) or (B, H, W, 3)."""


class Part(NamedTuple):
    """One map in a packet."""

    key: str
    convention: Convention


PARTS: dict[str, Part] = {
    "depth": Part("depth", Convention(high=None, near="low")),
    "normal": Part("normal", Convention(low=-1.0, axes=("right", "down", "forward"), unit=True)),
}
"""By task. Depths are distances along the camera's axis, in metres or in a unit of their own, which no packet says."""
SKY = 0.5
"""What is sky with more than this probability has no depth."""
TRUSTED: dict[str, Callable[[Tensor], Tensor]] = {"mask": lambda mask: mask > 0.5, "sky": lambda sky: sky <= SKY}
"""{what else may be in a packet: where it lets the map be trusted}"""


def from_packet(packet: Packet, tasks: tuple[str, ...], metres: bool = False) -> PerceptionMap:
    """The first of `tasks` that a packet can hold, as a map; it is unknown where the packet masks it, or is sky.

    metres: whether depths are known to be in metres, as those of MoGe 2 and of Depth Anything 3 Metric are.
    UserError if the packet holds none of them.
    """
    task = next((task for task in tasks if task in PARTS and PARTS[task].key in packet), None)
    if task is None:
        held, wanted = ", ".join(packet) or "nothing", [task for task in tasks if task in PARTS] or tasks
        raise UserError(f"The geometry holds {held}, and no {' or '.join(wanted)}: take a model that gives it.")
    part = PARTS[task]
    values: Tensor = packet[part.key].float()
    values = values[..., None] if values.ndim == 3 else values
    valid = values.isfinite().all(-1) & (values != 0).any(-1)
    for key, trusted in TRUSTED.items():
        if packet.get(key) is not None:
            valid &= trusted(packet[key].float()).to(valid.device)
    convention = replace(part.convention, metric=metres and part.convention.near is not None)
    return PerceptionMap(task, values, convention, valid=valid)


def camera_of(packet: Packet, height: int, width: int) -> Tensor | None:
    """The intrinsics (B, 3, 3), in pixels of a picture of that size, that a packet brings; None if it brings none.

    Packets count in units of their own: in widths and heights of the picture (MoGe), or in pixels of what the network
    saw (Depth Anything 3). The principal point is the centre in all of them, which tells the unit. UserError for a
    panorama.
    """
    if packet.get("intrinsics") is None:
        if "points" in packet:
            raise UserError("The geometry is a panorama's, which no pinhole camera took: take that of a plain picture.")
        return None
    own: Tensor = packet["intrinsics"].float().reshape(-1, 3, 3)
    focal, centre = own[:, (0, 1), (0, 1)], own[:, :2, 2]
    if not ((focal > 0) & (centre > 0)).all():
        return None  # a network that gives none leaves the unit matrix
    half = torch.tensor([width / 2, height / 2])
    camera = torch.eye(3).repeat(len(own), 1, 1)
    camera[:, (0, 1), (0, 1)] = (focal / centre).cpu() * half
    camera[:, :2, 2] = half
    return camera
