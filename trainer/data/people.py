"""People: COCO's keypoint annotations, each person a record of its own, cropped as pose networks see them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.crops import cut, window_around
from ...core.errors import UserError
from ...core.heatmaps import SPREAD
from ...core.perception_map import Convention
from ...core.recipe import Recipe
from ...core.skeletons import SKELETONS, Skeleton
from .arrays import READERS, BrokenRecord
from .records import MadeOf, Records, Sample, list_files, read_image, read_json
from .truth import DatasetError, NoTruth, Truth

log = logging.getLogger(__name__)

SIZE = (256, 192)
"""(H, W) of a crop, where no run says its own."""
Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height, in pixels."""


@dataclass(frozen=True)
class Person:
    """One person in one picture."""

    name: str
    image: str
    """The picture's path inside the dataset's root."""
    box: Box
    area: float
    """Of the person's silhouette, in pixels of the picture."""
    keypoints: tuple[float, ...]
    """x, y, visibility of each, in pixels."""


class People(Records[Person]):
    """Persons with labelled keypoints. The target is a heatmap for each, 0 everywhere where one is not labelled."""

    def __init__(
        self,
        name: str,
        root: Path,
        people: Sequence[Person],
        faults: Iterable[str],
        skeleton: Skeleton,
        size: tuple[int, int] = SIZE,
    ) -> None:
        self.root, self.skeleton, self.size = root, skeleton, size
        super().__init__(name, "keypoints", Convention(), people, faults)

    def at(self, size: tuple[int, int]) -> People:
        """The same people in crops of (H, W)."""
        other = copy.copy(self)
        other.size = size
        return other

    def made_of(self, record: Person) -> MadeOf:
        """Everything of a person but the picture lies in the record."""
        seen, known = (record.box, self.size), (record.keypoints, self.skeleton.names)
        return MadeOf(f"{record.image} {record.name}", (self.root / record.image,), (), seen, known)

    def read(self, record: Person) -> Sample:
        picture, _ = read_image(self.root / record.image)
        window = window_around(clip(record.box, picture, f"{self.name}: {record.name}"), self.size)
        image = cut(picture, window, self.size)
        scale = self.size[0] / window[3]
        keypoints = np.asarray(record.keypoints, np.float64).reshape(-1, 3)
        keypoints[:, :2] = (keypoints[:, :2] - window[:2]) * scale
        maps = gaussian_heatmaps(keypoints, self.size)
        if not maps.any():
            raise BrokenRecord(f"{self.name}: {record.name}: none of the keypoints lies in the person's box.")
        truth = Truth(maps, torch.ones(1, *self.size, dtype=torch.bool))
        return self.sample(
            record.name, image, truth,
            keypoints=keypoints, mirror=self.skeleton.mirror(), box=record.box, area=record.area * scale**2,
        )  # fmt: skip


def clip(box: Box, picture: Tensor, where: str) -> Box:
    """The part of a box that lies in the picture (3, H, W). BrokenRecord if there is none."""
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], picture.shape[2]), min(box[1] + box[3], picture.shape[1])
    if right <= left or bottom <= top:
        raise BrokenRecord(f"{where}: the person's box {list(box)} lies outside the picture.")
    return left, top, right - left, bottom - top


