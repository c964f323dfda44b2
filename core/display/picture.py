"""Pictures: raw values of a map as an eye, a ControlNet or a mask socket reads them; in [0, 1] and never NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..geometry import NORMAL_AXES, Axes, change_axes, decode_normals, encode_normals, towards_camera, with_unit_length
from ..image import FEW, all_finite
from ..perception_map import Convention, PerceptionMap, from_camera
from ..tasks import TASKS
from .colour import COLORMAPS, PALETTES, Palette, classify, colourise, is_class, paint_classes, palette_named
from .openpose import pose_picture

LARGEST = 1e38
"""Values are cut off here: the span of larger ones would overflow."""
LEAST_DEPTH_M = 1e-6
"""Metric depth up to here is how files say that nothing was measured."""
GREY = 0.01
"""A normal none of whose components exceeds this is the grey of a picture that has no normal there."""


Row = TypeVar("Row")


def choose(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row called `name`. UserError if there is none: some hosts let any word through."""
    if name not in table:
        raise UserError(f"There is no {what} {name!r}: choose one of {', '.join(table)}.")
    return table[name]


class Meaning(NamedTuple):
    """What the numbers of a plain image stand for."""

    task: str
    convention: Convention


DEPTH_MEANINGS: dict[str, Meaning] = {
    "near is white": Meaning("disparity", Convention(near="high")),
    "near is black": Meaning("depth", Convention(near="low")),
    "metres": Meaning("depth", Convention(high=None, near="low", metric=True)),
}
NORMAL_MEANINGS: dict[str, Meaning] = {
    name: Meaning("normal", Convention(axes=axes)) for name, axes in NORMAL_AXES.items()
}
LEVEL_MEANINGS: dict[str, Meaning] = {"white is selected": Meaning("matte", Convention())}
CLASS_MEANINGS: dict[str, Meaning] = {
    f"colours of {name}": Meaning("segmentation", Convention(palette=name)) for name in PALETTES
}
FILE_MEANINGS: dict[str, Meaning] = {
    "values 0..1": Meaning("image", Convention()),
    "depth in metres": DEPTH_MEANINGS["metres"],
}
"""`image` is no task: any picture, with as many channels as it has."""


def as_map(value: PerceptionMap | Tensor, meaning: Meaning, tasks: tuple[str, ...]) -> PerceptionMap:
    """A plain image read as `meaning` says, or a map; what the map of that task does not say, `meaning` does.

    UserError unless the task is one of `tasks`.
    """
    made = from_image(value, meaning) if isinstance(value, Tensor) else _completed(value, meaning)
    if made.task not in tasks:
        raise UserError(f"A map of {made.task} came where {' or '.join(tasks)} is expected: give it one of these.")
    return not_empty(made)


def not_empty(map: PerceptionMap) -> PerceptionMap:
    """The map. UserError if it has no values."""
    if map.values.numel() == 0:
        raise UserError(f"The map of {map.task} is empty, of shape {tuple(map.values.shape)}: give it an image.")
    return map


def _completed(map: PerceptionMap, meaning: Meaning) -> PerceptionMap:
    """The map with axes and palette as in `meaning` if it has none itself and is shown as that is."""
    shown = {TASKS[task].picture if task in TASKS else task for task in (map.task, meaning.task)}
    if len(shown) > 1:
        return map
    own, other = map.convention, meaning.convention
    return replace(map, convention=replace(own, axes=own.axes or other.axes, palette=own.palette or other.palette))


def from_image(image: Tensor, meaning: Meaning) -> PerceptionMap:
    """IMAGE (B, H, W, 1, 3 or 4) or MASK (B, H, W), any float type -> a map of the task that it is said to hold."""
    values = checked_image(image)
    if meaning.task in TASKS:
        values = as_rgb(values) if TASKS[meaning.task].channels == 3 else as_gray(values)
    return PerceptionMap(meaning.task, values.contiguous(), meaning.convention)


CHANNELS = (1, 3, 4)
"""That the last axis of an IMAGE may have."""


