"""Targets: raw truth -> the values that a codec encodes, per task and as the papers did it.

    values, valid = normalise(data_of(task).target, target, valid, convention, options)
    picture = recipe.target_codec().encode(values[None])          # [-1, 1], three channels
    cells = losses.valid_cells(valid[None])                       # latent cells all of whose 8x8 pixels are valid

Values are finite everywhere, and never NaN on an empty mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...core.display.colour import Palette, levels, palette_named
from ...core.errors import UserError
from ...core.geometry import CAMERA, Axes, change_axes, decode_normals
from ...core.perception_map import Convention
from ...core.recipe import Recipe
from ...core.srgb import to_srgb
from ...core.tasks import task_named
from .records import Sample
from .truth import Protocol

DEFAULT_AXES: Axes = CAMERA
"""Right, up, back: what normals are trained along unless the recipe says otherwise."""
LEAST_LENGTH = 1e-6
"""A normal shorter than this has no direction."""
UNKNOWN_SHIFT = "Relative disparity has an unknown shift, so depth cannot be had from it: train disparity."


@dataclass(frozen=True)
class TargetOptions:
    """How raw truth becomes the codec's values. What is left empty is the task's own, its Target."""

    span: Literal["", "quantile", "min-max", "whole", "upper", "unit", "metric"] = ""
    """Which raw values become 0 and 1: two quantiles of the valid ones; their ends; the ends of the whole picture,
    valid or not; 0 and the upper quantile; 0 and 1; or none, so that metres stay metres up to `scale`."""
    quantiles: tuple[float, float] = (0.02, 0.98)
    scale: float = 1.0
    """The recipe's target_scale: units per 1.0 of the decoded range."""
    clip: bool = True
    """Cut off what lies beyond the span."""
    fill: Literal["raw", "far"] = "raw"
    """What depth shows the autoencoder where it is not valid: its raw value, clipped, as is published (0 is near), or
    the far end, which suits sky."""
    curve: Literal["linear", "sqrt", "log"] = "linear"
    """Of depth or disparity, before the span."""
    transfer: Literal["srgb", "linear"] = "srgb"
    """The curve of colours, after the span; for albedo and shading."""
    axes: Axes | None = None
    """Where +x, +y and +z of the predicted normals point; None is DEFAULT_AXES."""
    unit: bool = False
    """Normals as unit vectors in [-1, 1] instead of (n + 1) / 2."""
    colours: tuple[str, ...] = ()
    """RRGGBB of every class."""
    classes: bool = False
    """Class numbers instead of their colours, for heads that predict classes."""
    renumbered: tuple[int, ...] = ()
    """The number that is learnt for each class of the dataset, -1 where it is not; none: their own."""

    def __post_init__(self) -> None:
        low, high = self.quantiles
        if not 0 <= low < high <= 1:
            raise UserError(f"quantiles = {low:g}, {high:g} are no range: take 0 <= low < high <= 1.")


def options_for(recipe: Recipe, colours: tuple[str, ...] = ()) -> TargetOptions:
    """What a recipe says about its targets. colours: of the dataset's classes, where the recipe names no palette."""
    named = palette_named(recipe.palette).colours if recipe.palette else colours
    span = "metric" if recipe.metric else "min-max" if recipe.target_scale <= 0 else ""
    scale = recipe.target_scale if recipe.target_scale > 0 else 1.0
    codec = recipe.target_codec()
    clip = codec.high is not None
    classes = codec.classes
    return TargetOptions(
        span, scale=scale, clip=clip, axes=recipe.axes, unit=codec.unit, colours=named, classes=classes
    )


SAME = {
    "windowpane": "window",
    "bookcase": "bookshelf",
    "painting": "picture",
    "blind": "blinds",
    "shelf": "shelves",
    "chest of drawers": "dresser",
    "rug": "floor mat",
    "apparel": "clothes",
    "book": "books",
    "television receiver": "television",
}
"""What ADE20K calls classes that NYU's 40 call otherwise: with the 23 names that both have, an overlap of 33."""


def renumbering(name: str, dataset: Palette, learnt: Palette) -> tuple[int, ...]:
    """TargetOptions.renumbered for a dataset of that name, by the names of its classes; those that are not among the
    learnt ones are not truth. UserError if none is."""
    if all(label.isdecimal() for label in dataset.classes) and len(dataset.classes) <= len(learnt.classes):
        return ()  # classes without names are meant in their order
    numbers = {label.lower(): number for number, label in enumerate(learnt.classes)}
    found = tuple(numbers.get(label, numbers.get(SAME.get(label, ""), -1)) for label in map(str.lower, dataset.classes))
    if max(found) < 0:
        raise UserError(
            f"{name} has none of the classes of the recipe's palette: its own are {', '.join(dataset.classes[:5])} ..."
        )
    return () if found == tuple(range(len(learnt.classes))) else found


