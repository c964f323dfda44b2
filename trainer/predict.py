"""`predict`: images on disk -> raw values and pictures on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.checkpoints.tiny_vae_file import FULL, LIGHT
from ..core.crops import Box, boxes_of_mask, read_boxes
from ..core.diffusion import PARADIGMS, Tick
from ..core.display.openpose import pose_keypoint, pose_picture
from ..core.display.picture import as_gray, ready
from ..core.display.steady import Steadying
from ..core.errors import UserError
from ..core.large_pictures import check_tile, passes_large, predict_large
from ..core.perception_map import PerceptionMap
from ..core.pipeline import Noise, Perceiver, passes, predict, wanted_resolution
from ..core.plain_files import read_json
from ..core.pose import passes_of_people, predict_people
from ..core.recipe import Recipe
from ..core.tasks import tasks_where
from ..core.video import blending, check_share
from ..core.whole_file import write_whole
from .clips import Folder, Video, clip_at, is_clip
from .data.arrays import check_packages
from .host import device_named, load_chosen, named_tensor
from .model_choice import ModelChoice
from .outputs import check_apart, file_of, files_of, folds_case
from .perceiver import read_upright
from .pictures import save_picture
from .predict_clip import predict_clip, write_raw

PEOPLE_AT_ONCE = 8
"""Per pass of the networks."""


@dataclass(frozen=True)
class Prediction:
    """What `predict` is asked for."""

    images: list[Path]
    """Pictures, folders of frames, and videos."""
    out: Path
    """A folder, made where there is none."""
    choice: ModelChoice
    resolution: int = -1
    """-1 as trained, 0 the image's own, or pixels."""
    tile: int = 0
    """Pixels of the sides of overlapping tiles in which larger pictures are seen again, for detail; 0: none."""
    format: str = "npy"
    """Of the raw values: a row of predict_clip.RAW."""
    steady: float = 0.0
    """For the depth of a clip: how far each frame follows the scale and shift of those before, 0..1."""
    blend: float = 0.0
    """For clips: the share of the frames before in each answer, from 0 to below 1."""
    boxes: Path | None = None
    """For keypoints, where people are: a JSON file, or"""
    mask: Path | None = None
    """a folder of masks named like the pictures."""
    flip_test: bool = False
    """For keypoints: the mean of what is seen in a crop and in its mirror image."""
    encoder: str = FULL
    decoder: str = FULL
    """Which half of the VAE: full, light, or a file."""
    device: str = ""
    """cpu, cuda, mps; the best there is if left out."""
    noise: str = ""
    """FILE or FILE:KEY of initial latents (members, channels, h, w) in place of the seeded ones."""
    step_noise: str = ""
    """The same of what LCM adds after each step but the last, (steps - 1, members, channels, h, w)."""


def predict_files(wanted: Prediction) -> None:
    """Predict every image and write what was seen of it. UserError for what a person can mend."""
    device = device_named(wanted.device)
    _check_there(wanted.images, wanted.out)
    clips = {path: clip_at(path) for path in wanted.images if is_clip(path)}
    _check_names(wanted, clips)
    check_apart(outputs(wanted, clips), inputs(wanted, clips))
    boxes_in, noise = finder(wanted), _given_noise(wanted)
    checkpoint, adapter = wanted.choice.open()
    # before the weights are read, which takes a while
    checkpoint = replace(checkpoint, recipe=_for_people(checkpoint.recipe, wanted))
    _check_wanted(checkpoint.recipe, wanted, clips)
    perceiver = load_chosen(wanted.choice, checkpoint, adapter, device, encoder=wanted.encoder, decoder=wanted.decoder)
    wanted.out.mkdir(parents=True, exist_ok=True)
    _check_noise(perceiver.recipe, noise)
    perceive = PERCEIVE[perceiver.recipe.row.per]
    with torch.inference_mode():
        for path in wanted.images:
            if path in clips:
                _perceive_clip(perceiver, clips[path], device, noise, wanted)
                continue
            image = read_upright(path)
            boxes = boxes_in(path, (image.shape[-2], image.shape[-1]))
            perceive(perceiver, image.to(device), boxes, noise, wanted, path)


