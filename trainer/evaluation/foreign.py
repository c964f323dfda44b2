"""Foreign models: an ONNX file with a TOML beside it, and transformers' models of depth and of segments in a folder.

model.toml, beside model.onnx, says what its numbers are; all of it may be left out but `task`:

    task = "disparity"               # or depth, normal, mask, matte ...
    metric = false                   # true: metres, or 1/metres
    axes = ["right", "up", "back"]   # of normals
    unit = true                      # normals in [-1, 1]; false: in [0, 1]
    mean = [0.485, 0.456, 0.406]     # what is taken off the colours in [0, 1]
    std = [0.229, 0.224, 0.225]      # and what they are divided by
    size = 0                         # of the shorter edge; 0 is the picture's own, or what the file is fixed to
    multiple = 14                    # both edges are rounded to it
    colours = "rgb"                  # or "bgr": the order of the input's channels
    output = ""                      # the name of the output that is read; "" is the first
    activation = ""                  # "sigmoid" or "stretch" (each picture from 0 to 1): what its numbers still need
    classes = []                     # of segmentation: the names of its channels, which are scores

Its input is (1, 3, H, W), its output (1, C, h, w) or (1, h, w), which is brought back to the picture's size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.display.colour import Palette
from ...core.errors import UserError
from ...core.plain_files import read_json
from ...core.recipe import Recipe
from ...core.tasks import task_named
from ...core.texts import read_text
from ..data.truth import section_from, spread_colours

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
    colours: Literal["rgb", "bgr"] = "rgb"
    output: str = ""
    activation: Literal["", "sigmoid", "stretch"] = ""
    classes: tuple[str, ...] = ()

    def recipe(self) -> Recipe:
        """How its values are read."""
        if self.classes:
            return _classes_recipe(self.classes)
        axes: Any = self.axes or None
        codec = "unit-vector" if task_named(self.task).merge == "direction" and self.unit else ""
        return Recipe(task_named(self.task).name, metric=self.metric, axes=axes, codec=codec)


def _classes_recipe(names: tuple[str, ...]) -> Recipe:
    """Of a model that gives a score for each of these classes."""
    palette = Palette("", names, spread_colours(len(names))).text()
    return Recipe("segmentation", head="scores", codec="class-scores", palette=palette)


def stretched(values: Tensor) -> Tensor:
    """From 0 to 1, as it is done where only the order of levels means anything; a flat picture becomes 0."""
    low, high = values.amin(), values.amax()
    return (values - low) / (high - low).clamp(min=1e-12)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda values: values,
    "sigmoid": torch.sigmoid,
    "stretch": stretched,
}


def _is_onnx(path: Path) -> bool:
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
    return card.recipe(), lambda device: _onnx_look(path, card, device), f"an ONNX model, {path.name}"


def _onnx_look(path: Path, card: Card, device: str) -> Look:
    import onnxruntime

    providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    there = [name for name in providers if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[*there, "CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise UserError(f"{path} cannot be read ({error}): export it again.") from error
    given, output = session.get_inputs()[0], _output_named(session, path, card)
    fixed = [side if isinstance(side, int) else 0 for side in given.shape[-2:]]
    mean, std = (torch.tensor(row)[None, :, None, None] for row in (card.mean, card.std))

    def look(image: Tensor, resolution: int) -> Tensor:
        size = (
            tuple(fixed)
            if all(fixed)
            else _processed(image, resolution if resolution > 0 else card.size, card.multiple)
        )
        small = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        shown = small if card.colours == "rgb" else small.flip(1)
        (values,) = session.run([output], {given.name: ((shown - mean) / std).numpy()})
        full = _resized(ACTIVATIONS[card.activation](torch.from_numpy(values).float()), image)
        return full.argmax(1, keepdim=True).float() if card.classes else full

    return look


def _output_named(session: Any, path: Path, card: Card) -> str:
    """UserError if the file has no such output."""
    names = [row.name for row in session.get_outputs()]
    if card.output and card.output not in names:
        raise UserError(f"{path} has no output {card.output!r}: its TOML may name one of {', '.join(names)}.")
    return card.output or names[0]


def _processed(image: Tensor, shorter: int, multiple: int) -> tuple[int, int]:
    """(H, W) to run a picture at: its shorter edge as asked, both edges rounded."""
    height, width = image.shape[-2:]
    factor = shorter / min(height, width) if shorter > 0 else 1.0
    tall, wide = (max(round(side * factor / multiple), 1) * multiple for side in (height, width))
    return tall, wide


def _resized(values: Tensor, image: Tensor) -> Tensor:
    """(1, h, w) or (1, C, h, w) -> (1, C, H, W)."""
    values = values[:, None] if values.ndim == 3 else values
    return F.interpolate(values, image.shape[-2:], mode="bilinear", align_corners=False)


METRIC = ("glpn", "zoedepth", "depth_pro", "prompt_depth_anything")
"""transformers' depth estimators whose answer is metres; the others' is disparity up to scale and shift."""


class Kind(NamedTuple):
    """Models of transformers that are opened alike."""

    loader: str
    """The Auto class."""
    recipe: Callable[[dict[str, Any]], Recipe]
    """Of what config.json says."""
    read: Callable[[Any, Tensor], Tensor]
    """(what the model returns, the picture) -> raw values (1, C, H, W) at the picture's size."""


