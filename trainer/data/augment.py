"""Augmentation: the same flip, crop and resize for picture, truth and camera; colour, blur and JPEG for the picture.

What is random is drawn from a generator that the caller seeds by (seed, dataset, epoch, index), so that a resumed run
sees what the unbroken one would have seen, whatever the number of worker processes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...core.errors import UserError
from ...core.geometry import DIRECTIONS
from ...core.perception_map import Convention
from .people import gaussian_heatmaps
from .records import Sample

LUMA = (0.299, 0.587, 0.114)

Filter = Literal["nearest-exact", "bilinear"]


@dataclass(frozen=True)
class Augmentation:
    """What happens to a record between the disk and the network. Nothing is random unless a field says so."""

    size: tuple[int, int] | None = None
    """(H, W) that the network is trained on; None keeps every picture's own."""
    shape: Literal["stretch", "crop"] = "stretch"
    """How a picture of another aspect gets there: squeezed, as GenPercept does, or cropped."""
    least_crop: float = 1.0
    """A random window keeps at least this share of the edges; 1 crops no more than `shape` asks for."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    copy_paste: float = 0.0
    """Probability that what another picture's truth marks is put into this one, for the tasks that allow it."""
    image_filter: Filter = "bilinear"
    """bilinear is antialiased. GenPercept takes nearest-exact."""
    target_filter: Literal["", "nearest-exact", "bilinear"] = ""
    """Empty is the task's own, its Resampling; GenPercept's is nearest-exact but for masks, mattes, disparity."""
    jitter: float = 0.0
    """Probability of a change of colours."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    """Each factor lies in [1 - x, 1 + x]."""
    hue: float = 0.05
    """Largest turn, as a share of the circle."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: float = 2.0
    """Its largest spread in pixels."""
    jpeg: float = 0.0
    """Probability of JPEG compression."""
    jpeg_quality: int = 70
    """The lowest; the highest is 100."""

    def __post_init__(self) -> None:
        for name in ("flip", "copy_paste", "jitter", "blur", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} = {getattr(self, name)} is no probability: take 0 to 1.")
        if not 0 < self.least_crop <= 1:
            raise UserError(f"least_crop = {self.least_crop} is no share of an edge: take more than 0, at most 1.")
        if self.size is not None and min(self.size) < 8:
            raise UserError(f"size = {self.size} is below one latent cell: take at least 8 x 8.")
        if not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"jpeg_quality = {self.jpeg_quality} is none of 1 to 100.")
        if min(self.brightness, self.contrast, self.saturation, self.hue, self.blur_sigma) < 0:
            raise UserError("Amounts of jitter and blur cannot be negative.")


def generator(*numbers: int) -> np.random.Generator:
    """A source of randomness of its own for every tuple of numbers >= 0."""
    return np.random.Generator(np.random.PCG64((len(numbers), *numbers)))  # NumPy takes (1,) and (1, 0) for the same


def place_sample(sample: Sample, convention: Convention, settings: Augmentation, random: np.random.Generator) -> Sample:
    """Flip and crop: what comes before the truth is normalised."""
    if random.random() < settings.flip:
        sample = flip(sample, convention)
    window = _window_of(sample.image.shape[-2:], settings, random)
    return sample if window is None else crop(sample, *window)


def finish_sample(sample: Sample, row: Resampling, settings: Augmentation, random: np.random.Generator) -> Sample:
    """Resize, then change what the picture looks like: what comes after the truth is normalised."""
    if settings.size is not None:
        sample = resize(sample, row, settings.size, settings.image_filter, settings.target_filter)
    return replace(sample, image=appearance(sample.image, settings, random))


def flip(sample: Sample, convention: Convention) -> Sample:
    """Left becomes right: normals lose the sign of their horizontal component, keypoints change sides."""
    target = sample.target.flip(-1)
    if convention.axes is not None:
        target = _mirror_vectors(target, convention)
    meta = {**sample.meta, **_flip_points(sample.meta, sample.image.shape[-1])}
    if "mirror" in meta:
        target = target[torch.from_numpy(meta["mirror"])]
    return Sample(sample.image.flip(-1), target.contiguous(), sample.valid.flip(-1), meta)


