"""Truth: what the numbers in a dataset's files mean, as dataset.toml says it, and what they decode to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ...core.display.colour import PALETTES, Palette, classify
from ...core.errors import UserError, meant
from ...core.geometry import NORMAL_AXES, Axes, lines_of
from ...core.perception_map import Convention
from ...core.srgb import to_linear
from ...core.texts import read_text
from .arrays import BrokenRecord, full_scale, read_array

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class DatasetError(UserError):
    """A dataset that cannot be used, in one sentence."""


class NoTruth(DatasetError):
    """A dataset that is what it should be, and has nothing of the task that is asked for."""


@dataclass(frozen=True)
class Truth:
    """A target as decoded: values (C, H, W) float32, valid (1, H, W) bool."""

    values: Tensor
    valid: Tensor

    @classmethod
    def of(cls, values: np.ndarray, valid: np.ndarray) -> Truth:
        """From (H, W) or (H, W, C) and (H, W); what is not finite is not valid."""
        values = values[..., None] if values.ndim == 2 else values
        valid = valid & np.isfinite(values).all(-1)
        planes = torch.from_numpy(np.array(np.moveaxis(values, -1, 0), np.float32, order="C"))
        return cls(planes, torch.from_numpy(np.array(valid, bool))[None])

    def within(self, trusted: Tensor) -> Truth:
        """Only where `trusted` (1, H, W) is True as well. BrokenRecord if the sizes differ."""
        if trusted.shape != self.valid.shape:
            raise BrokenRecord(f"The valid mask is {size_text(trusted)}, but the truth {size_text(self.valid)}.")
        return Truth(self.values, self.valid & trusted)


def size_text(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]}x{tensor.shape[-2]}"


@dataclass(frozen=True)
class Images:
    """[images]"""

    colour: Literal["srgb", "linear"] = "srgb"


HORIZON_M = 1e4
"""Farther than any sensor and any room; farther backgrounds of renderers are 65504, 1e10 and such."""
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}


@dataclass(frozen=True)
class Protocol:
    """How the published evaluation of a dataset measures depth, besides its metrics."""

    depth_range: tuple[float, float] = (0.0, np.inf)
    """Metres that aligned predictions are clipped to."""
    max_edge: int | None = None
    """The longer edge that pictures are thinned out to before predictions are aligned."""
    resolution: int = -1
    """Processing resolution, as core.pipeline.predict takes it: -1 is as trained, 0 the picture's own."""


