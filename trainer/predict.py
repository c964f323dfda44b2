"""`predict`: images on disk -> raw values and pictures on disk."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..core.backbone import Context
from ..core.bases import negative_of, open_adapted, open_base
from ..core.checkpoint import Checkpoint, open_checkpoint
from ..core.perception_map import PerceptionMap
from ..core.picture import ready
from ..core.pipeline import Perceiver, passes, predict
from .models import context_of, lightened, load, load_adapted, named_context


def run(arguments: argparse.Namespace) -> None:
    """Predict every image and write what was seen of it. ValueError for what a person can mend."""
    arguments.device = device_named(arguments.device)
    check_images(arguments.images)
    perceiver = open_perceiver(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.images:
        image = read_image(path)
        with tqdm(total=passes(perceiver.recipe, 1, 1), desc=path.name, leave=False) as bar, torch.inference_mode():

            def tick() -> None:
                bar.update()

            result = predict(perceiver, image.to(arguments.device), resolution=arguments.resolution, tick=tick)
        write(result, arguments.out / path.stem)


def open_perceiver(arguments: argparse.Namespace) -> Perceiver:
    """The networks and the recipe that the arguments name."""
    if arguments.adapter is None:
        checkpoint, adapter = open_checkpoint(arguments.model, arguments.family, arguments.task), None
    else:
        base = open_base(arguments.base)
        checkpoint, adapter = open_adapted(base, arguments.adapter, arguments.family, arguments.task)
    # before the weights are read, which takes a while: a misspelt field is told at once
    checkpoint = replace(checkpoint, recipe=checkpoint.recipe.override(arguments.overrides))
    if adapter is None:
        perceiver = load(checkpoint, arguments.context, arguments.device)
    else:
        perceiver = load_adapted(checkpoint, adapter, arguments.context, arguments.device)
    perceiver = lightened(perceiver, checkpoint, arguments.encoder, arguments.decoder, arguments.device)
    return replace(perceiver, negative=negative_context(checkpoint, arguments.negative_context))


def negative_context(checkpoint: Checkpoint, given: str) -> Context | None:
    """What guidance moves away from: as given, else from the file, else the empty prompt if there is one."""
    if given:
        return named_context(given, checkpoint.architecture)
    if checkpoint.recipe.guidance_scale == 1:
        return None
    baked = negative_of(checkpoint.path, checkpoint.recipe, checkpoint.architecture)
    known = checkpoint.context is not None or checkpoint.text_encoder is not None
    return baked or (context_of(checkpoint) if known else None)


def device_named(name: str) -> str:
    """The device, or the best there is if none is named. ValueError if this machine has no such."""
    try:
        return str(torch.empty(0, device=name or best_device()).device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"Device {name!r} cannot be used ({reason}): leave --device out for the best one.") from None


def best_device() -> str:
    """A GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def read_image(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1], upright as its camera says."""
    try:
        with Image.open(path) as image:
            pixels = as_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError(f"{path.name} is not an image that can be read: give a PNG, JPEG, WebP or TIFF.") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} is not a readable image ({error}): give a whole one.") from None
    return torch.from_numpy(pixels).movedim(-1, 0)[None]


def as_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255
        grey = np.asarray(image).astype(np.float32) / 65535
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def write(result: PerceptionMap, stem: Path) -> None:
    """<stem>.npy: float32 (H, W) or (H, W, C), raw. <stem>.png: for the eye."""
    values = result.values[0]
    np.save(stem.with_name(stem.name + ".npy"), (values[..., 0] if values.shape[-1] == 1 else values).numpy())
    picture = ready(result)[0][0]
    Image.fromarray((picture * 255).round().byte().numpy()).save(stem.with_name(stem.name + ".png"))


def check_images(images: list[Path]) -> None:
    """ValueError, before anything is loaded, if one is missing or two would overwrite each other's results."""
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise ValueError(f"There is no image {missing[0]}: check the path.")
    twice = [stem for stem, number in Counter(path.stem for path in images).items() if number > 1]
    if twice:
        raise ValueError(f"Several images are called {twice[0]!r}, and so would their results be: run them apart.")
