"""`predict`: images on disk -> raw values and pictures on disk."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..core.checkpoint import open_checkpoint
from ..core.perception_map import PerceptionMap
from ..core.picture import ready
from ..core.pipeline import Perceiver, passes, predict, with_overrides
from .models import load, named_context


def run(arguments: argparse.Namespace) -> None:
    """The command of design part 6. ValueError for what a person can mend."""
    check_stems(arguments.images)
    perceiver = open_perceiver(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.images:
        image = read_image(path).to(perceiver.context.tokens.device)
        with tqdm(total=passes(perceiver.recipe, 1, 1), desc=path.name, leave=False) as bar, torch.inference_mode():
            result = predict(perceiver, image, resolution=arguments.resolution, tick=lambda: bar.update() and None)
        write(result, arguments.out / path.stem)


def open_perceiver(arguments: argparse.Namespace) -> Perceiver:
    """The networks and the recipe that the arguments name."""
    device = arguments.device or best_device()
    checkpoint = open_checkpoint(arguments.model, arguments.family, arguments.task)
    perceiver = with_overrides(load(checkpoint, arguments.context, device), arguments.overrides)
    if not arguments.negative_context:
        return perceiver
    negative = named_context(arguments.negative_context, perceiver.recipe)
    return Perceiver(**{**perceiver.__dict__, "negative": negative})


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def read_image(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1], upright as its camera says."""
    if not path.is_file():
        raise ValueError(f"There is no image {path}.")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable image ({error}).") from None
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)[None].float() / 255


def write(result: PerceptionMap, stem: Path) -> None:
    """<stem>.npy: float32 (H, W) or (H, W, C), raw. <stem>.png: for the eye."""
    values = result.values[0]
    np.save(stem.with_name(stem.name + ".npy"), (values[..., 0] if values.shape[-1] == 1 else values).numpy())
    picture = ready(result)[0][0]
    Image.fromarray((picture * 255).round().byte().numpy()).save(stem.with_name(stem.name + ".png"))


def check_stems(images: list[Path]) -> None:
    """Two images of one name would overwrite each other's results."""
    twice = [stem for stem, number in Counter(path.stem for path in images).items() if number > 1]
    if twice:
        raise ValueError(f"Several images are called {twice[0]!r}: their results would overwrite each other; run them apart.")