@dataclass(frozen=True)
class Depth:
    """[depth]"""

    unit: str | float = ""
    kind: Literal["planar", "ray"] = "planar"
    invalid: tuple[float, ...] = (0.0,)
    near: float = 0.0
    far: float = np.inf
    rotated: int = 0
    """By how many bits 16-bit levels are turned round, the lowest to the top: 3 in SUN RGB-D."""

    def __post_init__(self) -> None:
        if not 0 <= self.rotated < 16:
            raise DatasetError(f"depth.rotated is {self.rotated}: take 0 to 15 bits.")
        known = self.unit in ("", "relative", *METRES) if isinstance(self.unit, str) else self.unit > 0
        if not known:
            raise DatasetError(f"depth.unit is {self.unit!r}: take mm, cm, m, relative, or the metres of one level.")

    def convention(self) -> Convention:
        return Convention(high=None, near="low", metric=self.unit != "relative")

    def protocol(self) -> Protocol:
        return Protocol((max(self.near, 0.0), self.far))

    def factor(self, stored: np.ndarray) -> float:
        """Metres of one level; 1 for relative depth."""
        if self.unit == "" and stored.dtype.kind != "f":
            raise DatasetError('Depth in whole numbers has no unit: say depth.unit, such as "mm", in dataset.toml.')
        return self.unit if isinstance(self.unit, float | int) else METRES.get(self.unit, 1.0)

    def decode(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stored = self.turned_back(one_channel(stored))
        values = stored.astype(np.float32) * np.float32(self.factor(stored))
        known = ~np.isin(stored, self.invalid) & (values > max(self.near, 0)) & (values < self.horizon(stored))
        return values, known

    def horizon(self, stored: np.ndarray) -> float:
        """Metres, or units, beyond which nothing was measured: float files have a number there for the background."""
        background = stored.dtype.kind == "f" and self.unit != "relative"
        return HORIZON_M if background and not np.isfinite(self.far) else self.far

    def turned_back(self, stored: np.ndarray) -> np.ndarray:
        """The levels themselves."""
        if not self.rotated:
            return stored
        if stored.dtype != np.uint16:
            raise BrokenRecord(f"it holds {stored.dtype}, and depth.rotated is about 16-bit levels")
        return (stored >> self.rotated) | (stored << (16 - self.rotated))


@dataclass(frozen=True)
class Disparity:
    """[disparity]"""

    unit: str | float = "relative"
    invalid: tuple[float, ...] = ()
    offset: float = 0.0
    """The level that is infinitely far: 1 where files hold disparity * 256 + 1."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.offset):
            raise DatasetError(f"disparity.offset is {self.offset}: take the stored level of what is infinitely far.")
        known = self.unit in ("relative", "1/m") if isinstance(self.unit, str) else self.unit > 0
        if not known:
            raise DatasetError(f"disparity.unit is {self.unit!r}: take relative, 1/m, or the 1/metres of one level.")

    def convention(self) -> Convention:
        metric = self.unit != "relative"
        return Convention(low=0.0 if metric else None, high=None, near="high", metric=metric)

    def decode(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stored = one_channel(stored)
        factor = self.unit if isinstance(self.unit, float | int) else 1.0
        levels = stored.astype(np.float32)
        values = (levels - np.float32(self.offset) if self.offset else levels) * np.float32(factor)
        known = ~np.isin(stored, self.invalid) & np.isfinite(values)
        if not values[known].any():
            known[:] = False
        return values, known


@dataclass(frozen=True)
class Normal:
    """[normal]"""

    axes: str | tuple[str, ...] = ()
    encoding: Literal["", "unsigned", "signed"] = ""

    def __post_init__(self) -> None:
        self.camera_axes()

    def camera_axes(self) -> Axes:
        """DatasetError unless three axes are given that span space."""
        if isinstance(self.axes, str) and self.axes in NORMAL_AXES:
            return NORMAL_AXES[self.axes]
        if not self.axes or isinstance(self.axes, str):
            raise DatasetError(
                f"normal.axes is {self.axes or 'missing'}: say where red, green and blue point, such as "
                f'["right", "up", "back"], or one of {", ".join(NORMAL_AXES)}.'
            )
        axes: Any = tuple(self.axes)
        lines_of(axes)
        return axes

    def convention(self) -> Convention:
        return Convention(low=-1.0, axes=self.camera_axes(), unit=True)

    def decode(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if stored.ndim != 3 or stored.shape[-1] < 3:
            raise BrokenRecord("it has one channel, but a normal has three")
        unsigned = self.encoding == "unsigned" or (self.encoding == "" and stored.dtype.kind != "f")
        values = stored[..., :3].astype(np.float32)
        if unsigned:
            values = values / np.float32(full_scale(stored)) * 2 - 1
        length = np.linalg.norm(values, axis=-1)
        # grey is no direction, and neither are black and white, of length 1.73
        known = (length > 0.5) & (length < 1.5) if unsigned else length > 1e-6
        with np.errstate(invalid="ignore", divide="ignore"):
            return values / length[..., None], known & opaque(stored)


@dataclass(frozen=True)
class Level:
    """[mask] and [matte]"""

    white: float = 0.0
    invert: bool = False
    invalid: tuple[float, ...] = ()
    channel: Literal["auto", "alpha", "grey"] = "auto"
    classes: tuple[str, ...] = ()
    """What is selected, for people."""

    def convention(self) -> Convention:
        return Convention()

    def decode(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        plane = self.plane(stored)
        white = self.white or full_scale(stored)
        if not self.white and stored.dtype.kind in "ui" and plane.max() == 1:
            raise BrokenRecord(f"its brightest level is 1 of {white:g}: say white = 1 in dataset.toml if that is meant")
        values = (plane.astype(np.float32) / np.float32(white)).clip(0, 1)
        return 1 - values if self.invert else values, ~np.isin(plane, self.invalid) & np.isfinite(plane)

    def plane(self, stored: np.ndarray) -> np.ndarray:
        """The channel that holds the levels."""
        has_alpha = stored.ndim == 3 and stored.shape[-1] in (2, 4)
        if self.channel == "alpha" and not has_alpha:
            raise BrokenRecord("it has no alpha channel")
        if has_alpha and (self.channel == "alpha" or (self.channel == "auto" and np.ptp(stored[..., -1]) > 0)):
            return stored[..., -1]
        return one_channel(stored[..., :-1] if has_alpha else stored)


@dataclass(frozen=True)
class Segmentation:
    """[segmentation]"""

    classes: tuple[str, ...] = ()
    palette: str | tuple[str, ...] = ""
    ignore: tuple[float, ...] = (255.0,)
    offset: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.palette, str) and self.palette and self.palette not in PALETTES:
            known = ", ".join(PALETTES)
            raise DatasetError(f"segmentation.palette is {self.palette!r}: take one of {known}, or a list of RRGGBB.")
        if not isinstance(self.palette, str) and self.classes and len(self.palette) != len(self.classes):
            raise DatasetError(f"segmentation has {len(self.classes)} classes but {len(self.palette)} colours.")

    def convention(self) -> Convention:
        named = self.palette if isinstance(self.palette, str) and self.palette else None
        return Convention(high=None, palette=named)

    def table(self) -> Palette | None:
        """The classes and their colours; None where nothing is said about classes."""
        if isinstance(self.palette, str) and self.palette:
            return PALETTES[self.palette]
        colours = self.palette if not isinstance(self.palette, str) else spread_colours(len(self.classes))
        classes = self.classes or tuple(str(number) for number in range(len(colours)))
        return Palette("own", classes, tuple(colours)) if classes else None

    def decode(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class numbers (H, W), or colours (H, W, 3) in [0, 1] where classes are unknown."""
        palette = self.table()
        if stored.ndim == 3 and stored.shape[-1] >= 3:
            colours = stored[..., :3].astype(np.float32) / np.float32(full_scale(stored))
            if palette is None:
                return colours, opaque(stored)
            index = _index_of_colours(colours, palette)
        else:
            if palette is None:
                raise DatasetError("Segmentation comes as class numbers: say segmentation.classes in dataset.toml.")
            index = one_channel(stored).astype(np.int64) - self.offset
        ignored = np.isin(index + self.offset, np.asarray(self.ignore))
        count = len(palette.classes)
        outside = ~ignored & ((index < 0) | (index >= count))
        if outside.any():
            number = int(index[outside][0]) + self.offset
            raise BrokenRecord(f"it holds class {number}, which is none of the {count} and not in segmentation.ignore")
        return np.where(ignored, 0, index).astype(np.float32), ~ignored & opaque(stored)


FAR_COLOUR = 32 / 255
FAR_SHARE = 0.05


def _index_of_colours(colours: np.ndarray, palette: Palette) -> np.ndarray:
    """The class (H, W) whose colour is nearest. BrokenRecord if many colours are not the palette's at all."""
    picture = torch.from_numpy(colours)[None]
    index = classify(picture, palette)[0][0]
    gap = (picture[0] - (palette.table() / 255)[index]).abs().amax(-1)
    share = (gap > FAR_COLOUR).float().mean().item()
    if share > FAR_SHARE:
        raise BrokenRecord(f"{share:.0%} of its pixels have no colour of the palette {palette.name!r}")
    return index.numpy()


def spread_colours(count: int) -> tuple[str, ...]:
    """That many colours far apart, the same ones every time: each the farthest from all before it; black is first."""
    steps = np.arange(0, 256, 51)
    rest = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    if count > len(rest):
        raise DatasetError(f"{count} classes are more than {len(rest)}: give their colours as segmentation.palette.")
    chosen = [0]
    distance = np.full(len(rest), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((rest - rest[chosen[-1]]) ** 2).sum(-1))
        chosen.append(int(distance.argmax()))
    return tuple("{:02x}{:02x}{:02x}".format(*rest[place]) for place in chosen[:count])


@dataclass(frozen=True)
class Intrinsic:
    """[albedo] and [shading]; raw values are linear light."""

    colour: Literal["", "srgb", "linear"] = ""
    scale: float = 1.0
    invalid: tuple[float, ...] = (0.0,)

    def convention(self) -> Convention:
        return Convention(high=None)

    def decode(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        levels = stored[..., None] if stored.ndim == 2 else stored[..., : 3 if stored.shape[-1] >= 3 else 1]
        unknown = np.zeros(levels.shape[:2], bool)
        for level in self.invalid:
            unknown |= (levels == level).all(-1)
        values = levels.astype(np.float32) / np.float32(full_scale(stored))
        is_srgb = self.colour == "srgb" or (self.colour == "" and stored.dtype.kind != "f")
        values = (to_linear(values) if is_srgb else values) * self.scale
        return np.broadcast_to(values, (*values.shape[:2], 3)), ~unknown & opaque(stored)


@dataclass(frozen=True)
class Keypoints:
    """[keypoints]"""

    format: Literal["coco"] = "coco"


@dataclass(frozen=True)
class Camera:
    """[camera]"""

    fov_deg: float = 0.0
    axes: tuple[str, ...] = ()
    """Of poses, which no reader needs yet."""


def one_channel(stored: np.ndarray) -> np.ndarray:
    """(H, W, 3) whose channels agree, up to what JPEG does to them, -> (H, W)."""
    if stored.ndim == 2:
        return stored
    colours = stored[..., : 3 if stored.shape[-1] >= 3 else 1].astype(np.float32)
    tolerance = 0.05 * full_scale(stored) if stored.dtype == np.uint8 else 1e-6 * np.nanmax(np.abs(colours), initial=0)
    if np.nanmax(np.ptp(colours, axis=-1), initial=0) > tolerance:
        raise BrokenRecord("it is in colours, where one channel or three equal ones are expected")
    return stored[..., 0]


def opaque(stored: np.ndarray) -> np.ndarray:
    """(H, W): False where alpha is 0."""
    if stored.ndim == 3 and stored.shape[-1] in (2, 4):
        return stored[..., -1] > 0
    return np.ones(stored.shape[:2], bool)


Settings = Depth | Disparity | Normal | Level | Segmentation | Intrinsic


@dataclass(frozen=True)
class Kind:
    """One folder of truth."""

    folder: str
    settings: Callable[..., Settings]
    see_through: bool = False
    """Whether the truth holds where the picture itself is transparent."""


SECTIONS: dict[str, Callable[..., Any]] = {"images": Images, "camera": Camera, "keypoints": Keypoints}
"""What a dataset.toml can say beside its folders of truth."""
TITLES = ("name", "format", "licence", "credits")
"""Keys of dataset.toml outside its sections; `format` is 1."""


@dataclass(frozen=True)
class Description:
    """A dataset.toml, checked."""

    name: str
    known: Mapping[str, Callable[..., Any]]
    """What each section may say."""
    sections: dict[str, Any] = field(default_factory=dict)

    def settings(self, section: str) -> Any:
        return self.sections[section] if section in self.sections else self.known[section]()


def read_description(root: Path, truths: Iterable[Kind]) -> Description:
    """What dataset.toml says. DatasetError in one sentence, with the nearest right key for a misspelt one."""
    known = {**{kind.folder: kind.settings for kind in truths}, **SECTIONS}
    path = root / "dataset.toml"
    if not path.is_file():
        return Description(root.name, known)
    try:
        table = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # of bytes, numbers too long, brackets too deep
        raise DatasetError(f"{path} is not TOML ({error}).") from error
    for key, value in table.items():
        check_truth_key(key, known if isinstance(value, dict) else TITLES, str(path))
    if table.get("format", 1) != 1:
        raise DatasetError(f"{path} is of format {table['format']}; this version reads format 1: update the pack.")
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    sections = {key: section_from(value, key, known[key], str(path)) for key, value in tables.items()}
    return Description(str(table.get("name", root.name)), known, sections)


def check_truth_key(key: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if key not in known:
        hint = meant(key, known, "it may say {known}.")
        raise DatasetError(f"{where} says {key!r}, which means nothing: {hint}")


def section_from(table: dict[str, Any], name: str, kind: Callable[..., Any], where: str) -> Any:
    """A section as its dataclass, each value of the field's type."""
    hints = get_type_hints(kind)
    for key in table:
        check_truth_key(key, hints, f"{where} [{name}]")
    return kind(**{key: _typed_field(value, hints[key], f"{where}: {name}.{key}") for key, value in table.items()})


def _typed_field(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the type that a field declares; one value stands for a list of one."""
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise DatasetError(f"{where} is {value!r}: take one of {', '.join(repr(v) for v in get_args(hint))}.")
    for choice in get_args(hint) if get_origin(hint) is UnionType else (hint,):
        if get_origin(choice) is tuple:
            item, values = get_args(choice)[0], value if isinstance(value, list) else [value]
            if all(_is_a(v, item) for v in values):
                return tuple(item(v) for v in values)
        elif _is_a(value, choice):
            return choice(value)
    raise DatasetError(f"{where} is {value!r}: expected {str(getattr(hint, '__name__', hint)).replace('typing.', '')}.")


def _is_a(value: Any, kind: type) -> bool:
    """Whether a TOML value is one of a type: whole numbers are floats too, but true is no number."""
    accepted: Any = (float, int) if kind is float else kind
    return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))


def read_truth(path: Path, settings: Settings) -> Truth:
    """A file of truth, decoded. BrokenRecord names it."""
    stored = read_array(path, indexed=isinstance(settings, Segmentation))
    try:
        return Truth.of(*settings.decode(stored))
    except BrokenRecord as fault:
        raise BrokenRecord(f"{path}: {fault}.") from None


def planar(distance: Tensor, intrinsics: np.ndarray) -> Tensor:
    """Distances (1, H, W) along the line of sight -> along the optical axis; pixel centres lie at .5."""
    height, width = distance.shape[-2:]
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (torch.arange(height, dtype=torch.float64)[:, None] + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
    return distance / (x**2 + y**2 + 1).sqrt().float()


def protocol_of(settings: Settings) -> Protocol:
    """Depth is clipped to where it was measured."""
    return settings.protocol() if isinstance(settings, Depth) else Protocol()