def checked_image(image: Tensor) -> Tensor:
    """IMAGE or MASK -> (B, H, W, C) float32. UserError if it has no pixels or one that is no number.

    A mask may come without its batch, or with its one channel where torch has channels: (B, 1, H, W).
    """
    if image.numel() == 0:
        raise UserError(f"The image is empty, of shape {tuple(image.shape)}: give at least one picture with pixels.")
    if image.ndim in (2, 3) or (image.ndim == 4 and image.shape[1] == 1 and image.shape[-1] not in CHANNELS):
        image = image.reshape(-1, *image.shape[-2:], 1)
    if image.ndim != 4 or image.shape[-1] not in CHANNELS:
        raise UserError(f"The image has shape {tuple(image.shape)}: expected pictures of 1, 3 or 4 channels.")
    image = image.float()
    if not all_finite(image):
        raise UserError("The image holds pixels that are NaN or infinite: find the node upstream that makes them.")
    return image


def as_rgb(values: Tensor) -> Tensor:
    """(..., 1, 3 or 4) -> (..., 3)."""
    return values.expand(*values.shape[:-1], 3) if values.shape[-1] == 1 else values[..., :3]


def as_gray(values: Tensor) -> Tensor:
    """(..., 1, 3 or 4) -> (..., 1), the mean of red, green and blue; three equal ones come out as they are."""
    red, green, blue = as_rgb(values).split(1, -1)
    return red + ((green - red) + (blue - red)) / 3


COLOURFUL, SOME = 0.1, 0.01
"""Red, green and blue of a pixel differ by more than this where it is coloured; so many of all make it a picture's."""


def in_colours(image: Tensor) -> bool:
    """Whether an IMAGE or MASK is plainly no gray picture, which compression may tint a little."""
    pixels = as_rgb(checked_image(image))
    return bool(((pixels.amax(-1) - pixels.amin(-1) > COLOURFUL).float().mean() > SOME).item())


def trusted(map: PerceptionMap) -> Tensor:
    """(B, H, W) bool: valid, a number, and a depth that was measured."""
    known = map.values.isfinite().all(-1)
    if map.convention.near == "low" and from_camera(map.convention):
        known &= (map.values > LEAST_DEPTH_M).all(-1)
    return known if map.valid is None else known & map.valid.to(known.device)


def known_values(map: PerceptionMap) -> Tensor:
    """The raw values (B, H, W, C) with 0 where they cannot be trusted."""
    values = map.values.float()
    return values.where(trusted(map)[..., None], torch.zeros_like(values)).clamp(-LARGEST, LARGEST)


Span = tuple[float, float]


def span_of(values: Tensor, percentiles: Span = (0, 100)) -> Span:
    """The given percentiles of (N,) values; their ends if the percentiles coincide; (0, 1) of nothing."""
    if values.numel() == 0:
        return 0.0, 1.0
    ends = values.min().item(), values.max().item()
    if percentiles == (0, 100):
        return ends
    low, high = (float(value) for value in np.percentile(values.cpu().numpy(), percentiles))
    return ends if _is_constant((low, high)) else (low, high)


def _is_constant(span: Span) -> bool:
    """Nothing to stretch: the ends differ by no more than rounding."""
    low, high = span
    return high - low <= 1e-6 * max(abs(low), abs(high))


def stretch(values: Tensor, span: Span) -> Tensor:
    """`span` -> [0, 1], clamped. What is constant has no contrast to stretch and is clamped as it is."""
    low, high = (0.0, 1.0) if _is_constant(span) else span
    return ((values - low) / (high - low)).clamp(0, 1)


def stretch_each(values: Tensor, known: Tensor) -> Tensor:
    """(B, H, W): per-image min-max over the known pixels, 0 elsewhere."""
    return torch.stack([stretch(v, span_of(v[k])) * k for v, k in zip(values, known, strict=True)])


def in_range(map: PerceptionMap) -> Tensor:
    """Raw values (B, H, W, C) -> [0, 1] along the convention's range; where that is open, along each image's own."""
    low, high = map.convention.low, map.convention.high
    values, known = known_values(map), trusted(map)
    if low is not None and high is not None:
        return stretch(values, (low, high)) * known[..., None]
    spans = [span_of(v[k].flatten()) for v, k in zip(values, known, strict=True)]
    ends = [(s[0] if low is None else low, s[1] if high is None else high) for s in spans]
    return torch.stack([stretch(v, s) for v, s in zip(values, ends, strict=True)]) * known[..., None]


