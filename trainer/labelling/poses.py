"""Poses: keypoints that another tool found, COCO's file or OpenPose's, as the plain folder's COCO files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.skeletons import OPENPOSE, SKELETONS
from ..data.people import read_annotations
from ..data.records import read_json

COCO = SKELETONS["coco-17"]
BODY_25 = (*OPENPOSE.names[:8], "middle_hip", *OPENPOSE.names[8:])
"""OpenPose's other order, of which the feet that follow are not read."""
ORDERS = {18: OPENPOSE.names, 25: BODY_25}
MARGIN = 0.1
"""By how much of its size a box is wider than the joints on each side: heads and feet reach beyond them."""

Table = dict[str, Any]
"""As keypoints/<stem>.json holds it: `annotations` and `categories`."""


def poses_in(path: Path, sure: float) -> dict[str, Table]:
    """{name of a picture without its ending, and of what folder it lies in: the people in it}.

    sure: how sure OpenPose must be of a joint, 0 to 1; COCO's files say what is labelled themselves.
    UserError for a file that is neither.
    """
    if path.is_dir():
        return {_stem_of(file): _from_openpose(file, sure) for file in sorted(path.glob("*.json"))}
    if not path.is_file():
        raise UserError(f"There is no file and no folder of poses {path}: check the path.")
    return dict(_people_from_coco(read_annotations(path), path))


def _stem_of(file: Path) -> str:
    """OpenPose writes <stem>_keypoints.json."""
    return file.stem.removesuffix("_keypoints")


def _people_from_coco(table: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Table]]:
    """Each picture's people, those that have none too."""
    people: dict[Any, list[Any]] = defaultdict(list)
    for row in table["annotations"]:
        if isinstance(row, dict):
            people[row.get("image_id")].append(row)
    for image in table.get("images", ()):
        if not isinstance(image, dict) or "file_name" not in image:
            raise UserError(f"{path} has an image without file_name: export it again.")
        yield Path(image["file_name"]).stem, {"annotations": people[image.get("id")], "categories": table["categories"]}


def _from_openpose(path: Path, sure: float) -> Table:
    """The people of one picture, with COCO's 17 keypoints."""
    table = read_json(path)
    table = table[0] if isinstance(table, list) and table else table  # as ComfyUI's nodes save it
    if not isinstance(table, dict) or not isinstance(table.get("people"), list):
        raise UserError(f"{path} is none of OpenPose's files: it lacks `people`.")
    found = [_person_of(person, path, sure) for person in table["people"]]
    rows = [{**row, "id": number} for number, row in enumerate(filter(None, found))]
    return {"annotations": rows, "categories": [{"name": "person", "keypoints": list(COCO.names)}]}


def _person_of(person: Any, path: Path, sure: float) -> dict[str, Any] | None:
    """An annotation; None for a person of whom nothing is sure."""
    try:
        joints = np.asarray(person["pose_keypoints_2d"], np.float64).reshape(-1, 3)
        order = ORDERS[len(joints)]
    except (LookupError, TypeError, ValueError):
        known = " or ".join(map(str, ORDERS))
        raise UserError(f"{path}: a person has no pose_keypoints_2d of {known} joints.") from None
    joints = joints[[order.index(name) for name in COCO.names]]
    known = joints[:, 2] >= max(sure, 1e-9)
    if not known.any():
        return None
    keypoints = np.where(known[:, None], np.stack([joints[:, 0], joints[:, 1], np.full(len(joints), 2.0)], 1), 0.0)
    return {"bbox": _box_around(joints[known, :2]), "keypoints": keypoints.flatten().tolist(), "category_id": 1}


def _box_around(points: np.ndarray) -> list[float]:
    """x, y, width, height, a little larger than the joints."""
    low, high = points.min(0), points.max(0)
    margin = np.maximum((high - low).max() * MARGIN, 1.0)
    return [*(low - margin).tolist(), *(high - low + 2 * margin).tolist()]