def _recipe_of_depth(told: dict[str, Any]) -> Recipe:
    metric = told.get("model_type") in METRIC or told.get("depth_estimation_type") == "metric"
    return Recipe("depth" if metric else "disparity", metric=metric)


def _recipe_of_segments(told: dict[str, Any]) -> Recipe:
    names = told.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # as transformers has it where nothing is said
    return _classes_recipe(tuple(str(names[number]) for number in sorted(names, key=int)))


KINDS: dict[str, Kind] = {
    "DepthEstimation": Kind(
        "AutoModelForDepthEstimation",
        _recipe_of_depth,
        lambda answer, image: _resized(answer.predicted_depth.float().cpu(), image),
    ),
    "SemanticSegmentation": Kind(
        "AutoModelForSemanticSegmentation",
        _recipe_of_segments,
        lambda answer, image: _resized(answer.logits.float().cpu(), image).argmax(1, keepdim=True).float(),
    ),
}
"""By how the names of the classes end that config.json may name."""


def _kind_in(path: Path) -> str:
    """A row of KINDS that a folder's config.json names; "" if it names none."""
    if not (path / "config.json").is_file():
        return ""
    try:
        named = read_json(path / "config.json").get("architectures") or [""]
        return next((kind for kind in KINDS if str(named[0]).endswith(kind)), "")
    except (UserError, AttributeError):
        return ""


def _is_transformers(path: Path) -> bool:
    return bool(_kind_in(path))


def open_transformers(path: Path) -> Opened:
    told, kind = read_json(path / "config.json"), KINDS[_kind_in(path)]
    return (
        kind.recipe(told),
        lambda device: _transformers_look(path, kind, device),
        f"transformers' {told['architectures'][0]}",
    )


def _transformers_look(path: Path, kind: Kind, device: str) -> Look:
    """UserError for a folder that transformers cannot open."""
    import transformers

    loader = getattr(transformers, kind.loader)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
        model = loader.from_pretrained(path, local_files_only=True).float().to(device).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{path} cannot be opened by transformers ({error}): get the whole folder.") from error

    @torch.inference_mode()
    def look(image: Tensor, resolution: int) -> Tensor:
        picture = (image[0].movedim(0, -1) * 255).round().byte().numpy()
        given = processor(images=picture, return_tensors="pt").to(device)
        return kind.read(model(**given), image)

    return look


class Foreign(NamedTuple):
    """One kind of other people's models."""

    recognises: Callable[[Path], bool]
    open: Callable[[Path], Opened]


FOREIGN = (Foreign(_is_onnx, open_onnx), Foreign(_is_transformers, open_transformers))