def _mirror_vectors(vectors: Tensor, convention: Convention) -> Tensor:
    """(3, H, W): the component along left or right changes sign, wherever it lies."""
    horizontal = [DIRECTIONS[axis][0] == 0 for axis in convention.axes or ()].index(True)
    mirrored = vectors.clone()
    mirrored[horizontal] = -vectors[horizontal] if convention.unit else 1 - vectors[horizontal]
    return mirrored


def _flip_points(meta: dict[str, Any], width: int) -> dict[str, Any]:
    """The camera and the keypoints of a flipped picture."""
    changed: dict[str, Any] = {}
    if "intrinsics" in meta:
        changed["intrinsics"] = meta["intrinsics"].copy()
        changed["intrinsics"][0, 2] = width - meta["intrinsics"][0, 2]
    if "keypoints" in meta:
        points = meta["keypoints"][meta["mirror"]]
        points[:, 0] = width - points[:, 0]
        changed["keypoints"] = points
    return changed


Window = tuple[int, int, int, int]
"""Top, left, height, width."""


def _window_of(size: torch.Size, settings: Augmentation, random: np.random.Generator) -> Window | None:
    """What is kept of a picture of `size` (H, W); None if that is all of it."""
    height, width = size
    if settings.shape == "crop" and settings.size is not None:
        aspect = settings.size[1] / settings.size[0]
        kept = min(height, width / aspect)
        height, width = max(1, round(kept)), max(1, round(kept * aspect))
    share = settings.least_crop + (1 - settings.least_crop) * random.random()
    height, width = max(1, round(height * share)), max(1, round(width * share))
    top, left = (int((whole - part + 1) * random.random()) for whole, part in zip(size, (height, width), strict=True))
    return None if (height, width) == tuple(size) else (top, left, height, width)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """That window of picture, truth and camera."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    image, target, valid = (
        part[..., rows, columns].contiguous() for part in (sample.image, sample.target, sample.valid)
    )
    meta = dict(sample.meta)
    if "intrinsics" in meta:
        meta["intrinsics"] = meta["intrinsics"] - [[0, 0, left], [0, 0, top], [0, 0, 0]]
    if "keypoints" in meta:
        meta["keypoints"] = meta["keypoints"] - [[left, top, 0]]
    return Sample(image, target, valid, meta)


@dataclass(frozen=True)
class Resampling:
    """How the truth of a task changes its size."""

    filter: Filter = "nearest-exact"
    only: bool = False
    """No other will do, whatever the config says."""
    repair: Callable[[Tensor, Sample], Tensor] = lambda target, sample: target
    """What to do after interpolation: (target, sample before) -> target."""


NEAREST, SMOOTH = Resampling(), Resampling("bilinear")


def paste(sample: Sample, donor: Sample) -> Sample:
    """What the donor's truth marks, blended into a picture (Ghiasi et al. 2021, Simple Copy-Paste).

    The donor is brought to the picture's size; where its truth is unknown nothing is taken of it.
    """
    size = (sample.image.shape[-2], sample.image.shape[-1])
    donor = resize(donor, SMOOTH, size)
    share = (donor.target * donor.valid).clamp(0, 1)
    image = torch.lerp(sample.image, donor.image, share)
    return replace(sample, image=image, target=share + (1 - share) * sample.target)


def redraw(target: Tensor, before: Sample) -> Tensor:
    """Heatmaps are drawn anew: a Gaussian has the same spread at every size of a map."""
    points = _scaled_points(before.meta["keypoints"], before.image.shape[-2:], target.shape[-2:])
    return gaussian_heatmaps(points, (target.shape[-2], target.shape[-1]))


def resize(
    sample: Sample, row: Resampling, size: tuple[int, int], image_filter: Filter = "bilinear", target_filter: str = ""
) -> Sample:
    """To (H, W). A value is valid if most of what it is made of was; only that counts in it."""
    before = (sample.image.shape[-2], sample.image.shape[-1])
    if before == tuple(size):
        return sample
    image = _interpolate(sample.image, size, image_filter).clamp(0, 1)
    target, valid = _resize_truth(sample.target, sample.valid, size, (not row.only and target_filter) or row.filter)
    meta = dict(sample.meta)
    if "intrinsics" in meta:
        scale = np.array([[size[1] / before[1]], [size[0] / before[0]], [1.0]])
        meta["intrinsics"] = meta["intrinsics"] * scale
    if "keypoints" in meta:
        meta["keypoints"] = _scaled_points(meta["keypoints"], before, size)
    if "area" in meta:
        meta["area"] = meta["area"] * (size[0] / before[0]) * (size[1] / before[1])
    return Sample(image, row.repair(target, sample), valid, meta)


def _scaled_points(points: np.ndarray, before: Any, after: Any) -> np.ndarray:
    return points * [after[1] / before[1], after[0] / before[0], 1.0]


def _resize_truth(target: Tensor, valid: Tensor, size: tuple[int, int], filter: str) -> tuple[Tensor, Tensor]:
    """(C, H, W) and (1, H, W) bool -> the same at (H, W)."""
    if filter == "nearest-exact":
        return _interpolate(target, size, filter), _interpolate(valid.float(), size, filter) > 0.5
    share = _interpolate(valid.float(), size, filter)
    known = _interpolate(target.where(valid, torch.zeros_like(target)), size, filter) / share.clamp(min=1e-6)
    filled = _interpolate(target, size, filter)
    return known.where(share > 0.5, filled), share > 0.5


def _interpolate(picture: Tensor, size: tuple[int, int], filter: str) -> Tensor:
    """(C, H, W) -> (C, *size); bilinear is antialiased."""
    return F.interpolate(picture[None], size, mode=filter, antialias=filter == "bilinear")[0]


def appearance(image: Tensor, settings: Augmentation, random: np.random.Generator) -> Tensor:
    """A picture (3, H, W) in [0, 1] as another camera might have taken it."""
    if random.random() < settings.jitter:
        image = jitter(image, settings, random)
    if random.random() < settings.blur:
        image = blur(image, settings.blur_sigma * random.random())
    if random.random() < settings.jpeg:
        image = jpeg(image, int(random.integers(settings.jpeg_quality, 101)))
    return image


def jitter(image: Tensor, settings: Augmentation, random: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue, in random order."""
    amounts = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    turns = [amount * (2 * random.random() - 1) for amount in amounts]
    for number in random.permutation(len(CHANGES)):
        image = CHANGES[number](image, turns[number]).clamp(0, 1)
    return image