UNITS: dict[tuple[str | None, bool], str] = {("low", True): "metres", ("high", True): "1/metres"}


def unit_of(convention: Convention) -> str:
    """What one unit of the raw values is; empty where it is nothing in particular."""
    return UNITS.get((convention.near, convention.metric), "")


class Nearness(NamedTuple):
    """How raw values become ones that grow towards the camera."""

    formula: str
    apply: Callable[[Tensor, Convention], Tensor]


AS_IT_IS = Nearness("d as it is", lambda values, convention: values)
NEARNESS: dict[tuple[str, bool], Nearness] = {
    ("low", False): Nearness("{total:g} - d", lambda values, convention: total(convention) - values),
    ("low", True): Nearness("1/z", lambda values, convention: 1 / values.clamp(min=LEAST_DEPTH_M)),
    ("high", False): AS_IT_IS,
    ("high", True): AS_IT_IS,
}
"""By the end of the values that is near, and whether they count from the camera."""


def total(convention: Convention) -> float:
    """What a value and its mirror image in the convention's range add up to; 0 where the range is open."""
    return 0.0 if convention.low is None or convention.high is None else convention.low + convention.high


class DepthMode(NamedTuple):
    """One way to show a depth."""

    near_white: bool = False
    stretched: bool = True
    cut: bool = False
    """Stretched between percentiles instead of between the ends."""


DEPTH_MODES: dict[str, DepthMode] = {
    "controlnet": DepthMode(near_white=True),
    "min-max": DepthMode(),
    "percentile": DepthMode(cut=True),
    "raw": DepthMode(stretched=False),
}
DIRECTIONS: dict[str, bool | None] = {"as the mode says": None, "near is white": True, "near is black": False}
"""Whether near becomes white whatever the mode; None where that is the mode's."""
DEPTH_COLOURS: dict[str, list[str] | None] = {"none": None, **COLORMAPS}
"""A depth picture's: none is gray, also beyond [0, 1]."""


def depth_picture(
    map: PerceptionMap,
    mode: str = "controlnet",
    per_batch: bool = False,
    percentiles: Span = (2.0, 98.0),
    invert: bool = False,
    colormap: str = "none",
    direction: str = "as the mode says",
) -> tuple[Tensor, str]:
    """Depth or disparity -> picture (B, H, W, 3), and in words which conversion was done.

    What is unknown is shown as far away. Mode `raw` alone may leave [0, 1]. `invert` turns round what `direction` asks.
    """
    row, near = choose(DEPTH_MODES, mode, "mode"), map.convention.near
    colours = choose(DEPTH_COLOURS, colormap, "colormap")
    if near is None:
        raise UserError("This map does not say which end of its values is near: load its model as depth or disparity.")
    values, known = known_values(map)[..., 0], trusted(map)
    wanted = choose(DIRECTIONS, direction, "direction")
    turns = row.near_white if wanted is None else wanted
    nearness = NEARNESS[near, from_camera(map.convention)] if turns else AS_IT_IS
    values = nearness.apply(values, map.convention)
    spans = _spans_of(values, known, _check_percentiles(percentiles) if row.cut else (0, 100), per_batch)
    if row.stretched:
        values = torch.stack([stretch(v, s) for v, s in zip(values, spans, strict=True)])
    near_white = turns or near == "high"
    inverted = invert != (wanted is False and near_white)
    far = 1.0 if row.stretched and not near_white else 0.0
    values = values.where(known, torch.full_like(values, far))
    values = 1 - values if inverted else values
    said = (
        f"{mode}: {nearness.formula.format(total=total(map.convention))}",
        _say_stretch(row, spans, percentiles, per_batch) if row.stretched else "not clamped",
        "inverted" * inverted,
        f"near is {'white' if near_white != inverted else 'black'}",
        f"colormap {colormap}" * (colours is not None),
    )
    picture = values[..., None].repeat(1, 1, 1, 3) if colours is None else colourise(values, colormap)
    return picture, "; ".join(part for part in said if part)


