"""Foreign models in the same table: an ONNX file with a TOML beside it, and transformers' depth estimators in a folder.

model.toml, beside model.onnx, says what its numbers are; all of it may be left out but `task`:

    task = "disparity"               # or depth, normal, mask, matte ...
    metric = false                   # true: metres, or 1/metres
    axes = ["right", "up", "back"]   # of normals
    unit = true                      # normals in [-1, 1]; false: in [0, 1]
    mean = [0.485, 0.456, 0.406]     # what is taken off the colours in [0, 1]
    std = [0.229, 0.224, 0.225]      # and what they are divided by
    size = 0                         # of the shorter edge; 0 is the picture's own, or what the file is fixed to
    multiple = 14                    # both edges are rounded to it

Its input is (1, 3, H, W), its first output (1, C, h, w) or (1, h, w), which is brought back to the picture's size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import UserError
from ...core.plain_files import read_json
from ...core.recipe import Recipe
from ...core.tasks import task_named
from ...core.texts import read_text
from ..data.truth import section_from

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Look = Callable[[Tensor, int], Tensor]
"""As contenders.Predictor."""
Opened = tuple[Recipe, Callable[[str], Look], str]
"""What its values mean, how it is opened on a device, and what it is, in words."""


@dataclass(frozen=True)
class Card:
    """What model.toml says."""

    task: str = ""
    metric: bool = False
    axes: tuple[str, ...] = ()
    unit: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size: int = 0
    multiple: int = 1

    def recipe(self) -> Recipe:
        """How its values are read."""
        axes: Any = self.axes or None
        codec = "unit-vector" if task_named(self.task).name == "normal" and self.unit else ""
        return Recipe(task_named(self.task).name, metric=self.metric, axes=axes, codec=codec)


def is_onnx(path: Path) -> bool:
    return path.suffix == ".onnx"


def open_onnx(path: Path) -> Opened:
    """UserError for a file without its TOML, or one that onnxruntime cannot read."""
    if find_spec("onnxruntime") is None:
        raise UserError("ONNX models need the package onnxruntime: pip install onnxruntime")
    beside = path.with_suffix(".toml")
    if not path.is_file() or not beside.is_file():
        raise UserError(f"{path} and {beside.name} beside it, with task = ..., are needed: one is missing.")
    try:
        card: Card = section_from(tomllib.loads(read_text(beside)), "model", Card, str(beside))
    except ValueError as error:
        raise UserError(f"{beside} cannot be read: {error}") from None
    if not card.task:
        raise UserError(f'{beside} does not say what the model predicts: write task = "depth", or another.')
    return card.recipe(), lambda device: onnx_look(path, card, device), f"an ONNX model, {path.name}"


def onnx_look(path: Path, card: Card, device: str) -> Look:
    import onnxruntime

    providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    there = [name for name in providers if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[*there, "CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise UserError(f"{path} cannot be read ({error}): export it again.") from error
    given = session.get_inputs()[0]
    fixed = [side if isinstance(side, int) else 0 for side in given.shape[-2:]]
    mean, std = (torch.tensor(row)[None, :, None, None] for row in (card.mean, card.std))

    def look(image: Tensor, resolution: int) -> Tensor:
        size = (
            tuple(fixed) if all(fixed) else processed(image, resolution if resolution > 0 else card.size, card.multiple)
        )
        small = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        values = torch.from_numpy(session.run(None, {given.name: ((small - mean) / std).numpy()})[0]).float()
        return resized(values, image)

    return look


def processed(image: Tensor, shorter: int, multiple: int) -> tuple[int, int]:
    """(H, W) to run a picture at: its shorter edge as asked, both edges rounded."""
    height, width = image.shape[-2:]
    factor = shorter / min(height, width) if shorter > 0 else 1.0
    tall, wide = (max(round(side * factor / multiple), 1) * multiple for side in (height, width))
    return tall, wide


def resized(values: Tensor, image: Tensor) -> Tensor:
    """(1, h, w) or (1, C, h, w) -> (1, C, H, W)."""
    values = values[:, None] if values.ndim == 3 else values
    return F.interpolate(values, image.shape[-2:], mode="bilinear", align_corners=False)


METRIC = ("glpn", "zoedepth", "depth_pro", "prompt_depth_anything")
"""transformers' depth estimators whose answer is metres; the others' is disparity up to scale and shift."""


def is_transformers(path: Path) -> bool:
    """A folder whose config.json names a depth estimator."""
    if not (path / "config.json").is_file():
        return False
    try:
        named = read_json(path / "config.json").get("architectures") or [""]
        return str(named[0]).endswith("DepthEstimation")
    except (UserError, AttributeError):
        return False


def open_transformers(path: Path) -> Opened:
    told = read_json(path / "config.json")
    kind = str(told.get("model_type"))
    metric = kind in METRIC or told.get("depth_estimation_type") == "metric"
    recipe = Recipe("depth" if metric else "disparity", metric=metric)
    return recipe, lambda device: transformers_look(path, device), f"transformers' {told['architectures'][0]}"


def transformers_look(path: Path, device: str) -> Look:
    """UserError for a folder that transformers cannot open."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        model = AutoModelForDepthEstimation.from_pretrained(path, local_files_only=True).float().to(device).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{path} cannot be opened by transformers ({error}): get the whole folder.") from error

    @torch.inference_mode()
    def look(image: Tensor, resolution: int) -> Tensor:
        picture = (image[0].movedim(0, -1) * 255).round().byte().numpy()
        given = processor(images=picture, return_tensors="pt").to(device)
        return resized(model(**given).predicted_depth.float().cpu(), image)

    return look


class Foreign(NamedTuple):
    """One kind of other people's models."""

    recognises: Callable[[Path], bool]
    open: Callable[[Path], Opened]


FOREIGN = (Foreign(is_onnx, open_onnx), Foreign(is_transformers, open_transformers))
