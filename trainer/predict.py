"""`predict`: images on disk -> raw values and pictures on disk."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..core.backbone import Context
from ..core.checkpoints.bases import negative_of, open_adapted, open_base
from ..core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..core.crops import Box, boxes_of_mask, read_boxes
from ..core.display.openpose import pose_keypoint, pose_picture
from ..core.display.picture import as_gray, ready
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.pipeline import Perceiver, passes, predict, wanted_resolution
from ..core.plain_files import read_json
from ..core.pose import passes_of_people, predict_people
from ..core.recipe import Recipe
from .data.arrays import BrokenRecord, check_packages, read_colours, read_picture
from .data.folder import shown
from .host import context_of, lightened, load, load_adapted, named_context

PEOPLE_AT_ONCE = 8
"""Per pass of the networks."""


def run(arguments: argparse.Namespace) -> None:
    """Predict every image and write what was seen of it. UserError for what a person can mend."""
    arguments.device = device_named(arguments.device)
    check_images(arguments.images)
    boxes_in = finder(arguments)
    perceiver = open_perceiver(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    perceive = perceive_map if perceiver.recipe.row.channels else perceive_people
    for path in arguments.images:
        image = read_image(path)
        boxes = boxes_in(path, (image.shape[-2], image.shape[-1]))
        with torch.inference_mode():
            perceive(perceiver, image.to(arguments.device), boxes, arguments, path)


def perceive_map(
    perceiver: Perceiver, image: Tensor, boxes: list[Box] | None, arguments: argparse.Namespace, path: Path
) -> None:
    """A dense map of one picture, and its files."""
    with tqdm(total=passes(perceiver.recipe, 1, 1), desc=path.name, leave=False) as bar:

        def tick() -> None:
            bar.update()

        result = predict(perceiver, image, resolution=arguments.resolution, tick=tick)
    write(result, arguments.out / path.stem)


def perceive_people(
    perceiver: Perceiver, image: Tensor, boxes: list[Box] | None, arguments: argparse.Namespace, path: Path
) -> None:
    """The keypoints of the people in one picture, and its files."""
    total = passes_of_people(1 if boxes is None else len(boxes), PEOPLE_AT_ONCE, False)
    with tqdm(total=total, desc=path.name, leave=False) as bar:

        def tick() -> None:
            bar.update()

        found = None if boxes is None else [boxes]
        try:
            result = predict_people(perceiver, image, found, batch_size=PEOPLE_AT_ONCE, tick=tick)
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from None
    write_people(result, perceiver.recipe, arguments.out / path.stem)


Finder = Callable[[Path, tuple[int, int]], "list[Box] | None"]
"""Where people are in the picture of a path, of (H, W); None is that nobody has said it."""


def finder(arguments: argparse.Namespace) -> Finder:
    """As --boxes or --mask say. UserError, before anything is loaded, if there is nothing for one of the pictures."""
    if arguments.boxes:
        boxes = {path: boxes_named(arguments.boxes, path) for path in arguments.images}
        return lambda path, size: boxes[path]
    if arguments.mask:
        masks = {path: mask_named(arguments.mask, path) for path in arguments.images}
        return lambda path, size: boxes_of_mask(as_gray(read_image(masks[path])[0].movedim(0, -1))[..., 0], size)
    return lambda path, size: None


def boxes_named(file: Path, picture: Path) -> list[Box]:
    """Those of a picture in a JSON file {picture's name: [[x, y, width, height], ...]}. UserError for what is none."""
    try:
        table = read_json(file)
    except UserError as error:
        raise UserError(f"{file} is not JSON ({error}).") from None
    if not isinstance(table, dict):
        raise UserError(f"{file} names no pictures: expected {{picture's name: [[x, y, width, height], ...], ...}}.")
    if picture.name not in table:
        raise UserError(f"{file} has no boxes for {picture.name}: add them, or [] if there is nobody in it.")
    if not isinstance(table[picture.name], list):
        raise UserError(f"{file}: {picture.name} has {table[picture.name]!r}: expected [[x, y, width, height], ...].")
    try:
        (boxes,) = read_boxes(table[picture.name], 1)
    except UserError as error:
        raise UserError(f"{file}: {picture.name}: {error}") from None
    return boxes


def mask_named(folder: Path, picture: Path) -> Path:
    """The picture in a folder whose name but for its ending is that of another. UserError unless it is one."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of masks: check the path.")
    found = sorted(path for path in folder.iterdir() if path.stem == picture.stem and path.is_file())
    if len(found) != 1:
        raise UserError(f"{folder} has {len(found)} masks for {picture.name}: expected one, as {picture.stem}.png.")
    return found[0]


def open_perceiver(arguments: argparse.Namespace) -> Perceiver:
    """The networks and the recipe that the arguments name."""
    if arguments.adapter is None:
        checkpoint, adapter = open_checkpoint(arguments.model, arguments.family, arguments.task), None
    else:
        base = open_base(arguments.base)
        checkpoint, adapter = open_adapted(base, arguments.adapter, arguments.family, arguments.task)
    # before the weights are read, which takes a while: a misspelt field is told at once
    checkpoint = replace(checkpoint, recipe=checkpoint.recipe.override(arguments.overrides))
    checkpoint = replace(checkpoint, recipe=for_people(checkpoint.recipe, arguments))
    if adapter is None:
        perceiver = load(checkpoint, arguments.context, arguments.device)
    else:
        perceiver = load_adapted(checkpoint, adapter, arguments.context, arguments.device)
    perceiver = lightened(perceiver, checkpoint, arguments.encoder, arguments.decoder, arguments.device)
    return replace(perceiver, negative=negative_context(checkpoint, arguments.negative_context))


def for_people(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe with the size of crops that the arguments name. UserError for what only people have, or have not."""
    if recipe.row.channels:
        if arguments.boxes or arguments.mask:
            raise UserError(f"--boxes and --mask say where people are, but {recipe.id} predicts {recipe.row.name}.")
        return recipe
    if arguments.resolution == 0:
        raise UserError("--resolution 0 is none for people, who are cut out at one size: leave it out or give pixels.")
    return replace(recipe, resolution=wanted_resolution(recipe, arguments.resolution))


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
    """The device, or the best there is if none is named. UserError if this machine has no such."""
    try:
        return str(torch.empty(0, device=name or best_device()).device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Device {name!r} cannot be used ({reason}): leave --device out for the best one.") from None


def best_device() -> str:
    """A GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def read_image(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1], upright as its camera says: what training sees of the same file."""
    try:
        colours, _ = read_colours(path, other=read_picture)
    except BrokenRecord as fault:
        if isinstance(fault.__cause__, UnidentifiedImageError):
            raise UserError(f"{path.name} is not an image that can be read: give a PNG, JPEG, WebP or TIFF.") from None
        raise UserError(
            f"{path.name} is not a readable image ({fault.__cause__ or fault}): give a whole one."
        ) from None
    return torch.from_numpy(np.ascontiguousarray(shown(colours), np.float32)).movedim(-1, 0)[None]


def write(result: PerceptionMap, stem: Path) -> None:
    """<stem>.npy: float32 (H, W) or (H, W, C), raw. <stem>.png: for the eye."""
    values = result.values[0]
    np.save(stem.with_name(stem.name + ".npy"), (values[..., 0] if values.shape[-1] == 1 else values).numpy())
    save_picture(ready(result)[0][0], stem)


def write_people(result: PerceptionMap, recipe: Recipe, stem: Path) -> None:
    """<stem>.json: OpenPose's keypoints. <stem>.png: skeletons as openpose ControlNets read them."""
    picture, people = pose_picture(result)
    (frame,) = pose_keypoint(people, recipe.skeleton, (picture.shape[1], picture.shape[2]))
    stem.with_name(stem.name + ".json").write_text(json.dumps(frame), "utf-8")
    save_picture(picture[0], stem)


def save_picture(picture: Tensor, stem: Path) -> None:
    """(H, W, 3) in [0, 1] as <stem>.png."""
    Image.fromarray((picture * 255).round().byte().numpy()).save(stem.with_name(stem.name + ".png"))


def check_images(images: list[Path]) -> None:
    """UserError, before anything is loaded, if one is missing or two would overwrite each other's results."""
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise UserError(f"There is no image {missing[0]}: check the path.")
    check_packages(path.suffix.lower() for path in images)
    twice = [stem for stem, number in Counter(path.stem for path in images).items() if number > 1]
    if twice:
        raise UserError(f"Several images are called {twice[0]!r}, and so would their results be: run them apart.")