def _check_percentiles(percentiles: Span) -> Span:
    """As they came. UserError if they make no range."""
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise UserError(f"Percentiles {low:g} and {high:g} make no range: take 0 <= low < high <= 100.")
    return percentiles


def _spans_of(values: Tensor, known: Tensor, percentiles: Span, per_batch: bool) -> list[Span]:
    """For each image of (B, H, W) the span to stretch; one for all of them if per_batch."""
    if per_batch:
        return [span_of(values[known], percentiles)] * len(values)
    return [span_of(v[k], percentiles) for v, k in zip(values, known, strict=True)]


def _say_stretch(row: DepthMode, spans: list[Span], percentiles: Span, per_batch: bool) -> str:
    """The stretch in words, with the first few ranges."""
    ranges = ", ".join(f"{low:.4g}..{high:.4g}" for low, high in spans[: 1 if per_batch else 3])
    more = ", ..." if len(spans) > 3 and not per_batch else ""
    how = f"percentiles {percentiles[0]:g} to {percentiles[1]:g}" if row.cut else "min-max"
    return f"{how} per {'batch' if per_batch else 'image'} ({ranges}{more} to 0..1)"


PICTURE_AXES: dict[str, Axes | None] = {**NORMAL_AXES, "raw": None}
"""A normal picture's; None where it shows the values as they are."""


def normal_picture(map: PerceptionMap, axes: str = "controlnet_bae", renormalise: bool = True) -> Tensor:
    """Normals -> the colours (B, H, W, 3) of a row of PICTURE_AXES; `raw`: the values as they are.

    What is unknown faces the camera.
    """
    target = choose(PICTURE_AXES, axes, "axes")
    return known_values(map) if target is None else encode_normals(vectors_of(map, target, renormalise))


def vectors_of(map: PerceptionMap, axes: Axes, renormalise: bool = True) -> Tensor:
    """Normals along `axes` (B, H, W, 3), of length 1 if they are renormalised. What is unknown faces the camera."""
    source = map.convention.axes
    if source is None:
        raise UserError("These normals do not say where their axes point: set axes=right,up,back, say, in overrides.")
    back = towards_camera(source).to(map.values.device)
    vectors = torch.where(trusted(map)[..., None], decode_normals(known_values(map), map.convention), back)
    if renormalise:
        vectors = with_unit_length(vectors, back, GREY)
    return change_axes(vectors, source, axes)


def palette_of(map: PerceptionMap) -> Palette:
    """The palette that colours this map. UserError if there is no such palette."""
    return palette_named(map.convention.palette or "")


class Classes(NamedTuple):
    """A segmentation, whether it came as colours or as class numbers."""

    index: Tensor
    """(B, H, W) int64; any class where unknown."""
    clearness: Tensor
    """(B, H, W) in [0, 1]: 1 where one class is certain, 0 half-way between two and where unknown."""
    known: Tensor
    """(B, H, W) bool."""
    palette: Palette
    by_colour: bool
    """Whether classes of one colour cannot be told apart."""

    def picture(self) -> Tensor:
        """Clean palette colours (B, H, W, 3)."""
        return paint_classes(self.index, self.palette)

    def mask(self, picked: list[int]) -> Tensor:
        """(B, H, W), 1 where the class is one that is picked."""
        return (is_class(self.index, picked, self.palette if self.by_colour else None) & self.known).float()

    def said(self) -> str:
        """In words, which classes there are and how much of the known pixels each takes, the largest first."""
        return ", ".join(f"{self.palette.classes[number]} {share:.1%}" for number, share in self.shares())

    def shares(self) -> list[tuple[int, float]]:
        """The classes that there are and how much of the known pixels each takes, the largest first."""
        counts = self.index[self.known].bincount(minlength=len(self.palette.classes))
        order = counts.argsort(descending=True, stable=True).tolist()
        total = max(int(counts.sum()), 1)
        return [(number, (counts[number] / total).item()) for number in order if counts[number]]


def classes_of(map: PerceptionMap, palette: Palette) -> Classes:
    """The classes of a segmentation. UserError if its numbers are none of the palette's."""
    known = trusted(map)
    if map.convention.classes:
        index, clearness = _numbered(map, palette)
    else:
        index, clearness = classify(known_values(map), palette)
    return Classes(index, clearness * known, known, palette, not map.convention.classes)


