"""Keypoint AP: poses of a whole annotated set, measured by COCO's own pycocotools.

    python -m diffusion_perception.trainer.keypoint_ap --model FILE --root FOLDER --out FOLDER

FOLDER is a plain one (images/ and keypoints/), or COCO's with --annotations and --images. What was predicted is written
as COCO's results, so that anybody can measure it again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..core.crops import Box
from ..core.pipeline import Perceiver
from ..core.pose import Person, people_of, predict_people
from ..core.skeletons import COCO, Skeleton
from .arrays import READERS
from .data import list_files, read_image
from .people import read_annotations, skeleton_of
from .truth import DatasetError

NAMES = ("AP", "AP50", "AP75", "AP-medium", "AP-large", "AR", "AR50", "AR75", "AR-medium", "AR-large")
"""Of COCOeval's ten numbers, in its order; -1 is what it says where there is nothing to measure."""


class Annotated(NamedTuple):
    """A COCO file and where its pictures lie."""

    table: dict[str, Any]
    paths: dict[int, Path]
    """By the id of the image."""
    skeleton: Skeleton


def from_coco(annotations: Path, images: Path) -> Annotated:
    """COCO's own layout: one file for all pictures."""
    table = read_annotations(annotations)
    paths = {row["id"]: images / row["file_name"] for row in table.get("images", ())}
    return Annotated(table, paths, skeleton_of(table, str(annotations)))


def from_folder(root: Path) -> Annotated:
    """A plain folder, a file for each picture: ids are given anew, from 1 as pycocotools needs them."""
    images, _ = list_files(root / "images", READERS)
    files, _ = list_files(root / "keypoints", (".json",))
    stems = [stem for stem in files if stem in images]
    if not stems:
        raise DatasetError(f"{root} has no picture with a file of its name in keypoints/.")
    tables = [read_annotations(root / files[stem]) for stem in stems]
    rows = [{**row, "image_id": number} for number, table in enumerate(tables, 1) for row in table["annotations"]]
    whole = {
        "images": [{"id": number, "file_name": images[stem]} for number, stem in enumerate(stems, 1)],
        "annotations": [{**row, "id": number, "category_id": 1} for number, row in enumerate(rows, 1)],
        "categories": [{**tables[0]["categories"][0], "id": 1}],
    }
    paths = {number: root / images[stem] for number, stem in enumerate(stems, 1)}
    return Annotated(whole, paths, skeleton_of(tables[0], str(root)))


def true_boxes(annotated: Annotated) -> dict[int, list[Box]]:
    """By image, of the people whose keypoints are labelled: what a perfect detector would find."""
    boxes: dict[int, list[Box]] = {}
    for row in annotated.table["annotations"]:
        if row.get("num_keypoints") and not row.get("iscrowd") and min(row["bbox"][2:]) > 0:
            boxes.setdefault(row["image_id"], []).append(Box(*map(float, row["bbox"])))
    return boxes


def detected_boxes(results: Sequence[Mapping[str, Any]]) -> dict[int, list[Box]]:
    """By image, of a detector's COCO results."""
    boxes: dict[int, list[Box]] = {}
    for row in results:
        x, y, width, height = map(float, row["bbox"])
        boxes.setdefault(row["image_id"], []).append(Box(x, y, width, height, float(row.get("score", 1.0))))
    return boxes


@torch.no_grad()
def predict_all(
    perceiver: Perceiver,
    annotated: Annotated,
    boxes: Mapping[int, Sequence[Box]],
    flip_test: bool = False,
    batch_size: int = 8,
) -> list[dict[str, Any]]:
    """COCO's results for every box of every image."""
    results = []
    for image, its in tqdm(boxes.items(), desc="poses", leave=False):
        picture, _ = read_image(annotated.paths[image])
        seen = predict_people(perceiver, picture[None], [list(its)], flip_test=flip_test, batch_size=batch_size)
        (people,) = people_of(seen)
        results += [as_result(person, image) for person in people]
    return results


def as_result(person: Person, image: int) -> dict[str, Any]:
    """One row of COCO's results."""
    numbers = np.column_stack([person.points, person.scores]).reshape(-1).tolist()
    return {"image_id": image, "category_id": 1, "keypoints": numbers, "score": person.score}


def average_precision(annotated: Annotated, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """NAMES -> COCOeval's numbers, as it gives them."""
    from pycocotools import coco, cocoeval

    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(annotated.table)  # pyright: ignore[reportAttributeAccessIssue]
        truth.createIndex()
        if not results:
            return dict.fromkeys(NAMES, 0.0)
        found: Any = [dict(row) for row in results]  # its types know files only
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(found), "keypoints")
        if annotated.skeleton.names != COCO.names:
            evaluation.params.kpt_oks_sigmas = np.array(annotated.skeleton.spreads())
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, map(float, evaluation.stats)))


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="keypoint_ap", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of keypoints")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--annotations", default="", help="COCO file inside the folder, with all pictures")
    parser.add_argument("--images", default="images", help="folder of the pictures inside it, for --annotations")
    parser.add_argument("--boxes", type=Path, help="a detector's COCO results; the true boxes if left out")
    parser.add_argument("--flip-test", action="store_true", help="mean over each crop and its mirror image")
    parser.add_argument("--batch-size", type=int, default=8, help="people per pass")
    parser.add_argument("--device", default="", help="cpu, cuda, mps; the best there is if left out")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, truth.json and scores.json")
    said = parser.parse_args(words)
    try:
        measure(said)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"keypoint_ap: {error}\n")
        return 2
    return 0


def measure(said: argparse.Namespace) -> None:
    """Predict, measure, write."""
    from ..core.checkpoint import open_checkpoint
    from .models import load
    from .predict import device_named

    root = said.root
    annotated = from_coco(root / said.annotations, root / said.images) if said.annotations else from_folder(root)
    perceiver = load(open_checkpoint(said.model, task="keypoints"), device=device_named(said.device))
    boxes = detected_boxes(json.loads(said.boxes.read_text())) if said.boxes else true_boxes(annotated)
    results = predict_all(perceiver, annotated, boxes, said.flip_test, said.batch_size)
    scores = average_precision(annotated, results)
    said.out.mkdir(parents=True, exist_ok=True)
    for name, content in (("results", results), ("truth", annotated.table), ("scores", scores)):
        (said.out / f"{name}.json").write_text(json.dumps(content))
    sys.stdout.write("".join(f"{name:10} {value:.3f}\n" for name, value in scores.items()))


if __name__ == "__main__":
    sys.exit(main())
