"""Layers: maps of one picture as the channels of one EXR file, by the names that compositing programs know.

OpenEXR's own names are R, G, B and A, and for layers a name, a dot and a letter (OpenEXR, Technical Introduction).
Blender reads R, G, B, A as its Combined pass, a single Z as Depth, and N.X as the pass N; Nuke reads Z as depth.Z.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ..errors import UserError
from ..geometry import CAMERA
from ..perception_map import PerceptionMap
from .exr import Channel, exr
from .light import CURVES
from .map_files import KEY, meaning_of
from .picture import as_rgb, choose, known_values, level, trusted, vectors_of
from .together import check_together


def raw(map: PerceptionMap) -> Tensor:
    """As they are; 0 where unknown."""
    return known_values(map)


def _camera_vectors(map: PerceptionMap) -> Tensor:
    """Unit normals along right, up, towards the camera, as renderers write them; 0 where unknown."""
    return vectors_of(map, CAMERA) * trusted(map)[..., None]


class Layer(NamedTuple):
    """How a task lies in a file."""

    name: str = ""
    """The layer; empty where the channels have none. A second map of one task gets the task's name and a number."""
    channels: str = ""
    """A letter each; empty where their number decides."""
    values: Callable[[PerceptionMap], Tensor] = raw
    single: bool = False
    """Of single precision in every file: 16 bits would not tell far distances and classes apart."""
    light: bool = False
    """Colours that code light."""


LAYERS: dict[str, Layer] = {
    "image": Layer(light=True),
    "depth": Layer(channels="Z", single=True),
    "disparity": Layer("disparity", "Y", single=True),
    "normal": Layer("N", "XYZ", _camera_vectors),
    "mask": Layer("mask", "A"),
    "matte": Layer("matte", "A"),
    "segmentation": Layer("segmentation", single=True),
    "albedo": Layer("albedo", light=True),
    "shading": Layer("shading", light=True),
    "irradiance": Layer("irradiance", light=True),
    "residual": Layer("residual", light=True),
}
"""By task. Others are raw values under their own name."""
LETTERS = {1: "Y", 3: "RGB", 4: "RGBA"}
PRECISIONS: dict[str, bool] = {"half": True, "single": False}
"""Whether channels have 16 bits."""
COLOURS: dict[str, bool] = {"linear light": True, "as they are": False}
"""Whether a curve that codes light is undone."""
ALPHAS: dict[str, bool] = {"multiplied": True, "straight": False}
"""Whether the picture's colours are multiplied by its alpha, as readers of EXR expect."""


class Style(NamedTuple):
    """What a person chooses: rows of PRECISIONS, COLOURS and ALPHAS."""

    precision: str = "half"
    colours: str = "linear light"
    alpha: str = "multiplied"


class Plane(NamedTuple):
    """A layer of all frames."""

    name: str
    letters: str
    values: Tensor
    """(B, H, W, C) float32, a letter each."""
    half: bool
    meaning: dict[str, object]

    def title(self) -> str:
        return self.name or self.letters

    def channels(self, frame: int) -> list[Channel]:
        """Of one frame; a layer of one frame serves all."""
        values = self.values[frame % len(self.values)].cpu().numpy()
        prefix = f"{self.name}." if self.name else ""
        return [Channel(prefix + letter, values[..., place], self.half) for place, letter in enumerate(self.letters)]


def planes_of(maps: Sequence[PerceptionMap], matte: PerceptionMap | None, style: Style) -> list[Plane]:
    """The layers of maps, of which those of task `image` are pictures.

    matte: the alpha of the first picture, in place of its own; its own layer if there is no picture. UserError unless
    all are of one size and equal in number, or single, and can be stored.
    """
    _check_style(style)
    if not maps and matte is None:
        raise UserError("There is nothing to save: connect an image or a map.")
    check_together([*maps, *([matte] if matte else [])])
    planes: list[Plane] = []
    for place, map in enumerate(maps):
        before = sum(other.task == map.task for other in maps[:place])
        layer = LAYERS.get(map.task, Layer(map.task))
        name = f"{map.task}_{before + 1}" if before else layer.name
        if map.task == "image":
            planes += _pictured(map, name, None if before else matte, style)
        else:
            planes.append(_plane_of(map, name, layer, style))
    if matte and not any(map.task == "image" for map in maps):
        planes.append(_alpha_plane("", level(matte)[..., None], style))
    return planes


def _plane_of(map: PerceptionMap, name: str, layer: Layer, style: Style) -> Plane:
    values, meaning = layer.values(map), meaning_of(map)
    letters = layer.channels or LETTERS.get(values.shape[-1], "")
    if not letters:
        raise UserError(
            f"A map of {map.task} has {values.shape[-1]} channels, and a layer 1, 3 or 4: give it to Save Map."
        )
    if layer.light and COLOURS[style.colours]:
        values, meaning = CURVES[map.convention.encoding].to_linear(values), meaning | {"encoding": "linear"}
    return Plane(name, letters, values, PRECISIONS[style.precision] and not layer.single, meaning)


def _pictured(map: PerceptionMap, name: str, matte: PerceptionMap | None, style: Style) -> list[Plane]:
    """A picture's colours, and its alpha if it has any."""
    values = known_values(map)
    own = values[..., 3:] if values.shape[-1] == 4 else None
    alpha = own if matte is None else level(matte)[..., None].to(values)
    colours = _plane_of(replace(map, values=as_rgb(values)), name, LAYERS["image"], style)
    if alpha is None:
        return [colours]
    multiplied = ALPHAS[style.alpha]
    meaning = colours.meaning | {"alpha": style.alpha}
    values = colours.values * alpha if multiplied else colours.values.expand(max(len(values), len(alpha)), -1, -1, -1)
    return [colours._replace(values=values, meaning=meaning), _alpha_plane(name, alpha, style)]


def _alpha_plane(name: str, alpha: Tensor, style: Style) -> Plane:
    return Plane(name, "A", alpha, PRECISIONS[style.precision], {"task": "alpha"})


def _check_style(style: Style) -> None:
    """UserError for a row that there is not."""
    choose(PRECISIONS, style.precision, "precision")
    choose(COLOURS, style.colours, "way to store colours")
    choose(ALPHAS, style.alpha, "alpha")


def frames_of(planes: Sequence[Plane]) -> int:
    return max(len(plane.values) for plane in planes)


def encode_frame(planes: Sequence[Plane], frame: int, texts: dict[str, str]) -> bytes:
    """The bytes of the file of one frame, with texts in its header beside what the layers mean."""
    meaning = {plane.title(): plane.meaning for plane in planes}
    channels = [channel for plane in planes for channel in plane.channels(frame)]
    return exr(channels, {KEY: json.dumps(meaning), **texts})


def channel_words(planes: Sequence[Plane]) -> str:
    """Which channels there are, in words."""
    return ", ".join(f"{plane.name}.{plane.letters}" if plane.name else plane.letters for plane in planes)
