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
from torch import Tensor
from tqdm import tqdm

from ..core.crops import Box, read_box
from ..core.errors import UserError
from ..core.measure.losses import Reduction
from ..core.measure.metrics import Metric
from ..core.pipeline import Perceiver
from ..core.pose import Person, people_of, predict_people
from ..core.recipe import Recipe
from ..core.skeletons import COCO, Skeleton
from ..core.whole_file import write_whole
from .data.arrays import READERS
from .data.people import People, read_annotations, skeleton_of
from .data.records import list_files, read_image, read_json
from .data.truth import DatasetError

NAMES = ("AP", "AP50", "AP75", "AP-medium", "AP-large", "AR", "AR50", "AR75", "AR-medium", "AR-large")
"""Of COCOeval's ten numbers, in its order; -1 is what it says where there is nothing to measure."""


class Annotated(NamedTuple):
    """A COCO file with one category, all that COCOeval asks for being there, and where its pictures lie."""

    table: dict[str, Any]
    paths: dict[int, Path]
    """By the id of the image."""
    skeleton: Skeleton

    @property
    def category(self) -> int:
        """Its id."""
        return self.table["categories"][0]["id"]


def from_coco(annotations: Path, images: Path) -> Annotated:
    """COCO's own layout: one file for all pictures."""
    table = read_annotations(annotations)
    rows = table.get("images", ())
    try:
        paths = {row["id"]: images / row["file_name"] for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{annotations} has an image without an id or a file_name ({error!r}).") from None
    return _complete(rows, table["annotations"], table["categories"], paths, str(annotations))


def from_folder(root: Path) -> Annotated:
    """A plain folder, a file for each picture: images are numbered from 1, in the order of their names."""
    images, _ = list_files(root / "images", READERS)
    files, _ = list_files(root / "keypoints", (".json",))
    stems = [stem for stem in files if stem in images]
    if not stems:
        raise DatasetError(f"{root} has no picture with a file of its name in keypoints/.")
    tables = [read_annotations(root / files[stem]) for stem in stems]
    rows = [{**row, "image_id": number} for number, table in enumerate(tables, 1) for row in table["annotations"]]
    listed = [{"id": number, "file_name": images[stem]} for number, stem in enumerate(stems, 1)]
    paths = {number: root / images[stem] for number, stem in enumerate(stems, 1)}
    return _complete(listed, rows, tables[0]["categories"], paths, str(root / "keypoints"))


def _from_people(people: People, count: int) -> Annotated:
    """The first records of a dataset: people without a labelled keypoint are none of them, and neither are crowds."""
    paths: dict[str, int] = {}
    rows = [
        {
            "image_id": paths.setdefault(person.image, len(paths) + 1),
            "bbox": list(person.box),
            "area": person.area,
            "keypoints": list(person.keypoints),
        }
        for person in people.records[:count]
    ]
    images = [{"id": number, "file_name": path} for path, number in paths.items()]
    categories = [{"id": 1, "name": "person", "keypoints": list(people.skeleton.names)}]
    places = {number: people.root / path for path, number in paths.items()}
    return _complete(images, rows, categories, places, people.name)


def _of_whole_set(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """AP ranks what was found in all pictures: see `precision_parts`."""
    raise UserError("AP is of a whole set and cannot be added up picture by picture.")


AP_ROWS = {name.lower(): Metric(name.lower(), name, _of_whole_set, True, 1, "set") for name in NAMES}
"""As rows of metrics."""


def precision_parts(people: People, poses: Sequence[Mapping[str, Any] | None]) -> dict[str, Reduction]:
    """{metric of AP_ROWS: its value} of the first records' predicted poses; None where there is none."""
    annotated = _from_people(people, len(poses))
    rows = zip(annotated.table["annotations"], poses)
    results = [{"image_id": row["image_id"], "category_id": 1, **pose} for row, pose in rows if pose]
    values = average_precision(annotated, results)
    # -1 is COCOeval's word for nothing to measure
    return {
        name.lower(): Reduction(torch.tensor([value], dtype=torch.float64), torch.tensor([int(value >= 0)]))
        for name, value in values.items()
    }


def _complete(
    images: Sequence[Any], rows: Sequence[dict[str, Any]], categories: Sequence[Any], paths: dict[int, Path], where: str
) -> Annotated:
    """Of the category that has keypoints alone. Annotations are numbered from 1: pycocotools takes 0 for no match."""
    skeleton = skeleton_of({"categories": categories}, where)
    (kind,) = (dict(row) for row in categories if row.get("keypoints"))
    category = kind.setdefault("id", 1)
    its = [row for row in rows if row.get("category_id", category) == category]
    annotations = [
        {**_filled_annotation(row, paths, skeleton, where), "id": number, "category_id": category}
        for number, row in enumerate(its, 1)
    ]
    return Annotated({"images": list(images), "annotations": annotations, "categories": [kind]}, paths, skeleton)


def _filled_annotation(
    row: dict[str, Any], paths: Mapping[int, Path], skeleton: Skeleton, where: str
) -> dict[str, Any]:
    """An annotation with what COCOeval asks for and files may leave out. DatasetError for what cannot be made up."""
    name, box = f"{where}: annotation {row.get('id')}", row.get("bbox")
    if row.get("image_id") not in paths:
        raise DatasetError(f"{name} is of the image {row.get('image_id')}, which is not listed.")
    if box is None or not _are_numbers(box, 4):
        raise DatasetError(f"{name} has the bbox {box}: expected x, y, width and height in pixels.")
    keypoints = row.get("keypoints") or [0] * 3 * len(skeleton)
    if not _are_numbers(keypoints, 3 * len(skeleton)):
        raise DatasetError(f"{name} has other keypoints than 3 numbers for each of {len(skeleton)}.")
    known = {"num_keypoints": sum(seen > 0 for seen in keypoints[2::3]), "iscrowd": 0}
    return {**known, **row, "keypoints": keypoints, "area": row.get("area") or box[2] * box[3]}


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(part, int | float) for part in value)


def true_boxes(annotated: Annotated) -> dict[int, list[Box]]:
    """By image, of the people whose keypoints are labelled: what a perfect detector would find."""
    boxes: dict[int, list[Box]] = {}
    for row in annotated.table["annotations"]:
        if row["num_keypoints"] and not row["iscrowd"] and min(row["bbox"][2:]) > 0:
            boxes.setdefault(row["image_id"], []).append(Box(*map(float, row["bbox"])))
    return boxes


def detected_boxes(results: Any, annotated: Annotated) -> dict[int, list[Box]]:
    """By image, of a detector's COCO results: those of the annotated category. UserError for what are none."""
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise UserError("The boxes are no COCO results: expected a list of {image_id, category_id, bbox, score}.")
    boxes: dict[int, list[Box]] = {}
    for number, row in enumerate(results, 1):
        if row.get("category_id", annotated.category) != annotated.category:
            continue
        if row.get("image_id") not in annotated.paths:
            raise UserError(
                f"Box {number} is of the image {row.get('image_id')}, which the annotations do not list: give the "
                "results of a detector on the same images."
            )
        if not _are_numbers(row.get("bbox"), 4):
            raise UserError(f"Box {number} has the bbox {row.get('bbox')}: expected x, y, width and height in pixels.")
        boxes.setdefault(row["image_id"], []).append(read_box([*row["bbox"], row.get("score", 1.0)]))
    return boxes


@torch.no_grad()
def _predict_all(
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
        results += [as_result(person, image, annotated.category) for person in people]
    return results


def as_result(person: Person, image: int, category: int) -> dict[str, Any]:
    """One row of COCO's results."""
    keypoints = np.column_stack([person.points, person.scores]).reshape(-1).tolist()
    return {"image_id": image, "category_id": category, "keypoints": keypoints, "score": person.score}


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


def command(words: Sequence[str] | None = None) -> int:
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
        _measure_keypoints(**vars(said))
    except (UserError, OSError) as error:
        sys.stderr.write(f"keypoint_ap: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _measure_keypoints(
    model: Path,
    root: Path,
    out: Path,
    annotations: str = "",
    images: str = "images",
    boxes: Path | None = None,
    flip_test: bool = False,
    batch_size: int = 8,
    device: str = "",
) -> None:
    """Predict, measure, write: results.json, truth.json and scores.json in `out`."""
    from ..core.checkpoints.checkpoint import open_checkpoint
    from .host import load_perceiver
    from .model_choice import ModelChoice
    from .outputs import check_apart, files_of
    from .predict import device_named

    results_of = {name: out / f"{name}.json" for name in ("results", "truth", "scores")}
    tables = [root / annotations] if annotations else list((root / "keypoints").glob("*.json"))
    tables += [boxes] if boxes else []
    check_apart(results_of.values(), (*tables, *files_of(ModelChoice(model=model))))
    annotated = from_coco(root / annotations, root / images) if annotations else from_folder(root)
    people = detected_boxes(read_json(boxes), annotated) if boxes else true_boxes(annotated)
    checkpoint = open_checkpoint(model, task="keypoints")
    check_skeleton(checkpoint.recipe, annotated)
    perceiver = load_perceiver(checkpoint, device=device_named(device))
    results = _predict_all(perceiver, annotated, people, flip_test, batch_size)
    scores = average_precision(annotated, results)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("results", results), ("truth", annotated.table), ("scores", scores)):
        write_whole(results_of[name], json.dumps(content).encode())
    sys.stdout.write("".join(f"{name:10} {value:.3f}\n" for name, value in scores.items()))


def check_skeleton(recipe: Recipe, annotated: Annotated) -> None:
    """UserError if the model's keypoints are not those that are annotated."""
    own, asked = recipe.skeleton.names, annotated.skeleton.names
    if own != asked:
        raise UserError(
            f"{recipe.id} predicts {len(own)} keypoints ({', '.join(own[:3])} ...), but {len(asked)} are annotated "
            f"({', '.join(asked[:3])} ...): take a model of these."
        )


if __name__ == "__main__":
    sys.exit(command())