def _given_noise(wanted: Prediction) -> Noise:
    """What the arguments give in place of random numbers."""
    files = {"noise": wanted.noise, "step noise": wanted.step_noise}
    return Noise(*(named_tensor(text, what) if text else None for what, text in files.items()))


def _check_noise(recipe: Recipe, noise: Noise) -> None:
    """UserError for noise that would have no effect."""
    if noise.initial is not None and not PARADIGMS[recipe.paradigm].draws_noise:
        raise UserError(f"--noise has no effect: {recipe.id} is {recipe.paradigm} and takes none; leave it out.")
    if noise.steps is not None and recipe.sampler != "lcm":
        raise UserError(f"--step-noise has no effect: {recipe.id} is sampled by {recipe.sampler}; leave it out.")


def _perceive_map(
    perceiver: Perceiver, image: Tensor, boxes: list[Box] | None, noise: Noise, wanted: Prediction, path: Path
) -> None:
    """A dense map of one picture, and its files."""
    total = passes_large(perceiver, image, wanted.tile, 1) if wanted.tile else passes(perceiver.recipe, 1, 1)
    with tqdm(total=total, desc=path.name, leave=False) as bar:

        def tick() -> None:
            bar.update()

        result = seen(perceiver, image, noise, wanted, tick)
    write_raw(result, wanted.out / path.stem, wanted.format)
    save_picture(ready(result)[0][0], wanted.out / path.stem)


def seen(
    perceiver: Perceiver, image: Tensor, noise: Noise, wanted: Prediction, tick: Tick = lambda: None
) -> PerceptionMap:
    """The map of one picture, in tiles if they are wanted."""
    if wanted.tile:
        return predict_large(perceiver, image, wanted.tile, resolution=wanted.resolution, tick=tick)
    return predict(
        perceiver, image, resolution=wanted.resolution, noise=noise.initial, step_noise=noise.steps, tick=tick
    )


def _perceive_clip(perceiver: Perceiver, clip: Folder | Video, device: str, noise: Noise, wanted: Prediction) -> None:
    """A dense map of each frame, and their files."""
    blended = blending(perceiver, wanted.blend)
    predict_clip(
        lambda frame: seen(blended, frame.to(device), noise, wanted), clip, wanted.out, wanted.format, wanted.steady
    )


def _perceive_people(
    perceiver: Perceiver, image: Tensor, boxes: list[Box] | None, noise: Noise, wanted: Prediction, path: Path
) -> None:
    """The keypoints of the people in one picture, and its files."""
    total = passes_of_people(1 if boxes is None else len(boxes), PEOPLE_AT_ONCE, wanted.flip_test)
    with tqdm(total=total, desc=path.name, leave=False) as bar:

        def tick() -> None:
            bar.update()

        found = None if boxes is None else [boxes]
        try:
            result = predict_people(
                perceiver, image, found, flip_test=wanted.flip_test, batch_size=PEOPLE_AT_ONCE, tick=tick
            )
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from None
    _write_people(result, perceiver.recipe, wanted.out / path.stem)


Clips = dict[Path, "Folder | Video"]
"""What is no picture of the paths that were given."""


def results(wanted: Prediction, clips: Clips) -> Iterator[str]:
    """Of every picture and frame, as far as they are known, what its files are called without their endings."""
    for path in wanted.images:
        yield from clips[path].names() if path in clips else [path.stem]


def outputs(wanted: Prediction, clips: Clips) -> Iterator[Path]:
    """Every file that might be written, whatever the task turns out to be."""
    endings = (".npy", ".json", ".png", ".exr", ".mp4")
    stems = {*results(wanted, clips), *(path.stem for path in clips)}
    return (wanted.out / f"{stem}{ending}" for stem in stems for ending in endings)


def inputs(wanted: Prediction, clips: Clips) -> Iterator[Path]:
    """Every file that is read."""
    for path in wanted.images:
        yield from clips[path].files() if path in clips else [path]
    yield from files_of(wanted.choice)
    yield from (Path(half) for half in (wanted.encoder, wanted.decoder) if half not in (FULL, LIGHT))
    yield from map(file_of, filter(None, (wanted.noise, wanted.step_noise)))
    if wanted.boxes:
        yield wanted.boxes
    if wanted.mask:
        yield from (_mask_named(wanted.mask, path) for path in wanted.images)


PERCEIVE = {"image": _perceive_map, "person": _perceive_people}
"""By what a map of the task shows."""