def _change_brightness(image: Tensor, by: float) -> Tensor:
    return image * (1 + by)


def _change_contrast(image: Tensor, by: float) -> Tensor:
    middle = grey(image).mean()
    return middle + (image - middle) * (1 + by)


def _change_saturation(image: Tensor, by: float) -> Tensor:
    middle = grey(image)
    return middle + (image - middle) * (1 + by)


def grey(image: Tensor) -> Tensor:
    """(3, H, W) -> (1, H, W)."""
    return (image * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)


def turn_hue(image: Tensor, turn: float) -> Tensor:
    """The two chroma channels of YIQ turned by that share of the circle; grey stays grey and luma what it is."""
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    to_yiq = torch.tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    rotation = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    matrix = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return (matrix @ image.flatten(1)).view_as(image)


CHANGES: tuple[Callable[[Tensor, float], Tensor], ...] = (
    _change_brightness,
    _change_contrast,
    _change_saturation,
    turn_hue,
)


def blur(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian of that spread in pixels; the border is repeated."""
    radius = math.ceil(3 * sigma)
    if radius == 0:
        return image
    weights = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = F.pad(image[:, None], (radius, radius, radius, radius), mode="replicate")
    across = F.conv2d(padded, weights[None, None, None, :])
    return F.conv2d(across, weights[None, None, :, None])[:, 0].clamp(0, 1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compressed and read again."""
    buffer = io.BytesIO()
    levels = (image.movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0).float() / 255