def check_fit(name: str, task: str, convention: Convention, options: TargetOptions) -> None:
    """UserError if a dataset's truth cannot become what the options ask for; classes see to that in renumbering()."""
    if options.span == "metric" and not convention.metric:
        raise UserError(f"{name} has no metric {task}: train with target_scale and metric left out, or drop it.")
    if task_named(task).near == "low" and convention.near == "high" and not convention.metric:
        raise UserError(UNKNOWN_SHIFT)


Normalised = tuple[Tensor, Tensor]
"""Values (C, H, W) float32 and valid (1, H, W) bool."""
Normaliser = Callable[[Tensor, Tensor, Convention, TargetOptions], Normalised]


@dataclass(frozen=True)
class Target:
    """How one task is normalised."""

    normaliser: Normaliser
    span: Literal["quantile", "min-max", "whole", "upper", "unit"] = "unit"
    """Unless the options name another."""
    options: tuple[str, ...] = ()
    """Fields of TargetOptions that it looks at and not every task does."""


def normalise(row: Target, target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """target (C, H, W) raw, valid (1, H, W) bool -> values of the codec and where they are valid."""
    options = options if options.span else replace(options, span=row.span)
    values, valid = row.normaliser(target, valid, convention, options)
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).contiguous(), valid


def depth(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """0 near, 1 far: GenPercept and Marigold between the 2 % and 98 % quantiles of what is valid and above 0."""
    if convention.near == "high" and not convention.metric:
        raise UserError(UNKNOWN_SHIFT)
    values, known = inverse(target, valid) if convention.near == "high" else (target, valid & (target > 0))
    values, known = _along_span(values, known, options)
    if options.fill == "far":
        values = values.where(known, torch.full_like(values, options.scale))
    return values, known


def disparity(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """1 near, 0 far; what is not valid is as far as can be.

    GenPercept's code asks for quantiles and then stretches to the ends, so that quantiles have no effect: `min-max`
    here. Unlike there, only valid pixels set the ends.
    """
    if convention.near == "low" and not convention.metric:
        raise UserError("Relative depth has an unknown shift, so disparity cannot be had from it: train depth.")
    values, known = inverse(target, valid) if convention.near == "low" else (target, valid)
    values, known = _along_span(values, known, options)
    return values.where(known, torch.zeros_like(values)), known


def inverse(target: Tensor, valid: Tensor) -> Normalised:
    """1 / x where x > 0; what is not becomes 0 and not valid."""
    known = valid & (target > 0)
    return torch.where(target > 0, 1 / target.clamp(min=1e-9), torch.zeros_like(target)), known


CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda values: values,
    "sqrt": lambda values: values.clamp(min=0).sqrt(),
    "log": lambda values: values.clamp(min=1e-9).log(),
}


def _along_span(values: Tensor, known: Tensor, options: TargetOptions) -> Normalised:
    """The curve, then the span; a logarithm of 0 is not known."""
    if options.curve == "log":
        known = known & (values > 0)
    return _spanned(CURVES[options.curve](values), known, options), known


def _spanned(values: Tensor, known: Tensor, options: TargetOptions) -> Tensor:
    """The span of (C, H, W) -> [0, scale]; metres stay metres. What has no extent becomes 0."""
    if options.span == "metric":
        return values.clamp(0, options.scale) if options.clip else values
    low, high = SPANS[options.span](values, known, options.quantiles)
    if not high - low > 1e-6 * max(abs(low), abs(high)):
        return torch.zeros_like(values)
    share = (values - low) / (high - low)
    return (share.clamp(0, 1) if options.clip else share) * options.scale


Span = Callable[[Tensor, Tensor, tuple[float, float]], tuple[float, float]]


def _quantile_span(values: Tensor, known: Tensor, quantiles: tuple[float, float]) -> tuple[float, float]:
    """Interpolated linearly, whatever the number of pixels (torch.quantile stops at 16 million)."""
    picked = values[known.expand_as(values)].numpy()
    if picked.size == 0:
        return 0.0, 0.0
    low, high = np.quantile(picked, quantiles).tolist()
    return low, high


def _valid_span(values: Tensor, known: Tensor, quantiles: tuple[float, float]) -> tuple[float, float]:
    picked = values[known.expand_as(values)]
    return (picked.min().item(), picked.max().item()) if picked.numel() else (0.0, 0.0)


def _whole_span(values: Tensor, known: Tensor, quantiles: tuple[float, float]) -> tuple[float, float]:
    return values.min().item(), values.max().item()


def _upper_span(values: Tensor, known: Tensor, quantiles: tuple[float, float]) -> tuple[float, float]:
    return 0.0, _quantile_span(values, known, quantiles)[1]


def _unit_span(values: Tensor, known: Tensor, quantiles: tuple[float, float]) -> tuple[float, float]:
    return 0.0, 1.0


def spans_quantiles(span: str) -> bool:
    """Whether `quantiles` decide where a span ends."""
    return SPANS.get(span) in (_quantile_span, _upper_span)


SPANS: dict[str, Span] = {
    "quantile": _quantile_span,
    "min-max": _valid_span,
    "whole": _whole_span,
    "upper": _upper_span,
    "unit": _unit_span,
}


def normal(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """Unit vectors along the recipe's axes, 0 where not valid; a vector without length is not valid."""
    vectors = decode_normals(target, convention)
    largest = vectors.abs().amax(0, keepdim=True)
    known = valid & (largest > LEAST_LENGTH)
    vectors = vectors / largest.clamp(min=LEAST_LENGTH)  # squares of huge values would overflow
    vectors = vectors / vectors.norm(dim=0, keepdim=True).clamp(min=LEAST_LENGTH)
    if convention.axes is not None:
        vectors = change_axes(vectors.movedim(0, -1), convention.axes, options.axes or DEFAULT_AXES).movedim(-1, 0)
    vectors = vectors.where(known, torch.zeros_like(vectors))
    return (vectors if options.unit else (vectors + 1) / 2), known


def level(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """Masks and mattes in [0, 1]. GenPercept stretches each picture to its ends: span = "whole"."""
    return _spanned(target, valid, options), valid


def segmentation(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """Class numbers (1, H, W) -> their colours; colours stay as they are. Not valid is black.

    GenPercept stretches each picture to its ends (span = "whole"), so that its colours are absolute only where 0 and
    255 both occur.
    """
    if options.renumbered and target.shape[0] == 1:
        learnt = torch.tensor(options.renumbered)[target.long()]
        target, valid = learnt.clamp(min=0).float(), valid & (learnt >= 0)
    if options.classes:
        return _class_numbers(target), valid
    painted = _paint(target, options.colours) if target.shape[0] == 1 else target
    painted = painted.where(valid, torch.zeros_like(painted))
    return _spanned(painted, valid, options), valid


def _class_numbers(target: Tensor) -> Tensor:
    if target.shape[0] != 1:
        raise UserError("Classes are wanted, but the dataset has colours only: name its palette.")
    return target


def _paint(target: Tensor, colours: tuple[str, ...]) -> Tensor:
    """Class numbers (1, H, W) -> RGB (3, H, W) in [0, 1]."""
    if not colours:
        raise UserError("Classes need colours: name a palette in the recipe or in the dataset.")
    index = target[0].long()
    if index.max() >= len(colours):
        raise UserError(f"The dataset has class {int(index.max())}, but the palette has {len(colours)} colours.")
    return (levels(colours) / 255)[index].movedim(-1, 0)


def light(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """Albedo and shading: linear light, spanned, then on the sRGB curve unless that is not wanted."""
    values = _spanned(target.where(valid, torch.zeros_like(target)), valid, options)
    if options.transfer == "srgb":
        scaled = values.clamp(0, options.scale) / options.scale
        values = torch.from_numpy(to_srgb(scaled.numpy()).astype(np.float32)) * options.scale
    return values, valid


def keypoints(target: Tensor, valid: Tensor, convention: Convention, options: TargetOptions) -> Normalised:
    """Heatmaps, as they are."""
    return target, valid


@dataclass(frozen=True)
class Supervision:
    """How the truth of one dataset becomes what one recipe is taught."""

    target: Target
    convention: Convention
    """The dataset's."""
    recipe: Recipe
    options: TargetOptions
    protocol: Protocol = field(default_factory=Protocol)
    """How the dataset is measured."""

    def normalise(self, sample: Sample, **changes: bool) -> Normalised:
        """A record's truth, as the options say but for `changes`."""
        options = replace(self.options, **changes)
        return normalise(self.target, sample.target, sample.valid, self.convention, options)