Finder = Callable[[Path, tuple[int, int]], "list[Box] | None"]
"""Where people are in the picture of a path, of (H, W); None is that nobody has said it."""


def finder(wanted: Prediction) -> Finder:
    """As --boxes or --mask say. UserError, before anything is loaded, if there is nothing for one of the pictures."""
    if wanted.boxes:
        boxes = {path: boxes_named(wanted.boxes, path) for path in wanted.images}
        return lambda path, size: boxes[path]
    if wanted.mask:
        masks = {path: _mask_named(wanted.mask, path) for path in wanted.images}
        return lambda path, size: boxes_of_mask(as_gray(read_upright(masks[path])[0].movedim(0, -1))[..., 0], size)
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


def _mask_named(folder: Path, picture: Path) -> Path:
    """The picture in a folder whose name but for its ending is that of another. UserError unless it is one."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of masks: check the path.")
    found = sorted(path for path in folder.iterdir() if path.stem == picture.stem and path.is_file())
    if len(found) != 1:
        raise UserError(f"{folder} has {len(found)} masks for {picture.name}: expected one, as {picture.stem}.png.")
    return found[0]


def _for_people(recipe: Recipe, wanted: Prediction) -> Recipe:
    """The recipe with the size of crops that the arguments name. UserError for what only people have, or have not."""
    if recipe.row.per != "person":
        if wanted.boxes or wanted.mask:
            raise UserError(f"--boxes and --mask say where people are, but {recipe.id} predicts {recipe.row.name}.")
        if wanted.flip_test:
            raise UserError(f"--flip-test is for keypoints, but {recipe.id} predicts {recipe.row.name}: leave it out.")
        return recipe
    if wanted.resolution == 0:
        raise UserError("--resolution 0 is none for people, who are cut out at one size: leave it out or give pixels.")
    return replace(recipe, resolution=wanted_resolution(recipe, wanted.resolution))


def _write_people(result: PerceptionMap, recipe: Recipe, stem: Path) -> None:
    """<stem>.json: OpenPose's keypoints. <stem>.png: skeletons as openpose ControlNets read them."""
    picture, people = pose_picture(result)
    (frame,) = pose_keypoint(people, recipe.skeleton, (picture.shape[1], picture.shape[2]))
    write_whole(stem.with_name(stem.name + ".json"), json.dumps(frame).encode())
    save_picture(picture[0], stem)


def _check_there(images: list[Path], out: Path) -> None:
    """UserError, before anything is loaded, if a picture or clip is missing, or `out` is no folder."""
    missing = [path for path in images if not path.exists()]
    if missing:
        raise UserError(f"There is no image {missing[0]}: check the path.")
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"--out {there} is a file: give a folder.")
    check_packages(path.suffix.lower() for path in images)


def _check_names(wanted: Prediction, clips: Clips) -> None:
    """UserError if the results of two would overwrite each other in `out`."""
    told = str.casefold if folds_case(wanted.out) else str
    twice = [stem for stem, number in Counter(map(told, results(wanted, clips))).items() if number > 1]
    if twice:
        raise UserError(f"Several images are called {twice[0]!r}, and so would their results be: run them apart.")


def _check_wanted(recipe: Recipe, wanted: Prediction, clips: Clips) -> None:
    """UserError for what is asked of the wrong kind of map or of pictures."""
    name = recipe.row.name
    if recipe.row.per == "person" and (clips or wanted.format != "npy"):
        raise UserError(
            f"{recipe.id} predicts {name} as JSON, picture by picture: leave --format, folders and videos out."
        )
    if wanted.tile:
        check_tile(recipe, wanted.tile)
        if wanted.noise or wanted.step_noise:
            raise UserError("--noise and --step-noise are for pictures that are seen at once: leave --tile out.")
    if (wanted.steady or wanted.blend) and not clips:
        raise UserError("--steady and --blend are for folders of frames and videos: leave them out, or give one.")
    if wanted.steady and recipe.row.picture != "nearness":
        kinds = " or ".join(tasks_where(picture="nearness"))
        raise UserError(f"--steady is for {kinds}, but {recipe.id} predicts {name}: leave it out.")
    Steadying(wanted.steady)
    check_share(wanted.blend, wanted.tile)