def _numbered(map: PerceptionMap, palette: Palette) -> tuple[Tensor, Tensor]:
    """Class numbers (B, H, W) int64, and how clear they are (B, H, W)."""
    index = known_values(map)[..., 0].round().long()
    count, ends = len(palette.classes), (int(index.max()), int(index.min()))
    wrong = next((number for number in ends if not 0 <= number < count), None)
    if wrong is not None:
        raise UserError(
            f"The map holds class {wrong}, and the palette {palette.name} has {count}: set palette= to the one that "
            "the model was trained on."
        )
    unclear = torch.zeros(index.shape) if map.uncertainty is None else map.uncertainty
    return index, (1 - unclear.to(index.device)).clamp(0, 1)


def ready(map: PerceptionMap) -> tuple[Tensor, Tensor]:
    """The default picture of a map (B, H, W, 3), as ControlNet expects it, and a mask (B, H, W).

    The mask is 1 where the task says so: the mask or matte itself, the near part of a depth, else all that is known.
    """
    return ready_picture(map), _by_images(MASKS[choose(TASKS, map.task, "mask for a map of").mask], map)


def ready_picture(map: PerceptionMap) -> Tensor:
    """The default picture alone."""
    return _by_images(PICTURES[choose(TASKS, map.task, "picture for a map of").picture], map)


def _by_images(shown: Callable[[PerceptionMap], Tensor], map: PerceptionMap) -> Tensor:
    """What is shown of each image by itself, a few at a time, written to its place in (B, ...).

    What is made on the way to all of a video's pictures would be several times their size.
    """
    count = len(map.values)
    if map.crops is not None or count <= FEW:
        return shown(map)
    first = shown(map.images(0, FEW))
    whole = first.new_empty(count, *first.shape[1:])
    whole[:FEW] = first
    for start in range(FEW, count, FEW):
        whole[start : start + FEW] = shown(map.images(start, start + FEW))
    return whole


def _ready_depth(map: PerceptionMap) -> Tensor:
    return depth_picture(map)[0]


def _ready_normal(map: PerceptionMap) -> Tensor:
    """Normals whose axes are not known are shown along their own."""
    return normal_picture(_completed(map, NORMAL_MEANINGS["controlnet_bae"]))


def _ready_classes(map: PerceptionMap) -> Tensor:
    """Clean palette colours where the palette is known."""
    return classes_of(map, palette_of(map)).picture() if map.convention.palette else _ready_colour(map)


def _ready_pose(map: PerceptionMap) -> Tensor:
    """Skeletons, as ControlNet's openpose draws them."""
    return pose_picture(map)[0]


def _ready_colour(map: PerceptionMap) -> Tensor:
    return as_rgb(_for_display(in_range(map), map.convention)).contiguous()


def _for_display(values: Tensor, convention: Convention) -> Tensor:
    """(B, H, W, C) in [0, 1] -> linear light as Marigold's authors show it: to its largest value where its scale is not
    known, and to the power 1/2.2; all else as it is."""
    if convention.encoding != "linear" or values.shape[-1] != 3:
        return values
    largest = values.amax((1, 2, 3), keepdim=True).clamp(min=1e-6) if convention.up_to_scale else 1.0
    return (values / largest) ** (1 / 2.2)


PICTURES: dict[str, Callable[[PerceptionMap], Tensor]] = {
    "range": _ready_colour,
    "nearness": _ready_depth,
    "directions": _ready_normal,
    "classes": _ready_classes,
    "skeletons": _ready_pose,
}
"""What a task may be shown as, (B, H, W, 3) in [0, 1]."""


def _near_part(map: PerceptionMap) -> Tensor:
    return _ready_depth(map)[..., 0].contiguous()


def level(map: PerceptionMap) -> Tensor:
    return in_range(map)[..., 0]


def _known_part(map: PerceptionMap) -> Tensor:
    return trusted(map).float()


MASKS: dict[str, Callable[[PerceptionMap], Tensor]] = {"known": _known_part, "nearness": _near_part, "level": level}
"""What of a task may be its mask, (B, H, W) in [0, 1]."""