def gaussian_heatmaps(keypoints: np.ndarray, size: tuple[int, int], sigma: float = 0.0) -> Tensor:
    """Keypoints (K, 3) in pixels -> (K, H, W) with a Gaussian of height 1 at each that is labelled and inside.

    sigma in pixels; 0 takes SPREAD of the longer side. The first pixel's centre is at (0.5, 0.5).
    """
    height, width = size
    x, y, labelled = (torch.from_numpy(np.array(column, np.float32))[:, None] for column in keypoints.T)
    spread = 2 * (sigma or SPREAD * max(size)) ** 2
    across = (-((torch.arange(width) + 0.5 - x) ** 2) / spread).exp()
    down = (-((torch.arange(height) + 0.5 - y) ** 2) / spread).exp()
    inside = (labelled > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return down[:, :, None] * across[:, None, :] * inside[:, :, None]


def people_of(table: Any, images: dict[Any, str], skeleton: Skeleton, where: str) -> tuple[list[Person], list[str]]:
    """The labelled persons of a COCO file, and what is wrong. images: {id: path inside the root}, those there are."""
    people, faults = [], []
    for row in table["annotations"]:
        if not isinstance(row, dict) or not _is_numbers(row.get("keypoints", [])):
            number = row.get("id") if isinstance(row, dict) else "without id"
            faults.append(f"{where}: annotation {number} is no object with a list of keypoints.")
            continue
        if row.get("iscrowd") or row.get("num_keypoints") == 0 or not any(row.get("keypoints", ())[2::3]):
            continue
        named = row.get("image_id")
        picture = images.get(named, "") if isinstance(named, int | str) else ""
        name = f"{Path(picture).stem}/{row.get('id')}"
        fault = _fault_of(row, images, skeleton)
        if fault:
            faults.append(f"{where}: person {name} {fault}.")
            continue
        x, y, width, height = (float(number) for number in row["bbox"])
        numbers = tuple(float(number) for number in row["keypoints"])
        area = _area_of(row.get("area"), width * height)
        people.append(Person(name, picture, (x, y, width, height), area, numbers))
    return people, faults


def _area_of(said: Any, box: float) -> float:
    """Of a silhouette, the box's where nothing is said that could be one."""
    known = _is_numbers([said]) and math.isfinite(said) and said > 0
    return float(said) if known else box


def _fault_of(row: dict[str, Any], images: dict[Any, str], skeleton: Skeleton) -> str:
    """Why an annotation cannot be used; empty if it can."""
    numbers, box = row["keypoints"], row.get("bbox", [])
    if not isinstance(row.get("image_id"), int | str) or row["image_id"] not in images:
        return f"has no picture (image {row.get('image_id')})"
    if len(numbers) != 3 * len(skeleton.names):
        return f"has {len(numbers)} numbers for {len(skeleton.names)} keypoints"
    if not _is_numbers(box) or len(box) != 4 or min(box[2:]) <= 0 or not all(map(math.isfinite, (*box, *numbers))):
        return f"has the box {box}"
    return ""


def _is_numbers(value: Any) -> bool:
    """Whether it is a list of finite numbers, or of NaN and infinities, but of nothing else."""
    return isinstance(value, list) and all(isinstance(number, int | float) for number in value)


def skeleton_of(table: Any, where: str) -> Skeleton:
    """Of the file's one category that has keypoints, with the limbs that it names."""
    rows = [row for row in table.get("categories", ()) if isinstance(row, dict) and row.get("keypoints")]
    if len(rows) != 1:
        raise DatasetError(f"{where} has {len(rows)} categories with keypoints; expected one, such as person.")
    names = tuple(map(str, rows[0]["keypoints"])) if isinstance(rows[0]["keypoints"], list) else ()
    known = next((row for row in SKELETONS.values() if row.names == names), None)
    try:
        return known or _with_limbs(Skeleton(names), rows[0].get("skeleton"), where)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: its category of keypoints cannot be read ({error}).") from None


def _with_limbs(skeleton: Skeleton, listed: Any, where: str) -> Skeleton:
    """With the limbs that a file names, counted from 1; they are for drawing alone, so that wrong ones are left out."""
    try:
        return replace(skeleton, limbs=tuple((int(one) - 1, int(other) - 1) for one, other in listed or ()))
    except (TypeError, ValueError) as error:
        log.warning("%s: its limbs are left out (%s).", where, error)
        return skeleton


def read_annotations(path: Path) -> Any:
    """A COCO file, its three lists being there. BrokenRecord if not."""
    table = read_json(path)
    lists = ("annotations", "categories")
    if not isinstance(table, dict) or not all(isinstance(table.get(key), list) for key in lists):
        raise BrokenRecord(f"{path} is no COCO file: it lacks `annotations` or `categories`.")
    return table


def plain_people(root: str | Path, name: str, names: Sequence[str] = (), size: tuple[int, int] = SIZE) -> People:
    """The people of a plain folder: images/ and keypoints/, one COCO file a picture."""
    root = Path(root)
    images, _ = list_files(root / "images", READERS)
    files, file_faults = list_files(root / "keypoints", (".json",))
    faults = [fault.reason for fault in file_faults]
    people: list[Person] = []
    skeleton = None
    for stem in names or files:
        try:
            table = read_annotations(root / files.get(stem, f"keypoints/{stem}.json"))
            skeleton = skeleton or skeleton_of(table, str(root / "keypoints"))
            table["annotations"] = [{**row, "image_id": 0} for row in table["annotations"] if isinstance(row, dict)]
            found, wrong = people_of(table, {0: images[stem]} if stem in images else {}, skeleton, f"{name}: {stem}")
        except BrokenRecord as fault:
            found, wrong = [], [str(fault)]
        people += found
        faults += wrong
    if skeleton is None:
        raise (DatasetError if files else NoTruth)(f"{root} has no keypoints/*.json that can be read.")
    return People(name, root, people, faults, skeleton, size)


def named_after(recipe: Recipe, opened: Sequence[Records[Any]]) -> Recipe:
    """The recipe with its datasets' skeleton, where it names none. UserError for a dataset of other keypoints."""
    people = [records for records in opened if isinstance(records, People)]
    if not people:
        return recipe
    first = people[0].skeleton
    if not recipe.keypoints:
        recipe = replace(recipe, keypoints=first.text(), limbs=recipe.limbs or first.limbs_text())
    for records in people:
        if records.skeleton.names != recipe.skeleton.names:
            raise UserError(
                f"{records.name} has {len(records.skeleton)} keypoints ({', '.join(records.skeleton.names[:3])} ...), "
                f"the recipe {len(recipe.skeleton)} ({', '.join(recipe.skeleton.names[:3])} ...): leave `keypoints` "
                "out, or drop the dataset."
            )
    return recipe
